"""Readable, trainable models: the oracle that the deploy model is checked against."""

from __future__ import annotations

from torch import nn

from swin_deploy.config import SwinConfig
from swin_deploy.reference.notebook import NotebookSwin
from swin_deploy.reference.swin import SwinTransformer
from swin_deploy.reference.swin_v2 import SwinTransformerV2

Reference = NotebookSwin | SwinTransformer


def build_reference(config: SwinConfig) -> Reference:
    """The reference model of a config, freshly initialised, in training mode."""
    kinds: dict[str, type[NotebookSwin] | type[SwinTransformer]] = {
        "notebook": NotebookSwin,
        "swin": SwinTransformer,
        "swinv2": SwinTransformerV2,
    }
    return kinds[config.family](config)


def count_parameters(module: nn.Module) -> int:
    """Values in a module's parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())
