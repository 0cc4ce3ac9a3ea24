import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    FLOAT32_TOLERANCE,
    REJECTED,
    TINY,
    TINY_WITH_HEAD,
    build_reference,
    golden_reference,
    golden_run,
    rms_error,
    seeded_images,
)
from torch import Tensor, nn

from swin_deploy.config import SwinConfig, notebook_config
from swin_deploy.reference import notebook
from swin_deploy.reference.notebook import (
    NotebookSwin,
    PatchMerging,
    RelativeEmbeddings,
    ShiftedWindowMSA,
    StochasticDepth,
    SwinEncoderBlock,
)
from swin_deploy.windows import boundary_mask


@pytest.mark.parametrize("img_size", [112, 56])
@torch.no_grad()
def test_model_equals_every_recorded_point(img_size: int) -> None:
    model, recorded = golden_reference(img_size), golden_run(img_size)
    after_embedding = model.Embedding(recorded["x"])
    after_first_pair = model.stages[0](after_embedding)
    assert rms_error(after_embedding, recorded["stage_input"]) < FLOAT32_TOLERANCE
    assert rms_error(after_first_pair, recorded["after_stages.0"]) < FLOAT32_TOLERANCE
    assert rms_error(model(recorded["x"]), recorded["y"]) < FLOAT32_TOLERANCE
    assert set(recorded) == {"x", "stage_input", "after_stages.0", "y"}


def test_one_changed_weight_is_rejected() -> None:
    model, recorded = golden_reference(56), golden_run(56)
    with torch.no_grad():
        model.stages[2].SWSA.WMSA.embeddings.embeddings[3, 2] += 1.0
        assert rms_error(model(recorded["x"]), recorded["y"]) > REJECTED


# The recorded run at 56 pixels has four windows in its first stage and one in its second.
Patch = pytest.MonkeyPatch
Correction = Callable[[NotebookSwin, Patch], object]


def respelt(old: str, new: str) -> Correction:
    """Change part of one einops pattern, which has to be there."""

    def correct(model: NotebookSwin, patch: Patch) -> None:
        original = notebook.rearrange

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
    return boundary_mask(7, windows, boundary).reshape(windows, windows, 49, 49)


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


def first_windows(windows: int) -> Tensor:
    """The mask in the first window row and column in place of the last."""
    return seam(windows).flip(0, 1)


def without_merging_bias(model: NotebookSwin, patch: Patch) -> None:
    nn.init.zeros_(model.stages[1].linear_layer.bias)


def norm_before_merging(model: NotebookSwin, patch: Patch) -> None:
    def forward(self: PatchMerging, tokens: Tensor) -> Tensor:
        side = math.isqrt(tokens.shape[1]) // 2
        merged = notebook.rearrange(
            tokens, "b (h s1 w s2) c -> b (h w) (s2 s1 c)", h=side, s1=2, s2=2
        )
        return self.linear_layer(F.layer_norm(merged, merged.shape[-1:]))

    patch.setattr(PatchMerging, "forward", forward)


def without_relu(model: NotebookSwin, patch: Patch) -> None:
    model.Embedding.relu = nn.Identity()


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
    model.head = nn.Linear(192, 192)


def last_stage_not_shifted(model: NotebookSwin, patch: Patch) -> None:
    model.stages[2].SWSA.WMSA.mask = False


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
    attention = golden_reference(112).stages[0].SWSA.WMSA
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


def table_of_offset_numbers(window_size: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Which of the numbered offsets, row by row, each entry of a new table takes."""
    monkeypatch.setattr(
        torch, "randn", lambda rows, columns: torch.arange(float(rows * columns)).view(rows, -1)
    )
    return RelativeEmbeddings(window_size).embeddings


@pytest.mark.parametrize("window_size", [1, 2, 4, 7, 8, 12])
def test_table_cuts_row_differences_towards_zero(
    window_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = table_of_offset_numbers(window_size, monkeypatch).int()
    span, area = 2 * window_size - 1, window_size**2
    corrected = torch.empty_like(numbers)
    for query in range(area):
        for key in range(area):
            columns = (key % window_size - query % window_size) % span
            rows = int((key - query) / window_size)
            # A whole difference may come out of the float sums just below itself.
            whole = rows != 0 and (key - query) % window_size == 0
            allowed = {rows, rows - int(math.copysign(1, rows))} if whole else {rows}
            assert int(numbers[query, key]) in {row % span * span + columns for row in allowed}
            true_rows = key // window_size - query // window_size
            corrected[query, key] = true_rows % span * span + columns
    differing = (numbers != corrected).float().mean()
    assert differing > 0.1 or window_size == 1


def test_table_is_frozen_and_has_one_value_for_each_pair() -> None:
    torch.manual_seed(0)
    table = RelativeEmbeddings(7).embeddings
    assert table.shape == (49, 49)
    assert not table.requires_grad
    assert table.std() == pytest.approx(1.0, abs=0.2)


def test_default_model_has_the_notebooks_parameters() -> None:
    model = NotebookSwin(SwinConfig())
    assert sum(value.numel() for value in model.parameters()) == 27_513_132
    assert sum(value.numel() for value in model.state_dict().values()) == 27_513_132


def parameter_names(depths: tuple[int, ...]) -> set[str]:
    """The names in a saved notebook checkpoint."""
    modules = ["Embedding.linear_embedding", "Embedding.layer_norm"]
    tables = []
    entry = 0
    for stage, depth in enumerate(depths):
        if stage:
            modules += [f"stages.{entry}.linear_layer", f"stages.{entry}.layer_norm"]
            entry += 1
        for _ in range(depth // 2):
            for block in (f"stages.{entry}.WSA", f"stages.{entry}.SWSA"):
                parts = ("layer_norm", "WMSA.proj1", "WMSA.proj2", "MLP.0", "MLP.3")
                modules += [f"{block}.{part}" for part in parts]
                tables.append(f"{block}.WMSA.embeddings.embeddings")
            entry += 1
    return {f"{name}.{kind}" for name in modules for kind in ("weight", "bias")} | set(tables)


@pytest.mark.parametrize("depths", [(2, 2, 6, 2), (2,), (4, 2)], ids=str)
def test_parameter_names_are_those_of_a_checkpoint(depths: tuple[int, ...]) -> None:
    config = notebook_config(img_size=224, embed_dim=32, depths=depths)
    names = set(NotebookSwin(config).state_dict())
    assert names == parameter_names(depths)
    assert names != parameter_names((*depths, 2))


def test_head_adds_its_own_parameters_and_nothing_else() -> None:
    names = set(NotebookSwin(TINY_WITH_HEAD).state_dict())
    assert names == parameter_names(TINY.depths) | {"head.weight", "head.bias"}


@torch.no_grad()
def test_default_model_gives_49_tokens_of_768_channels() -> None:
    model = NotebookSwin(SwinConfig()).eval()
    assert model(seeded_images(SwinConfig(), batch=1)).shape == (1, 49, 768)


@torch.no_grad()
def test_head_classifies_the_mean_token() -> None:
    with_head = build_reference(TINY_WITH_HEAD)
    without = NotebookSwin(TINY).eval()
    without.load_state_dict(with_head.state_dict(), strict=False)
    images = seeded_images(TINY, batch=3)
    expected = F.linear(without(images).mean(dim=1), with_head.head.weight, with_head.head.bias)
    assert with_head(images).shape == (3, 10)
    assert rms_error(with_head(images), expected) < FLOAT32_TOLERANCE


def test_few_steps_lower_the_loss_and_leave_the_tables() -> None:
    torch.manual_seed(0)
    model = NotebookSwin(TINY_WITH_HEAD)
    images, labels = seeded_images(TINY, batch=8), torch.arange(8)
    before = {name: value.clone() for name, value in model.named_parameters()}

    def evaluated() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model.eval()(images), labels))

    first = evaluated()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(12):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    assert evaluated() < 0.5 * first
    for name, value in model.named_parameters():
        frozen = name.endswith("WMSA.embeddings.embeddings")
        assert torch.equal(value, before[name]) == frozen, name


def training_noise(model: NotebookSwin) -> float:
    """How far two runs over the same images differ."""
    torch.manual_seed(1)
    images = seeded_images(TINY, batch=8)
    with torch.no_grad():
        return rms_error(model(images), model(images))


def without_stochastic_depth(model: NotebookSwin) -> NotebookSwin:
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.probability = 0.0
    return model


def without_dropout(model: NotebookSwin) -> NotebookSwin:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_stochastic_depth_and_dropout_act_in_training_only() -> None:
    assert training_noise(build_reference(TINY).eval()) == 0.0
    assert training_noise(without_dropout(build_reference(TINY)).train()) > 0.1
    assert training_noise(without_stochastic_depth(build_reference(TINY)).train()) > 0.1
    neither = without_dropout(without_stochastic_depth(build_reference(TINY)))
    assert training_noise(neither.train()) == 0.0


def test_dropout_probability_is_a_tenth() -> None:
    rates = [m.p for m in NotebookSwin(TINY).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.1] * 4


@pytest.mark.parametrize("depths", [(2, 2, 6, 2), (2,), (2, 4)], ids=str)
def test_drop_probability_grows_linearly_to_a_fifth(depths: tuple[int, ...]) -> None:
    config = notebook_config(img_size=224, embed_dim=32, depths=depths)
    model = NotebookSwin(config)
    rates = [m.probability for m in model.modules() if isinstance(m, StochasticDepth)]
    last = sum(depths) - 1
    assert rates == pytest.approx([0.2 * block / last for block in range(last + 1)])


def test_stochastic_depth_drops_whole_rows_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    branch = torch.ones(20_000, 3, 2)
    dropped = StochasticDepth(0.2).train()(branch)
    assert dropped.unique().tolist() == [0.0, 1.25]
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    element_wise = F.dropout(branch, 0.2)
    assert not torch.equal(element_wise, element_wise[:, :1, :1].expand_as(element_wise))


@pytest.mark.parametrize(("probability", "training"), [(0.0, True), (0.2, False)])
def test_stochastic_depth_that_does_not_act_is_the_identity(
    probability: float, training: bool
) -> None:
    branch = torch.ones(4, 3, 2)
    assert StochasticDepth(probability).train(training)(branch) is branch


@torch.no_grad()
def test_mlp_starts_xavier_uniform_with_tiny_biases() -> None:
    torch.manual_seed(0)
    model = NotebookSwin(notebook_config(img_size=56, depths=(2, 2)))
    blocks = [module for module in model.modules() if isinstance(module, SwinEncoderBlock)]
    assert len(blocks) == 4
    for layer in (block.MLP[index] for block in blocks for index in (0, 3)):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        # The default initialisation reaches no further than 1 / sqrt(in_features): it fails here.
        assert 0.99 * bound < float(layer.weight.abs().max()) <= bound
        assert float(layer.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert float(layer.bias.std()) == pytest.approx(1e-6, rel=0.3)
