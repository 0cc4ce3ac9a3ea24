import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swin_deploy.config import Size, StageSpec
from swin_deploy.config.fit import padded
from swin_deploy.config.sizes import NONE
from swin_deploy.config.windows import (
    MASKED,
    PAD,
    boundary_mask,
    by_window,
    merge_order,
    offsets,
    raster_order,
    relative_position_index,
    reorder_index,
    window_order,
)
from swin_deploy.reference.notebook import ShiftedWindowMSA

# (resolution, window size), in tokens.
MAPS = [
    *((Size.square(side), Size.square(window)) for side, window in [(7, 7), (14, 7), (28, 7)]),
    *((Size.square(side), Size.square(window)) for side, window in [(8, 4), (16, 8), (6, 3)]),
    *((Size.square(side), Size.square(window)) for side, window in [(6, 2), (4, 1), (12, 12)]),
    (Size(14, 28), Size(7, 7)),
    (Size(7, 14), Size(7, 7)),
    (Size(12, 6), Size(4, 6)),
    (Size(4, 12), Size(4, 3)),
    (Size(6, 4), Size(1, 2)),
]
maps = pytest.mark.parametrize(("resolution", "window_size"), MAPS, ids=str)
SEVEN, FOURTEEN = Size.square(7), Size.square(14)


def looped_window_order(resolution: Size, window_size: Size, shift: Size = NONE) -> list[int]:
    """Roll a map of raster indices, then read it window by window, token by token."""
    raster = torch.arange(resolution.area).reshape(*resolution)
    rolled = torch.roll(raster, (-shift.rows, -shift.columns), dims=(0, 1)).tolist()
    return [
        rolled[top + row][left + column]
        for top in range(0, resolution.rows, window_size.rows)
        for left in range(0, resolution.columns, window_size.columns)
        for row in range(window_size.rows)
        for column in range(window_size.columns)
    ]


def shifts(window_size: Size) -> list[Size]:
    """None, half a window, rounded down and up, and others, of both axes alike or not."""
    sides = [{0, 1, side // 2, -(-side // 2), side - 1} for side in window_size]
    return [Size(*pair) for pair in itertools.product(*map(sorted, sides))]


@maps
def test_window_order_equals_a_roll_and_a_loop(resolution: Size, window_size: Size) -> None:
    for shift in shifts(window_size):
        order = window_order(resolution, window_size, shift)
        assert order.dtype == torch.int64
        assert order.tolist() == looped_window_order(resolution, window_size, shift)


@pytest.mark.parametrize("other", [Size(3, 3), Size(-4, -4), Size(3, 4)], ids=str)
def test_window_order_with_another_shift_differs(other: Size) -> None:
    found = window_order(FOURTEEN, SEVEN, Size(4, 3)).tolist()
    assert found == looped_window_order(FOURTEEN, SEVEN, Size(4, 3))
    assert found != looped_window_order(FOURTEEN, SEVEN, other)


@maps
def test_every_order_is_a_permutation(resolution: Size, window_size: Size) -> None:
    everything = list(range(resolution.area))
    for shift in map(Size.square, range(-max(window_size), max(window_size) + 1)):
        assert sorted(window_order(resolution, window_size, shift).tolist()) == everything
    assert raster_order(resolution).tolist() == everything


@pytest.mark.parametrize(
    ("resolution", "window_size", "message"),
    [
        (Size.square(15), SEVEN, "windows of 7 do not tile a map of 15 tokens"),
        (SEVEN, FOURTEEN, "windows of 14 do not tile a map of 7 tokens"),
        (Size(14, 6), Size(7, 4), "windows of 7x4 do not tile a map of 14x6 tokens"),
        (Size(6, 14), SEVEN, "windows of 7 do not tile a map of 6x14 tokens"),
    ],
)
def test_window_order_pads_a_map_that_by_window_refuses(
    resolution: Size, window_size: Size, message: str
) -> None:
    raster = raster_order(resolution).reshape(resolution)
    with pytest.raises(ValueError, match=message):
        by_window(raster, window_size)
    whole = padded(resolution, window_size)
    more = (0, whole.columns - resolution.columns, 0, whole.rows - resolution.rows)
    for shift in (Size(0, 0), Size(1, 2), Size.square(3)):
        back = (-shift.rows, -shift.columns)
        pad_first = F.pad(raster, more, value=PAD).roll(back, dims=(0, 1))
        roll_first = F.pad(raster.roll(back, dims=(0, 1)), more, value=PAD)
        assert torch.equal(pad_first, roll_first) is not any(shift)
        for rolls, expected in ((False, pad_first), (True, roll_first)):
            order = window_order(resolution, window_size, shift, roll_first=rolls)
            assert torch.equal(order.view(-1, window_size.area), by_window(expected, window_size))


@pytest.mark.parametrize(
    ("resolution", "window_size"),
    [
        *((Size.square(side), Size.square(window)) for side, window in [(14, 7), (28, 7), (8, 4)]),
        *((Size.square(side), Size.square(window)) for side, window in [(16, 4), (12, 3), (2, 1)]),
        (Size(14, 28), SEVEN),
        (Size(8, 4), Size(2, 2)),
        (Size(4, 24), Size(2, 3)),
    ],
    ids=str,
)
def test_merge_order_equals_a_loop_over_neighbours(resolution: Size, window_size: Size) -> None:
    expected = []
    half = Size(resolution.rows // 2, resolution.columns // 2)
    for merged in looped_window_order(half, window_size):
        top, left = 2 * (merged // half.columns), 2 * (merged % half.columns)
        for column in (left, left + 1):
            expected += [row * resolution.columns + column for row in (top, top + 1)]
    order = window_order(half, window_size)
    assert merge_order(resolution, order).tolist() == expected


def test_merge_order_is_a_concatenation_of_strided_maps() -> None:
    """The merge as the Swin paper's code writes it: four slices of the map, side by side."""
    tokens = torch.randn(2, 8, 12, 5, generator=torch.Generator().manual_seed(0))
    slices = [tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    in_raster_order = torch.cat(slices, dim=-1).reshape(2, 24, 20)
    index = merge_order(Size(8, 12), window_order(Size(4, 6), Size.square(2)))
    gathered = tokens.reshape(2, 96, 5)[:, index].reshape(2, 24, 20)
    assert torch.equal(gathered, in_raster_order[:, window_order(Size(4, 6), Size.square(2))])
    assert not torch.equal(gathered, in_raster_order)


@pytest.mark.parametrize("seed", range(5))
def test_reorder_index_gathers_any_order_from_any_other(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second, third = (torch.randperm(36, generator=generator) for _ in range(3))
    # In this map each token is its own raster index: tokens in an order are the order itself.
    assert torch.equal(first[reorder_index(first, second)], second)
    there, onward = reorder_index(first, second), reorder_index(second, third)
    assert torch.equal(there[onward], reorder_index(first, third))
    assert torch.equal(there[reorder_index(second, first)], torch.arange(36))
    assert torch.equal(reorder_index(first, first), torch.arange(36))
    assert not torch.equal(there, reorder_index(second, first))


def test_reorder_index_brings_windows_back_to_raster_order() -> None:
    tokens = torch.randn(2, 392, 3, generator=torch.Generator().manual_seed(0))
    order = window_order(Size(14, 28), SEVEN, Size(3, 2))
    restored = tokens[:, order][:, reorder_index(order, raster_order(Size(14, 28)))]
    assert torch.equal(restored, tokens)


def looped_boundary_mask(resolution: Size, window_size: Size, boundary: Size) -> Tensor:
    """Ask of each pair of tokens in a window whether a seam lies between them."""
    seams = [side - behind for side, behind in zip(resolution, boundary, strict=True)]
    windows = torch.tensor(looped_window_order(resolution, window_size))
    windows = windows.reshape(-1, window_size.area)
    mask = torch.zeros(*windows.shape, window_size.area)
    for window, tokens in enumerate(windows.tolist()):
        places = [divmod(token, resolution.columns) for token in tokens]
        for query, key in itertools.product(range(window_size.area), repeat=2):
            pairs = zip(places[query], places[key], seams, strict=True)
            if any(min(one, other) < seam <= max(one, other) for one, other, seam in pairs):
                mask[window, query, key] = MASKED
    return mask


def region_mask(resolution: Size, window_size: Size, shift: Size) -> Tensor:
    """The mask of the Swin paper's code: number nine regions, and part what differs."""
    regions = torch.zeros(*resolution)
    cuts = [
        (slice(0, -side), slice(-side, -by), slice(-by, None))
        for side, by in zip(window_size, shift, strict=True)
    ]
    for number, (rows, columns) in enumerate(itertools.product(*cuts)):
        regions[rows, columns] = number
    order = window_order(resolution, window_size)
    partitioned = regions.flatten()[order].reshape(-1, window_size.area)
    difference = partitioned[:, None, :] - partitioned[:, :, None]
    return torch.zeros_like(difference).masked_fill(difference != 0, MASKED)


def notebook_mask(resolution: Size, window_size: Size, boundary: Size) -> Tensor:
    """The mask of the reference model, which always covers half a window, rounded down."""
    stage = StageSpec(resolution, 8, 2, 1, window_size, boundary)
    attention = ShiftedWindowMSA(stage, mask=True)
    scores = torch.zeros(1, 1, *stage.window_grid, window_size.area, window_size.area)
    return attention._seam_mask(scores).flatten(0, 1)


def half(window_size: Size) -> Size:
    return Size(window_size.rows // 2, window_size.columns // 2)


@pytest.mark.parametrize(
    ("definition", "resolution", "window_size"),
    [
        (definition, resolution, window_size)
        for resolution, window_size in MAPS
        if min(window_size) > 1
        for definition in (looped_boundary_mask, region_mask, notebook_mask)
        if window_size.is_square or definition is not notebook_mask
    ],
)
def test_boundary_mask_equals_each_definition(
    definition: Callable[[Size, Size, Size], Tensor], resolution: Size, window_size: Size
) -> None:
    mask = boundary_mask(resolution, window_size, half(window_size))
    windows = resolution.area // window_size.area
    assert mask.shape == (windows, window_size.area, window_size.area)
    assert torch.equal(mask, definition(resolution, window_size, half(window_size)))


@pytest.mark.parametrize("boundary", [Size.square(side) for side in range(1, 7)] + [Size(2, 5)])
def test_boundary_mask_of_any_boundary_equals_the_regions_of_that_shift(boundary: Size) -> None:
    mask = boundary_mask(FOURTEEN, SEVEN, boundary)
    other = Size(boundary.rows, boundary.columns % 6 + 1)
    assert torch.equal(mask, region_mask(FOURTEEN, SEVEN, boundary))
    assert not torch.equal(mask, region_mask(FOURTEEN, SEVEN, other))


def test_boundary_mask_without_a_boundary_forbids_nothing() -> None:
    assert not boundary_mask(FOURTEEN, SEVEN, NONE).any()
    assert torch.equal(
        boundary_mask(FOURTEEN, SEVEN, NONE), looped_boundary_mask(FOURTEEN, SEVEN, NONE)
    )


@pytest.mark.parametrize("boundary", [Size(0, 3), Size(3, 0)], ids=str)
def test_boundary_mask_along_one_axis_has_one_seam(boundary: Size) -> None:
    mask = boundary_mask(FOURTEEN, SEVEN, boundary)
    assert torch.equal(mask, looped_boundary_mask(FOURTEEN, SEVEN, boundary))
    windows = mask.reshape(2, 2, 49, 49)
    beyond, along = (windows[-1], windows[0]) if boundary.rows else (windows[:, -1], windows[:, 0])
    assert (beyond == MASKED).any(dim=(1, 2)).all()
    assert not along.any()


def test_boundary_mask_lets_every_token_see_itself_and_the_first_windows_see_all() -> None:
    mask = boundary_mask(Size.square(21), SEVEN, Size.square(3)).reshape(3, 3, 49, 49)
    assert set(mask.unique().tolist()) == {0.0, MASKED}
    assert not mask.diagonal(dim1=-2, dim2=-1).any()
    assert not mask[:-1, :-1].any()
    # Half a window of rows: 21 tokens behind the seam, 28 before it, apart in both directions.
    assert int((mask[-1, 0] == MASKED).sum()) == 2 * 21 * 28
    assert int((mask[0, -1] == MASKED).sum()) == 2 * 21 * 28
    assert torch.equal(mask[-1, -1], mask[-1, 0] + mask[0, -1])


@pytest.mark.parametrize("window_size", [SEVEN, Size(2, 5), Size(4, 1)], ids=str)
def test_relative_position_index_counts_the_offsets_row_by_row(window_size: Size) -> None:
    index = relative_position_index(window_size).tolist()
    rows, columns = offsets(window_size)
    places = list(itertools.product(*map(range, window_size)))
    for (query, at), (key, other) in itertools.product(enumerate(places), repeat=2):
        row, column = at[0] - other[0], at[1] - other[1]
        assert index[query][key] == (row + rows // 2) * columns + column + columns // 2
    assert {one for line in index for one in line} == set(range(rows * columns))
