"""Every field of other libraries' configs is honoured, refused by name, or known to do nothing."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from torch import nn

from exporters.errors import CheckpointError, DeployError
from swin_deploy.checkpoints import config_fields, config_json, huggingface, timm
from swin_deploy.checkpoints.config_fields import (
    HUGGINGFACE,
    TIMM,
    TIMM_ARGUMENTS,
    TIMM_PRETRAINED,
    Field,
    field_rows,
)
from swin_deploy.checkpoints.load import load_model

Change = dict[str, Any]
DECIDING = ("honoured", "compared", "refused")


def unknown(names: Iterable[str], table: dict[str, Field]) -> set[str]:
    return set(names) - table.keys() - {"self", "model_name", "kwargs"}


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "DonutSwin", "MaskFormerSwin", "Pretrained"])
def test_table_knows_every_field_of_transformers(kind: str) -> None:
    config = getattr(peers.import_peer("transformers"), f"{kind}Config")()
    assert unknown(config.to_dict(), HUGGINGFACE) == set()
    assert unknown({**config.to_dict(), "new_field": 1}, HUGGINGFACE) == {"new_field"}


def test_table_knows_every_argument_of_timm() -> None:
    library = peers.import_peer("timm")
    models = (
        peers.import_peer("timm.models.swin_transformer").SwinTransformer,
        peers.import_peer("timm.models.swin_transformer_v2").SwinTransformerV2,
    )
    for function in (*models, library.create_model):
        assert unknown(inspect.signature(function).parameters, TIMM_ARGUMENTS) == set()
    fields = dataclasses.fields(peers.import_peer("timm.models").PretrainedCfg)
    assert unknown((field.name for field in fields), TIMM_PRETRAINED) == set()


def test_table_knows_every_field_of_timms_folders(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert unknown(values, TIMM) == set()
    wrapper_pattern = peers.import_peer("transformers").TimmWrapperConfig().to_dict()
    assert unknown(wrapper_pattern, TIMM) == set()
    assert not any("not known here" in note for note in load_model(None, tmp_path).notes)


def test_fields_that_decide_are_typed() -> None:
    """What the table calls honoured, compared or refused is read by its type, and nothing else."""
    pairs = (
        (HUGGINGFACE, (config_json.HuggingFaceSwin, config_json.HuggingFaceModel)),
        (TIMM_ARGUMENTS, (config_json.TimmArguments,)),
        (TIMM_PRETRAINED, (config_json.TimmWeights,)),
        (TIMM, (config_json.TimmModel,)),
    )
    for table, kinds in pairs:
        deciding = {name for name, field in table.items() if field.effect in DECIDING}
        assert deciding == {name for kind in kinds for name in kind.__struct_fields__}


def test_table_of_the_docs_is_the_table_of_the_code() -> None:
    text = (Path(config_fields.__file__).parents[2] / "docs" / "sources.md").read_text()
    rows = [f"| {' | '.join(row)} |" for row in field_rows()]
    shown = [line for line in text.splitlines() if re.match(r"\| (huggingface|timm) \| `", line)]
    assert shown == rows


def huggingface_folder(folder: Path, change: Change, **sizes: Any) -> nn.Module:  # noqa: ANN401
    model = peers.build_huggingface("swin", **sizes)
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return model


def timm_folder(folder: Path, **arguments: Any) -> nn.Module:  # noqa: ANN401
    library = peers.import_peer("timm")
    fields = {"img_size": 64, "window_size": 4, "num_classes": 10, **peers.SIZES, **arguments}
    model = peers.trained_like(library.create_model("swin_tiny_patch4_window7_224", **fields))
    library.models.save_for_hf(model, str(folder), model_args=fields)
    return model


def change_timm(folder: Path, part: str, change: Change) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    place = values[part] if part else values
    place.update(change)
    path.write_text(json.dumps(values))


HUGGINGFACE_REFUSED: dict[str, tuple[Change, str]] = {
    "channels": ({"num_channels": 4}, "in_channels 4, the weights have 3"),
    "patch": ({"patch_size": 8}, "patch_size 8, the weights have 4"),
    "patch-rectangle": ({"patch_size": [4, 8]}, "patch_size of config.json is 4 x 8"),
    "no-bias": ({"qkv_bias": False}, "qkv_bias False, the weights have True"),
    "ratio": ({"mlp_ratio": 2.0}, "mlp_ratio 2.0, the weights have 4.0"),
    "quantised": ({"quantization_config": {"bits": 4}}, "asks for quantization_config"),
    "pruned": ({"pruned_heads": {"0": [1]}}, "asks for pruned_heads"),
    "labels": ({"id2label": None, "num_labels": 7}, "num_classes 7, the weights have 10"),
    "window-text": ({"window_size": "4"}, "config.json: window_size: expected int"),
    "window-list": ({"window_size": [4, 4]}, "window_size: expected int"),
    "depth-text": ({"depths": [2, "x", 2]}, r"depths\[1\]: expected int"),
    "depth-negative": ({"depths": [2, -2, 2]}, r"depths\[1\]: expected int >= 1"),
    "huge": ({"image_size": 10**9}, "image_size: expected int <= "),
    "nested": ({"depths": [[[2]]]}, r"depths\[0\]: expected int"),
    "ratio-text": ({"mlp_ratio": "4"}, "mlp_ratio: expected float"),
    "ratio-nan": ({"mlp_ratio": float("nan")}, "mlp_ratio"),
    "bias-text": ({"qkv_bias": "no"}, "qkv_bias: expected bool"),
    "heads-twice": ({"num_attention_heads": [1, 2, 4]}, r"num_heads \(1, 2, 4\), the weights"),
    "epsilon": ({"layer_norm_eps": -1.0}, "layer_norm_eps: expected float > 0"),
    "labels-list": ({"id2label": ["a"]}, "id2label: expected object"),
    "many-stages": ({"depths": [1] * 100}, "depths: expected array of length <= 64"),
}


@pytest.mark.parametrize(
    ("change", "says"), HUGGINGFACE_REFUSED.values(), ids=HUGGINGFACE_REFUSED.keys()
)
def test_huggingface_fields_are_refused_by_file_and_name(
    change: Change, says: str, swin: Command, tmp_path: Path
) -> None:
    huggingface_folder(tmp_path, change)
    with pytest.raises(DeployError, match=says) as refusal:
        load_model(None, tmp_path)
    assert "config.json" in str(refusal.value)
    outcome = swin("export", "--checkpoint", tmp_path, "--output", "x.onnx")
    assert outcome.status == 3
    assert "Traceback" not in outcome.err
    assert not Path("x.onnx").exists()


TIMM_REFUSED: dict[str, tuple[str, Change, str]] = {
    "pool": ("model_args", {"global_pool": "max"}, "global_pool 'avg', and 'max' in model_args"),
    "pool-on-top": ("", {"global_pool": "max"}, "global_pool 'max', and 'avg' in model_args"),
    "pools": ("model_args", {"global_pool": "catavgmax"}, "'catavgmax'; supported are avg, max"),
    "pool-unknown": ("", {"global_pool": "fastest"}, "global_pool 'fastest'; supported are"),
    "no-pool": ("model_args", {"global_pool": ""}, "global_pool 'avg', and '' in model_args"),
    "activation": (
        "model_args",
        {"act_layer": "silu"},
        "act_layer silu, which timm's Swin V1 does not have",
    ),
    "norm": ("model_args", {"norm_layer": "rmsnorm"}, "norm_layer 'rmsnorm'"),
    "stem": ("model_args", {"embed_layer": "conv"}, "embed_layer 'conv'"),
    "channels": ("model_args", {"in_chans": 1}, "in_channels 1, the weights have 3"),
    "stages": ("model_args", {"features_only": True, "out_indices": [5]}, "out_indices 5"),
    "no-stages": ("model_args", {"features_only": True, "out_indices": []}, "out_indices none"),
    "offset": ("pretrained_cfg", {"label_offset": 1}, "label_offset 1; supported is 0"),
    "custom": ("pretrained_cfg", {"custom_load": True}, "custom_load True"),
    "head-dim": ("model_args", {"head_dim": 8}, "head_dim 8"),
    "ratios": ("model_args", {"mlp_ratio": [4, 2, 4]}, "mlp_ratio (4.0, 2.0, 4.0), the weights"),
    "bias": ("model_args", {"qkv_bias": False}, "qkv_bias False, the weights have True"),
    "patch": ("model_args", {"patch_size": 2}, "patch_size 2, the weights have 4"),
    "classes": ("model_args", {"num_classes": 7}, "num_classes 7, the weights have 10"),
    "depths": ("model_args", {"depths": [2, 2, 6]}, "depths"),
    "volume": ("model_args", {"img_size": [64, 64, 64]}, "has 3 numbers, not two"),
    "window": (
        "model_args",
        {"window_size": [[4, 2], 4, 4]},
        "config.json says window_size 4x2/4/4, the weights have 4/4/4",
    ),
    "text": ("model_args", {"embed_dim": "96"}, "model_args.embed_dim: expected int"),
    "list": ("", {"model_args": [1]}, "model_args: expected object"),
    "name": ("", {"architecture": 3}, "architecture: expected str"),
    "inputs": ("pretrained_cfg", {"input_size": 64}, "input_size: expected array"),
}


@pytest.mark.parametrize(("part", "change", "says"), TIMM_REFUSED.values(), ids=TIMM_REFUSED.keys())
def test_timm_fields_are_refused_by_file_and_name(
    part: str, change: Change, says: str, tmp_path: Path
) -> None:
    timm_folder(tmp_path)
    load_model(None, tmp_path)
    change_timm(tmp_path, part, change)
    with pytest.raises(DeployError) as refusal:
        load_model(None, tmp_path)
    assert says in str(refusal.value)
    assert "config.json" in str(refusal.value)


VALUES: list[Any] = [
    None, 0, 1, -1, 3, 10**12, 2**70, 1.5, float("nan"), float("inf"), "", "gelu", "swin", True,
    False, [], [1], [4, 4], [4, 4, 4], [2] * 40, [[4, 4], [4, 4]], [[[]]], {}, {"a": 1}, ["stage1"],
    [-1], "a" * 10_000,
]  # fmt: skip


def refusal(folder: Path, values: dict[str, Any], source: str) -> str:
    """Why a config is refused; loaded, which takes longer, only where its fields are not."""
    try:
        if source == "timm":
            timm.facts(values, where="config.json")
        else:
            huggingface.facts(values, where="config.json")
        (folder / "config.json").write_text(json.dumps(values))
        load_model(None, folder)
    except DeployError as err:
        return str(err)
    return ""


@pytest.mark.parametrize("source", ["huggingface", "timm"])
def test_any_value_of_a_deciding_field_gives_a_model_or_one_line(
    source: str, tmp_path: Path
) -> None:
    if source == "timm":
        timm_folder(tmp_path)
        parts = {"model_args": TIMM_ARGUMENTS, "pretrained_cfg": TIMM_PRETRAINED, "": TIMM}
    else:
        kind = ["stage1", "stage2", "stage3"]
        peers.build_huggingface("swinv2", "Backbone", out_features=kind).save_pretrained(tmp_path)
        parts = {"": HUGGINGFACE}
    whole = (tmp_path / "config.json").read_text()
    reasons: list[str] = []
    for part, table in parts.items():
        for name in (name for name, field in table.items() if field.effect in DECIDING):
            for value in VALUES:
                values = json.loads(whole)
                (values[part] if part else values)[name] = value
                reasons.append(refusal(tmp_path, values, source))
    assert reasons.count("") > 40
    assert sum(map(bool, reasons)) > 300
    assert max(map(len, reasons)) < 1000


def test_timm_rectangle_is_taken_and_gives_way_to_the_size_asked_for(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    change_timm(tmp_path, "model_args", {"img_size": [64, 128]})
    assert load_model(None, tmp_path).config.img_size == (64, 128)
    assert load_model(None, tmp_path, img_size=64).config.img_size == 64


TIMM_TAKEN: dict[str, tuple[str, Change]] = {
    "null-arguments": ("", {"model_args": None, "global_pool": None}),
    "window-height-and-width": ("model_args", {"window_size": [4, 4]}),
    "window-by-stage": ("model_args", {"window_size": [4, [4, 4], 4]}),
    "ratio-by-stage": ("model_args", {"mlp_ratio": [4, 4, 4]}),
    "head-dim": ("model_args", {"head_dim": 16}),
    "dropout": ("model_args", {"drop_rate": 0.5, "drop_path_rate": 0.3, "weight_init": "skip"}),
    "dynamic": ("model_args", {"dynamic_img_size": True, "strict_img_size": False}),
    "pool": ("", {"global_pool": "avg"}),
}


@pytest.mark.parametrize(("part", "change"), TIMM_TAKEN.values(), ids=TIMM_TAKEN.keys())
def test_timm_fields_are_taken(part: str, change: Change, tmp_path: Path) -> None:
    model = timm_folder(tmp_path)
    change_timm(tmp_path, part, change)
    if change.get("model_args", "") is None:  # the architecture alone would have other sizes
        change_timm(tmp_path, "", {"architecture": "", "num_classes": 10})
    loaded = load_model(None, tmp_path)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert rms_error(loaded.reference(images), model(images)) < FLOAT32_TOLERANCE


def test_timm_old_form_of_one_dict_is_read(tmp_path: Path) -> None:
    """Before ``pretrained_cfg`` the description of the weights was the whole file."""
    timm_folder(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values |= values.pop("pretrained_cfg")
    path.write_text(json.dumps(values))
    loaded = load_model(None, tmp_path)
    assert loaded.config.img_size == 64
    assert not any("not known here" in note for note in loaded.notes)
    path.write_text(json.dumps(values | {"global_pool": "max"}))
    with pytest.raises(CheckpointError, match="global_pool"):
        load_model(None, tmp_path)


def test_null_is_taken_for_a_field_that_is_missing(tmp_path: Path) -> None:
    huggingface_folder(tmp_path, {})
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    kept = {"architectures", "model_type", "image_size"}
    path.write_text(json.dumps({name: values[name] if name in kept else None for name in values}))
    assert load_model(None, tmp_path).config.num_classes == 10


@pytest.mark.parametrize(
    "change", [{"path_norm": True}, {"encoder_stride": 7}, {"patch_size": [4, 4]}]
)
def test_huggingface_fields_without_effect_are_taken_in_silence(
    change: Change, tmp_path: Path
) -> None:
    model = huggingface_folder(tmp_path, change)
    loaded = load_model(None, tmp_path)
    assert not any("not known here" in note for note in loaded.notes)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert rms_error(loaded.reference(images), model(images).logits) < FLOAT32_TOLERANCE


def test_unknown_fields_are_noted_and_listed_in_short(swin: Command, tmp_path: Path) -> None:
    huggingface_folder(tmp_path, {"zz_window_shape": "round", "aa": 1})
    note = (
        "config.json has fields that are not known here and were passed over: aa, zz_window_shape"
    )
    assert note in load_model(None, tmp_path).notes
    assert note in swin("export", "--checkpoint", tmp_path, "--output", "x.onnx").assert_done().err
    huggingface_folder(tmp_path, {f"field_{'x' * 500}_{number}": 1 for number in range(500)})
    (long,) = [one for one in load_model(None, tmp_path).notes if "not known here" in one]
    assert re.search(r"and 49\d more$", long)
    assert len(long) < 500


@pytest.mark.parametrize("part", ["", "model_args", "pretrained_cfg"])
def test_unknown_fields_of_timm_are_noted(part: str, tmp_path: Path) -> None:
    timm_folder(tmp_path)
    change_timm(tmp_path, part, {"qk_norm": True})
    assert any(note.endswith("passed over: qk_norm") for note in load_model(None, tmp_path).notes)


def test_config_of_a_larger_model_is_read_in_its_part(tmp_path: Path) -> None:
    """Fields of the decoder are not the encoder's, and a wrong one is named with its part."""
    model = peers.build_huggingface("swin", "Model")
    state = {f"encoder.{name}": value for name, value in model.state_dict().items()}
    peers.saved(state, tmp_path / "model.safetensors")
    config = {"model_type": "vision-encoder-decoder", "some_decoder_field": 1}
    path = tmp_path / "config.json"
    encoder = {**model.config.to_dict(), "layer_types": ["x"]}
    path.write_text(json.dumps({**config, "encoder": encoder}))
    notes = load_model(None, tmp_path).notes
    assert any(note.endswith("passed over: layer_types") for note in notes)
    path.write_text(json.dumps({**config, "encoder": {**encoder, "window_size": "seven"}}))
    with pytest.raises(DeployError, match=r"config\.json, encoder: window_size: expected int"):
        load_model(None, tmp_path)


def test_config_of_another_model_leaves_the_sizes_to_the_weights(tmp_path: Path) -> None:
    huggingface_folder(tmp_path, {"model_type": "my-swin", "image_size": {"height": 64}})
    loaded = load_model(None, tmp_path, img_size=64)
    assert "config.json is of my-swin: the weights tell the sizes" in loaded.notes
