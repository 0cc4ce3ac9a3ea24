"""Each habit of the notebook's model, when corrected, no longer gives the recorded numbers."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import einops
import pytest
import torch
import torch.nn.functional as F
from conftest import FLOAT32_TOLERANCE, REJECTED, golden_reference, golden_run, rms_error
from torch import Tensor, nn

from swin_deploy.config import Size
from swin_deploy.config.windows import boundary_mask
from swin_deploy.reference import notebook
from swin_deploy.reference.notebook import (
    NotebookSwin,
    PatchMerging,
    RelativeEmbeddings,
    ShiftedWindowMSA,
    SwinEncoderBlock,
)

# The recorded run at 56 pixels has four windows in its first stage and one in its second.
Patch = pytest.MonkeyPatch
Correction = Callable[[NotebookSwin, Patch], object]


def respelt(old: str, new: str) -> Correction:
    """Change part of one einops pattern, which has to be there."""

    def correct(model: NotebookSwin, patch: Patch) -> None:
        original = einops.rearrange

        def rearrange(tensor: Tensor, pattern: str, **sizes: int) -> Tensor:
            return original(tensor, pattern.replace(old, new), **sizes)

        patch.setattr(notebook, "rearrange", rearrange)

    return correct


def shifted_by(forth: int, back: int) -> Correction:
    """Roll by other distances than 4 there and 3 back."""

    def correct(model: NotebookSwin, patch: Patch) -> None:
        original = torch.roll

        def roll(tensor: Tensor, shifts: tuple[int, int], dims: tuple[int, int]) -> Tensor:
            distance = {-4: -forth, 3: back}[shifts[0]]
            return original(tensor, (distance, distance), dims)

        patch.setattr(torch, "roll", roll)

    return correct


def masked_by(mask_of: Callable[[int], Tensor]) -> Correction:
    """Mask by a function of the windows along a side: [windows, windows, 49, 49]."""

    def correct(model: NotebookSwin, patch: Patch) -> None:
        patch.setattr(ShiftedWindowMSA, "_seam_mask", lambda _, scores: mask_of(scores.shape[2]))

    return correct


def seam(windows: int, boundary: int = 3) -> Tensor:
    window = Size.square(7)
    mask = boundary_mask(Size.square(7 * windows), window, Size.square(boundary))
    return mask.reshape(windows, windows, 49, 49)


def rows_alone(windows: int) -> Tensor:
    """The last window row as it is, without the columns; the corner has its rows only."""
    mask = torch.zeros(windows, windows, 49, 49)
    mask[-1] = seam(windows)[-1, 0]
    return mask


def columns_alone(windows: int) -> Tensor:
    mask = torch.zeros(windows, windows, 49, 49)
    mask[:, -1] = seam(windows)[0, -1][None]
    return mask


def corner_of_rows(windows: int) -> Tensor:
    """Rows and columns each in their windows, but only rows in the corner."""
    mask = seam(windows).clone()
    mask[-1, -1] = mask[-1, 0]
    return mask


def shifted_attention(stage: Any) -> Any:  # noqa: ANN401 - PyTorch knows a stage as a module
    return stage.SWSA.WMSA


def first_windows(windows: int) -> Tensor:
    """The mask in the first window row and column in place of the last."""
    return seam(windows).flip(0, 1)


def without_merging_bias(model: NotebookSwin, patch: Patch) -> None:
    merging = model.stages[1]
    assert isinstance(merging, PatchMerging)
    nn.init.zeros_(merging.linear_layer.bias)


def norm_before_merging(model: NotebookSwin, patch: Patch) -> None:
    def forward(self: PatchMerging, tokens: Tensor) -> Tensor:
        side = math.isqrt(tokens.shape[1]) // 2
        merged = einops.rearrange(
            tokens, "b (h s1 w s2) c -> b (h w) (s2 s1 c)", h=side, s1=2, s2=2
        )
        return self.linear_layer(F.layer_norm(merged, merged.shape[-1:]))

    patch.setattr(PatchMerging, "forward", forward)


def without_relu(model: NotebookSwin, patch: Patch) -> None:
    model.Embedding.add_module("relu", nn.Identity())


def table_of_each_head(model: NotebookSwin, patch: Patch) -> None:
    def forward(self: RelativeEmbeddings, scores: Tensor) -> Tensor:
        tables = [self.embeddings.roll(head, 0) for head in range(scores.shape[1])]
        return scores + torch.stack(tables)[:, None, None]

    patch.setattr(RelativeEmbeddings, "forward", forward)


def norm_of_each_branch(model: NotebookSwin, patch: Patch) -> None:
    def forward(self: SwinEncoderBlock, tokens: Tensor) -> Tensor:
        tokens = tokens + self.WMSA(self.layer_norm(tokens))
        return tokens + self.MLP(F.layer_norm(tokens, tokens.shape[-1:]))

    patch.setattr(SwinEncoderBlock, "forward", forward)


def final_norm(model: NotebookSwin, patch: Patch) -> None:
    model.stages.append(nn.LayerNorm(192))


def pooled(model: NotebookSwin, patch: Patch) -> None:
    model.stages.append(nn.AdaptiveAvgPool2d((1, 192)))


def classified(model: NotebookSwin, patch: Patch) -> None:
    model.config = dataclasses.replace(model.config, num_classes=192)
    model.head = nn.Linear(192, 192)


def last_stage_not_shifted(model: NotebookSwin, patch: Patch) -> None:
    shifted_attention(model.stages[2]).mask = False


def one_window_not_masked(windows: int) -> Tensor:
    return seam(windows) if windows > 1 else torch.zeros(1, 1, 49, 49)


def one_window_not_shifted(model: NotebookSwin, patch: Patch) -> None:
    original = torch.roll

    def roll(tensor: Tensor, shifts: tuple[int, int], dims: tuple[int, int]) -> Tensor:
        return tensor if tensor.shape[1] == 7 else original(tensor, shifts, dims)

    patch.setattr(torch, "roll", roll)


def correction(habit: str, correct: Correction) -> object:
    return pytest.param(correct, id=habit)


@pytest.mark.parametrize(
    "correct",
    [
        correction("relu-after-the-embedding", without_relu),
        correction("merging-norm-after-its-linear", norm_before_merging),
        correction("merging-linear-has-a-bias", without_merging_bias),
        correction("merging-neighbour-order", respelt("(s2 s1 c)", "(s1 s2 c)")),
        correction("qkv-interleaved", respelt("(heads d qkv)", "(qkv heads d)")),
        correction("heads-before-channels", respelt("(heads d qkv)", "(d heads qkv)")),
        correction("shift-of-4-there-and-3-back/3-and-3", shifted_by(3, 3)),
        correction("shift-of-4-there-and-3-back/4-and-4", shifted_by(4, 4)),
        correction("shift-of-4-there-and-3-back/3-and-4", shifted_by(3, 4)),
        correction("mask-of-3-rows-and-columns/4", masked_by(lambda side: seam(side, 4))),
        correction("mask-of-3-rows-and-columns/none", masked_by(lambda side: seam(side, 0))),
        correction("mask-on-the-last-window-row", masked_by(columns_alone)),
        correction("mask-on-the-last-window-column", masked_by(rows_alone)),
        correction("mask-on-the-last-windows-not-the-first", masked_by(first_windows)),
        correction("mask-of-both-in-the-corner", masked_by(corner_of_rows)),
        correction("one-table-for-all-heads", table_of_each_head),
        correction("one-norm-for-both-branches", norm_of_each_branch),
        correction("no-final-norm", final_norm),
        correction("no-pooling", pooled),
        correction("no-classifier", classified),
        correction("one-window-shifted-and-masked/neither", last_stage_not_shifted),
        correction("one-window-masked", masked_by(one_window_not_masked)),
        correction("one-window-shifted", one_window_not_shifted),
    ],
)
@torch.no_grad()
def test_habit_when_corrected_is_rejected(
    correct: Correction, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recorded = golden_reference(56), golden_run(56)
    assert rms_error(model(recorded["x"]), recorded["y"]) < FLOAT32_TOLERANCE
    correct(model, monkeypatch)
    assert rms_error(model(recorded["x"]), recorded["y"]) > REJECTED


@pytest.mark.parametrize(
    "correct", [shifted_by(4, 3), masked_by(seam)], ids=["shift-of-4-and-3", "mask-of-3"]
)
@torch.no_grad()
def test_correction_that_restates_the_habit_is_accepted(
    correct: Correction, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recorded = golden_reference(56), golden_run(56)
    correct(model, monkeypatch)
    assert rms_error(model(recorded["x"]), recorded["y"]) < FLOAT32_TOLERANCE


@torch.no_grad()
def test_gelu_is_exact_and_its_tanh_approximation_is_rejected() -> None:
    model, recorded = golden_reference(56), golden_run(56)
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
    assert rms_error(model(recorded["x"]), recorded["y"]) > 10 * FLOAT32_TOLERANCE


@torch.no_grad()
def test_projections_are_per_token_so_rolls_may_stand_outside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention = shifted_attention(golden_reference(112).stages[0])
    tokens = golden_run(112)["stage_input"]
    expected = attention(tokens)
    roll = torch.roll

    def rolled(values: Tensor, distance: int) -> Tensor:
        grid = values.reshape(2, 28, 28, 96)
        return roll(grid, (distance, distance), dims=(1, 2)).flatten(1, 2)

    monkeypatch.setattr(torch, "roll", lambda tensor, *_, **__: tensor)
    outside = attention(rolled(tokens, -4))
    assert rms_error(rolled(outside, 3), expected) < FLOAT32_TOLERANCE
    assert rms_error(rolled(outside, 4), expected) > REJECTED
