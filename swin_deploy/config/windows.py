"""Token orders, attention masks and position tables of windows, as pure functions of sizes.

A shift, a window partition and a window reverse only permute tokens; padding adds slots without
one. An *order* is a tensor [slots] whose slot ``i`` holds the raster index (row by row) of the
token that sits in slot ``i``, or ``PAD``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from swin_deploy.config.fit import merged_map, padded
from swin_deploy.config.sizes import NONE, Size
from swin_deploy.config.swin import StageSpec

MASKED = float("-inf")
PAD = -1  # in an order: a slot without a token


def window_order(
    resolution: Size, window_size: Size, shift: Size = NONE, *, roll_first: bool = False
) -> Tensor:
    """Return the order that lists windows row by row, and each window's tokens row by row.

    Args:
        resolution: Size of the token map; padded below and on the right to whole windows.
        window_size: Window size, in tokens.
        shift: Number of tokens that the map is rolled up and left before it is cut into windows,
            as ``torch.roll(map, (-shift.rows, -shift.columns))``.
        roll_first: Whether the map is rolled before it is padded, not after.

    Returns:
        Order, [padded(resolution, window_size).area], int64: slot -> raster index, or ``PAD``.
    """
    row, column = (
        _along(side, whole, by, roll_first=roll_first)
        for side, whole, by in zip(resolution, padded(resolution, window_size), shift, strict=True)
    )
    raster = row[:, None] * resolution.columns + column
    pads = (row == PAD)[:, None] | (column == PAD)
    return by_window(raster.masked_fill(pads, PAD), window_size).reshape(-1)


def _along(side: int, whole: int, shift: int, *, roll_first: bool) -> Tensor:
    """Return the token of each place along an axis that is padded and rolled, or ``PAD``."""
    if roll_first:
        rolled = (torch.arange(side) + shift) % side
        return torch.cat((rolled, torch.full((whole - side,), PAD)))
    rolled = (torch.arange(whole) + shift) % whole
    return rolled.masked_fill(rolled >= side, PAD)


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


def merge_order(resolution: Size, merged: Tensor) -> Tensor:
    """Return the order that puts the four tokens of each 2 x 2 patch merge next to each other.

    The four neighbours of each merged token come column by column (top left, bottom left, top
    right, bottom right), as in the Swin paper's code; a map of odd sides is padded.

    Args:
        resolution: Size of the token map before merging.
        merged: Order of the merged tokens, [slots].

    Returns:
        Order, [4 * slots], int64: slot -> raster index, or ``PAD``.
    """
    columns = merged_map(resolution).columns
    row, column = merged // columns * 2, merged % columns * 2
    corner = torch.stack([row, row + 1, row, row + 1], dim=1)
    across = torch.stack([column, column, column + 1, column + 1], dim=1)
    outside = (corner >= resolution.rows) | (across >= resolution.columns)
    found = corner * resolution.columns + across
    return found.masked_fill(outside | (merged == PAD)[:, None], PAD).reshape(-1)


def raster_order(resolution: Size) -> Tensor:
    """Return the order of an image's tokens row by row, [resolution.area], int64."""
    return torch.arange(resolution.area)


def reorder_index(current: Tensor, wanted: Tensor) -> Tensor:
    """Return the gather index that takes tokens from one order to another.

    Args:
        current: Order of the tokens at hand, [N].
        wanted: Order to bring them to, [M]. Its pads take the pads at hand in turn, and the first
            token where there are none.

    Returns:
        Index, [M], int64; ``tokens[index]`` of tokens [N, ...] are in the wanted order.
    """
    slot_of = torch.empty(int(current.max()) + 1, dtype=torch.int64)
    real = current != PAD
    slot_of[current[real]] = real.nonzero().squeeze(1)
    index = slot_of[wanted.clamp(min=0)]
    spare = (~real).nonzero().squeeze(1)
    pads = wanted == PAD
    places = torch.arange(int(pads.sum()))
    index[pads] = spare[places % len(spare)] if len(spare) else torch.zeros_like(places)
    return index


def boundary_mask(resolution: Size, window_size: Size, boundary: Size) -> Tensor:
    """Return the mask against attention across the seam that a roll leaves in the last windows.

    Tokens in the last ``boundary`` rows of the last window row do not see the rows before them,
    and likewise for columns; in the corner window both hold.

    Args:
        resolution: Size of the token map, padded to whole windows.
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
    mask = boundary_mask(stage.padded, stage.window_size, stage.shift_size)
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
