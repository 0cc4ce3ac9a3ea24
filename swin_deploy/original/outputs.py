"""The outputs that our models have, from a library's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from swin_deploy.config import SwinConfig

Read = Callable[[Any, Tensor, SwinConfig], tuple[Tensor, ...]]


class OriginalModel(nn.Module):
    """A library's model with our outputs: images to what ``config.output`` describes.

    Args:
        model: The library's model.
        config: Config of our model.
        read: Function that runs the model on images and gives its outputs in our layout.
    """

    def __init__(self, model: nn.Module, config: SwinConfig, read: Read) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.read = read

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.read(self.model, images, self.config)


def tokens_of(feature_map: Tensor) -> Tensor:
    """Flatten a map [B, H, W, C] to tokens [B, N, C], row by row."""
    return feature_map.flatten(1, 2)


def channels_first(feature_map: Tensor) -> Tensor:
    """Permute a map [B, H, W, C] to [B, C, H, W]."""
    return feature_map.permute(0, 3, 1, 2).contiguous()
