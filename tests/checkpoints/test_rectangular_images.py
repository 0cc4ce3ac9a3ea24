"""Rectangular images: each library's own rule for windows of small maps, against the library."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from conftest import build_reference as notebook_reference
from torch import Tensor, nn

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import Size, SwinConfig, notebook_config
from swin_deploy.config.fit import WindowRule
from swin_deploy.config.sizes import read_size
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference

# Windows of 4 tokens, patches of 4 pixels, three stages: the last map of (64, 128) is 4 x 8.
WIDE, HIGH = (64, 128), (128, 64)


@torch.no_grad()
def assert_equal(loaded: LoadedModel, wanted: Tensor, images: Tensor) -> None:
    for model in (loaded.reference, fold(loaded.reference)):
        assert rms_error(model(images), wanted) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("size", [WIDE, HIGH], ids=["wide", "high"])
@pytest.mark.parametrize("family", ["swin", "swinv2"])
@torch.no_grad()
def test_huggingface_rectangle_equals_transformers(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    peers.build_huggingface(family, image_size=list(size)).save_pretrained(tmp_path)
    loaded = load_model(None, tmp_path)
    assert loaded.config.img_size == Size(*size)
    images = seeded_images(loaded.config)
    # A new one: transformers' model keeps the windows of the last image that it saw.
    model = peers.build_huggingface(family, image_size=list(size))
    wanted = model(images).logits
    assert_equal(loaded, wanted, images)
    other = dataclasses.replace(loaded.config, window_rule="timm")
    wrong = build_reference(other).eval()
    wrong.load_state_dict(loaded.reference.state_dict(), strict=False)
    assert rms_error(wrong(images), wanted) > REJECTED


@torch.no_grad()
def test_donut_encoder_of_a_rectangle_equals_transformers(swin: Command, tmp_path: Path) -> None:
    sizes = {"image_size": [160, 120], "window_size": 5, "depths": [2, 2], "num_heads": [2, 4]}
    model = peers.build_huggingface("donut", "Model", **sizes)
    model.save_pretrained(tmp_path / "donut")
    loaded = load_model(None, tmp_path / "donut")
    images = seeded_images(loaded.config)
    assert loaded.config.output_name == "tokens"
    assert_equal(loaded, model(images).last_hidden_state, images)
    swin("parity", "--checkpoint", tmp_path / "donut", "--report", "report").assert_done()
    assert "Original library verified" in Path("report/report.md").read_text()


@pytest.mark.parametrize("size", [WIDE, HIGH], ids=["wide", "high"])
@pytest.mark.parametrize("family", ["swin", "swinv2"])
@torch.no_grad()
def test_timm_rectangle_equals_timm_at_the_size_asked_for(
    family: str, size: tuple[int, int], swin: Command, tmp_path: Path
) -> None:
    model = peers.build_timm(family, img_size=size)
    path = peers.saved(model.state_dict(), tmp_path / "model.pth")
    loaded = load_model(None, path, img_size=size, window_size=4)
    images = seeded_images(loaded.config)
    assert_equal(loaded, model(images), images)
    text = f"{size[0]}x{size[1]}"
    options = ("--checkpoint", path, "--image-size", text, "--window-size", 4)
    swin("export", *options, "--output", "model.onnx").assert_done()
    swin("parity", *options, "--onnx", "model.onnx", "--report", "report").assert_done()
    assert f"--image-size {text}" in swin("parity", *options, "--report", "other").err


@pytest.mark.parametrize("size", [WIDE, HIGH, (64, 64), (64, 256)], ids=str)
def test_mask_tells_the_size_of_a_rectangle(size: tuple[int, int], tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"depths": (2, 2), "num_heads": (2, 4)}
    model = peers.build_timm("swin", img_size=size, **sizes)
    path = peers.saved(peers.microsoft_state(model), tmp_path / "model.pth")
    loaded = load_model(None, path)
    assert loaded.config.image == Size(*size)
    assert not [one for one in loaded.assumptions if one.subject == "image size"]


def test_mask_of_no_grid_is_refused(tmp_path: Path) -> None:
    model = peers.build_timm("swin", img_size=WIDE)
    state = peers.microsoft_state(model)
    masks = [name for name in state if name.endswith("attn_mask")]
    state |= {name: state[name][:-1] for name in masks}
    with pytest.raises(CheckpointError, match="which is no grid"):
        load_model(None, peers.saved(state, tmp_path / "model.pth"))


def test_authors_rectangle_is_not_compared_with_timm_where_rules_differ(
    swin: Command, tmp_path: Path
) -> None:
    path = peers.saved(
        peers.microsoft_state(peers.build_timm("swin", img_size=(128, 128))), tmp_path / "m.pth"
    )
    options = ("--checkpoint", path, "--image-size", "64x128", "--preprocessing", "microsoft")
    done = swin("parity", *options, "--original", "timm", "--report", "report")
    assert "timm cuts windows to a map along each axis" in done.out
    options = (*options[:2], "--image-size", "128x256", *options[4:])
    swin("parity", *options, "--original", "timm", "--report", "report").assert_done()


def test_window_cut_to_a_map_on_one_axis_is_read(tmp_path: Path) -> None:
    model = peers.build_timm("swin", img_size=(64, 32))
    path = peers.saved(model.state_dict(), tmp_path / "model.pth")
    loaded = load_model(None, path, img_size=(64, 32))
    assert loaded.config.stages[-1].window_size == (4, 2)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert_equal(loaded, model(images), images)
    with pytest.raises(CheckpointError, match=r"table is \[21, 8\], not \[49, 8\]"):
        load_model(None, path, img_size=64)


def test_rule_of_small_maps_decides_about_windows_and_shifts() -> None:
    config = SwinConfig(family="swin", img_size=WIDE, window_size=4, depths=(2, 2, 2),
                        num_heads=(2, 4, 8), embed_dim=32)  # fmt: skip
    rules: tuple[WindowRule, ...] = ("timm", "authors", "huggingface-v2")
    found = {
        rule: tuple(
            dataclasses.replace(config, window_rule=rule, img_size=size).stages[-1].shift_size
            for size in (WIDE, HIGH)
        )
        for rule in rules
    }
    assert found == {
        "timm": ((0, 2), (2, 0)),
        "authors": ((0, 0), (0, 0)),
        "huggingface-v2": ((0, 0), (2, 2)),
    }
    with pytest.raises(ConfigError, match="window_rule 'any' is not known"):
        dataclasses.replace(config, window_rule="any")  # type: ignore[arg-type]


SIZES = {"224": 224, "800x1344": (800, 1344), "56X56": 56, " 8x16 ": (8, 16)}


@pytest.mark.parametrize(("text", "size"), SIZES.items(), ids=SIZES.keys())
def test_read_size_takes_a_side_or_rows_and_columns(text: str, size: object) -> None:
    assert read_size(text) == size


NO_SIZES = ["", "x", "8x", "0", "8x0", "-8", "8x8x8", "8.5", "8,16", "9" * 99]


@pytest.mark.parametrize("text", NO_SIZES)
def test_read_size_refuses_what_is_no_size(text: str, swin: Command) -> None:
    assert read_size(text) is None
    refused = swin("export", "--model", "swin_tiny_patch4_window7_224", "--image-size", text)
    assert refused.status == 2
    assert "neither a side in pixels such as 224 nor rows and columns" in refused.err


def test_refused_rectangle_names_rectangles_that_are_taken(swin: Command, tmp_path: Path) -> None:
    model = peers.build_timm("swin")
    path = peers.saved(peers.microsoft_state(model), tmp_path / "authors.pth")
    refused = swin("export", "--checkpoint", path, "--image-size", "70x130", "--output", "m.onnx")
    refused.assert_error("image size 70x130 cannot be tiled")
    named = refused.err.rpartition("use one of ")[2].removesuffix(", ...\n").split(", ")
    assert named[0] == "64x128"
    for one in named:
        size = read_size(one)
        assert isinstance(size, tuple | int)
        load_model(None, path, img_size=size)


def test_notebook_refuses_tokens_without_a_whole_root(swin: Command) -> None:
    """Its code fails there, in einops; the sizes that are proposed can be built."""
    refused = swin("export", "--image-size", "224x448", "--output", "m.onnx")
    refused.assert_error("takes the root of the number of tokens")
    named = refused.err.rpartition("use one of ")[2].removesuffix(", ...\n").split(", ")
    for one in named:
        size = read_size(one)
        assert size is not None
        notebook_config(img_size=size)


@pytest.mark.parametrize("size", [(56, 224), (224, 56), (28, 112)], ids=str)
@torch.no_grad()
def test_notebook_takes_the_tokens_of_a_rectangle_for_a_square_map(
    size: tuple[int, int], swin: Command, tmp_path: Path
) -> None:
    """Its code knows the number of tokens alone: the same patches, laid in a square, row by row."""
    config = notebook_config(img_size=size, embed_dim=32, depths=(2, 2))
    square = notebook_config(img_size=math.isqrt(config.image.area), embed_dim=32, depths=(2, 2))
    original = notebook_reference(square)
    path = peers.saved(original.state_dict(), tmp_path / "n.safetensors")
    loaded = load_model(None, path, img_size=size)
    (note,) = [one for one in loaded.notes if "row by row" in one]
    assert f"for a map of {config.stages[0].resolution.sides}" in note
    images = seeded_images(config)
    patches = nn.functional.unfold(images, 4, stride=4)  # [B, 3 * 4 * 4, N]
    laid = nn.functional.fold(patches, tuple(square.image), 4, stride=4)
    wanted = original(laid)
    assert_equal(loaded, wanted, images)
    assert rms_error(loaded.reference(images.flip(3)), wanted) > REJECTED
    options = ("--checkpoint", path, "--image-size", f"{size[0]}x{size[1]}")
    assert "row by row" in swin("export", *options, "--output", "m.onnx").assert_done().err
    swin("parity", *options, "--onnx", "m.onnx", "--report", "report").assert_done()
