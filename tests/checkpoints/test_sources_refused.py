"""Damaged, contradictory and ambiguous checkpoints: each is refused, and the reason is named."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from exporters.errors import CheckpointError, ConfigError, FileError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.read import detect_source, load_checkpoint
from swin_deploy.checkpoints.timm import DIALECT
from swin_deploy.config import variant
from swin_deploy.reference import build_reference

Asked = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Damage:
    """A change to a good checkpoint, and what the refusal must say."""

    source: str
    family: str
    change: Callable[[dict[str, Tensor]], object]
    says: tuple[str, ...]


def drop(*names: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: [state.pop(name) for name in names]


def add(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: torch.ones(2)})


def cut(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: state[name][:-1]})


def tamper(name: str) -> Callable[[dict[str, Tensor]], object]:
    def change(state: dict[str, Tensor]) -> None:
        assert name in state
        state[name] = state[name].clone()
        state[name].view(-1)[3] += 1

    return change


BLOCK = "layers.1.blocks.1."
TV_BLOCK = "features.3.1."
HF_BLOCK = "encoder.layers.1.blocks.1."
HF_ATTENTION = f"swin.{HF_BLOCK}attention.self."
HF_V2_ATTENTION = f"swinv2.{HF_BLOCK}attention.self."
DAMAGES = {
    "ms-missing": Damage(
        "microsoft",
        "swin",
        drop(f"{BLOCK}norm1.weight", "norm.bias"),
        ("missing keys", f"{BLOCK}norm1.weight", "norm.bias"),
    ),
    "ms-missing-first": Damage(
        "microsoft", "swin", drop("patch_embed.proj.weight"), ("missing", "patch_embed.proj.weight")
    ),
    "ms-missing-norm": Damage(
        "microsoft", "swin", drop("norm.weight", "norm.bias"), ("missing", "norm.bias, norm.weight")
    ),
    "ms-unknown": Damage("microsoft", "swin", add("extra.scale"), ("unknown keys: extra.scale",)),
    "ms-shape": Damage(
        "microsoft",
        "swin",
        cut(f"{BLOCK}mlp.fc2.weight"),
        ("wrong shapes", f"{BLOCK}mlp.fc2.weight is [63, 256], not [64, 256]"),
    ),
    "ms-index": Damage(
        "microsoft",
        "swin",
        tamper(f"{BLOCK}attn.relative_position_index"),
        ("buffers", f"{BLOCK}attn.relative_position_index"),
    ),
    "ms-mask": Damage(
        "microsoft", "swin", tamper(f"{BLOCK}attn_mask"), ("buffers", f"{BLOCK}attn_mask")
    ),
    "ms-v2-coords": Damage(
        "microsoft",
        "swinv2",
        tamper(f"{BLOCK}attn.relative_coords_table"),
        ("buffers", f"{BLOCK}attn.relative_coords_table"),
    ),
    "ms-v2-one-bias": Damage(
        "microsoft", "swinv2", drop(f"{BLOCK}attn.q_bias"), ("missing", f"{BLOCK}attn.q_bias")
    ),
    "ms-absolute": Damage(
        "microsoft", "swin", add("absolute_pos_embed"), ("absolute", "absolute_pos_embed")
    ),
    "ms-last-block": Damage(
        "microsoft",
        "swin",
        lambda state: [state.pop(name) for name in list(state) if ".1.blocks.0." in name],
        ("missing keys: layers.1.blocks.0.",),
    ),
    "timm-missing": Damage(
        "timm",
        "swin",
        drop("layers.2.downsample.norm.weight", "norm.bias"),
        ("missing keys: layers.2.downsample.norm.weight, norm.bias",),
    ),
    "timm-unknown": Damage("timm", "swin", add("head.other.bias"), ("unknown", "head.other.bias")),
    "timm-shape": Damage(
        "timm", "swinv2", cut("head.fc.weight"), ("wrong shapes", "head.fc.bias is [10], not [9]")
    ),
    "timm-merges-both-sides": Damage(
        "timm",
        "swin",
        lambda state: [
            drop("head.fc.weight", "head.fc.bias")(state),
            add("layers.0.downsample.norm.weight")(state),
        ],
        ("fit microsoft and timm", "--source"),
    ),
    "tv-missing": Damage(
        "torchvision", "swin", drop("features.0.2.bias"), ("missing keys: features.0.2.bias",)
    ),
    "tv-unknown": Damage("torchvision", "swin", add("fpn.weight"), ("unknown", "fpn.weight")),
    "tv-shape": Damage(
        "torchvision",
        "swin",
        cut(f"{TV_BLOCK}mlp.0.bias"),
        (f"{TV_BLOCK}mlp.0.bias is [255], not [256]",),
    ),
    "tv-index": Damage(
        "torchvision",
        "swin",
        tamper(f"{TV_BLOCK}attn.relative_position_index"),
        (f"{TV_BLOCK}attn.relative_position_index",),
    ),
    "hf-missing": Damage(
        "huggingface",
        "swin",
        drop(f"{HF_ATTENTION}key.bias", "swin.layernorm.bias"),
        ("missing keys", "swin.layernorm.bias", f"{HF_ATTENTION}key.bias"),
    ),
    "hf-unknown": Damage("huggingface", "swin", add("swin.extra"), ("unknown keys: swin.extra",)),
    "hf-shape": Damage(
        "huggingface",
        "swinv2",
        cut(f"{HF_V2_ATTENTION}value.weight"),
        (f"{HF_V2_ATTENTION}value.weight is [63, 64], not [64, 64]",),
    ),
    "hf-table": Damage(
        "huggingface",
        "swin",
        cut("swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"),
        ("wrong shapes", "relative_position_bias_table is [48, 2]", "belongs to no window"),
    ),
    "hf-absolute": Damage(
        "huggingface", "swin", add("swin.embeddings.position_embeddings"), ("absolute",)
    ),
}


def good_checkpoint(source: str, family: str, folder: Path) -> Path:
    """A checkpoint that loads, and the path of its weights file."""
    if source == "huggingface":
        peers.build_huggingface(family).save_pretrained(folder)
        return folder / "model.safetensors"
    if source == "torchvision":
        state = peers.build_torchvision(family).state_dict()
    else:
        model = peers.build_timm(family)
        state = model.state_dict() if source == "timm" else peers.microsoft_state(model)
    return peers.saved(state, folder / "swin.safetensors")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_checkpoint_is_refused_by_name(damage: Damage, tmp_path: Path) -> None:
    path = good_checkpoint(damage.source, damage.family, tmp_path)
    asked: Asked = {}
    if (damage.source, damage.family) == ("timm", "swinv2"):
        asked["window_size"] = 4
    assert load_checkpoint(path, **asked).source == damage.source
    state = load_file(path)
    damage.change(state)
    peers.saved(state, path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path, **asked)
    for words in damage.says:
        assert words in str(refusal.value)


@pytest.mark.parametrize("source", ["microsoft", "timm", "torchvision", "huggingface"])
def test_wrong_source_is_refused(source: str, tmp_path: Path) -> None:
    path = good_checkpoint(source, "swin", tmp_path)
    assert load_checkpoint(path, source=source).source == source
    for other in {"microsoft", "timm", "torchvision", "huggingface"} - {source}:
        with pytest.raises(CheckpointError) as refusal:
            load_checkpoint(path, source=other)
        if {source, other} != {"microsoft", "timm"}:
            assert f"no checkpoint of {other}" in str(refusal.value)
            assert source in str(refusal.value)
    with pytest.raises(CheckpointError, match="notebook"):
        load_checkpoint(path, source="notebook")
    with pytest.raises(CheckpointError, match="unknown source keras"):
        load_checkpoint(path, source="keras")


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "depths": ({"depths": [2, 2, 6]}, r"depths \(2, 2, 6\), the weights have \(2, 2, 2\)"),
    "heads": ({"num_heads": [4, 4, 8]}, "num_heads"),
    "width": ({"embed_dim": 96}, "embed_dim 96, the weights have 32"),
    "family": ({"model_type": "swinv2"}, "family swinv2"),
    "window": ({"window_size": 8}, "window_size 8, the weights have 4"),
    "classes": ({"id2label": {"0": "cat", "1": "dog"}}, "num_classes 2, the weights have 10"),
    "activation": ({"hidden_act": "xielu"}, "hidden_act xielu; supported are gelu, gelu_tanh"),
    "absolute": ({"use_absolute_embeddings": True}, "absolute_positions True, the weights have"),
    "volume": ({"image_size": [64, 64, 64]}, "has 3 numbers, not two"),
}


@pytest.mark.parametrize(("change", "says"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_config_json_that_contradicts_the_weights_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    good_checkpoint("huggingface", "swin", tmp_path)
    load_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(tmp_path)


def reference_state(name: str, folder: Path) -> Path:
    """A state dict in timm's layout of a variant's sizes, but with no values to speak of."""
    with torch.device("meta"):
        shapes = build_reference(variant(name)).state_dict()
    state = {DIALECT.source_keys(key)[0]: torch.zeros(value.shape) for key, value in shapes.items()}
    return peers.saved(state, folder / "weights.safetensors")


def test_v2_without_a_window_names_the_candidates(tmp_path: Path) -> None:
    path = reference_state("swinv2_tiny_window8_256", tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    for words in ("swinv2_tiny_window8_256", "swinv2_tiny_window16_256", "--window-size"):
        assert words in str(refusal.value)
    by_window = load_checkpoint(path, window_size=16).config
    assert by_window == load_checkpoint(path, name="swinv2_tiny_window16_256").config
    assert (by_window.window_size, by_window.img_size) == (16, 256)
    with pytest.raises(ConfigError, match="no swin_tiny_patch4_window7_224"):
        load_checkpoint(path, name="swin_tiny_patch4_window7_224")


def test_v2_window_of_two_pretrainings_asks_for_the_model(tmp_path: Path) -> None:
    path = reference_state("swinv2_base_window16_256", tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path, window_size=16)
    for words in ("swinv2_base_window16_256", "swinv2_base_window12to16_192to256", "--model"):
        assert words in str(refusal.value)
    config = load_checkpoint(path, name="swinv2_base_window12to16_192to256").config
    assert config.pretrained_window_sizes == (12, 12, 12, 6)


def test_variant_is_recognised(tmp_path: Path) -> None:
    path = reference_state("swin_s3_tiny_224", tmp_path)
    loaded = load_model(None, path)
    assert loaded.name == "swin_s3_tiny_224"
    assert loaded.config.window_size == (7, 7, 14, 7)


def test_detect_source_of_other_models_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no Swin checkpoint of notebook, microsoft"):
        detect_source(["features.0.0.weight", "classifier.1.weight"], {})
    with pytest.raises(CheckpointError, match="no Swin checkpoint"):
        detect_source(["embeddings.patch_embeddings.projection.weight"], {})
    with pytest.raises(CheckpointError, match="fit torchvision and huggingface"):
        detect_source(
            [
                "features.1.0.attn.qkv.weight",
                "swin.encoder.layers.0.blocks.0.attention.self.key.bias",
            ],
            {},
        )


def test_two_encoders_are_refused(tmp_path: Path) -> None:
    state = peers.build_timm("swin").state_dict()
    both = {f"{side}.{name}": value for side in ("left", "right") for name, value in state.items()}
    with pytest.raises(
        CheckpointError,
        match="2 encoders: left, right; say which with --encoder left or --encoder right",
    ):
        load_checkpoint(peers.saved(both, tmp_path / "both.pth"))


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    peers.saved({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(FileError, match="not a JSON object"):
        load_checkpoint(tmp_path)


def test_missing_shard_is_refused(tmp_path: Path) -> None:
    peers.build_huggingface("swin").save_pretrained(tmp_path, max_shard_size="200KB")
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path)
