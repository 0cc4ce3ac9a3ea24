"""Swin V1 and V2 by their definitions; the libraries' own models are in test_sources.py."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from peers import trained_like
from torch import Tensor, nn
from torch.nn import functional as F

from swin_deploy.config import Family, Output, Size, SwinConfig
from swin_deploy.config.windows import relative_coords_table
from swin_deploy.reference import build_reference
from swin_deploy.reference.swin import SwinTransformer
from swin_deploy.reference.swin_v2 import WindowAttentionV2

FAMILIES: list[Family] = ["swin", "swinv2"]


def tiny(family: Family, **fields: object) -> SwinConfig:
    """Four windows and a shifted block, then one window."""
    sizes = {
        "family": family,
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "num_classes": 10,
    }
    return SwinConfig.from_dict(sizes | fields)


def built(config: SwinConfig) -> SwinTransformer:
    model = trained_like(build_reference(config))
    assert isinstance(model, SwinTransformer)
    return model


# As timm counts them; the papers round to 28 and 88 million.
PARAMETERS = {
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_base_patch4_window7_224": 87_768_224,
    "swinv2_tiny_window8_256": 28_347_154,
    "swinv2_base_window16_256": 87_918_816,
}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items(), ids=PARAMETERS.keys())
def test_published_models_have_their_parameters(name: str, count: int) -> None:
    from swin_deploy.config import variant

    with torch.device("meta"):
        model = build_reference(variant(name))
    assert sum(value.numel() for value in model.parameters()) == count


@pytest.mark.parametrize("family", FAMILIES)
def test_parameter_names_are_the_authors(family: Family) -> None:
    names = set(build_reference(tiny(family)).state_dict())
    block = "layers.0.blocks.1."
    common = {
        "patch_embed.proj.weight",
        "patch_embed.norm.bias",
        f"{block}norm1.weight",
        f"{block}attn.qkv.weight",
        f"{block}attn.proj.bias",
        f"{block}mlp.fc1.weight",
        f"{block}mlp.fc2.bias",
        "layers.0.downsample.reduction.weight",
        "layers.0.downsample.norm.weight",
        "norm.weight",
        "head.bias",
    }
    own = {
        "swin": {f"{block}attn.qkv.bias", f"{block}attn.relative_position_bias_table"},
        "swinv2": {
            f"{block}attn.q_bias",
            f"{block}attn.v_bias",
            f"{block}attn.logit_scale",
            f"{block}attn.cpb_mlp.0.weight",
            f"{block}attn.cpb_mlp.2.weight",
        },
    }
    assert common | own[family] <= names
    assert not any("attn_mask" in name or "relative_position_index" in name for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_model_learns(family: Family) -> None:
    torch.manual_seed(0)
    config = tiny(family, depths=(2,), num_heads=(2,))
    model = build_reference(config).train()
    images, labels = seeded_images(config, batch=8), torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_larger_than_the_map_shrink_and_do_not_shift(family: Family) -> None:
    model: Any = build_reference(tiny(family, img_size=32, window_size=8, depths=(2, 2)))
    assert [layer.blocks[1].stage.window_size for layer in model.layers] == [(8, 8), (4, 4)]
    assert [layer.blocks[1].shift_size for layer in model.layers] == [(0, 0)] * 2
    assert all(layer.blocks[1].attn_mask is None for layer in model.layers)


def test_backbones_shift_the_single_window_too() -> None:
    model: Any = build_reference(tiny("swin", window_rule="always"))
    assert [layer.blocks[1].shift_size for layer in model.layers] == [(2, 2)] * 2
    assert model.layers[1].blocks[1].attn_mask.shape == (1, 16, 16)


def first_blocks(model: nn.Module) -> Any:  # noqa: ANN401 - PyTorch knows them as modules
    layers: Any = model.layers
    return layers[0].blocks


def brute_force_mask(side: int, window: int, shift: int) -> Tensor:
    """-100 where two tokens of a rolled window were no neighbours before the roll."""
    grid = side // window
    mask = torch.zeros(grid**2, window**2, window**2)
    for index in range(grid**2):
        top, left = index // grid * window, index % grid * window
        cells = [(top + row, left + column) for row in range(window) for column in range(window)]
        # A roll by -shift brings row (r + shift) % side to row r: rows past the end were others.
        origin = [((row + shift) >= side, (column + shift) >= side) for row, column in cells]
        for query in range(window**2):
            for key in range(window**2):
                if origin[query] != origin[key]:
                    mask[index, query, key] = -100.0
    return mask


@pytest.mark.parametrize(("img_size", "window"), [(32, 4), (48, 3), (56, 7), (64, 4)], ids=str)
def test_mask_equals_brute_force(img_size: int, window: int) -> None:
    config = tiny("swin", img_size=img_size, window_size=window, depths=(2,), num_heads=(2,))
    block = first_blocks(build_reference(config))[1]
    expected = brute_force_mask(img_size // 4, window, window // 2)
    assert torch.equal(block.attn_mask, expected)
    assert not torch.equal(block.attn_mask, brute_force_mask(img_size // 4, window, 0))


def looped_attention(model: nn.Module, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The papers' attention, one window and head at a time, in float64."""
    attention: Any = model.double()
    heads, dim = attention.num_heads, tokens.shape[-1]
    cosine = isinstance(attention, WindowAttentionV2)
    bias = attention.qkv_bias() if cosine else attention.qkv.bias
    qkv = F.linear(tokens.double(), attention.qkv.weight, bias)
    mixed = torch.zeros_like(qkv[..., :dim])
    for window in range(len(tokens)):
        for head in range(heads):
            columns = [
                slice(part * dim + head * dim // heads, part * dim + (head + 1) * dim // heads)
                for part in range(3)
            ]
            query, key, value = (qkv[window, :, column] for column in columns)
            if cosine:
                lengths = query.norm(dim=-1)[:, None] * key.norm(dim=-1)[None, :]
                temperature = math.exp(min(float(attention.logit_scale[head]), math.log(100)))
                scores = query @ key.T / lengths * temperature
            else:
                scores = query @ key.T / math.sqrt(dim // heads)
            scores = scores + attention.position_bias()[head]
            if mask is not None:
                scores = scores + mask[window % len(mask)].double()
            mixed[window, :, columns[0]] = scores.softmax(dim=-1) @ value
    return F.linear(mixed, attention.proj.weight, attention.proj.bias)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attention_equals_a_loop(family: Family) -> None:
    block = first_blocks(built(tiny(family)))[1]
    windows = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(0))
    actual = block.attn(windows, block.attn_mask)
    unmasked = block.attn(windows, None)
    expected = looped_attention(block.attn, windows, block.attn_mask)
    assert rms_error(actual, expected) < FLOAT32_TOLERANCE
    assert rms_error(unmasked, expected) > REJECTED


@torch.no_grad()
def test_v2_logit_scale_is_clamped_at_one_hundred() -> None:
    attention = first_blocks(built(tiny("swinv2", num_heads=(4, 4))))[0].attn
    attention.logit_scale.copy_(
        torch.tensor([0.0, math.log(99.0), math.log(100.0), 9.0])[:, None, None]
    )
    expected = torch.tensor([1.0, 99.0, 100.0, 100.0])
    assert rms_error(attention.temperature().flatten(), expected) < FLOAT32_TOLERANCE


def test_v2_coordinates_are_spaced_logarithmically() -> None:
    window, pretrained = Size(8, 5), Size(6, 9)
    table = relative_coords_table(window, pretrained).reshape(15, 9, 2)
    for row in (0, 3, 7, 12):
        for column in (1, 4, 8):
            for axis, offset in enumerate((row - 7, column - 4)):
                scaled = 8 * offset / (pretrained[axis] - 1)
                spaced = math.copysign(math.log2(1 + abs(scaled)) / 3, scaled)
                assert float(table[row, column, axis]) == pytest.approx(spaced, abs=1e-6)
    assert float(relative_coords_table(window).abs().max()) == pytest.approx(math.log2(9) / 3)


@torch.no_grad()
def test_v2_position_bias_lies_between_0_and_16() -> None:
    attention = first_blocks(built(tiny("swinv2")))[0].attn
    attention.cpb_mlp[2].weight.mul_(50)
    bias = attention.position_bias()
    assert bias.shape == (2, 16, 16)
    assert 0 <= float(bias.min()) < 1
    assert 15 < float(bias.max()) <= 16


SHAPES: dict[Output, list[tuple[int, ...]]] = {
    "logits": [(2, 10)],
    "features": [(2, 32)],
    "tokens": [(2, 16, 32)],
    "stages": [(2, 16, 8, 8), (2, 32, 4, 4)],
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_outputs_belong_together(family: Family) -> None:
    config = tiny(family)
    models = {output: built(tiny(family, output=output)) for output in SHAPES}
    images = seeded_images(config)
    found = {output: model(images) for output, model in models.items()}
    found["stages"] = list(found["stages"])
    for output, shapes in SHAPES.items():
        values = found[output] if output == "stages" else [found[output]]
        assert [tuple(value.shape) for value in values] == shapes
    model = models["logits"]
    tokens = model.norm(found["stages"][-1].permute(0, 2, 3, 1)).flatten(1, 2)
    assert rms_error(found["tokens"], tokens) < FLOAT32_TOLERANCE
    assert rms_error(found["features"], tokens.mean(dim=1)) < FLOAT32_TOLERANCE
    assert rms_error(found["logits"], model.head(found["features"])) < FLOAT32_TOLERANCE


@torch.no_grad()
def test_stage_norms_normalise_each_map() -> None:
    config = tiny("swin", output="stages", stage_norms=True, num_classes=0)
    model = built(config)
    plain = built(dataclasses.replace(config, stage_norms=False))
    plain.load_state_dict(model.state_dict(), strict=False)
    images = seeded_images(config)
    for index, (normed, raw) in enumerate(zip(model(images), plain(images), strict=True)):
        norm = model.get_submodule(f"norm{index}")
        expected = norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        assert rms_error(normed, expected) < FLOAT32_TOLERANCE
        assert rms_error(raw, expected) > REJECTED
