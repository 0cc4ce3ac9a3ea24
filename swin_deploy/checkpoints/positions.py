"""Absolute position embeddings: the values of each place of the first stage's map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from exporters.errors import CheckpointError
from swin_deploy.config import Size

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS = "absolute_pos_embed"  # our name, which is the authors'


def positions_map(saved: Tensor | None, name: str) -> Tensor | None:
    """Return the saved embeddings of places as a map [1, C, H, W]; None if there are none.

    Files have them as tokens [1, N, C] of a square map, or as a map.

    Args:
        saved: The tensor in the file, or None.
        name: Its name there, for the message.

    Raises:
        CheckpointError: If the tensor has another shape.
    """
    if saved is None or (saved.ndim == 4 and len(saved) == 1):
        return saved
    side = math.isqrt(saved.shape[1]) if saved.ndim == 3 else 0
    if saved.ndim != 3 or len(saved) != 1 or side**2 != saved.shape[1]:
        raise CheckpointError(
            f"wrong shapes: {name} is {list(saved.shape)}, which has not one place for each patch "
            "of a square image"
        )
    # [1, N, C] -> [1, C, N] -> [1, C, H, W]
    return saved.transpose(1, 2).reshape(1, -1, side, side)


def placed(positions: Tensor, resolution: Size) -> Tensor:
    """Return embeddings of places for a map of any size, as the libraries do: bicubic.

    Source: ``load_pretrained`` of the authors' utils.py, ``interpolate_pos_encoding`` of
    transformers' Swin, and ``forward`` of the authors' object detection.

    Args:
        positions: The saved map, [1, C, H, W].
        resolution: Size of the map that is wanted, in tokens.

    Returns:
        Values of each place, row by row, [1, N, C].
    """
    from torch.nn import functional as F

    if tuple(positions.shape[2:]) != tuple(resolution):
        positions = F.interpolate(positions, size=tuple(resolution), mode="bicubic")
    return positions.flatten(2).transpose(1, 2).contiguous()  # [1, C, H, W] -> [1, N, C]
