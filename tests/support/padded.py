"""Image sizes whose maps windows do not tile, and how equal two models are on them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
from conftest import REJECTED, rms_error, seeded_images
from torch import Tensor, nn

from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import StageSpec, SwinConfig
from swin_deploy.config.windows import (
    PAD,
    relative_position_index,
    shifted_window_mask,
    window_order,
)
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference

# Patches of 4 pixels, windows of 4 tokens, three stages: 16 pixels are one window of the first.
TILED = (64, 128)
ONE_MORE = (68, 64)  # 17 x 16, 9 x 8 and 5 x 4 tokens: odd merges, and one row too many
ONE_LESS = (60, 124)  # 15 x 31, 8 x 16 and 4 x 8
RAGGED = (101, 70)  # no whole patches
BELOW_ON_ONE = (24, 200)  # 6 x 50, 3 x 25 and 2 x 13: rows below the window from the second on
BELOW_ON_BOTH = (12, 20)  # 3 x 5, 2 x 3 and 1 x 2
EXACT = (16, 16)  # 4, 2 and 1 tokens
SIZES = (ONE_MORE, ONE_LESS, RAGGED, BELOW_ON_ONE, BELOW_ON_BOTH, EXACT)
WHOLE = tuple(size for size in SIZES if not any(side % 4 for side in size))
COVERED = (TILED, ONE_MORE, RAGGED, (60, 112))  # the shortest side of a map is 4 or more

# One rounding of float32 in two orders; a library's own is measured where more is needed.
CLOSE = 1e-6
EXACTLY = 1e-9  # in float64, of the same formulas
Run = Callable[[nn.Module, Tensor], list[Tensor]]


def values(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Every output of one of our models, or of a library's that gives tensors."""
    found = model(images)
    return [found] if isinstance(found, Tensor) else list(found)


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest error of any output, over its RMS."""
    return max(rms_error(a, b) for a, b in zip(found, wanted, strict=True))


@torch.no_grad()
def assert_padded_equal(
    loaded: LoadedModel, fresh: Callable[[], nn.Module], run: Run = values
) -> None:
    """The reference and the deploy model give what a new model of the library gives.

    In float64 the reference is equal but for tables that libraries keep in float32. In float32 both
    are within the library's own rounding, which V2's cosines, times up to 100, make larger.
    """
    images = seeded_images(loaded.config)
    wanted = run(fresh(), images)
    exact = run(copy.deepcopy(fresh()).double(), images.double())
    second = loaded.config.family == "swinv2"
    allowed = max(CLOSE, (5 if second else 3) * apart(wanted, exact))
    reference = loaded.reference
    for model in (reference, fold(reference), fold(reference, "cpu")):
        assert apart(values(model, images), wanted) < allowed
    double = values(copy.deepcopy(reference).double(), images.double())
    assert apart(double, exact) < (allowed if second else EXACTLY)
    for wrong in misreadings(loaded):
        assert apart(values(wrong, images), wanted) > REJECTED


def misreadings(loaded: LoadedModel) -> list[nn.Module]:
    """References with the same weights that pad, shift or cut windows by another rule."""
    return [
        _with_weights(loaded, other)
        for other in _others(loaded.config)
        if _differ(other, loaded.config)
    ]


def _others(config: SwinConfig) -> list[SwinConfig]:
    rolled = config.pads == "roll-then-pad"
    other_order = dataclasses.replace(config, pads="pad-then-roll" if rolled else "roll-then-pad")
    shifted = dataclasses.replace(config, window_rule="always")
    kept = dataclasses.replace(config, window_rule="torchvision")
    return [other_order, shifted, kept]


def _differ(other: SwinConfig, config: SwinConfig) -> bool:
    """Whether a rule changes which tokens meet, with tables of the same sizes."""
    pairs = list(zip(other.stages, config.stages, strict=True))
    if any(a.window_size != b.window_size for a, b in pairs):
        return False
    return any(not torch.equal(_meetings(a), _meetings(b)) for a, b in pairs if b.depth > 1)


def _meetings(stage: StageSpec) -> Tensor:
    """The pairs of a shifted block, [pairs, 3]: query, key or pad, and their offset."""
    order = window_order(
        stage.resolution, stage.window_size, stage.shift_size, roll_first=stage.roll_first
    ).reshape(stage.num_windows, -1)
    index = relative_position_index(stage.window_size).expand(len(order), -1, -1)
    query, key = order[:, :, None].expand_as(index), order[:, None, :].expand_as(index)
    mask = shifted_window_mask(stage)
    meet = (query != PAD) & (True if mask is None else mask == 0)
    found = torch.stack([query[meet], key[meet], index[meet]], dim=1)
    return found.unique(dim=0)


def _with_weights(loaded: LoadedModel, config: SwinConfig) -> nn.Module:
    model = build_reference(config).eval()
    model.load_state_dict(loaded.reference.state_dict())
    return model
