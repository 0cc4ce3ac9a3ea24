"""Token orders, attention masks and position tables of windows, as pure functions of sizes.

A shift, a window partition and a window reverse only permute tokens. An *order* is a tensor [N]
whose slot ``i`` holds the raster index (row by row) of the token that sits in slot ``i``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from swin_deploy.config.sizes import NONE, Size
from swin_deploy.config.swin import StageSpec

MASKED = float("-inf")


def window_order(resolution: Size, window_size: Size, shift: Size = NONE) -> Tensor:
    """Return the order that lists windows row by row, and each window's tokens row by row.

    Args:
        resolution: Size of the token map; a multiple of ``window_size`` along each axis.
        window_size: Window size, in tokens.
        shift: Number of tokens that the map is rolled up and left before it is cut into windows,
            as ``torch.roll(map, (-shift.rows, -shift.columns))``.

    Returns:
        Order, [resolution.area], int64: slot -> raster index.

    Raises:
        ValueError: If windows do not tile the map.
    """
    row, column = (
        (torch.arange(side) + by) % side for side, by in zip(resolution, shift, strict=True)
    )
    return by_window(row[:, None] * resolution.columns + column, window_size).reshape(-1)


def by_window(tokens: Tensor, window_size: Size) -> Tensor:
    """Cut a map of values into windows.

    Args:
        tokens: One value for each token, [rows, columns].
        window_size: Window size, in tokens.

    Returns:
        Values, [num_windows, window_area], windows and their tokens row by row.

    Raises:
        ValueError: If windows do not tile the map.
    """
    (rows, columns), (height, width) = tokens.shape, window_size
    if rows % height or columns % width:
        size = Size(rows, columns)
        raise ValueError(f"windows of {window_size} do not tile a map of {size} tokens")
    grid = tokens.reshape(rows // height, height, columns // width, width)  # [gh, wh, gw, ww]
    return grid.permute(0, 2, 1, 3).reshape(-1, window_size.area)  # -> [gh, gw, wh, ww] -> [nW, n]


def merge_order(resolution: Size, window_size: Size) -> Tensor:
    """Return the order that puts the four tokens of each 2 x 2 patch merge next to each other.

    The merged tokens come in the window order of the next stage; the four neighbours of each come
    column by column (top left, bottom left, top right, bottom right), as in the Swin paper's code.

    Args:
        resolution: Size of the token map before merging; even.
        window_size: Window size of the next stage, in tokens.

    Returns:
        Order, [resolution.area], int64: slot -> raster index.
    """
    half = Size(resolution.rows // 2, resolution.columns // 2)
    merged = window_order(half, window_size)
    row, column = merged // half.columns * 2, merged % half.columns * 2
    corner = torch.stack([row, row + 1, row, row + 1], dim=1)
    across = torch.stack([column, column, column + 1, column + 1], dim=1)
    return (corner * resolution.columns + across).reshape(-1)


def raster_order(resolution: Size) -> Tensor:
    """Return the order of an image's tokens row by row, [resolution.area], int64."""
    return torch.arange(resolution.area)


def reorder_index(current: Tensor, wanted: Tensor) -> Tensor:
    """Return the gather index that takes tokens from one order to another.

    Args:
        current: Order of the tokens at hand, [N].
        wanted: Order to bring them to, [N].

    Returns:
        Index, [N], int64; ``tokens[index]`` of tokens [N, ...] are in the wanted order.
    """
    slot_of = torch.empty_like(current)
    slot_of[current] = torch.arange(len(current))
    return slot_of[wanted]


def boundary_mask(resolution: Size, window_size: Size, boundary: Size) -> Tensor:
    """Return the mask against attention across the seam that a roll leaves in the last windows.

    Tokens in the last ``boundary`` rows of the last window row do not see the rows before them,
    and likewise for columns; in the corner window both hold.

    Args:
        resolution: Size of the token map.
        window_size: Window size, in tokens.
        boundary: Number of rows and columns after the seam; 0 along an axis without one.

    Returns:
        Additive mask, [num_windows, window_area, window_area]: 0 or ``MASKED``.
    """
    row, column = (
        (torch.arange(side) >= side - behind).long()
        for side, behind in zip(resolution, boundary, strict=True)
    )
    windows = by_window(row[:, None] * 2 + column, window_size)
    apart = windows[:, :, None] != windows[:, None, :]
    return torch.zeros(apart.shape).masked_fill(apart, MASKED)


def shifted_window_mask(stage: StageSpec, masked: float = MASKED) -> Tensor | None:
    """Return the ``boundary_mask`` of a stage's shift, with a value for pairs that must not meet.

    Args:
        stage: The stage, with its token map, windows and shift.
        masked: The value for tokens that must not meet.

    Returns:
        Additive mask, [num_windows, window_area, window_area]: 0 or ``masked``; None without a
        shift.
    """
    if not any(stage.shift_size):
        return None
    mask = boundary_mask(stage.resolution, stage.window_size, stage.shift_size)
    return torch.zeros_like(mask).masked_fill(mask == MASKED, masked)


def relative_position_index(window_size: Size) -> Tensor:
    """Return the row of the position bias table for each pair of tokens in a window.

    Returns:
        Index, [window_area, window_area], int64, into the ``offsets`` of a window, rows first;
        entry [q, k] is that of place q minus place k.
    """
    places = torch.meshgrid(*map(torch.arange, window_size), indexing="ij")
    row, column = (axis.reshape(-1) for axis in places)
    rows = row[:, None] - row[None, :] + window_size.rows - 1
    columns = column[:, None] - column[None, :] + window_size.columns - 1
    return rows * offsets(window_size).columns + columns


def offsets(window_size: Size) -> Size:
    """Count the offsets between two tokens of a window, from (1 - side) to (side - 1) an axis."""
    return Size(2 * window_size.rows - 1, 2 * window_size.columns - 1)


def relative_coords_table(window_size: Size, pretrained_window_size: Size = NONE) -> Tensor:
    """Return log-spaced coordinates for V2's position bias (arXiv 2111.09883, section 3.3).

    Args:
        window_size: Window size, in tokens.
        pretrained_window_size: Window size that they are scaled to; 0 for ``window_size``.

    Returns:
        Row and column offsets, [offsets.area, 2], within -1 to 1 inside the scale.
    """
    spaced = []
    for side, pretrained in zip(window_size, pretrained_window_size, strict=True):
        scale = max(1, (pretrained or side) - 1)
        steps = torch.arange(1 - side, side, dtype=torch.float32) / scale * 8
        spaced.append(torch.sign(steps) * torch.log2(steps.abs() + 1.0) / math.log2(8))
    return torch.stack(torch.meshgrid(*spaced, indexing="ij"), dim=-1).reshape(-1, 2)
