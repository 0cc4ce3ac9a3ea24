"""Checkpoints of the real libraries, small: the loaded models compute what the originals do."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from safetensors.torch import load_file
from torch import Tensor, nn

from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.resize import bicubic
from swin_deploy.checkpoints.timm import widening
from swin_deploy.config import Size
from swin_deploy.config.windows import offsets
from swin_deploy.deploy.fold import fold

Asked = dict[str, Any]
FAMILIES = ["swin", "swinv2"]


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What one of our models gives."""
    found = model(images)
    return list(found) if isinstance(found, tuple) else [found]


def worst(actual: list[Tensor], expected: list[Tensor]) -> float:
    assert len(actual) == len(expected)
    return max(rms_error(a, b) for a, b in zip(actual, expected, strict=True))


def assert_same(
    loaded: LoadedModel, original: nn.Module, run: Callable[[nn.Module, Tensor], list[Tensor]]
) -> None:
    """The reference and the deploy model give what the original gives.

    The deploy model adds up in another order. In float32 that may differ from the original by as
    much as the original's own rounding (scores of V2 at the clamp are multiplied by 100); in
    float64 the tolerance holds as it is.
    """
    images = seeded_images(loaded.config)
    expected = run(original, images)
    exact = run(copy.deepcopy(original).double(), images.double())
    assert worst(outputs(loaded.reference, images), expected) < FLOAT32_TOLERANCE
    deploy = fold(loaded.reference)
    rounding = worst(expected, exact)
    assert worst(outputs(deploy, images), exact) < max(FLOAT32_TOLERANCE, 3 * rounding)
    assert worst(outputs(deploy.double(), images.double()), exact) < FLOAT32_TOLERANCE


def assert_all_outputs_same(
    path: Path,
    original: nn.Module,
    **asked: Any,  # noqa: ANN401 - arguments of load_model
) -> LoadedModel:
    """Logits where there is a head, and the map of every stage, are the original's."""
    loaded = load_model(None, path, **asked)
    if loaded.config.num_classes:
        assert_same(loaded, original, lambda model, images: [peers.logits_of(model, images)])
    dims = tuple(stage.dim for stage in loaded.config.stages)
    stages = load_model(None, path, output="stages", **asked)
    assert_same(stages, original, lambda model, images: peers.stage_maps(model, images, dims))
    return loaded


# Sizes with shifted blocks in all stages but the last; with windows that shrink to the map.
GEOMETRIES: dict[str, Asked] = {
    "window-4": {},
    "window-7": {"img_size": 112, "window_size": 7},
    "shrunk-windows": {"img_size": 64, "window_size": 8},
    "two-stages-window-8": {
        "img_size": 64,
        "window_size": 8,
        "depths": (2, 4),
        "num_heads": (1, 4),
    },
    "no-head": {"num_classes": 0},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_timm_state_dict_equals_timm(family: str, sizes: Asked, tmp_path: Path) -> None:
    model = peers.build_timm(family, **sizes)
    path = peers.saved(model.state_dict(), tmp_path / "model.pth")
    asked = {"window_size": sizes.get("window_size", 4)} if family == "swinv2" else {}
    if asked:
        asked["img_size"] = sizes.get("img_size", 64)
    loaded = assert_all_outputs_same(path, model, **asked)
    assert loaded.source == "timm"
    assert loaded.config.family == family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_authors_file_equals_timm(family: str, sizes: Asked, tmp_path: Path) -> None:
    model = peers.build_timm(family, **sizes)
    path = tmp_path / "swin.pth"
    torch.save({"model": peers.microsoft_state(model)}, path)
    loaded = assert_all_outputs_same(path, model)
    assert loaded.source == "microsoft"
    assert loaded.config.img_size == sizes.get("img_size", 64)


@pytest.mark.parametrize("windows", [(4, 4, 8), (8, 4, 4)], ids=str)
def test_timm_window_by_stage_equals_timm(windows: tuple[int, ...], tmp_path: Path) -> None:
    model = peers.build_timm("swin", img_size=128, window_size=windows)
    path = peers.saved(model.state_dict(), tmp_path / "s3.safetensors")
    loaded = assert_all_outputs_same(path, model, img_size=128)
    assert tuple(stage.window_size.plain for stage in loaded.config.stages) == windows


def test_pretrained_windows_of_the_authors_are_read_from_their_buffers(tmp_path: Path) -> None:
    model = peers.build_timm(
        "swinv2", img_size=64, window_size=8, pretrained_window_sizes=(6, 6, 3)
    )
    path = tmp_path / "swinv2.pth"
    torch.save({"model": peers.microsoft_state(model)}, path)
    loaded = assert_all_outputs_same(path, model)
    assert loaded.config.pretrained_window_sizes == (6, 6, 3)
    assert loaded.config.window_size == 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_timm_folder_equals_timm(family: str, safe: bool, tmp_path: Path) -> None:
    timm = peers.import_peer("timm")
    name = {
        "swin": "swin_tiny_patch4_window7_224",
        "swinv2": "swinv2_tiny_window8_256",
    }[family]
    arguments = {"img_size": 64, "window_size": 4, "num_classes": 10, **peers.SIZES}
    model = peers.trained_like(timm.create_model(name, **arguments))
    timm.models.save_for_hf(
        model,
        str(tmp_path),
        model_args=arguments,
        safe_serialization=safe,
        data_config={"mean": (0.1, 0.2, 0.3), "crop_pct": 0.8, "interpolation": "bilinear"},
    )
    loaded = assert_all_outputs_same(tmp_path, model)
    assert loaded.source == "timm"
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
    assert loaded.preprocessing.resize == 64 / 0.8
    assert loaded.preprocessing.interpolation == "bilinear"


@pytest.mark.parametrize("family", FAMILIES)
def test_timm_always_partition_equals_timm(family: str, tmp_path: Path) -> None:
    timm = peers.import_peer("timm")
    name = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[family]
    arguments = {"img_size": 64, "window_size": 4, **peers.SIZES, "always_partition": True}
    model = peers.trained_like(timm.create_model(name, **arguments))
    timm.models.save_for_hf(model, str(tmp_path), model_args=arguments)
    loaded = assert_all_outputs_same(tmp_path, model)
    assert loaded.config.always_shift


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("window", "img_size"), [(4, 64), (7, 112), (4, 128)], ids=["4-64", "7-112", "4-128"]
)
def test_torchvision_equals_torchvision(
    family: str, window: int, img_size: int, tmp_path: Path
) -> None:
    model = peers.build_torchvision(family, window_size=[window, window])
    path = peers.saved(model.state_dict(), tmp_path / "tv.pth")
    loaded = assert_all_outputs_same(path, model, img_size=img_size)
    assert loaded.source == "torchvision"


HUGGINGFACE: dict[str, Asked] = {
    "window-4": {},
    "window-7": {"image_size": 112, "window_size": 7},
    "larger-map": {"image_size": 128},
    "no-qkv-bias": {"qkv_bias": False},
    "mlp-ratio-2": {"mlp_ratio": 2.0},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", HUGGINGFACE.values(), ids=HUGGINGFACE.keys())
def test_huggingface_folder_equals_transformers(family: str, sizes: Asked, tmp_path: Path) -> None:
    model = peers.build_huggingface(family, **sizes)
    model.save_pretrained(tmp_path)
    loaded = assert_all_outputs_same(tmp_path, model)
    assert loaded.source == "huggingface"
    assert loaded.config.img_size == sizes.get("image_size", 64)


def test_huggingface_v2_shrinks_windows_and_scales_to_pretraining(tmp_path: Path) -> None:
    model = peers.build_huggingface("swinv2", window_size=8, pretrained_window_sizes=(6, 6, 3))
    model.save_pretrained(tmp_path)
    loaded = assert_all_outputs_same(tmp_path, model)
    assert [stage.window_size.plain for stage in loaded.config.stages] == [8, 8, 4]


@pytest.mark.parametrize("form", ["memory", "shards", "bin", "hub-buffers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_huggingface_forms_equal_transformers(family: str, form: str, tmp_path: Path) -> None:
    model = peers.build_huggingface(family)
    model.save_pretrained(tmp_path, max_shard_size="200KB" if form == "shards" else "5GB")
    if form == "shards":
        assert (tmp_path / "model.safetensors.index.json").exists()
    else:
        weights = tmp_path / "model.safetensors"
        state = load_file(weights)
        if form == "memory":
            state = model.state_dict()
        if form == "hub-buffers":
            index = torch.arange(16).reshape(4, 4)
            offsets = (index // 4 * 7 + index % 4).reshape(-1)
            saved_index = offsets[:, None] - offsets[None, :] + 24
            for name in list(state):
                if name.endswith("self.query.weight"):
                    start = name.removesuffix("query.weight")
                    state[f"{start}relative_position_index"] = saved_index
        weights.unlink()
        peers.saved(state, tmp_path / "pytorch_model.bin")
    assert_all_outputs_same(tmp_path, model)


@pytest.mark.parametrize("family", FAMILIES)
def test_huggingface_encoder_gives_tokens_and_pooled_features(family: str, tmp_path: Path) -> None:
    model = peers.build_huggingface(family, "Model")
    model.save_pretrained(tmp_path)
    features = load_model(None, tmp_path)
    assert features.config.output_name == "features"
    assert_same(features, model, lambda own, images: [own(images).pooler_output.detach()])
    tokens = load_model(None, tmp_path, output="tokens")
    assert_same(tokens, model, lambda own, images: [own(images).last_hidden_state.detach()])


def feature_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    return [value.detach() for value in model(images).feature_maps]


@pytest.mark.parametrize("form", ["folder", "memory"])
@pytest.mark.parametrize("family", FAMILIES)
def test_huggingface_backbone_gives_its_normalised_stages(
    family: str, form: str, tmp_path: Path
) -> None:
    stages = ["stage1", "stage2", "stage3"]
    model = peers.build_huggingface(family, "Backbone", out_features=stages)
    model.save_pretrained(tmp_path)
    path = tmp_path
    asked: Asked = {}
    if form == "memory":
        path = peers.saved(model.state_dict(), tmp_path / "backbone.pth")
        # Nothing in these files of V2 tells that they are of a backbone, or its window.
        asked = {"window_size": 4, "output": "stages"} if family == "swinv2" else {}
    loaded = load_model(None, path, **asked)
    assert loaded.config.output_name == "stages"
    assert loaded.config.always_shift == (family == "swin")
    assert_same(loaded, model, feature_maps)


def test_authors_detector_gives_its_normalised_stages(tmp_path: Path) -> None:
    stages = ["stage1", "stage2", "stage3"]
    model = peers.build_huggingface("swin", "Backbone", out_features=stages)
    model.save_pretrained(tmp_path)
    state = load_model(None, tmp_path).reference.state_dict()
    state = {
        f"backbone.{name}": value for name, value in state.items() if not name.startswith("norm.")
    }
    state["neck.lateral_convs.0.conv.weight"] = torch.ones(2)
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": state, "meta": {}}, path)
    loaded = load_model(None, path)
    assert (loaded.source, loaded.config.final_norm) == ("microsoft", False)
    assert_same(loaded, model, feature_maps)


def test_donut_encoder_is_found_in_a_larger_file(tmp_path: Path) -> None:
    encoder = peers.build_huggingface("donut", "Model")
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    state |= {f"decoder.model.layers.{index}.weight": torch.ones(3, 3) for index in range(5)}
    peers.saved(state, tmp_path / "model.safetensors")
    config = {"model_type": "vision-encoder-decoder", "encoder": encoder.config.to_dict()}
    config["architectures"] = ["VisionEncoderDecoderModel"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(None, tmp_path)
    assert not loaded.config.final_norm
    assert "ignored 5 tensors outside the encoder encoder: decoder.*" in loaded.notes
    assert_same(loaded, encoder, lambda own, images: [own(images).last_hidden_state.detach()])


def test_decoder_and_mask_token_of_masked_images_are_reported(tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", "ForMaskedImageModeling", encoder_stride=16)
    model.save_pretrained(tmp_path)
    loaded = load_model(None, tmp_path)
    assert "ignored 2 tensors outside the encoder swin: decoder.*" in loaded.notes
    assert any("swin.embeddings.mask_token" in note for note in loaded.notes)


def test_preprocessor_config_is_taken(tmp_path: Path) -> None:
    peers.build_huggingface("swin").save_pretrained(tmp_path)
    steps = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "resample": 2, "size": 64}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(steps))
    loaded = load_model(None, tmp_path)
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
    assert loaded.preprocessing.interpolation == "bilinear"
    assert loaded.preprocessing.resize_mode == "squash"
    assert not loaded.assumptions


def test_processors_image_size_that_is_another_is_told(tmp_path: Path) -> None:
    peers.build_huggingface("swin").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 128}))
    (assumed,) = load_model(None, tmp_path).assumptions
    assert assumed.text == (
        "image size: assuming 64 px, though preprocessor_config.json prepares images of 128 px; "
        "--image-size settles it"
    )
    assert not load_model(None, tmp_path, img_size=128).assumptions


def test_id2label_is_taken_and_placeholders_are_not(tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", num_labels=3)
    model.save_pretrained(tmp_path)
    assert load_model(None, tmp_path).class_names is None  # LABEL_0, LABEL_1, LABEL_2
    values = json.loads((tmp_path / "config.json").read_text())
    values["id2label"] = {"2": "coffee", "0": "person", "1": "cat"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    names = load_model(None, tmp_path).class_names
    assert names is not None
    assert names.shown == ("person", "cat", "coffee")
    (tmp_path / "own.txt").write_text("a\nb\nc\n")
    asked = load_model(None, tmp_path, classes=tmp_path / "own.txt").class_names
    assert asked is not None
    assert (asked.shown, asked.asked) == (("a", "b", "c"), True)


@pytest.mark.parametrize("prefix", ["backbone.", "module.encoder.", "teacher.backbone."])
def test_encoder_is_found_behind_a_prefix(prefix: str, tmp_path: Path) -> None:
    model = peers.build_timm("swin", num_classes=0)
    state = peers.microsoft_state(model)
    several = {f"{prefix}{name}": value for name, value in state.items()}
    several["neck.weight"] = torch.ones(2)
    if prefix.startswith("teacher"):
        several |= {f"student.backbone.{name}": value + 1 for name, value in state.items()}
    loaded = assert_all_outputs_same(peers.saved(several, tmp_path / "all.pth"), model)
    assert any(note.startswith("ignored") and "neck.*" in note for note in loaded.notes)


# Other image and window sizes than the checkpoint's.


@pytest.mark.parametrize("before", [(4, 4), (3, 6)], ids=str)
@pytest.mark.parametrize("after", [(2, 2), (5, 5), (8, 8), (5, 3), (3, 9), (4, 6)], ids=str)
def test_widening_tables_equal_timms(before: tuple[int, int], after: tuple[int, int]) -> None:
    module = peers.import_peer("timm.layers")
    sides = Size(*before), Size(*after)
    rows, wanted = (offsets(one).area for one in sides)
    table = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    expected = module.resize_rel_pos_bias_table(table, after, (wanted, 3), old_window_size=before)
    assert rms_error(widening(table, *sides), expected) < FLOAT32_TOLERANCE
    assert rms_error(bicubic(table, *sides), expected) > 100 * FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    ("img_size", "window"), [(128, 4), (64, 8), (128, 8)], ids=["image", "window", "both"]
)
def test_timm_at_another_size_equals_timm(img_size: int, window: int, tmp_path: Path) -> None:
    module = peers.import_peer("timm.models.swin_transformer")
    model = peers.build_timm("swin")
    path = peers.saved(model.state_dict(), tmp_path / "model.pth")
    other = peers.build_timm("swin", img_size=img_size, window_size=window)
    other.load_state_dict(module.checkpoint_filter_fn(model.state_dict(), other))
    loaded = assert_all_outputs_same(path, other, img_size=img_size, window_size=window)
    if window == 8:
        assert any(note.startswith("position bias tables of 7 x 7") for note in loaded.notes)


def test_authors_tables_are_interpolated_bicubically(tmp_path: Path) -> None:
    model = peers.build_timm("swin")
    path = tmp_path / "swin.pth"
    torch.save({"model": peers.microsoft_state(model)}, path)
    other = peers.build_timm("swin", img_size=128, window_size=8)
    state = model.state_dict()
    for name, table in state.items():
        if name.endswith("relative_position_bias_table"):
            # As load_pretrained() of the authors' utils.py.
            grid = table.permute(1, 0).view(1, table.shape[1], 7, 7)
            wider = nn.functional.interpolate(grid, size=(15, 15), mode="bicubic")
            state[name] = wider.view(table.shape[1], 225).permute(1, 0)
    other.load_state_dict(state)
    loaded = assert_all_outputs_same(path, other, img_size=128, window_size=8)
    expected = "position bias tables of 7 x 7 interpolated to 15 x 15, bicubic"
    assert expected in loaded.notes


def test_v2_at_another_window_keeps_the_scale_of_its_pretraining(tmp_path: Path) -> None:
    model = peers.build_timm("swinv2")
    path = tmp_path / "swinv2.pth"
    torch.save({"model": peers.microsoft_state(model)}, path)
    other = peers.build_timm(
        "swinv2", img_size=128, window_size=8, pretrained_window_sizes=(4, 4, 4)
    )
    other.load_state_dict(model.state_dict())
    loaded = assert_all_outputs_same(path, other, img_size=128, window_size=8)
    assert any("coordinates scaled to the checkpoint's 4/4/4" in note for note in loaded.notes)
