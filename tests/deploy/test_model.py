import ast
import inspect
import itertools
import math
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    FLOAT32_TOLERANCE,
    REJECTED,
    TINY,
    TINY_WITH_HEAD,
    build_reference,
    randomised,
    rms_error,
    seeded_images,
)
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import swin_deploy.deploy.model
import swin_deploy.reference.notebook
from swin_deploy.config import Size, SwinConfig
from swin_deploy.config.windows import (
    merge_order,
    raster_order,
    relative_position_index,
    reorder_index,
    window_order,
)
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import (
    BatchFirst,
    CosineNormalize,
    DeployModel,
    Features,
    GatheredPositionBias,
    MergeGather,
    PatchEmbed,
    PatchMerge,
    PositionBias,
    Reorder,
    SplitCosineHeads,
    SplitHeads,
    StageMap,
    SwinBlock,
    WindowAttention,
    WindowMask,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shuffled(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("resolution", "window_size", "patch_size"),
    [
        (Size(14, 14), Size(7, 7), 4),
        (Size(8, 8), Size(4, 4), 2),
        (Size(7, 7), Size(7, 7), 4),
        (Size(6, 6), Size(3, 3), 1),
        (Size(14, 7), Size(7, 7), 4),
        (Size(8, 6), Size(4, 2), 2),
    ],
    ids=str,
)
@torch.no_grad()
def test_patch_embed_equals_a_convolution_in_window_order(
    resolution: Size, window_size: Size, patch_size: int
) -> None:
    linear = randomised(nn.Linear(3 * patch_size**2, 5))
    embed = PatchEmbed(
        linear,
        resolution=resolution,
        window_size=window_size,
        patch_size=patch_size,
        image_size=Size(*(side * patch_size for side in resolution)),
    )
    images = normal(2, 3, *(side * patch_size for side in resolution))
    kernel = linear.weight.reshape(5, 3, patch_size, patch_size)
    raster = F.conv2d(images, kernel, linear.bias, stride=patch_size).flatten(2).transpose(1, 2)
    order = window_order(resolution, window_size).reshape(-1, window_size.area)
    expected = raster[:, order.T.reshape(-1)].transpose(0, 1)
    assert rms_error(embed(images), expected) < FLOAT32_TOLERANCE
    assert rms_error(embed(images.flip(3)), expected) > REJECTED


def qkv_shape(tokens: Tensor) -> Tensor:
    """Tokens [B, windows, n, C] as the stream has them: [n * windows, B, C]."""
    return tokens.permute(2, 1, 0, 3).flatten(0, 1)


def looped_attention(
    attention: WindowAttention, proj: nn.Linear, bias: Tensor, tokens: Tensor
) -> Tensor:
    """Softmax attention, one image, window and head at a time, in float64.

    ``tokens`` are [B, windows, n, C], and ``bias`` is [1, heads, n, n], or [windows, heads, n, n].
    """
    heads, area = bias.shape[1:3]
    batch, windows, _, dim = tokens.shape
    width = dim // heads
    biases = bias.double().expand(windows, heads, area, area)
    qkv = F.linear(tokens.double(), attention.qkv.weight.double(), attention.qkv.bias.double())
    mixed = torch.empty(batch, windows, area, dim, dtype=torch.float64)
    for image in range(batch):
        for window in range(windows):
            for head in range(heads):
                query, key, value = (
                    qkv[
                        image,
                        window,
                        :,
                        part * dim + head * width : part * dim + (head + 1) * width,
                    ]
                    for part in range(3)
                )
                scores = torch.einsum("id,jd->ij", query, key) + biases[window, head]
                columns = slice(head * width, (head + 1) * width)
                mixed[image, window, :, columns] = scores.softmax(dim=-1) @ value
    return F.linear(mixed, proj.weight.double(), proj.bias.double())


@pytest.mark.parametrize("masked", [False, True], ids=["bias", "bias-and-mask"])
@pytest.mark.parametrize(
    ("dim", "heads", "windows", "area"), [(12, 3, 4, 9), (8, 1, 2, 4), (8, 2, 1, 16)]
)
@torch.no_grad()
def test_window_attention_equals_a_loop(
    dim: int, heads: int, windows: int, area: int, masked: bool
) -> None:
    qkv, proj = randomised(nn.Linear(dim, 3 * dim)), randomised(nn.Linear(dim, dim), seed=1)
    bias, rows = normal(1, heads, area, area), normal(windows, 1, 1, 1, area, area, seed=2)
    mask = rows[:, 0]

    def added(values: Tensor) -> nn.Module:
        if heads == 1:
            return PositionBias(values + mask[:, 0] if masked else values)
        position = PositionBias(values)
        masking = WindowMask(rows, None, num_heads=heads, windows=(windows, 1))
        return nn.Sequential(position, masking) if masked else position

    attention = WindowAttention(
        qkv,
        proj,
        bias=added(bias),
        heads=SplitHeads(heads, dim // heads, windows=(windows, area)),
        num_tokens=windows * area,
    )
    tokens = normal(2, windows, area, dim, seed=1)
    summed = bias + mask[:, 0] if masked else bias
    looped = looped_attention(attention, proj, summed, tokens)
    stream, expected = (qkv_shape(values) for values in (tokens, looped))
    assert rms_error(attention(stream), expected) < FLOAT32_TOLERANCE
    attention.bias = added(bias.transpose(-1, -2).contiguous())
    assert rms_error(attention(stream), expected) > REJECTED


def unlike(actual: Tensor, expected: Tensor) -> bool:
    return rms_error(actual, expected) > REJECTED


@pytest.mark.parametrize("window_size", [Size(1, 1), Size(2, 2), Size(5, 5), Size(12, 9)], ids=str)
def test_gathered_position_bias_equals_the_expanded_table(window_size: Size) -> None:
    (height, width), area = window_size, window_size.area
    across = 2 * width - 1
    table, index = normal(3, (2 * height - 1) * across), relative_position_index(window_size)
    expanded = torch.empty(1, 3, area, area)
    for query in range(area):
        for key in range(area):
            rows = query // width - key // width + height - 1
            columns = query % width - key % width + width - 1
            expanded[0, :, query, key] = table[:, rows * across + columns]
    scores = normal(4, 3, area, area, seed=1)
    gathered = GatheredPositionBias(table, index.reshape(-1))
    assert torch.equal(gathered(scores), PositionBias(expanded)(scores))
    if area > 1:
        backwards = GatheredPositionBias(table, index.T.reshape(-1))
        assert unlike(backwards(scores), PositionBias(expanded)(scores))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("masked", ["rows", "columns", "both"])
@pytest.mark.parametrize(("down", "across", "heads"), [(2, 3, 3), (4, 1, 1), (1, 4, 2), (1, 1, 2)])
def test_window_mask_is_added_by_rows_and_columns_of_windows(
    down: int, across: int, heads: int, masked: str, *, exact: bool
) -> None:
    rows = normal(down, 1, 1, 1, 9, 9) if masked != "columns" else None
    columns = normal(1, across, 1, 1, 9, 9, seed=2) if masked != "rows" else None
    scores = normal(down * across * 2, heads, 9, 9, seed=1)
    expected, by_window = scores.clone(), torch.zeros(down * across, 1, 9, 9)
    for row, column in itertools.product(range(down), range(across)):
        window = row * across + column
        parts = [] if rows is None else [rows[row, 0, 0]]
        parts += [] if columns is None else [columns[0, column, 0]]
        by_window[window] = torch.stack(parts).amin(dim=0)  # masked pairs have one value there
        both = by_window[window] if exact else torch.stack(parts).sum(dim=0)
        expected[window * 2 : window * 2 + 2] += both
    mask = WindowMask(rows, columns, exact=exact, num_heads=heads, windows=(down, across))
    assert torch.allclose(mask(scores), expected, atol=1e-6)
    assert torch.allclose(mask.by_windows(), by_window, atol=1e-6)
    if unlike(by_window.flip(0), by_window):  # not all windows have the same mask
        assert unlike(mask(scores.flip(0)).flip(0), expected)


@pytest.mark.parametrize("cosine", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("heads", [1, 3])
@torch.no_grad()
def test_split_heads_takes_each_part_of_each_place(heads: int, cosine: bool) -> None:
    qkv = normal(9 * 4, 2, 3 * heads * 5)
    split = SplitHeads(heads, 5, windows=(4, 9))
    if cosine:
        split = SplitCosineHeads(torch.full((heads, 1, 1), 10.0), 5, windows=(4, 9))
    expected = qkv.reshape(9, 4, 2, 3, heads, 5).clone()
    if cosine:
        expected[..., :2, :, :] = F.normalize(expected[..., :2, :, :], dim=-1)
        expected[..., 0, :, :] *= 10
    shape = (9, 8, heads, 5) if heads > 1 else (9, 4, 2, 5)
    for part, found in enumerate(split(qkv)):
        assert found.shape == shape
        assert rms_error(found, expected[..., part, :, :].reshape(shape)) < FLOAT32_TOLERANCE
    assert unlike(split(qkv)[0], expected[..., 1, :, :].reshape(shape))


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e4])
def test_cosine_normalize_equals_normalize_times_the_scale(size: float) -> None:
    scale, heads = normal(4, 1).exp(), normal(9, 2, 4, 32, seed=1) * size
    expected = F.normalize(heads.double(), dim=-1) * scale.double()
    assert rms_error(CosineNormalize(scale)(heads, heads), expected) < FLOAT32_TOLERANCE
    assert unlike(CosineNormalize(1.1 * scale)(heads, heads), expected)
    assert unlike(CosineNormalize(scale)(heads, heads.roll(1, dims=1)), expected)


@pytest.mark.parametrize("value", [3e4, -65504.0, 6e-8, 0.0])
def test_cosine_normalize_is_finite_in_half(value: float) -> None:
    heads = torch.full((9, 2, 4, 32), value, dtype=torch.float16)
    output = CosineNormalize(torch.full((4, 1), 100.0)).half()(heads, heads)
    assert output.dtype == torch.float16
    expected = torch.full(heads.shape, math.copysign(100 * 32**-0.5, value) if value else 0.0)
    assert torch.allclose(output.float(), expected, rtol=1e-3)
    # The same spelt in half is not: squares overflow, and the smallest length is 0.
    length = torch.linalg.vector_norm(heads, dim=-1, keepdim=True, dtype=torch.float16)
    naive = heads * (100.0 / length.clamp(min=1e-12))
    assert not torch.allclose(naive.float(), expected, rtol=1e-3)


def test_stage_map_puts_channels_first_and_tokens_on_their_places() -> None:
    tokens = normal(12 * 8, 2, 5)
    found = StageMap(5, Size(12, 8))(tokens)
    assert found.shape == (2, 5, 12, 8)
    for row, column in [(0, 0), (0, 7), (7, 3), (11, 7)]:
        assert torch.equal(found[:, :, row, column], tokens[row * 8 + column])


def test_deploy_model_gives_one_output_for_each_tap() -> None:
    layers: list[nn.Module] = [nn.ReLU(), nn.Hardtanh(), nn.Identity()]
    images = normal(2, 3, 4, 4) * 3
    one = DeployModel(nn.Sequential(), layers, {3: nn.Flatten()})(images)
    assert torch.equal(one, images.clamp(0, 1).flatten(1))
    first, last = DeployModel(nn.Sequential(), layers, {1: nn.Identity(), 3: nn.Flatten()})(images)
    assert torch.equal(first, images.relu())
    assert torch.equal(last, one)


def test_batch_first_swaps_tokens_and_images() -> None:
    tokens = normal(16, 3, 5)
    found = BatchFirst()(tokens)
    assert all(torch.equal(found[image], tokens[:, image]) for image in range(3))


def test_reorder_gathers_the_same_tokens_of_every_image() -> None:
    tokens = normal(16, 3, 5)
    order = window_order(Size(4, 4), Size(2, 2))
    reordered = Reorder(reorder_index(raster_order(Size(4, 4)), order))(tokens)
    assert torch.equal(reordered, tokens[order])


@pytest.mark.parametrize("norm_first", [False, True], ids=["norm-after", "norm-before"])
@torch.no_grad()
def test_patch_merge_joins_the_neighbours_of_each_merged_token(norm_first: bool) -> None:
    linear = randomised(nn.Linear(12, 6))
    norm = randomised(nn.LayerNorm(12 if norm_first else 6), seed=1)
    norms = (norm, nn.Identity()) if norm_first else (nn.Identity(), norm)
    window = Size(4, 4)
    current, following = window_order(Size(8, 8), window), window_order(window, window)
    index = reorder_index(current, merge_order(Size(8, 8), following))
    merge = PatchMerge(reorder_before=MergeGather(index), linear=linear, norms=norms, num_tokens=16)
    grid = normal(2, 8, 8, 3)
    merged = merge(grid.flatten(1, 2)[:, current].transpose(0, 1))
    for slot, raster in enumerate(following.tolist()):
        row, column = 2 * (raster // 4), 2 * (raster % 4)
        corners = [(row, column), (row + 1, column), (row, column + 1), (row + 1, column + 1)]
        joined = torch.cat([grid[:, r, c] for r, c in corners], dim=-1)
        expected = linear(norm(joined)) if norm_first else norm(linear(joined))
        assert rms_error(merged[slot], expected) < FLOAT32_TOLERANCE


@torch.no_grad()
def test_swin_block_displaces_its_attention_branch_only() -> None:
    qkv, proj = randomised(nn.Linear(4, 12)), randomised(nn.Linear(4, 4), seed=1)
    attention = WindowAttention(
        qkv,
        proj,
        bias=PositionBias(normal(1, 2, 4, 4)),
        heads=SplitHeads(2, 2, windows=(4, 4)),
        num_tokens=16,
    )
    norms = tuple(randomised(nn.LayerNorm(4), seed=seed) for seed in range(4))
    mlp = nn.Sequential(randomised(nn.Linear(4, 4), seed=2))
    order, displacement, leaving = (shuffled(16, seed=seed) for seed in range(3))
    block = SwinBlock(
        reorder_before=Reorder(order),
        reorder_after=Reorder(leaving),
        reorder_branch=Reorder(displacement),
        attention=attention,
        mlp=mlp,
        norms=(norms[0], norms[1], norms[2], norms[3]),
    )
    tokens = normal(16, 2, 4)
    stream = tokens[order]
    stream = stream + norms[1](attention(norms[0](stream[displacement])))
    stream = stream + norms[3](mlp(norms[2](stream)))
    assert rms_error(block(tokens), stream[leaving]) < FLOAT32_TOLERANCE


def test_mean_pool_does_not_mind_the_order() -> None:
    tokens = normal(16, 2, 5)
    pooled = Features()(tokens)
    assert pooled.shape == (2, 5)
    assert rms_error(pooled, tokens.double().mean(dim=0)) < FLOAT32_TOLERANCE
    assert rms_error(Features()(tokens[shuffled(16)]), pooled) < FLOAT32_TOLERANCE


def imported_packages(module: ModuleType) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(str(node.module).split(".")[0])
    return roots


def test_deploy_model_imports_nothing_but_torch() -> None:
    assert imported_packages(swin_deploy.deploy.model) <= {"__future__", "math", "torch"}
    assert "einops" in imported_packages(swin_deploy.reference.notebook)


def exported(model: nn.Module, config: SwinConfig) -> ExportedProgram:
    images = seeded_images(config, batch=3)
    return torch.export.export(
        model,
        (images,),
        dynamic_shapes=({0: Dim("batch", min=1)},),
        prefer_deferred_runtime_asserts_over_guards=True,  # as torch.onnx.export does
    )


def operators(program: ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def symbolic_dims(program: ExportedProgram) -> Iterator[int]:
    """The position of every dimension that is not a number, of every tensor in the graph."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            shape = enumerate(value.shape)
            yield from (position for position, size in shape if isinstance(size, torch.SymInt))


@pytest.fixture(scope="module", params=[TINY, TINY_WITH_HEAD], ids=["tokens", "logits"])
def deploy_program(
    request: pytest.FixtureRequest,
) -> tuple[SwinConfig, DeployModel, ExportedProgram]:
    """A config, its deploy model, and that model exported."""
    deploy = fold(build_reference(request.param))
    return request.param, deploy, exported(deploy, request.param)


def test_deploy_model_exports_without_rolls_and_only_the_batch_is_dynamic(
    deploy_program: tuple[SwinConfig, DeployModel, ExportedProgram],
) -> None:
    config, _, program = deploy_program
    assert not [name for name in operators(program) if "roll" in name]
    # Behind places in a window, or windows, and first only in scores and at the edges.
    assert set(symbolic_dims(program)) == {0, 1, 2, 4}
    (output,) = program.graph.output_node().args[0]
    assert output.meta["val"].shape[1:] == ((10,) if config.num_classes else (49, 32))


def test_reference_model_exports_with_rolls() -> None:
    program = exported(build_reference(TINY), TINY)
    assert "aten.roll.default" in operators(program)


@torch.no_grad()
def test_exported_program_serves_every_batch(
    deploy_program: tuple[SwinConfig, DeployModel, ExportedProgram],
) -> None:
    config, deploy, exported_program = deploy_program
    program = exported_program.module()
    images = seeded_images(config, batch=7)
    for batch in (1, 2, 3, 7):
        assert rms_error(program(images[:batch]), deploy(images)[:batch]) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("config", [TINY, TINY_WITH_HEAD], ids=["tokens", "logits"])
@torch.no_grad()
def test_half_precision_runs_on_the_cpu(config: SwinConfig) -> None:
    deploy, images = fold(build_reference(config)), seeded_images(config)
    expected = deploy(images)
    actual = deploy.half()(images.half())
    assert actual.dtype == torch.float16
    assert rms_error(actual, expected) < 0.05
