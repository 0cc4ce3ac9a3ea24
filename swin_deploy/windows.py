"""Window order: permutations of tokens and masks over windows, as pure functions of sizes.

A shift, a window partition and a window reverse only permute tokens. An *order* is a tensor [N]
whose slot ``i`` holds the raster index (row by row) of the token that sits in slot ``i``.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = float("-inf")


def window_order(resolution: int, window_size: int, shift: int = 0) -> Tensor:
    """The order that lists windows row by row, and each window's tokens row by row.

    Args:
        resolution: Side of the square token map, in tokens; a multiple of ``window_size``.
        window_size: Window side, in tokens.
        shift: Tokens that the map is rolled up and left before it is cut into windows, as
            ``torch.roll(map, (-shift, -shift))``.

    Returns:
        Order, [resolution**2], int64: slot -> raster index.

    Raises:
        ValueError: If ``window_size`` does not divide ``resolution``.
    """
    if resolution % window_size:
        raise ValueError(f"windows of {window_size} do not tile a map of {resolution} tokens")
    windows = resolution // window_size
    side = (torch.arange(resolution) + shift) % resolution
    raster = side[:, None] * resolution + side[None, :]
    grid = raster.reshape(windows, window_size, windows, window_size)
    return grid.permute(0, 2, 1, 3).reshape(-1)


def merge_order(resolution: int, window_size: int) -> Tensor:
    """The order that puts the four tokens of each 2 x 2 patch merge next to each other.

    The merged tokens come in the window order of the next stage; the four neighbours of each come
    column by column (top left, bottom left, top right, bottom right), as in the Swin paper's code.

    Args:
        resolution: Side of the token map before merging, in tokens; even.
        window_size: Window side of the next stage, in tokens.

    Returns:
        Order, [resolution**2], int64: slot -> raster index.
    """
    half = resolution // 2
    merged = window_order(half, window_size)
    row, column = merged // half * 2, merged % half * 2
    corner = torch.stack([row, row + 1, row, row + 1], dim=1)
    across = torch.stack([column, column, column + 1, column + 1], dim=1)
    return (corner * resolution + across).reshape(-1)


def raster_order(resolution: int) -> Tensor:
    """The order of an image's tokens row by row, [resolution**2], int64."""
    return torch.arange(resolution**2)


def reorder_index(current: Tensor, wanted: Tensor) -> Tensor:
    """The gather index that takes tokens from one order to another.

    Args:
        current: Order of the tokens at hand, [N].
        wanted: Order to bring them to, [N].

    Returns:
        Index, [N], int64, with ``tokens[:, index]`` in the wanted order.
    """
    slot_of = torch.empty_like(current)
    slot_of[current] = torch.arange(len(current))
    return slot_of[wanted]


def boundary_mask(window_size: int, num_windows_side: int, boundary: int) -> Tensor:
    """Forbid attention across the seam that a roll leaves in the last windows.

    Tokens in the last ``boundary`` rows of the last window row do not see the rows before them,
    and likewise for columns; in the corner window both hold.

    Args:
        window_size: Window side, in tokens.
        num_windows_side: Windows along a side of the map.
        boundary: Rows and columns behind the seam, in tokens.

    Returns:
        Additive mask, [num_windows, window_area, window_area]: 0 or ``MASKED``.
    """
    side = torch.arange(num_windows_side * window_size)
    behind = (side >= len(side) - boundary).long()
    last = (side >= len(side) - window_size).long()
    zone = behind + last  # 0: other windows, 1: before the seam, 2: behind it
    region = zone[:, None] * 3 + zone[None, :]
    grid = region.reshape(num_windows_side, window_size, num_windows_side, window_size)
    windows = grid.permute(0, 2, 1, 3).reshape(num_windows_side**2, window_size**2)
    apart = windows[:, :, None] != windows[:, None, :]
    return torch.zeros(apart.shape).masked_fill(apart, MASKED)
