"""The fold of Swin V1 and V2: the deploy model equals its reference, and mutations do not."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from peers import trained_like
from torch import Tensor, nn

from exporters.spec import Runtime
from swin_deploy.config import SwinConfig
from swin_deploy.deploy import fold_swin
from swin_deploy.deploy.cosine_attention import CosineAttention
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_parts import LARGEST_EXPANDED_AREA, MASKED_FINITE
from swin_deploy.deploy.model import (
    DeployModel,
    GatheredPositionBias,
    PatchMerge,
    PositionBias,
    Reorder,
    SwinBlock,
    WindowMask,
)
from swin_deploy.reference import build_reference
from swin_deploy.reference.swin import SwinTransformer


def sized(family: str, **fields: object) -> SwinConfig:
    """Four windows and a shifted block, then one window."""
    sizes: dict[str, Any] = {
        "family": family,
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "num_classes": 10,
    }
    return SwinConfig.from_dict(sizes | fields)


THREE = {"depths": (2, 2, 2), "num_heads": (2, 4, 8)}
SHARED: dict[str, dict[str, Any]] = {
    "window-4": {},
    "four-windows-twice": {"img_size": 64},
    "window-7": {"img_size": 112, "window_size": 7},
    "window-8": {"img_size": 128, "window_size": 8, **THREE},
    "shrunk-windows": {"img_size": 64, "window_size": 8, **THREE},
    "one-window": {"img_size": 32, "window_size": 8},
    "window-3": {"img_size": 48, "window_size": 3},
    "wide": {"img_size": (32, 64)},
    "high-last-stage-shifts-rows": {"img_size": (64, 32), **THREE},
    "rectangular-windows": {"img_size": (64, 96), "window_size": ((4, 6), (8, 3))},
    "wide-window-12": {"img_size": (48, 192), "window_size": ((6, 12), (6, 12))},
    "window-12": {"img_size": 96, "window_size": 12},
    "odd-depths": {"depths": (3, 1)},
    "one-head": {"num_heads": (1, 1)},
    "patch-2": {"patch_size": 2},
    "mlp-ratio-2.5": {"mlp_ratio": 2.5},
    "one-class": {"num_classes": 1},
    "features": {"num_classes": 0},
    "tokens": {"output": "tokens"},
    "stages": {"output": "stages"},
    "stages-normed": {"output": "stages", "stage_norms": True, "num_classes": 0},
    "no-final-norm": {"output": "tokens", "final_norm": False, "num_classes": 0},
    "always-shift": {"window_rule": "always"},
    "window-by-stage": {"img_size": 128, "window_size": (4, 8, 4), **THREE},
}
SIZES = {
    **{f"swin-{name}": sized("swin", **fields) for name, fields in SHARED.items()},
    **{f"swinv2-{name}": sized("swinv2", **fields) for name, fields in SHARED.items()},
    "swinv2-pretrained": sized("swinv2", window_size=8, pretrained_window_sizes=(6, 3)),
}


def built(config: SwinConfig) -> SwinTransformer:
    model = trained_like(build_reference(config))
    assert isinstance(model, SwinTransformer)
    return model


@torch.no_grad()
def worst(actual: nn.Module, expected: nn.Module, images: Tensor) -> float:
    """Largest error of any output, in units of the expected one's RMS."""
    pairs = [model(images) for model in (actual, expected)]
    ours, theirs = (list(value) if isinstance(value, tuple) else [value] for value in pairs)
    assert len(ours) == len(theirs)
    return max(rms_error(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("runtime", get_args(Runtime))
@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES.keys())
@torch.no_grad()
def test_fold_equals_the_reference(config: SwinConfig, runtime: Runtime) -> None:
    reference, images = built(config), seeded_images(config)
    deploy = fold(reference, runtime)
    found, exact = deploy(images), reference.double()(images.double())
    maps = zip(
        found if isinstance(found, tuple) else (found,),
        exact if isinstance(exact, tuple) else (exact,),
        strict=True,
    )
    # Scores at V2's clamp are multiplied by 100, and so is float32's rounding of the cosine, in
    # the reference as in the fold; in float64 the fold holds to the tolerance itself.
    rounding = 4 if config.family == "swinv2" else 1
    assert max(rms_error(a, b) for a, b in maps) < rounding * FLOAT32_TOLERANCE
    assert worst(deploy.double(), reference, images.double()) < FLOAT32_TOLERANCE / 2


@torch.no_grad()
def test_mask_keeps_its_value_where_cosines_of_v2_reach_beyond_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sum of a mask by rows and one by columns doubles -100, and moves attention's shares."""
    reference = built(sized("swinv2", embed_dim=32, num_heads=(8, 16))).double()
    noise = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=noise, dtype=torch.float64)
    for runtime in get_args(Runtime):
        deploy = fold(reference, runtime).double()
        assert worst(deploy, reference, images) < FLOAT32_TOLERANCE
    monkeypatch.setattr(fold_swin, "STEEP", math.inf)
    assert worst(fold(reference).double(), reference, images) > 100 * FLOAT32_TOLERANCE


def blocks(deploy: DeployModel) -> list[SwinBlock]:
    return [layer for layer in deploy.layers if isinstance(layer, SwinBlock)]


def merge(deploy: DeployModel) -> PatchMerge:
    (found,) = (layer for layer in deploy.layers if isinstance(layer, PatchMerge))
    return found


def reorder_into(deploy: DeployModel, layer: nn.Module) -> Reorder:
    """What brings the stream to a layer's order: the layer itself (V1), or the block before it."""
    before = deploy.layers[list(deploy.layers).index(layer) - 1]
    found = (
        layer.reorder_before if isinstance(layer.reorder_before, Reorder) else before.reorder_after
    )
    assert isinstance(found, Reorder)
    return found


def norm_on_the_other_side(deploy: DeployModel) -> None:
    block = blocks(deploy)[0]
    before, after = block.norm_before_attention, block.norm_after_attention
    block.norm_before_attention, block.norm_after_attention = after, before


def mlp_norm_on_the_other_side(deploy: DeployModel) -> None:
    block = blocks(deploy)[0]
    block.norm_before_mlp, block.norm_after_mlp = block.norm_after_mlp, block.norm_before_mlp


def nudge_one_bias_entry(deploy: DeployModel) -> None:
    bias = blocks(deploy)[0].attention.bias
    assert isinstance(bias, PositionBias)
    bias.bias[0, 1, 3, 2] += 5.0


def drop_the_mask(deploy: DeployModel) -> None:
    for block in blocks(deploy)[1::2]:
        assert isinstance(block.attention.bias, nn.Sequential)
        position, mask = block.attention.bias
        assert isinstance(mask, WindowMask)
        assert float(mask.by_windows().min()) < -50
        block.attention.bias = position


def swap_two_tokens_of_the_merge(deploy: DeployModel) -> None:
    order = reorder_into(deploy, merge(deploy))
    order.index[[1, 2]] = order.index[[2, 1]]


def merge_row_by_row(deploy: DeployModel) -> None:
    order = reorder_into(deploy, merge(deploy))
    order.index.copy_(order.index.reshape(-1, 4)[:, [0, 2, 1, 3]].reshape(-1))


def swap_two_windows(deploy: DeployModel) -> None:
    order = reorder_into(deploy, blocks(deploy)[1])
    index = order.index.view(16, -1)
    index[:, [0, 3]] = index[:, [3, 0]]


def swap_query_and_key_weights(deploy: DeployModel) -> None:
    for value in blocks(deploy)[0].attention.qkv.parameters():
        query, key, rest = value.split(16)
        value.copy_(torch.cat([key * 1.5, query, rest.flip(0)]))


def factored(deploy: DeployModel) -> CosineAttention:
    attention = blocks(deploy)[0].attention
    assert isinstance(attention, CosineAttention)
    return attention


def temperature_without_clamp(deploy: DeployModel) -> None:
    factored(deploy).query_factor.scale[:2] *= 1.5


def keys_of_another_length(deploy: DeployModel) -> None:
    factored(deploy).key_factor.scale *= 1.5


def without_half_of_the_query_bias(deploy: DeployModel) -> None:
    factored(deploy).query_bias *= 0.5


def bias_of_values_twice(deploy: DeployModel) -> None:
    factored(deploy).proj.bias[:8] += 0.5


Mutation = Callable[[DeployModel], None]
BOTH: list[Mutation] = [
    norm_on_the_other_side,
    mlp_norm_on_the_other_side,
    nudge_one_bias_entry,
    drop_the_mask,
    swap_two_tokens_of_the_merge,
    merge_row_by_row,
    swap_two_windows,
    swap_query_and_key_weights,
]
V2_ONLY: list[Mutation] = [
    temperature_without_clamp,
    keys_of_another_length,
    without_half_of_the_query_bias,
    bias_of_values_twice,
]
MUTATIONS = [("swin", mutate) for mutate in BOTH]
MUTATIONS += [("swinv2", mutate) for mutate in (*BOTH, *V2_ONLY)]


@pytest.mark.parametrize(
    ("family", "mutate"), MUTATIONS, ids=[f"{family}-{m.__name__}" for family, m in MUTATIONS]
)
@torch.no_grad()
def test_mutated_fold_is_rejected(family: str, mutate: Mutation) -> None:
    config = sized(family, img_size=64)
    reference, images = built(config), seeded_images(config)
    deploy = fold(reference)
    assert worst(deploy, reference, images) < 4 * FLOAT32_TOLERANCE
    mutate(deploy)
    assert worst(deploy, reference, images) > REJECTED


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@torch.no_grad()
def test_fold_leaves_the_reference_as_it_was_and_owns_its_weights(family: str) -> None:
    config = sized(family)
    reference, images = built(config), seeded_images(config)
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    deploy = fold(reference)
    assert all(torch.equal(before[name], now) for name, now in reference.state_dict().items())
    expected = deploy(images)
    for value in reference.parameters():
        value.add_(1.0)
    assert torch.equal(deploy(images), expected)
    assert {value.dtype for value in deploy.parameters()} == {torch.float32}


@torch.no_grad()
def test_norm_before_attention_carries_its_bias_in_one_channel() -> None:
    reference = built(sized("swin"))
    layers: Any = reference.layers
    block, folded = layers[0].blocks[1], blocks(fold(reference))[1]
    tokens = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)) * 4 + 1
    expected = block.attn.qkv(block.norm1(tokens))
    expected[..., :16] *= block.attn.scale
    carried = folded.norm_before_attention(tokens)
    assert folded.attention.qkv.bias is None
    assert int((carried == 1).flatten(0, 1).all(dim=0).sum()) == 1
    assert rms_error(folded.attention.qkv(carried), expected) < FLOAT32_TOLERANCE
    assert rms_error(folded.attention.qkv(block.norm1(tokens)), expected) > REJECTED


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_only_shifted_blocks_have_a_mask_and_it_is_finite(family: str) -> None:
    deploy = fold(built(sized(family)))
    biases = [list(block.attention.bias.buffers()) for block in blocks(deploy)]
    shapes = [[tuple(value.shape) for value in values] for values in biases]
    alone, rows, columns = [[(1, 4, 16, 16)]], (2, 1, 1, 1, 16, 16), (1, 2, 1, 1, 16, 16)
    assert shapes == [[(1, 2, 16, 16)], [(1, 2, 16, 16), rows, columns], *alone, *alone]
    assert all(float(value.min()) >= MASKED_FINITE for values in biases for value in values)


EXPANDED = math.isqrt(LARGEST_EXPANDED_AREA)


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_large_windows_gather_their_bias_by_equal_indices(family: str) -> None:
    small, large = (
        [module for block in blocks(deploy) for module in block.attention.bias.modules()]
        for deploy in (
            fold(built(sized(family, img_size=16 * window, window_size=window)))
            for window in (EXPANDED, EXPANDED + 1)
        )
    )
    assert sum(isinstance(module, PositionBias) for module in small) == 4
    assert not any(isinstance(module, GatheredPositionBias) for module in small)
    gathered = [module for module in large if isinstance(module, GatheredPositionBias)]
    assert len(gathered) == 4
    assert not any(isinstance(module, PositionBias) for module in large)
    assert all(torch.equal(module.index, gathered[0].index) for module in gathered)
    assert [tuple(module.table.shape) for module in gathered] == [(h, 17**2) for h in (2, 2, 4, 4)]


@torch.no_grad()
def test_mutated_gathered_bias_is_rejected() -> None:
    config = sized("swin", **SHARED["window-12"])
    reference, images = built(config), seeded_images(config)
    deploy = fold(reference)
    assert worst(deploy, reference, images) < FLOAT32_TOLERANCE
    bias = blocks(deploy)[0].attention.bias
    assert isinstance(bias, GatheredPositionBias)
    bias.table[1, 23 * 11 + 12] += 5.0
    assert worst(deploy, reference, images) > REJECTED


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@torch.no_grad()
def test_one_deploy_model_for_features_of_any_head(family: str) -> None:
    config = sized(family)
    reference, images = built(config), seeded_images(config)
    pooled = built(dataclasses.replace(config, output="features"))
    pooled.load_state_dict(reference.state_dict())
    features = fold(pooled)(images)
    logits = reference.head(features)
    assert rms_error(fold(reference)(images), logits) < FLOAT32_TOLERANCE
