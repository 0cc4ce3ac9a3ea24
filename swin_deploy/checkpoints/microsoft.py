"""Checkpoints of the authors' code (microsoft/Swin-Transformer): our names are theirs."""

from __future__ import annotations

from swin_deploy.checkpoints.dialect import Dialect


def _foreign(ours: str) -> tuple[str, ...]:
    return (ours,)


DIALECT = Dialect("microsoft", "layers.0.blocks.0.attn.", _foreign)
