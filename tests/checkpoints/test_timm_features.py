"""timm's feature extractors (``features_only=True``), bare, inside other models, and in folders."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from original_files import hop_of
from torch import Tensor, nn

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.deploy.fold import fold

ARCHITECTURES = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}
FIELDS: dict[str, Any] = {
    "img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (2, 2, 2, 2),
    "num_heads": (1, 2, 4, 8),
}  # fmt: skip
FAMILY = pytest.mark.parametrize("family", ARCHITECTURES)


def extractor(family: str = "swin", **changes: Any) -> nn.Module:  # noqa: ANN401
    timm = peers.import_peer("timm")
    fields = {**FIELDS, "features_only": True, **changes}
    return peers.trained_like(timm.create_model(ARCHITECTURES[family], **fields))


def prefixed(model: nn.Module, start: str, path: Path) -> Path:
    return peers.saved({f"{start}{n}": value for n, value in model.state_dict().items()}, path)


@torch.no_grad()
def assert_maps(loaded: LoadedModel, maps: list[Tensor], images: Tensor) -> None:
    """Ours are [B, C, H, W], timm's [B, H, W, C]. Folding V2 rounds as much as V2 itself."""
    folded = [fold(loaded.reference)] if loaded.config.family == "swin" else []
    for ours in (loaded.reference, *folded):
        got = ours(images)
        every = got if isinstance(got, tuple) else (got,)
        assert len(every) == len(maps) == len(loaded.config.output_names)
        for one, wanted in zip(every, maps, strict=True):
            channels_first = wanted.permute(0, 3, 1, 2)
            assert one.shape == channels_first.shape
            assert rms_error(one, channels_first) < FLOAT32_TOLERANCE


STARTS = ["", "encoder.model.", "model.backbone.conv_encoder.model._backbone.", "module.net."]


@FAMILY
@pytest.mark.parametrize("start", STARTS)
@torch.no_grad()
def test_file_of_an_extractor_equals_timm(family: str, start: str, tmp_path: Path) -> None:
    model = extractor(family)
    window = 2 if family == "swinv2" else None
    path = prefixed(model, start, tmp_path / "a.pt")
    loaded = load_model(None, path, img_size=64, window_size=window)
    images = seeded_images(loaded.config)
    assert_maps(loaded, model(images), images)
    assert hop_of(loaded).passed
    assert any("[batch, C, H, W] here" in note for note in loaded.notes)
    assert any("all that the file has" in note for note in loaded.notes)
    wrong = type(loaded.reference)(dataclasses.replace(loaded.config, window_rule="always")).eval()
    wrong.load_state_dict(loaded.reference.state_dict())
    assert rms_error(wrong(images)[3], model(images)[3].permute(0, 3, 1, 2)) > REJECTED


@torch.no_grad()
def test_file_ends_with_the_last_stage_that_is_given(tmp_path: Path) -> None:
    model = extractor(out_indices=(1,))
    path = prefixed(model, "", tmp_path / "a.pt")
    loaded = load_model(None, path, img_size=64)
    assert loaded.config.output_names == ("stage1", "stage2")
    images = seeded_images(loaded.config)
    wanted = model(images)[0].permute(0, 3, 1, 2)
    assert rms_error(loaded.reference(images)[1], wanted) < FLOAT32_TOLERANCE


CHOICES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "all": ({}, ("stage1", "stage2", "stage3", "stage4")),
    "middle": ({"out_indices": (1, 2)}, ("stage2", "stage3")),
    "from-the-end": ({"out_indices": (-1,)}, ("stage4",)),
    "last-two": ({"out_indices": 2}, ("stage3", "stage4")),
    "getter": ({"feature_cls": "getter", "out_indices": (0, 1)}, ("stage1", "stage2")),
}


@FAMILY
@pytest.mark.parametrize(("choice", "stages"), CHOICES.values(), ids=CHOICES.keys())
@torch.no_grad()
def test_folder_of_an_extractor_gives_its_stages(
    family: str, choice: dict[str, Any], stages: tuple[str, ...], tmp_path: Path
) -> None:
    model = extractor(family, **choice)
    write_folder(tmp_path, model, family, choice)
    loaded = load_model(None, tmp_path)
    assert loaded.config.output_names == stages
    assert loaded.preprocessing.origin == "config.json"
    images = seeded_images(loaded.config)
    maps = model(images)
    last = maps if "feature_cls" not in choice else [one.permute(0, 2, 3, 1) for one in maps]
    assert_maps(loaded, last, images)
    assert hop_of(loaded).passed


def write_folder(folder: Path, model: nn.Module, family: str, choice: dict[str, Any]) -> None:
    peers.saved(model.state_dict(), folder / "model.safetensors")
    fields = {
        "architecture": ARCHITECTURES[family],
        "num_classes": 10,
        "model_args": {**FIELDS, "features_only": True, **choice},
        "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.9},
    }
    (folder / "config.json").write_text(json.dumps(fields))


@torch.no_grad()
def test_folder_of_an_extractor_shifts_everywhere_if_its_config_says_so(tmp_path: Path) -> None:
    model = extractor(always_partition=True)
    write_folder(tmp_path, model, "swin", {"always_partition": True})
    loaded = load_model(None, tmp_path)
    images = seeded_images(loaded.config)
    assert_maps(loaded, model(images), images)
    write_folder(tmp_path, model, "swin", {})
    other = load_model(None, tmp_path)
    last = model(images)[3].permute(0, 3, 1, 2)
    assert rms_error(other.reference(images)[3], last) > REJECTED


@torch.no_grad()
def test_whole_model_with_features_only_gives_stages(swin: Command, tmp_path: Path) -> None:
    """timm fills its extractor from the weights of the whole model."""
    whole = peers.build_timm("swin", **{**FIELDS, "num_classes": 10})
    write_folder(tmp_path, whole, "swin", {"out_indices": [0, 2]})
    loaded = load_model(None, tmp_path)
    assert loaded.config.output_names == ("stage1", "stage3")
    assert hop_of(loaded).passed
    outcome = swin("export", "--checkpoint", tmp_path, "--output", "w.onnx").assert_done()
    assert "stage1, stage3" in outcome.err


@pytest.mark.parametrize(
    ("indices", "says"), [([9], "out_indices 9"), ([], "none"), ([-5], "stages 0 to 3")], ids=str
)
def test_extractor_refuses_stages_that_are_not_there(
    indices: list[int], says: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, extractor(), "swin", {"out_indices": indices})
    with pytest.raises(CheckpointError, match=says):
        load_model(None, tmp_path)


def test_file_that_lacks_a_stage_of_its_config_is_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path, extractor(out_indices=(0, 1)), "swin", {"out_indices": [3]})
    with pytest.raises(ConfigError, match="stages are numbered from 1 to 2"):
        load_model(None, tmp_path)


@pytest.mark.parametrize("nested", ["own", "part", "text"])
@torch.no_grad()
def test_timm_backbone_of_transformers_has_its_variants_sizes(nested: str, tmp_path: Path) -> None:
    """Its config has no sizes but the variant's name, and timm says nothing of its pictures."""
    library = peers.import_peer("transformers")
    name = ARCHITECTURES["swin"]
    config = library.TimmBackboneConfig(backbone=name, out_indices=[1, 2])
    model = library.TimmBackbone(config).eval()
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    if nested == "part":
        fields = {"model_type": "deformable_detr", "backbone_config": fields}
    if nested == "text":
        chosen = {"out_indices": [1, 2]}
        fields = {"model_type": "detr", "backbone": name, "backbone_kwargs": chosen}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    loaded = load_model(None, tmp_path)
    assert loaded.config.img_size == 224
    assert "preprocessing" in [one.subject for one in loaded.assumptions]
    images = seeded_images(loaded.config)
    assert_maps(loaded, list(model(images).feature_maps), images)


@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
@torch.no_grad()
def test_timm_wrapper_of_transformers_is_read_as_it_saves_itself(kind: str, tmp_path: Path) -> None:
    """The one without a head writes a number of classes all the same."""
    library = peers.import_peer("transformers")
    arguments = {name: value for name, value in FIELDS.items() if name != "num_classes"}
    config = library.TimmWrapperConfig(
        architecture=ARCHITECTURES["swin"], model_args=arguments, num_labels=3
    )
    model = peers.trained_like(getattr(library, f"TimmWrapper{kind}")(config))
    model.save_pretrained(tmp_path)
    loaded = load_model(None, tmp_path)
    images = seeded_images(loaded.config)
    result = model(images)
    wanted = result.pooler_output if kind == "Model" else result.logits
    assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
    assert hop_of(loaded).passed


@pytest.mark.parametrize("pool", ["avg", ""])
@torch.no_grad()
def test_timm_model_without_classes_gives_what_it_pools(pool: str, tmp_path: Path) -> None:
    timm = peers.import_peer("timm")
    fields = {**FIELDS, "num_classes": 0, "global_pool": pool}
    model = peers.trained_like(timm.create_model(ARCHITECTURES["swin"], **fields))
    timm.models.save_for_hf(model, str(tmp_path), model_args=fields, safe_serialization=True)
    loaded = load_model(None, tmp_path)
    assert loaded.config.output_name == ("features" if pool else "tokens")
    images = seeded_images(loaded.config)
    wanted = model(images) if pool else model(images).flatten(1, 2)  # [B, H, W, C] -> [B, N, C]
    assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
