"""Swin backbones of detection and segmentation libraries, equal to the libraries' own models."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detector_libraries as libraries
import onnxruntime
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from torch import Tensor, nn

from exporters.errors import CheckpointError
from swin_deploy.checkpoints import openmmlab
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference

EVERY = (0, 1, 2)
# Builder, its fields, prefix in the file, source.
BACKBONES: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "mmdet": (libraries.build_mmdet, {}, "backbone.", "openmmlab"),
    "mmdet-two-stages": (libraries.build_mmdet, {"out_indices": (1, 2)}, "backbone.", "openmmlab"),
    "mmdet-first-stages": (libraries.build_mmdet, {"out_indices": (0, 1)}, "", "openmmlab"),
    "mmdet-window-7": (libraries.build_mmdet, {"window_size": 7}, "backbone.", "openmmlab"),
    "mmdet-window-12": (libraries.build_mmdet, {"window_size": 12}, "backbone.", "openmmlab"),
    "mmdet-no-qkv-bias": (libraries.build_mmdet, {"qkv_bias": False}, "backbone.", "openmmlab"),
    "mmrazor": (libraries.build_mmdet, {}, "architecture.backbone.", "openmmlab"),
    "bevfusion": (
        libraries.build_mmdet,
        {"out_indices": (1, 2)},
        "encoders.camera.backbone.",
        "openmmlab",
    ),
    "mmseg": (libraries.build_mmseg, {"mlp_ratio": 3}, "module.backbone.", "openmmlab"),
    "mmpretrain-in-a-detector": (
        libraries.build_mmpretrain,
        {"out_indices": EVERY, "pad_small_map": True},
        "detector.backbone.",
        "openmmlab",
    ),
    "mmpretrain-v2-in-a-detector": (
        libraries.build_mmpretrain_v2,
        {"out_indices": EVERY},
        "backbone.",
        "openmmlab",
    ),
    "grounding-dino": (
        libraries.build_grounding_dino,
        {"out_indices": (1, 2)},
        "module.backbone.0.",
        "microsoft",
    ),
    "dino-body": (libraries.build_grounding_dino, {}, "backbone.0.body.", "microsoft"),
    "detectron2": (libraries.build_transparent_background, {}, "backbone.", "microsoft"),
    "detectron2-fpn": (
        libraries.build_transparent_background,
        {"window_size": 7},
        "backbone.bottom_up.",
        "microsoft",
    ),
    "birefnet": (libraries.build_transparent_background, {"window_size": 12}, "bb.", "microsoft"),
}


def errors(model: nn.Module, images: Tensor, wanted: list[Tensor]) -> list[float]:
    pairs = zip(libraries.maps(model, images), wanted, strict=True)
    return [rms_error(a, b) for a, b in pairs]


Read = Callable[[nn.Module, Tensor], list[Tensor]]


def assert_equal(loaded: LoadedModel, original: nn.Module, read: Read = libraries.maps) -> None:
    """The reference and the deploy model give what the library's model gives.

    V2's rounding is that of cosines, times up to 100: in float32 the library's own is allowed.
    """
    images = seeded_images(loaded.config)
    wanted = read(original, images)
    exact = read(copy.deepcopy(original).double(), images.double())
    rounding = max(rms_error(a, b) for a, b in zip(wanted, exact, strict=True))
    allowed = max(FLOAT32_TOLERANCE, 3 * rounding if loaded.config.family == "swinv2" else 0)
    deploy = fold(loaded.reference)
    assert max(errors(loaded.reference, images, wanted)) < allowed
    assert max(errors(deploy, images, wanted)) < allowed
    for ours in (loaded.reference, deploy):
        assert max(errors(copy.deepcopy(ours).double(), images.double(), exact)) < FLOAT32_TOLERANCE


def saved(model: nn.Module, path: Path, *, prefix: str = "", **others: Any) -> Path:  # noqa: ANN401
    """A file as MMEngine's and Detectron2's checkpoint hooks write it, with a neck next to it."""
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    if prefix:
        state["neck.convs.0.weight"] = torch.zeros(1, 1, 1, 1)
    torch.save({"meta": {"epoch": 12}, "state_dict": state | others}, path)
    return path


@pytest.mark.parametrize("case", BACKBONES, ids=str)
def test_backbone_of_a_detector_equals_the_library(case: str, tmp_path: Path) -> None:
    build, fields, prefix, source = BACKBONES[case]
    original = build(**fields)
    loaded = load_model(None, saved(original, tmp_path / "d.pth", prefix=prefix))
    stages = fields.get("out_indices", EVERY)
    assert loaded.source == source
    assert loaded.config.output_names == tuple(f"stage{index + 1}" for index in stages)
    assert loaded.config.img_size == 16 * fields.get("window_size", 4)
    shifts = "one window covers the map in stage 3 and is shifted, as in detectors' backbones"
    assert (shifts in loaded.notes) == (loaded.config.family == "swin")
    assert_equal(loaded, original)


def test_norms_of_no_stage_leave_the_maps_as_they_are(tmp_path: Path) -> None:
    for build in (libraries.build_mmdet, libraries.build_transparent_background):
        original = build()
        path = saved(original, tmp_path / "d.pth", prefix="backbone.")
        values = torch.load(path)
        kept = {name: one for name, one in values["state_dict"].items() if ".norm" not in name[:14]}
        assert len(kept) == len(values["state_dict"]) - 6
        torch.save({"state_dict": kept}, path)
        loaded = load_model(None, path, output="stages", img_size=128)
        for index in EVERY:
            setattr(original, f"norm{index}", nn.Identity())
        assert_equal(loaded, original)


CLASSIFIERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "v1": (libraries.build_mmpretrain, {}),
    "v1-window-7": (libraries.build_mmpretrain, {"window_size": 7, "img_size": 112}),
    "v1-every-norm": (libraries.build_mmpretrain, {"out_indices": EVERY}),
    "v2": (libraries.build_mmpretrain_v2, {}),
    "v2-windows": (libraries.build_mmpretrain_v2, {"window_size": (4, 4, 2)}),
    "v2-windows-of-maps": (
        libraries.build_mmpretrain_v2,
        {"window_size": (4, 4, 2), "img_size": 32},
    ),
    "v2-pretrained": (
        libraries.build_mmpretrain_v2,
        {"window_size": (8, 8, 4), "img_size": 128, "pretrained_window_sizes": (6, 6, 3)},
    ),
}


@pytest.mark.parametrize("case", CLASSIFIERS, ids=str)
def test_classifier_of_mmpretrain_equals_the_library(case: str, tmp_path: Path) -> None:
    build, fields = CLASSIFIERS[case]
    original = libraries.Classifier(build(**fields), 64)
    loaded = load_model(None, saved(original, tmp_path / "c.pth"), img_size=fields.get("img_size"))
    assert (loaded.source, loaded.config.num_classes) == ("openmmlab", 5)
    assert loaded.config.output_name == "logits"
    assert not loaded.config.always_shift
    assert_equal(loaded, original)


@pytest.mark.parametrize("build", [libraries.build_mmpretrain, libraries.build_mmpretrain_v2])
def test_backbone_of_mmpretrain_without_a_head_gives_normed_tokens(
    build: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    original = build()
    state = original.state_dict() | {"mask_token": torch.zeros(1, 1, 16)}
    torch.save({f"backbone.{name}": value for name, value in state.items()}, tmp_path / "s.pth")
    loaded = load_model(None, tmp_path / "s.pth", output="tokens")
    assert_equal(loaded, original, libraries.last_tokens)


def test_classifier_of_the_first_version_has_norm_and_masks(tmp_path: Path) -> None:
    """The first Swin of MMClassification named its norm ``norm`` and saved masks; both are read."""
    original = libraries.Classifier(libraries.build_mmpretrain(), 64)
    state = {name.replace(".norm2.", ".norm.") if ".blocks." not in name else name: value
             for name, value in original.state_dict().items()}  # fmt: skip
    reference = load_model(None, saved(original, tmp_path / "new.pth")).reference
    for stage in (0, 1):
        mask = reference.get_buffer(f"layers.{stage}.blocks.1.attn_mask")
        state[f"backbone.stages.{stage}.blocks.1.attn.attn_mask"] = mask
    torch.save({"state_dict": state}, tmp_path / "old.pth")
    assert_equal(load_model(None, tmp_path / "old.pth"), original)


@pytest.mark.parametrize("number", [3, 1])
def test_only_norm_of_a_converted_classifier_may_be_norm3(number: int, tmp_path: Path) -> None:
    """Converters of four stages write ``norm3`` for three, too; a norm before the last is none."""
    original = libraries.Classifier(libraries.build_mmpretrain(), 64)
    state = {name.replace("backbone.norm2.", f"backbone.norm{number}."): value
             for name, value in original.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": state}, tmp_path / "converted.pth")
    if number == 3:
        assert_equal(load_model(None, tmp_path / "converted.pth"), original)
    else:
        with pytest.raises(CheckpointError, match=r"missing keys: backbone\.norm\.bias"):
            load_model(None, tmp_path / "converted.pth")


WRONG = {
    "merge-as-saved": lambda tensor: tensor,
    "slices-row-by-row": lambda tensor: tensor.unflatten(-1, (-1, 4)).transpose(-1, -2).flatten(-2),
    "slices-alone": lambda tensor: tensor.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].flatten(-2),
}


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_another_order_of_merges_is_rejected(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (
        (libraries.build_mmdet(), "backbone."),
        (libraries.Classifier(libraries.build_mmpretrain_v2(), 64), ""),
    )
    for original, prefix in cases:
        path = saved(original, tmp_path / "w.pth", prefix=prefix)
        monkeypatch.setattr(openmmlab, "in_authors_order", WRONG[wrong])
        loaded = load_model(None, path)
        images = seeded_images(loaded.config)
        found = errors(loaded.reference, images, libraries.maps(original, images))
        assert found[-1] > REJECTED
        monkeypatch.undo()


@pytest.mark.parametrize("case", ["mmdet", "grounding-dino"])
def test_another_rule_of_shifts_is_rejected(case: str, tmp_path: Path) -> None:
    build, fields, prefix, _ = BACKBONES[case]
    original = build(**fields)
    loaded = load_model(None, saved(original, tmp_path / "d.pth", prefix=prefix))
    wrong = build_reference(dataclasses.replace(loaded.config, window_rule="timm")).eval()
    wrong.load_state_dict(loaded.reference.state_dict())
    images = seeded_images(loaded.config)
    assert errors(wrong, images, libraries.maps(original, images))[-1] > REJECTED


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_parity_of_a_library_that_is_not_loaded_says_so(
    choice: str, swin: Command, tmp_path: Path
) -> None:
    original = libraries.Classifier(libraries.build_mmpretrain(), 64)
    path = saved(original, tmp_path / "c.pth")
    asked = ("--checkpoint", path, "--source", "openmmlab", "--original", choice, "--json")
    hops = {hop["stage"]: hop for hop in swin("parity", *asked).assert_done().json["hops"]}
    assert hops["deploy"]["passed"]
    assert ("original" in hops) == (choice == "auto")
    if choice == "auto":
        assert "OpenMMLab's packages are not loaded here" in hops["original"]["not_run"]


def test_original_of_another_library_is_refused(swin: Command, tmp_path: Path) -> None:
    original = libraries.Classifier(libraries.build_mmpretrain(), 64)
    path = saved(original, tmp_path / "c.pth")
    swin("parity", "--checkpoint", path, "--original", "timm").assert_error(
        "has a checkpoint of openmmlab, which --original timm cannot read"
    )


@pytest.mark.parametrize("case", ["mmdet-two-stages", "grounding-dino"])
def test_exported_backbone_equals_the_library(case: str, swin: Command, tmp_path: Path) -> None:
    build, fields, prefix, source = BACKBONES[case]
    original = build(**fields)
    path = saved(original, tmp_path / "d.pth", prefix=prefix)
    swin("export", "--checkpoint", path, "--source", source, "--output", "d.onnx").assert_done()
    session = onnxruntime.InferenceSession("d.onnx", providers=["CPUExecutionProvider"])
    images = seeded_images(load_model(None, path).config)
    got = session.run(None, {"images": images.numpy()})
    wanted = libraries.maps(original, images)
    pairs = zip(map(torch.from_numpy, got), wanted, strict=True)
    assert max(rms_error(a, b) for a, b in pairs) < FLOAT32_TOLERANCE
