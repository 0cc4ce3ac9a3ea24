"""Files at sizes that windows do not tile, against a new model of each library."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import detector_libraries
import library_folders
import onnx
import padded
import peers
import pytest
import torch
from conftest import seeded_images
from exported import run_onnx
from padded import assert_padded_equal
from torch import Tensor, nn

from exporters.errors import ConfigError
from exporters.half_precision import to_half
from exporters.spec import Precision
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.onnx_file import export_spec
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import Size
from swin_deploy.config.sizes import read_size
from swin_deploy.deploy.fold import fold

FAMILIES = ("swin", "swinv2")
SMALL: dict[str, Any] = {"embed_dim": 16, "num_heads": (1, 2, 4)}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_size = pytest.mark.parametrize("size", padded.SIZES, ids=str)
covered_size = pytest.mark.parametrize("size", padded.COVERED, ids=str)


def load(path: Path, size: tuple[int, int], **choices: Any) -> LoadedModel:  # noqa: ANN401
    """The model of a file at a size; nothing about that size is guessed."""
    loaded = load_model(None, path, img_size=size, **choices)
    assert loaded.config.image == Size(*size)
    return loaded


# --- timm


@pytest.mark.parametrize(
    ("family", "size"),
    [
        *(("swin", size) for size in padded.WHOLE if size != padded.BELOW_ON_BOTH),
        *(("swinv2", size) for size in padded.WHOLE),
    ],
    ids=str,
)
def test_timm_equals_timm(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    build = functools.partial(peers.build_timm, family, img_size=size, **SMALL)
    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    asked = {} if family == "swin" else {"window_size": 4}
    assert_padded_equal(load(path, size, **asked), build)


@every_family
@pytest.mark.parametrize("size", [padded.RAGGED, padded.ONE_MORE], ids=str)
def test_timm_crops_rows_that_are_no_patch(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    build = functools.partial(peers.build_timm, family, img_size=size, **SMALL)
    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    loaded = load(path, size, **({} if family == "swin" else {"window_size": 4}))
    assert loaded.config.stages[0].resolution == Size(*(side // 4 for side in size))
    assert_padded_equal(loaded, build)


@every_family
@pytest.mark.parametrize("size", [padded.ONE_LESS, (96, 24)], ids=str)
@pytest.mark.parametrize("more", [{"dynamic_img_size": True}, {"always_partition": True}], ids=str)
def test_timm_folder_with_rules_of_its_own_equals_timm(
    family: str, more: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    """A dynamic model keeps the windows and shifts of the size that it was built with."""
    dynamic = "dynamic_img_size" in more
    sizes = {"img_size": 64 if dynamic else size, "depths": (2, 2, 2), **SMALL, **more}
    original = library_folders.timm(tmp_path, family, **sizes)
    loaded = load(tmp_path, size)
    built = Size.square(64) if dynamic else Size(*size)
    assert Size.of(loaded.config.built_size or loaded.config.img_size) == built
    assert_padded_equal(loaded, lambda: original)


# --- torchvision


@every_family
@every_size
def test_torchvision_equals_torchvision(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    build = functools.partial(peers.build_torchvision, family, **SMALL)
    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    assert_padded_equal(load(path, size), build)


# --- transformers


def logits(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401 - of transformers
    return [model(images).logits]


def hidden(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401 - of transformers
    return [model(images).last_hidden_state]


def feature_maps(model: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401 - of transformers
    return list(model(images).feature_maps)


@every_family
@covered_size
def test_huggingface_classifier_equals_transformers(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """Each time a new model: V1 keeps the windows of the last image that it saw."""
    build = functools.partial(peers.build_huggingface, family, image_size=list(size), **SMALL)
    build().save_pretrained(tmp_path)
    assert_padded_equal(load(tmp_path, size), build, logits)


@pytest.mark.parametrize(
    ("built", "size"),
    [
        ((64, 64), (68, 124)),
        ((32, 96), (72, 40)),
        ((96, 32), (72, 100)),
        ((20, 20), (64, 64)),
        ((64, 8), (64, 60)),  # the rows alone decide
    ],
    ids=str,
)
def test_huggingface_v2_keeps_the_windows_of_the_size_it_was_built_with(
    built: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    build = functools.partial(peers.build_huggingface, "swinv2", image_size=list(built), **SMALL)
    build().save_pretrained(tmp_path)
    loaded = load(tmp_path, size)
    assert Size.of(loaded.config.built_size) == Size(*built)
    assert_padded_equal(loaded, build, logits)


@pytest.mark.parametrize("size", padded.SIZES, ids=str)
@every_family
def test_huggingface_backbone_equals_transformers(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    stages = ["stage1", "stage2", "stage3"]
    fields = {"image_size": 64, "out_features": stages, **SMALL}
    build = functools.partial(peers.build_huggingface, family, "Backbone", **fields)
    build().save_pretrained(tmp_path)
    assert_padded_equal(load(tmp_path, size), build, feature_maps)


@covered_size
def test_donut_encoder_equals_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    build = functools.partial(
        peers.build_huggingface, "donut", "Model", image_size=list(size), **SMALL
    )
    build().save_pretrained(tmp_path)
    assert_padded_equal(load(tmp_path, size), build, hidden)


@pytest.mark.parametrize("size", [padded.BELOW_ON_ONE, padded.BELOW_ON_BOTH, (48, 48)], ids=str)
def test_size_that_fails_in_transformers_is_refused_with_one_that_does_not(
    size: tuple[int, int], tmp_path: Path
) -> None:
    model = peers.build_huggingface("swin", image_size=64, **SMALL)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size of tensor"):
        model(torch.zeros(1, 3, *size))
    with pytest.raises(ConfigError, match="smaller than the window of 4") as refused:
        load_model(None, tmp_path, img_size=size)
    named = str(refused.value).rpartition("use one of ")[2].removesuffix(", ...").split(", ")
    assert named
    for text in named:
        rows, _, columns = text.partition("x")
        loaded = load(tmp_path, (int(rows), int(columns or rows)))
        new = peers.build_huggingface("swin", image_size=64, **SMALL)
        new(seeded_images(loaded.config))


@pytest.mark.parametrize("size", [None, (64, 64), (64, 60)], ids=str)
def test_built_size_that_no_image_mends_is_named_as_the_reason(
    size: tuple[int, int] | None, tmp_path: Path
) -> None:
    """No other image size is advised: the windows stay those of ``image_size``, as there."""
    peers.build_huggingface("swinv2", image_size=64, **SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 8}))
    with pytest.raises(RuntimeError, match="bound"):
        peers.build_huggingface("swinv2", image_size=8, **SMALL)
    with pytest.raises(ConfigError) as refused:
        load_model(None, tmp_path, img_size=size)
    assert "image size 8 of the saved model leaves a map without tokens" in str(refused.value)
    assert str(refused.value).endswith("correct it where the model says it, such as in config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 64}))
    load_model(None, tmp_path, img_size=size)


@every_family
def test_dynamic_timm_folder_without_a_patch_is_refused_by_the_size_at_fault(
    family: str, tmp_path: Path
) -> None:
    fields = {"img_size": 64, "dynamic_img_size": True, **SMALL, "depths": (2, 2, 2)}
    library_folders.timm(tmp_path, family, **fields)
    with pytest.raises(ConfigError, match="image size 3 has no whole patch of 4 x 4 px; use one"):
        load_model(None, tmp_path, img_size=3)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    written["model_args"]["img_size"] = 3
    path.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"image size 3 of the saved model .* in config\.json"):
        load_model(None, tmp_path, img_size=64)


# --- detectors


BACKBONES = {
    "mmdet": detector_libraries.build_mmdet,
    "grounding-dino": detector_libraries.build_grounding_dino,
    "birefnet": detector_libraries.build_transparent_background,
}


@pytest.mark.parametrize("library", BACKBONES)
@pytest.mark.parametrize(
    "size", [padded.ONE_MORE, padded.RAGGED, padded.BELOW_ON_BOTH, padded.EXACT], ids=str
)
def test_backbone_of_a_detector_equals_its_library(
    library: str, size: tuple[int, int], tmp_path: Path
) -> None:
    build = BACKBONES[library]
    state = {f"backbone.{name}": value for name, value in build().state_dict().items()}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "d.pth")
    assert_padded_equal(load(tmp_path / "d.pth", size), build, detector_libraries.maps)


@covered_size
def test_mmpretrain_classifier_equals_mmpretrain(size: tuple[int, int], tmp_path: Path) -> None:
    def build() -> nn.Module:
        backbone = detector_libraries.build_mmpretrain()
        return detector_libraries.Classifier(backbone, 64)

    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    assert_padded_equal(load(path, size), build)


@pytest.mark.parametrize("size", [padded.BELOW_ON_ONE, padded.BELOW_ON_BOTH, (48, 48)], ids=str)
def test_size_that_fails_in_mmpretrain_is_refused_with_one_that_does_not(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """``pad_small_map`` is false there: the same rule as in transformers, and the same words."""
    model = detector_libraries.Classifier(detector_libraries.build_mmpretrain(), 64)
    with pytest.raises(AssertionError, match="smaller than the window size"):
        model(torch.zeros(1, 3, *size))
    path = peers.saved(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(ConfigError, match="smaller than the window of 4, for which") as refused:
        load_model(None, path, img_size=size)
    named = str(refused.value).rpartition("use one of ")[2].removesuffix(", ...").split(", ")
    assert all(map(read_size, named))
    for text in named:
        loaded = load_model(None, path, img_size=read_size(text))
        model(seeded_images(loaded.config))


@covered_size
def test_mmpretrain_v2_classifier_equals_mmpretrain(size: tuple[int, int], tmp_path: Path) -> None:
    def build() -> nn.Module:
        return detector_libraries.Classifier(detector_libraries.build_mmpretrain_v2(), 64)

    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    assert_padded_equal(load(path, size), build)


# --- ONNX


@pytest.mark.parametrize(
    ("family", "size"),
    [("swin", padded.RAGGED), ("swin", padded.ONE_MORE), ("swinv2", padded.BELOW_ON_BOTH)],
    ids=str,
)
@torch.no_grad()
def test_onnx_file_of_a_padded_model_equals_torchvision(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    original = peers.build_torchvision(family, **SMALL)
    loaded = load(peers.saved(original.state_dict(), tmp_path / "m.pth"), size)
    graph = export_onnx(fold(loaded.reference), export_spec(loaded), metadata={})
    images = seeded_images(loaded.config, batch=3)
    wanted = original(images)
    found = [torch.from_numpy(one) for one in run_onnx(graph, images.numpy())]
    rounding = padded.apart([wanted], [original.double()(images.double())])
    assert padded.apart(found, [wanted]) < max(padded.CLOSE, 3 * rounding)
    assert padded.apart([found[0].roll(1, 0)], [wanted]) > 0.1
    assert not any(node.op_type in ("Shape", "If", "Loop", "Pad") for node in graph.graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@torch.no_grad()
def test_onnx_file_completes_patches_at_the_oldest_opset(
    precision: Precision, tmp_path: Path
) -> None:
    fields = {"image_size": list(padded.RAGGED), **SMALL}
    build = functools.partial(peers.build_huggingface, "swin", **fields)
    build().save_pretrained(tmp_path)
    loaded = load(tmp_path, padded.RAGGED)
    spec = export_spec(loaded, opset=17)
    graph = export_onnx(fold(loaded.reference), spec, metadata={})
    assert graph.opset_import[0].version == 17
    assert "Pad" in {node.op_type for node in graph.graph.node}
    onnx.checker.check_model(graph, full_check=True)
    half = to_half(graph, io_precision="fp32") if precision == "fp16" else graph
    images = seeded_images(loaded.config)
    found = [torch.from_numpy(one) for one in run_onnx(half, images.numpy())]
    limit = padded.CLOSE if precision == "fp32" else 2e-2
    assert padded.apart(found, logits(build(), images)) < limit
