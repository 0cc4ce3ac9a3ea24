"""Models of transformers with a Swin in them, in every form that they are saved in."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from composites import COMPOSITES, Composite, swin_config
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from original_files import hop_of
from safetensors.torch import load_file
from torch import Tensor, nn

from exporters.errors import CheckpointError, DeployError
from swin_deploy.checkpoints.load import LoadedModel, load_model

EVERY = pytest.mark.parametrize("composite", COMPOSITES.values(), ids=COMPOSITES.keys())
Saved = Callable[[nn.Module, Path], Path]


def folder(model: Any, path: Path) -> Path:  # noqa: ANN401 - a class found at run time
    model.save_pretrained(path)
    return path


def old_file(model: nn.Module, path: Path) -> Path:
    """The names on disk in the format before safetensors."""
    folder(model, path)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def memory(model: nn.Module, path: Path) -> Path:
    """The names of ``state_dict()``, which differ from those on disk."""
    folder(model, path)
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    return path


def parts(model: Any, path: Path) -> Path:  # noqa: ANN401
    model.save_pretrained(path, max_shard_size="100KB")
    assert (path / "model.safetensors.index.json").is_file()
    return path


def alone(model: nn.Module, path: Path) -> Path:
    path.mkdir()
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, path / "last.pt")
    return path / "last.pt"


def outputs(loaded: LoadedModel, images: Tensor) -> dict[str, Tensor]:
    got = loaded.reference(images)
    every = got if isinstance(got, tuple) else (got,)
    return dict(zip(loaded.config.output_names, every, strict=True))


def forms(model: nn.Module, tmp_path: Path, first: LoadedModel) -> Iterator[LoadedModel]:
    """The same model out of the other forms of its file."""
    for write in (old_file, memory, parts):
        yield load_model(None, write(model, tmp_path / write.__name__))
    config = first.config
    window = config.window_sizes[0].rows if config.family == "swinv2" else None
    path = alone(model, tmp_path / "alone")
    yield load_model(None, path, img_size=64, output=config.output_name, window_size=window)


@EVERY
@torch.no_grad()
def test_load_model_of_a_composite_equals_its_swin_in_every_form(
    composite: Composite, tmp_path: Path
) -> None:
    model = composite.build()
    loaded = load_model(None, folder(model, tmp_path / "folder"))
    images = seeded_images(loaded.config)
    wanted = dict(zip(loaded.config.output_names, composite.take(model, images), strict=True))
    for one in (loaded, *forms(model, tmp_path, loaded)):
        if one.config.output_name != "features":  # nothing is guessed about the output
            assert "output" not in {assumed.subject for assumed in one.assumptions}
        got = outputs(one, images)
        assert got.keys() >= wanted.keys()
        errors = {name: rms_error(got[name], wanted[name]) for name in wanted}
        assert max(errors.values()) < FLOAT32_TOLERANCE, errors
    assert hop_of(loaded).passed
    shifted = {"window_rule": "timm" if loaded.config.always_shift else "always"}
    changes: list[dict[str, Any]] = [shifted]
    changes += [{"stage_norms": False}] if loaded.config.stage_norms else []
    for change in changes:
        assert not same_with(change, loaded, images, wanted), change


def same_with(
    change: dict[str, Any], loaded: LoadedModel, images: Tensor, wanted: dict[str, Tensor]
) -> bool:
    """Whether another reading of a rule gives the same."""
    wrong = type(loaded.reference)(dataclasses.replace(loaded.config, **change))
    wrong.load_state_dict(loaded.reference.state_dict(), strict=False)
    got = outputs(dataclasses.replace(loaded, reference=wrong.eval()), images)
    return all(rms_error(got[name], one) < REJECTED for name, one in wanted.items())


NAMES = {
    "swin": ("microsoft/swin-tiny-patch4-window7-224", "swin_tiny_patch4_window7_224", 224),
    "swinv2": ("microsoft/swinv2-tiny-patch4-window8-256", "swinv2_tiny_window8_256", 256),
}


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("chosen", [None, {"out_indices": [2, 3]}], ids=str)
def test_backbone_named_by_a_text_has_its_sizes(
    family: str, chosen: dict[str, Any] | None, tmp_path: Path
) -> None:
    """Before transformers 5 a config had the name of the backbone, and no part about it."""
    text, variant, side = NAMES[family]
    kind = {"swin": "Swin", "swinv2": "Swinv2"}[family]
    library = peers.import_peer("transformers")
    window = {"swin": 7, "swinv2": 8}[family]
    config = getattr(library, f"{kind}Config")(
        window_size=window, image_size=side, out_features=["stage2", "stage3"]
    )
    backbone = getattr(library, f"{kind}Backbone")(config).eval()
    state = {f"model.encoder.{name}": value for name, value in backbone.state_dict().items()}
    peers.saved(state, tmp_path / "model.safetensors")
    fields = {"model_type": "upernet", "backbone": text, "backbone_kwargs": chosen}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    loaded = load_model(None, tmp_path)
    assert (loaded.config.img_size, loaded.config.window_size) == (side, window)
    last = ("stage4",) if family == "swinv2" and not chosen else ("stage2", "stage3")
    assert loaded.config.output_names == last  # of V1 the norms tell
    (tmp_path / "config.json").write_text(json.dumps(fields | {"backbone": f"my/{variant}-x"}))
    if family == "swin":
        notes = load_model(None, tmp_path, img_size=224).notes
        assert "config.json is of upernet: the weights tell the sizes" in notes


@pytest.mark.parametrize("chosen", [{"model_type": ["swin"]}, {"out_indices": "x"}, [1], "x", {}])
def test_any_keywords_of_a_named_backbone_give_a_model_or_one_line(
    chosen: object, tmp_path: Path
) -> None:
    model = peers.build_huggingface("swin", "Backbone")
    state = {f"b.{name}": value for name, value in model.state_dict().items()}
    peers.saved(state, tmp_path / "model.safetensors")
    fields = {"backbone": NAMES["swin"][0], "backbone_kwargs": chosen}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(DeployError, match=r"config\.json") as refusal:  # it is a smaller model
        load_model(None, tmp_path, img_size=64)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", [("vision_config",), ("model", "vision_config"), ("tower",)])
def test_config_of_the_swin_is_found_wherever_it_is(path: tuple[str, ...], tmp_path: Path) -> None:
    model = peers.build_huggingface("swinv2", "Model")
    state = {f"a.b.{name}": value for name, value in model.state_dict().items()}
    peers.saved(state, tmp_path / "model.safetensors")
    values: dict[str, Any] = model.config.to_dict()
    for key in reversed(path):
        values = {"model_type": "mine", key: values}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_model(None, tmp_path).config.img_size == 64


def test_config_of_several_swins_leaves_the_sizes_to_the_weights(tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", "Model")
    state = {f"left.{name}": value for name, value in model.state_dict().items()}
    peers.saved(state, tmp_path / "model.safetensors")
    left, right = model.config.to_dict(), swin_config().to_dict()
    (tmp_path / "config.json").write_text(json.dumps({"left": left, "right": right}))
    notes = load_model(None, tmp_path, img_size=64).notes
    assert "config.json has several Swins, left, right: the weights tell the sizes" in notes
    (tmp_path / "config.json").write_text(json.dumps({"left": left, "right": left}))
    assert load_model(None, tmp_path).config.img_size == 64


def test_file_of_two_swins_names_them(swin: Command, tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", "Model")
    state = {f"{side}.{n}": v for side in ("left", "right") for n, v in model.state_dict().items()}
    path = peers.saved(state, tmp_path / "two.pt")
    outcome = swin("export", "--checkpoint", path, "--output", "two.onnx")
    assert outcome.status == 3
    assert "say which with --encoder left or --encoder right" in outcome.err
    for side in ("left", "right"):
        for asked in ({"weights": side}, {"encoder": side}):
            assert load_model(None, path, img_size=64, **asked).config.num_classes == 0  # type: ignore[arg-type]


PROCESSORS = ["Donut", "GroundingDino", "DPT", "ZoeDepth"]


@pytest.mark.parametrize("kind", PROCESSORS)
def test_no_image_processor_stops_an_export(kind: str, swin: Command, tmp_path: Path) -> None:
    """Steps that are not built are said, with the option; pictures alone need them."""
    library = peers.import_peer("transformers")
    folder(peers.build_huggingface("donut", "Model"), tmp_path / "m")
    getattr(library, f"{kind}ImageProcessor")().save_pretrained(tmp_path / "m")
    outcome = swin("export", "--checkpoint", tmp_path / "m", "--output", "m.onnx").assert_done()
    built = kind != "ZoeDepth"
    assert ("which is not supported; say how to prepare images" in outcome.err) == (not built)
    assert "preprocessing of preprocessor_config.json" in outcome.err


def test_relatives_are_refused_by_what_they_are(swin: Command, tmp_path: Path) -> None:
    library = peers.import_peer("transformers")
    config = library.Swin2SRConfig(
        embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, image_size=16
    )
    folder(library.Swin2SRForImageSuperResolution(config), tmp_path / "sr")
    with pytest.raises(CheckpointError, match="weights of Swin2SR of transformers, which enlarges"):
        load_model(None, tmp_path / "sr")
    outcome = swin("export", "--checkpoint", tmp_path / "sr", "--output", "sr.onnx")
    assert outcome.status == 3
