"""Window order: permutations of tokens and masks over windows, as pure functions of sizes.

A shift, a window partition and a window reverse only permute tokens. An *order* is a tensor [N]
whose slot ``i`` holds the raster index (row by row) of the token that sits in slot ``i``.
"""

from __future__ import annotations

import math

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


def shifted_window_mask(
    window_size: int, num_windows_side: int, shift_size: int, masked: float = MASKED
) -> Tensor:
    """``boundary_mask`` of a symmetric shift, with a value for pairs that must not meet.

    Returns:
        Additive mask, [num_windows, window_area, window_area]: 0 or ``masked``.
    """
    mask = boundary_mask(window_size, num_windows_side, shift_size)
    return torch.zeros_like(mask).masked_fill(mask == MASKED, masked)


def relative_position_index(window_size: int) -> Tensor:
    """Row of the position bias table for each pair of tokens in a window.

    Returns:
        Index, [window_area, window_area], int64, into the (2 * window_size - 1)**2 offsets from
        (1 - window_size) to (window_size - 1), rows first; entry [q, k] is of q minus k.
    """
    side = torch.arange(window_size)
    row, column = (axis.reshape(-1) for axis in torch.meshgrid(side, side, indexing="ij"))
    rows = row[:, None] - row[None, :] + window_size - 1
    columns = column[:, None] - column[None, :] + window_size - 1
    return rows * (2 * window_size - 1) + columns


def relative_coords_table(window_size: int, pretrained_window_size: int = 0) -> Tensor:
    """Log-spaced relative coordinates of V2's position bias (arXiv 2111.09883, section 3.3).

    Args:
        window_size: Window side, in tokens.
        pretrained_window_size: Side that the coordinates are scaled to; 0 for ``window_size``.

    Returns:
        Row and column offsets, [(2 * window_size - 1)**2, 2], within -1 to 1 inside the scale.
    """
    scale = max(1, (pretrained_window_size or window_size) - 1)
    offsets = torch.arange(1 - window_size, window_size, dtype=torch.float32) / scale * 8
    spaced = torch.sign(offsets) * torch.log2(offsets.abs() + 1.0) / math.log2(8)
    return torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), dim=-1).reshape(-1, 2)
