from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from swin_deploy.config.windows import (
    MASKED,
    boundary_mask,
    merge_order,
    raster_order,
    reorder_index,
    window_order,
)
from swin_deploy.reference.notebook import ShiftedWindowMSA

# (resolution, window size), in tokens.
MAPS = [(7, 7), (14, 7), (28, 7), (8, 4), (16, 8), (6, 3), (6, 2), (4, 1), (12, 12)]
maps = pytest.mark.parametrize(("resolution", "window_size"), MAPS, ids=lambda value: str(value))


def looped_window_order(resolution: int, window_size: int, shift: int) -> list[int]:
    """Roll a map of raster indices, then read it window by window, token by token."""
    raster = torch.arange(resolution**2).reshape(resolution, resolution)
    rolled = torch.roll(raster, (-shift, -shift), dims=(0, 1)).tolist()
    return [
        rolled[top + row][left + column]
        for top in range(0, resolution, window_size)
        for left in range(0, resolution, window_size)
        for row in range(window_size)
        for column in range(window_size)
    ]


def shifts(window_size: int) -> list[int]:
    return sorted({0, 1, window_size // 2, -(-window_size // 2), window_size - 1})


@maps
def test_window_order_equals_a_roll_and_a_loop(resolution: int, window_size: int) -> None:
    for shift in shifts(window_size):
        order = window_order(resolution, window_size, shift)
        assert order.dtype == torch.int64
        assert order.tolist() == looped_window_order(resolution, window_size, shift)


def test_window_order_with_another_shift_differs() -> None:
    assert window_order(14, 7, 4).tolist() != looped_window_order(14, 7, 3)
    assert window_order(14, 7, 3).tolist() != looped_window_order(14, 7, -3)


@maps
def test_every_order_is_a_permutation(resolution: int, window_size: int) -> None:
    everything = list(range(resolution**2))
    for shift in range(-window_size, window_size + 1):
        assert sorted(window_order(resolution, window_size, shift).tolist()) == everything
    assert raster_order(resolution).tolist() == everything


@pytest.mark.parametrize(("resolution", "window_size"), [(15, 7), (7, 14), (6, 4)])
def test_window_order_of_a_map_that_windows_do_not_tile_raises(
    resolution: int, window_size: int
) -> None:
    message = f"windows of {window_size} do not tile a map of {resolution} tokens"
    with pytest.raises(ValueError, match=message):
        window_order(resolution, window_size)


@pytest.mark.parametrize(
    ("resolution", "window_size"), [(14, 7), (28, 7), (8, 4), (16, 4), (12, 3), (2, 1), (4, 2)]
)
def test_merge_order_equals_a_loop_over_neighbours(resolution: int, window_size: int) -> None:
    expected = []
    for merged in looped_window_order(resolution // 2, window_size, 0):
        top, left = 2 * (merged // (resolution // 2)), 2 * (merged % (resolution // 2))
        for column in (left, left + 1):
            expected += [row * resolution + column for row in (top, top + 1)]
    assert merge_order(resolution, window_size).tolist() == expected


def test_merge_order_is_a_concatenation_of_strided_maps() -> None:
    """The merge as the Swin paper's code writes it: four slices of the map, side by side."""
    tokens = torch.randn(2, 8, 8, 5, generator=torch.Generator().manual_seed(0))
    slices = [tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    in_raster_order = torch.cat(slices, dim=-1).reshape(2, 16, 20)
    gathered = tokens.reshape(2, 64, 5)[:, merge_order(8, 2)].reshape(2, 16, 20)
    assert torch.equal(gathered, in_raster_order[:, window_order(4, 2)])
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
    tokens = torch.randn(2, 196, 3, generator=torch.Generator().manual_seed(0))
    order = window_order(14, 7, 3)
    restored = tokens[:, order][:, reorder_index(order, raster_order(14))]
    assert torch.equal(restored, tokens)


def looped_boundary_mask(window_size: int, windows: int, boundary: int) -> Tensor:
    """Ask of each pair of tokens in a window whether a seam lies between them."""
    side = window_size * windows
    seam = side - boundary
    area = window_size**2
    mask = torch.zeros(windows**2, area, area)
    for window in range(windows**2):
        top, left = window // windows * window_size, window % windows * window_size
        for query in range(area):
            for key in range(area):
                rows = [top + token // window_size for token in (query, key)]
                columns = [left + token % window_size for token in (query, key)]
                if min(rows) < seam <= max(rows) or min(columns) < seam <= max(columns):
                    mask[window, query, key] = MASKED
    return mask


def region_mask(window_size: int, windows: int, shift: int) -> Tensor:
    """The mask of the Swin paper's code: number nine regions, and part what differs."""
    side = window_size * windows
    regions = torch.zeros(side, side)
    cuts = (slice(0, -window_size), slice(-window_size, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
        regions[rows, columns] = number
    partitioned = regions.flatten()[window_order(side, window_size)].reshape(-1, window_size**2)
    difference = partitioned[:, None, :] - partitioned[:, :, None]
    return torch.zeros_like(difference).masked_fill(difference != 0, MASKED)


def notebook_mask(window_size: int, windows: int, boundary: int) -> Tensor:
    """The mask of the reference model, which always covers half a window, rounded down."""
    assert boundary == window_size // 2
    area = window_size**2
    attention = ShiftedWindowMSA(8, 1, window_size, mask=True)
    return attention._seam_mask(torch.zeros(1, 1, windows, windows, area, area)).flatten(0, 1)


@pytest.mark.parametrize(
    "definition",
    [looped_boundary_mask, region_mask, notebook_mask],
    ids=["loop", "regions", "notebook"],
)
@pytest.mark.parametrize(
    ("window_size", "windows"), [(7, 1), (7, 2), (7, 3), (4, 1), (4, 2), (8, 1), (3, 4), (2, 2)]
)
def test_boundary_mask_equals_each_definition(
    definition: Callable[[int, int, int], Tensor], window_size: int, windows: int
) -> None:
    boundary = window_size // 2
    mask = boundary_mask(window_size, windows, boundary)
    assert mask.shape == (windows**2, window_size**2, window_size**2)
    assert torch.equal(mask, definition(window_size, windows, boundary))


@pytest.mark.parametrize("boundary", range(1, 7))
def test_boundary_mask_of_any_boundary_equals_the_regions_of_that_shift(boundary: int) -> None:
    mask = boundary_mask(7, 2, boundary)
    assert torch.equal(mask, region_mask(7, 2, boundary))
    assert not torch.equal(mask, region_mask(7, 2, boundary % 6 + 1))


def test_boundary_mask_without_a_boundary_forbids_nothing() -> None:
    assert not boundary_mask(7, 2, 0).any()
    assert torch.equal(boundary_mask(7, 2, 0), looped_boundary_mask(7, 2, 0))


def test_boundary_mask_lets_every_token_see_itself_and_the_first_windows_see_all() -> None:
    mask = boundary_mask(7, 3, 3).reshape(3, 3, 49, 49)
    assert set(mask.unique().tolist()) == {0.0, MASKED}
    assert not mask.diagonal(dim1=-2, dim2=-1).any()
    assert not mask[:-1, :-1].any()
    # Half a window of rows: 21 tokens behind the seam, 28 before it, apart in both directions.
    assert int((mask[-1, 0] == MASKED).sum()) == 2 * 21 * 28
    assert int((mask[0, -1] == MASKED).sum()) == 2 * 21 * 28
    assert torch.equal(mask[-1, -1], mask[-1, 0] + mask[0, -1])
