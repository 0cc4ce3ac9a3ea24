"""V2's attention with lengths as factors: the same numbers, and never beyond float16's range."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error
from peers import trained_like
from torch import Tensor, nn

from swin_deploy.config import Size, StageSpec, SwinConfig
from swin_deploy.deploy.cosine_attention import (
    LARGEST_FACTOR,
    LONGEST,
    CosineAttention,
    LengthFactors,
    Stream,
    with_length_factors,
)
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_parts import split_heads
from swin_deploy.deploy.model import DeployModel, PositionBias, WindowAttention
from swin_deploy.reference import build_reference
from swin_deploy.reference.swin import SwinTransformer
from swin_deploy.runners.emulated import Emulated

SMALL = SwinConfig.from_dict(
    {
        "family": "swinv2",
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "num_classes": 10,
    }
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def reference(**fields: object) -> SwinTransformer:
    made = trained_like(build_reference(SwinConfig.from_dict(SMALL.to_dict() | fields)))
    assert isinstance(made, SwinTransformer)
    return made


def factored(model: nn.Module) -> list[CosineAttention]:
    return [one for one in model.modules() if isinstance(one, CosineAttention)]


def images(scale: float = 1.0) -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * scale


def plain_attention(heads: int, *, gain: float = 1.0) -> tuple[WindowAttention, Stream]:
    """Attention over 4 windows of 16 tokens, and the stream of one norm before it."""
    torch.manual_seed(heads)
    dim = 8 * heads
    side = Size.square(8)
    stage = StageSpec(side, dim, 1, heads, Size.square(4), Size.square(0))
    attention = WindowAttention(
        nn.Linear(dim, 3 * dim),
        nn.Linear(dim, dim),
        bias=PositionBias(torch.randn(1, heads, 16, 16)),
        heads=split_heads(stage, torch.linspace(5, 100, heads)[:, None, None]),
        num_tokens=64,
    ).requires_grad_(requires_grad=False)
    attention.qkv.bias[dim : 2 * dim] = 0.0
    norm = nn.LayerNorm(dim).requires_grad_(requires_grad=False)
    norm.weight.copy_(torch.randn(dim).exp() * gain)
    norm.bias.copy_(torch.randn(dim) * gain)
    return attention, Stream().plus(norm)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("gain", [0.1, 1.0, 30.0])
def test_factored_attention_equals_the_plain_one_and_gives_it_back(heads: int, gain: float) -> None:
    plain, stream = plain_attention(heads, gain=gain)
    tokens = stream.norms[0](torch.randn(64, 3, 8 * heads))
    expected = plain(tokens)
    found = with_length_factors(plain, stream)
    assert isinstance(found, CosineAttention)
    assert rms_error(found(tokens), expected) < FLOAT32_TOLERANCE
    assert rms_error(found.plain()(tokens), expected) < FLOAT32_TOLERANCE
    assert plain.plain() is plain
    found.query_factor.scale.mul_(1.5)
    assert rms_error(found(tokens), expected) > 10 * FLOAT32_TOLERANCE


def worst(attention: CosineAttention, norm: nn.LayerNorm) -> float:
    """The longest query or key of the normalised tokens that stretch each head most."""
    dim = attention.qkv.in_features
    longest = 0.0
    for part in range(2):
        heads = attention.qkv.weight[part * dim : (part + 1) * dim].reshape(
            attention.query_bias.shape[0], -1, dim
        )
        for number, weight in enumerate(heads):
            direction = torch.linalg.svd(weight * norm.weight)[2][0]
            for sign in (1, -1):
                token = sign * direction * math.sqrt(dim) * norm.weight + norm.bias
                vector = weight @ token
                if part == 0:
                    vector = vector + attention.query_bias[number, 0]
                longest = max(longest, float(vector.norm()))
    return longest


@pytest.mark.parametrize("gain", [2.0**-20, 1.0, 30.0])
def test_powers_bring_the_longest_vector_of_any_tokens_below_the_limit(gain: float) -> None:
    plain, stream = plain_attention(2, gain=gain)
    found = with_length_factors(plain, stream)
    assert isinstance(found, CosineAttention)
    assert LONGEST / 16 < worst(found, stream.norms[0]) < LONGEST
    louder = copy.deepcopy(stream.norms[0])
    louder.weight.mul_(64), louder.bias.mul_(64)
    assert worst(found, louder) > LONGEST  # the bound is of these weights


def test_powers_are_powers_of_two_and_change_no_digit() -> None:
    plain, stream = plain_attention(2, gain=3.0)
    found = with_length_factors(plain, stream)
    ratio = found.qkv.weight / plain.qkv.weight
    assert torch.equal(ratio.log2(), ratio.log2().round())
    assert torch.equal(ratio[32:], torch.ones(16, 16))  # values keep theirs


def test_a_stream_that_weights_do_not_bound_keeps_the_plain_attention() -> None:
    plain, stream = plain_attention(2)
    assert with_length_factors(plain, stream.plus(nn.Identity())) is plain
    assert with_length_factors(plain, Stream(bounded=False)) is plain


def test_weights_that_powers_would_bring_to_subnormals_keep_the_plain_attention() -> None:
    plain, stream = plain_attention(2, gain=2.0**14)
    assert with_length_factors(plain, stream) is plain


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["weight", "bias", "norm"])
def test_values_that_are_not_finite_keep_the_plain_attention(value: float, where: str) -> None:
    plain, stream = plain_attention(2)
    target = {"weight": plain.qkv.weight[3], "bias": plain.qkv.bias, "norm": stream.norms[0].weight}
    target[where][0] = value
    assert with_length_factors(plain, stream) is plain


def test_a_head_of_zeros_stays_zero_and_finite() -> None:
    plain, stream = plain_attention(2)
    plain.qkv.weight[:8], plain.qkv.bias[:8] = 0.0, 0.0
    plain.qkv.weight[16:24] = 0.0
    found = with_length_factors(plain, stream)
    assert isinstance(found, CosineAttention)
    tokens = stream.norms[0](torch.randn(64, 1, 16))
    assert rms_error(found(tokens), plain(tokens)) < FLOAT32_TOLERANCE


def test_length_factors_of_zero_are_finite_in_float16() -> None:
    factors = LengthFactors(torch.full((1, 1, 1), 100.0))
    zero = torch.zeros(1, 1, 2, 4).half()
    assert torch.equal(factors(zero), torch.full((1, 1, 2, 1), LARGEST_FACTOR).half())
    assert float(factors(torch.tensor([[[[3.0, 4.0]]]]))) == 20.0


def test_fold_factors_every_block_of_v2_and_none_of_v1() -> None:
    assert len(factored(fold(reference()))) == 4
    assert not factored(fold(reference(family="swin")))


def test_fold_factors_blocks_whose_windows_hold_pads() -> None:
    model = reference(img_size=40, window_rule="always", remainder="pad", pads="pad-then-roll")
    deploy = fold(model)
    assert len(factored(deploy)) == 4
    pixels = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(4))
    assert rms_error(deploy(pixels), model(pixels)) < FLOAT32_TOLERANCE
    half = Emulated(deploy, "fp16")(pixels)  # keys of pads are zero
    assert isinstance(half, Tensor)
    assert rms_error(half, model(pixels)) < 0.02


def test_fold_without_a_norm_after_the_patches_factors_the_later_stages_alone() -> None:
    deploy: DeployModel = fold(reference(patch_norm=False))
    assert len(factored(deploy)) == 2
    assert isinstance(deploy.layers[0].attention, WindowAttention)
    assert len(factored(fold(reference(absolute_positions=True)))) == 4


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_float16_holds_the_scores_where_plain_products_would_not(scale: float) -> None:
    model = reference()
    for name, value in model.named_parameters():
        if "norm1" in name or "norm2" in name:
            value.mul_(20.0)
    deploy = fold(model)
    assert len(factored(deploy)) == 4
    expected = model.double()(images(scale).double())
    found = Emulated(deploy, "fp16")(images(scale))
    assert isinstance(found, Tensor)
    assert rms_error(found, expected) < 0.02
    for attention in factored(deploy):  # the same without the powers
        attention.qkv.weight[: 2 * attention.qkv.in_features] *= 64.0
        attention.query_bias.mul_(64.0)
    assert not Emulated(deploy, "fp16")(images(scale)).isfinite().all()
