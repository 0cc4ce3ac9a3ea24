"""Backbones of larger models: which stages they give, whose norms, and where they shift."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import onnxruntime
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from peers import FOUR_STAGES, STAGES, build_maskformer
from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.deploy.fold import fold


@torch.no_grad()
def encoder_maps(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401
    return list(model.model.pixel_level_module.encoder(images).feature_maps)


def assert_maps(
    got: tuple[Tensor, ...] | list[Tensor], wanted: list[Tensor], *, rounding: float = 0
) -> None:
    """The maps are the library's, within float32's rounding, which V2's cosines make larger."""
    assert [one.shape for one in got] == [one.shape for one in wanted]
    errors = [rms_error(a, b) for a, b in zip(got, wanted, strict=True)]
    assert max(errors) < max(FLOAT32_TOLERANCE, 3 * rounding), errors


# Windows of 2 cover the last map of 64 pixels, not that of 128; windows of 4 those of 128.
GEOMETRIES = {
    "window-covers-last-map": {"image_size": 64, "window_size": 2},
    "window-covers-no-map": {"image_size": 128, "window_size": 2},
    "larger-window": {"image_size": 128, "window_size": 4},
    "no-qkv-bias": {"image_size": 64, "window_size": 2, "qkv_bias": False},
}


@pytest.mark.parametrize("sizes", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_maskformer_equals_transformers_in_every_form(
    sizes: dict[str, Any], swin: Command, tmp_path: Path
) -> None:
    model = build_maskformer(**sizes)
    model.save_pretrained(tmp_path / "mf")
    loaded = load_model(None, tmp_path / "mf")
    assert loaded.config.output_names == tuple(STAGES)
    assert loaded.config.always_shift
    assert loaded.config.stage_norms
    images = seeded_images(loaded.config)
    wanted = encoder_maps(model, images)
    with torch.no_grad():
        assert_maps(loaded.reference(images), wanted)
        assert_maps(fold(loaded.reference)(images), wanted)
    swin("export", "--checkpoint", tmp_path / "mf", "--output", "mf.onnx").assert_done()
    session = onnxruntime.InferenceSession("mf.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": images.numpy()})
    assert_maps([torch.from_numpy(one) for one in got], wanted)


def test_maskformer_without_its_norms_or_shift_is_another_model(tmp_path: Path) -> None:
    """The check above rejects what was read before: no norms, no shift in the last stage."""
    model = build_maskformer()
    model.save_pretrained(tmp_path)
    loaded = load_model(None, tmp_path)
    images = seeded_images(loaded.config)
    wanted = encoder_maps(model, images)
    changes: tuple[tuple[str, Any, int], ...] = (
        ("stage_norms", False, 0),
        ("window_rule", "timm", 3),
    )
    for field, value, stage in changes:
        config = dataclasses.replace(loaded.config, **{field: value})
        wrong = type(loaded.reference)(config)
        wrong.load_state_dict(loaded.reference.state_dict(), strict=False)
        with torch.no_grad():
            assert rms_error(wrong.eval()(images)[stage], wanted[stage]) > REJECTED


@pytest.mark.parametrize("form", ["memory", "own-config", "weights-alone", "prefixed"])
def test_maskformer_forms_equal_transformers(form: str, tmp_path: Path) -> None:
    model = build_maskformer(converted=form == "own-config")
    model.save_pretrained(tmp_path)
    path = tmp_path
    if form == "memory":
        (tmp_path / "model.safetensors").unlink()
        peers.saved(model.state_dict(), tmp_path / "pytorch_model.bin")
    if form in ("weights-alone", "prefixed"):
        start = "module.net." if form == "prefixed" else ""
        state = {f"{start}{name}": value for name, value in model.state_dict().items()}
        path = peers.saved(state, tmp_path / "mf.pth")
    loaded = load_model(None, path, img_size=64)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert_maps(loaded.reference(images), encoder_maps(model, images))


def test_maskformer_encoder_alone_shifts_everywhere(tmp_path: Path) -> None:
    library = peers.import_peer("transformers")
    fields = {**FOUR_STAGES, "image_size": 64, "window_size": 2}
    model = peers.trained_like(library.MaskFormerSwinModel(library.MaskFormerSwinConfig(**fields)))
    model.save_pretrained(tmp_path)
    loaded = load_model(None, tmp_path)
    assert loaded.config.always_shift
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = model(images).pooler_output
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE


def test_own_head_on_a_model_attribute_is_not_taken_for_maskformers_norms(tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", "Model")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state["classifier.weight"] = torch.ones(3, 128)
    loaded = load_model(None, peers.saved(state, tmp_path / "own.pth"))
    assert loaded.config.num_classes == 3
    assert [one.value for one in loaded.assumptions if one.subject == "head"] == ["classifier"]


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize(
    "chosen", [["stage2", "stage3"], ["stage1", "stage3"], ["stage1"], ["stage3"]], ids=str
)
def test_backbone_gives_the_stages_of_out_features(
    family: str, chosen: list[str], tmp_path: Path
) -> None:
    model = peers.build_huggingface(family, "Backbone", out_features=chosen)
    model.save_pretrained(tmp_path)
    loaded = load_model(None, tmp_path)
    assert loaded.config.output_names == tuple(chosen)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = list(model(images).feature_maps)
        exact = copy.deepcopy(model).double()(images.double()).feature_maps
        rounding = max(rms_error(a, b) for a, b in zip(wanted, exact, strict=True))
        for ours in (loaded.reference, fold(loaded.reference)):
            got = ours(images)
            got = got if isinstance(got, tuple) else [got]
            assert_maps(got, wanted, rounding=rounding if family == "swinv2" else 0)


@pytest.mark.parametrize("indices", [[1, 3], [-1, 1]], ids=str)
def test_backbone_gives_the_stages_of_out_indices(indices: list[int], tmp_path: Path) -> None:
    """Files of older versions have numbers only, and negative ones count from the end."""
    model = peers.build_huggingface("swinv2", "Backbone", out_features=["stage1", "stage3"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text()) | {"out_features": None, "out_indices": indices}
    path.write_text(json.dumps(fields))
    assert load_model(None, tmp_path).config.output_names == ("stage1", "stage3")


def test_backbone_without_out_features_gives_its_last_stage(tmp_path: Path) -> None:
    model = peers.build_huggingface("swinv2", "Backbone")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"out_features": None, "out_indices": None}))
    assert load_model(None, tmp_path).config.output_names == ("stage3",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"out_features": ["stem", "stage1"]}, "out_features stem; supported are stage1, stage2"),
        ({"out_features": ["stage9"]}, "out_features stage9"),
        ({"out_features": None, "out_indices": [0]}, "out_features stem"),
        ({"out_features": None, "out_indices": [7]}, "out_features 7"),
        ({"out_features": []}, "out_features none"),
    ],
    ids=["stem", "unknown", "stem-by-number", "beyond", "none"],
)
def test_backbone_refuses_other_outputs(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    peers.build_huggingface("swinv2", "Backbone").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=says):
        load_model(None, tmp_path)


def test_classifier_gives_every_stage_whatever_out_features_say(tmp_path: Path) -> None:
    """SwinConfig always has out_features; only backbones read them."""
    peers.build_huggingface("swin").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["out_features"] == ["stage3"]
    loaded = load_model(None, tmp_path, output="stages")
    assert loaded.config.output_names == ("stage1", "stage2", "stage3")


def test_norms_of_maskformers_hidden_stages_are_named(tmp_path: Path) -> None:
    model = build_maskformer()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields["backbone_config"] |= {"out_features": ["stage2"], "out_indices": [2]}
    path.write_text(json.dumps(fields))
    loaded = load_model(None, tmp_path)
    assert loaded.config.output_names == ("stage2",)
    assert any(
        "norms of stages that are not given: hidden_states_norms.0" in note for note in loaded.notes
    )
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert_maps(loaded.reference(images), encoder_maps(model, images)[1:2])


@pytest.mark.parametrize("kind", ["swin", "maskformer-swin"])
def test_maskformer_reads_out_features_of_its_own_config_only(kind: str, tmp_path: Path) -> None:
    """transformers' MaskFormer gives all four maps whatever a SwinConfig says."""
    library = peers.import_peer("transformers")
    build_maskformer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    change = {"model_type": kind, "out_features": ["stage4"], "out_indices": [4]}
    fields["backbone_config"] |= change
    path.write_text(json.dumps(fields))
    model = library.MaskFormerForInstanceSegmentation.from_pretrained(tmp_path).eval()
    loaded = load_model(None, tmp_path)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = encoder_maps(model, images)
        assert len(wanted) == (4 if kind == "swin" else 1)
        assert_maps(loaded.reference(images), wanted)
