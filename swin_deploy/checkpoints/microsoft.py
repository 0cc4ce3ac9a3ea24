"""Checkpoints of the authors' code (microsoft/Swin-Transformer): our names are theirs."""

from __future__ import annotations

from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.config import Preprocessing, SwinConfig

# The authors resize to 256/224 of the image and crop; at 384 they do not crop.
CROP_RATIO = 224 / 256
UNCROPPED = 384


def _foreign(ours: str) -> tuple[str, ...]:
    return (ours,)


DIALECT = Dialect("microsoft", "layers.0.blocks.0.attn.", _foreign)


def preprocessing(config: SwinConfig) -> Preprocessing:
    """The authors' preprocessing (data/build.py of their code)."""
    return Preprocessing(crop_ratio=1.0 if config.img_size == UNCROPPED else CROP_RATIO)
