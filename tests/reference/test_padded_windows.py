"""Orders and masks of maps that windows do not tile, against torch.roll, F.pad and loops."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from exporters.errors import ConfigError
from swin_deploy.config import Size, StageSpec
from swin_deploy.config.fit import WindowRule, first_map, fit_window, merged_map, padded
from swin_deploy.config.sizes import NONE
from swin_deploy.config.windows import (
    PAD,
    merge_order,
    raster_order,
    reorder_index,
    shifted_window_mask,
    window_order,
)

MAPS = [
    (Size(7, 9), Size(4, 4)),
    (Size(8, 9), Size(4, 4)),
    (Size(3, 5), Size(4, 4)),
    (Size(1, 2), Size(4, 4)),
    (Size(2, 30), Size(7, 7)),
    (Size(13, 10), Size(4, 6)),
    (Size(5, 5), Size(2, 3)),
    (Size(8, 8), Size(4, 4)),
]
maps = pytest.mark.parametrize(("resolution", "window"), MAPS, ids=str)
orders = pytest.mark.parametrize("roll_first", [False, True], ids=["pad-roll", "roll-pad"])


def shifts(window: Size) -> list[Size]:
    half = Size(window.rows // 2, window.columns // 2)
    return [NONE, half, Size(half.rows, 0), Size(0, half.columns), Size(1, window.columns - 1)]


def moved_map(resolution: Size, window: Size, shift: Size, *, roll_first: bool) -> torch.Tensor:
    """A map of raster indices, padded and rolled by PyTorch, [rows, columns]."""
    raster = torch.arange(resolution.area).reshape(*resolution)
    down, across = (-side % cut for side, cut in zip(resolution, window, strict=True))
    back = (-shift.rows, -shift.columns)
    if roll_first:
        return F.pad(torch.roll(raster, back, (0, 1)), (0, across, 0, down), value=PAD)
    return torch.roll(F.pad(raster, (0, across, 0, down), value=PAD), back, (0, 1))


@maps
@orders
def test_window_order_equals_roll_and_pad(resolution: Size, window: Size, roll_first: bool) -> None:
    for shift in shifts(window):
        found = window_order(resolution, window, shift, roll_first=roll_first)
        whole = moved_map(resolution, window, shift, roll_first=roll_first)
        assert Size(*whole.shape) == padded(resolution, window)
        looped = [
            int(whole[top + row, left + column])
            for top in range(0, whole.shape[0], window.rows)
            for left in range(0, whole.shape[1], window.columns)
            for row, column in itertools.product(range(window.rows), range(window.columns))
        ]
        assert found.tolist() == looped
        real = found[found != PAD].tolist()
        assert sorted(real) == list(range(resolution.area))


def test_orders_of_roll_and_pad_differ_only_where_a_shifted_map_is_padded() -> None:
    for (resolution, window), shift in itertools.product(MAPS[:3], (NONE, Size(2, 2))):
        one, other = (
            window_order(resolution, window, shift, roll_first=first) for first in (False, True)
        )
        assert torch.equal(one, other) == (shift == NONE)
    square = (Size.square(8), Size.square(4), Size.square(2))
    assert torch.equal(window_order(*square), window_order(*square, roll_first=True))


@maps
def test_mask_has_its_seams_on_the_padded_map(resolution: Size, window: Size) -> None:
    """The regions of the papers' code, numbered on the padded map; an axis without a shift has one.

    Source: ``compute_mask`` of every library: slices up to -window, to -shift, and the rest.
    """
    for shift in shifts(window)[1:]:
        stage = StageSpec(resolution, 8, 2, 1, window, shift)
        regions = torch.zeros(*stage.padded)
        cuts = [
            (slice(0, -side), slice(-side, -by), slice(-by, None))
            for side, by in zip(window, shift, strict=True)
        ]
        for number, (rows, columns) in enumerate(itertools.product(*cuts)):
            regions[rows, columns] = number
        slots = window_order(stage.padded, window)
        cut = regions.flatten()[slots].reshape(-1, window.area)
        mask = shifted_window_mask(stage)
        assert mask is not None
        assert torch.equal(mask != 0, cut[:, :, None] != cut[:, None, :])
        unpadded = dataclasses.replace(stage, resolution=stage.padded)
        whole = shifted_window_mask(unpadded)
        assert whole is not None
        assert torch.equal(mask, whole)


@maps
def test_merge_order_equals_slices_of_the_map_padded_to_even_sides(
    resolution: Size, window: Size
) -> None:
    """The merge of every library: ``F.pad`` by the odd row and column, then four strided slices."""
    raster = torch.arange(resolution.area).reshape(*resolution)
    even = F.pad(raster, (0, resolution.columns % 2, 0, resolution.rows % 2), value=PAD)
    four = torch.stack([even[row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
    half = merged_map(resolution)
    assert Size(*four.shape[:2]) == half
    merged = window_order(half, window)
    wanted = torch.full((len(merged), 4), PAD)
    wanted[merged != PAD] = four.reshape(-1, 4)[merged[merged != PAD]]
    assert torch.equal(merge_order(resolution, merged).reshape(-1, 4), wanted)
    rows_first = torch.stack([even[r::2, c::2] for r in (0, 1) for c in (0, 1)], dim=-1)
    assert not torch.equal(rows_first, four) or resolution.area < 3


@maps
@orders
def test_reorder_index_moves_tokens_between_any_padded_orders(
    resolution: Size, window: Size, roll_first: bool
) -> None:
    found = [
        window_order(resolution, window, shift, roll_first=roll_first) for shift in shifts(window)
    ]
    found.append(raster_order(resolution))
    for current, wanted in itertools.product(found, repeat=2):
        index = reorder_index(current, wanted)
        assert int(index.min()) >= 0
        assert int(index.max()) < len(current)
        real = wanted != PAD
        assert torch.equal(current[index][real], wanted[real])
        if (current == PAD).any():  # pads come of pads: zeros stay zeros
            assert (current[index][~real] == PAD).all()


# Window and shift of 7 tokens, set down from each library's code as it was read and run.
RULES: list[tuple[WindowRule, Size, Size, Size]] = [
    ("timm", Size(5, 20), Size(5, 7), Size(0, 3)),
    ("timm", Size(7, 20), Size(7, 7), Size(0, 3)),
    ("timm", Size(8, 8), Size(7, 7), Size(3, 3)),
    ("authors", Size(5, 20), Size(5, 5), Size(0, 0)),
    ("authors", Size(20, 5), Size(5, 5), Size(0, 0)),
    ("torchvision", Size(5, 20), Size(7, 7), Size(0, 3)),
    ("torchvision", Size(8, 7), Size(7, 7), Size(3, 0)),
    ("huggingface", Size(7, 20), Size(7, 7), Size(0, 0)),
    ("huggingface", Size(8, 20), Size(7, 7), Size(3, 3)),
    ("huggingface-v2", Size(20, 5), Size(7, 7), Size(3, 3)),
    ("huggingface-v2", Size(5, 20), Size(5, 5), Size(0, 0)),
    ("always", Size(5, 20), Size(7, 7), Size(3, 3)),
    ("always", Size(7, 7), Size(7, 7), Size(3, 3)),
]


@pytest.mark.parametrize(("rule", "tokens", "window", "shift"), RULES, ids=str)
def test_fit_window_of_each_library(
    rule: WindowRule, tokens: Size, window: Size, shift: Size
) -> None:
    fit = fit_window(rule, tokens=tokens, window=Size.square(7))
    assert (fit.window, fit.shift) == (window, shift)


@pytest.mark.parametrize("tokens", [Size(5, 20), Size(20, 6), Size(1, 1)], ids=str)
def test_fit_window_larger_than_a_map_of_transformers_is_refused(tokens: Size) -> None:
    with pytest.raises(ConfigError, match="smaller than the window of 7"):
        fit_window("huggingface", tokens=tokens, window=Size.square(7))


@pytest.mark.parametrize(
    ("side", "cropped", "completed"), [(64, 16, 16), (67, 16, 17), (65, 16, 17)]
)
def test_first_map_crops_or_completes_patches(side: int, cropped: int, completed: int) -> None:
    assert first_map(Size(side, 64), 4, "crop") == (cropped, 16)
    assert first_map(Size(side, 64), 4, "pad") == (completed, 16)
