"""Windows that are no squares, or others in each stage: what a file, its config and the user say.

The oracle is a new model of the library with the same weights.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import library_folders
import peers
import pytest
import torch
from command_line import Command
from conftest import REJECTED, seeded_images
from exported import run_onnx
from padded import CLOSE, apart, assert_padded_equal, values

from exporters.errors import CheckpointError, ConfigError
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.onnx_file import export_spec
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import Size, SwinConfig
from swin_deploy.config.sizes import Windows, read_windows, stage_windows, windows_text

FAMILIES = ("swin", "swinv2")
every_family = pytest.mark.parametrize("family", FAMILIES)
SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
# Maps of 24 x 16, 12 x 8 and 6 x 4 tokens, then 25 x 19, 13 x 10 and 7 x 5.
EVEN, RAGGED = (96, 64), (102, 77)
ONE: tuple[int, int] = (4, 6)
EACH: tuple[int | tuple[int, int], ...] = ((8, 6), (4, 7), 3)
every_window = pytest.mark.parametrize("windows", [ONE, EACH], ids=windows_text)
every_image = pytest.mark.parametrize("size", [EVEN, RAGGED], ids=str)


def window_values(loaded: LoadedModel) -> set[int]:
    return {side for stage in loaded.config.stages for side in stage.window_size}


# --- timm


@every_family
@every_window
@every_image
def test_timm_file_with_the_windows_asked_for_equals_timm(
    family: str, windows: Windows, size: tuple[int, int], tmp_path: Path
) -> None:
    build = functools.partial(peers.build_timm, family, img_size=size, window_size=windows, **SMALL)
    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    loaded = load_model(None, path, img_size=size, window_size=windows)
    assert not loaded.assumptions or loaded.assumptions[0].subject != "window size"
    assert_padded_equal(loaded, build)


@every_family
@every_window
@pytest.mark.parametrize("more", [{}, {"always_partition": True}], ids=["", "always"])
def test_timm_folder_needs_no_option(
    family: str, windows: Windows, more: dict[str, Any], tmp_path: Path
) -> None:
    fields = {"img_size": RAGGED, "window_size": windows, **SMALL, **more}
    original = library_folders.timm(tmp_path, family, **fields)
    loaded = load_model(None, tmp_path)
    assert [one for one in loaded.assumptions if one.subject != "preprocessing"] == []
    assert loaded.config.always_shift == bool(more)
    assert_padded_equal(loaded, lambda: original)


@every_family
@pytest.mark.parametrize("size", [(48, 96), (80, 44)], ids=str)
def test_dynamic_timm_folder_keeps_rectangular_windows_at_another_size(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    fields = {"img_size": EVEN, "window_size": ONE, "dynamic_img_size": True, **SMALL}
    original = library_folders.timm(tmp_path, family, **fields)
    assert_padded_equal(load_model(None, tmp_path, img_size=size), lambda: original)


@every_family
def test_windows_that_timm_rescaled_to_an_image_are_told_by_it(family: str, tmp_path: Path) -> None:
    """``set_input_size`` makes windows of 4 on 16 x 16 tokens 8 x 6 on 32 x 24."""
    model: Any = peers.build_timm(family, **SMALL)
    model.set_input_size((128, 96))
    assert model.layers[0].blocks[0].window_size == (8, 6)
    path = peers.saved(model.state_dict(), tmp_path / "m.pth")
    if family == "swinv2":  # its weights do not depend on the windows
        loaded = load_model(None, path, img_size=(128, 96), window_size=(8, 6))
    else:
        loaded = load_model(None, path, img_size=(128, 96))
        (assumed,) = [one for one in loaded.assumptions if one.subject == "window size"]
        assert assumed.text.startswith("window size: assuming 8x6, which alone tiles the maps of")
        assert "6x8" in assumed.text
        assert assumed.option == "--window-size"
    assert loaded.config.stages[0].window_size == (8, 6)
    assert_padded_equal(loaded, lambda: model)


def test_first_window_that_is_cut_on_both_axes_is_told_by_the_image_and_the_option(
    tmp_path: Path,
) -> None:
    """Windows of 8 x 6 on maps of 5 x 3, 3 x 2 and 2 x 1 tokens."""
    build = functools.partial(
        peers.build_timm, "swin", img_size=(20, 12), window_size=(8, 6), **SMALL
    )
    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="stage 1 3x5 or 5x3 or"):
        load_model(None, path)
    loaded = load_model(None, path, img_size=(20, 12), window_size=(8, 6))
    assert [stage.window_size for stage in loaded.config.stages] == [(5, 3), (3, 2), (2, 1)]
    assert_padded_equal(loaded, build)
    model = library_folders.timm(
        tmp_path / "folder", "swin", img_size=(20, 12), window_size=(8, 6), **SMALL
    )
    assert_padded_equal(load_model(None, tmp_path / "folder"), lambda: model)


@pytest.mark.parametrize("windows", [(5, 3), (3, 9), EACH], ids=windows_text)
@torch.no_grad()
def test_other_windows_are_made_as_timm_makes_them(windows: Windows, tmp_path: Path) -> None:
    model: Any = peers.build_timm("swin", img_size=EVEN, **SMALL)
    path = peers.saved(model.state_dict(), tmp_path / "m.pth")
    loaded = load_model(None, path, img_size=EVEN, window_size=windows)
    model.set_input_size(window_size=windows)
    images = seeded_images(loaded.config)
    for ours in (loaded.reference, loaded.deploy):  # tables are interpolated in float32
        assert apart(values(ours, images), [model(images)]) < CLOSE


# --- buffers that tell the window


@every_family
@every_image
def test_torchvision_file_needs_no_option(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    build = functools.partial(peers.build_torchvision, family, window_size=[6, 5], **SMALL)
    path = peers.saved(build().state_dict(), tmp_path / "m.pth")
    loaded = load_model(None, path, img_size=size)
    assert loaded.config.window_sizes == (Size(6, 5),) * 3
    assert_padded_equal(loaded, build)


@pytest.mark.parametrize("window", [(14, 2), (2, 14), (5, 5)], ids=str)
def test_index_tells_a_rectangle_from_a_square_whose_table_is_as_large(
    window: tuple[int, int], tmp_path: Path
) -> None:
    build = functools.partial(peers.build_torchvision, "swin", window_size=list(window), **SMALL)
    loaded = load_model(None, peers.saved(build().state_dict(), tmp_path / "m.pth"), img_size=EVEN)
    assert loaded.config.window_sizes == (Size(*window),) * 3
    assert_padded_equal(loaded, build)


def test_index_of_no_window_is_refused(tmp_path: Path) -> None:
    model = peers.build_torchvision("swin", window_size=[6, 5], **SMALL)
    state = model.state_dict()
    state["features.1.0.attn.relative_position_index"][7] += 1
    path = peers.saved(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="several windows have"):
        load_model(None, path, img_size=EVEN)


def test_old_timm_file_with_its_buffers_needs_no_option(tmp_path: Path) -> None:
    """Early releases of timm saved the index and the mask."""
    build = functools.partial(
        peers.build_timm, "swin", img_size=(128, 96), window_size=(8, 6), **SMALL
    )
    model: Any = build()
    state = model.state_dict()
    for stage, layer in enumerate(model.layers):
        for number, block in enumerate(layer.blocks):
            start = f"layers.{stage}.blocks.{number}."
            state[start + "attn.relative_position_index"] = block.attn.relative_position_index
            if block.attn_mask is not None:
                state[start + "attn_mask"] = block.attn_mask
    loaded = load_model(None, peers.saved(state, tmp_path / "m.pth"))
    assert (loaded.config.image, loaded.assumptions[0].subject) == (Size(128, 96), "preprocessing")
    assert_padded_equal(loaded, build)


@pytest.mark.parametrize("windows", [[14, 2], [[14, 2], [14, 2], 5]], ids=windows_text)
def test_script_that_left_the_windows_decides_between_tables_as_large(
    windows: list[Any], tmp_path: Path
) -> None:
    build = functools.partial(
        peers.build_timm, "swin", img_size=(224, 64), window_size=windows, **SMALL
    )
    path = tmp_path / "m.pth"
    script = {"window_size": windows, "img_size": [224, 64]}
    torch.save({"state_dict": build().state_dict(), "args": script}, path)
    loaded = load_model(None, path)
    assert any(note.startswith("window_size 14x2") for note in loaded.notes)
    assert_padded_equal(loaded, build)


# --- what is asked and refused


def test_table_of_several_windows_is_refused_with_an_option_that_works(
    swin: Command, tmp_path: Path
) -> None:
    model = peers.build_timm("swin", img_size=EVEN, window_size=EACH, **SMALL)
    path = peers.saved(model.state_dict(), tmp_path / "m.pth")
    refused = swin("export", "--checkpoint", path, "--image-size", "96x64")
    refused.assert_error("stage 1 6x8 or 8x6 or")
    option = refused.err.partition("such as --window-size ")[2].split()[0]
    swin("export", "--checkpoint", path, "--image-size", "96x64", "--window-size", option,
         "--output", "guess.onnx").assert_done()  # fmt: skip
    words = ("--checkpoint", path, "--image-size", "96x64", "--window-size", "8x6,4x7,3")
    swin("export", *words, "--output", "m.onnx").assert_done()
    checked = swin("parity", *words, "--original", "timm", "--onnx", "m.onnx", "--report", "report")
    checked.assert_done()
    assert (
        "Original (timm), deploy model, ONNX fp32: same results"
        in Path("report/report.md").read_text()
    )
    again = swin("parity", *words, "--report", "other").err
    assert "--window-size 8x6,4x7,3" in again


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8x", "neither a side in tokens"),
        ("0x7", "neither a side in tokens"),
        ("8x6x2", "neither a side in tokens"),
        ("8,,7", "neither a side in tokens"),
        ("seven", "neither a side in tokens"),
    ],
)
def test_window_size_that_is_none_is_refused(text: str, says: str, swin: Command) -> None:
    done = swin("export", "--model", "swin_tiny_patch4_window7_224", "--window-size", text)
    assert done.status == 2, (done.out, done.err)
    assert says in done.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8x6,7", "one for each of the 4 stages, such as 7,7,7,7"),
        ("7,7,7,7,7", "window size 7,7,7,7,7: give one for all"),
        ("999", "up to 128"),
    ],
)
def test_windows_that_no_model_has_are_refused(text: str, says: str, swin: Command) -> None:
    model = ("--model", "swin_tiny_patch4_window7_224")
    swin("export", *model, "--window-size", text).assert_error(says)


def test_windows_of_a_table_that_has_others_are_named(tmp_path: Path) -> None:
    model = peers.build_timm("swin", img_size=EVEN, window_size=(8, 6), **SMALL)
    path = peers.saved(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="--window-size 8x5 is none of them; say it"):
        load_model(None, path, window_size=(8, 5))


def test_config_json_with_other_windows_than_the_tables_is_refused(tmp_path: Path) -> None:
    library_folders.timm(tmp_path, "swin", img_size=EVEN, window_size=(8, 6), **SMALL)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("8,\n      6", "8,\n      7"))
    with pytest.raises(CheckpointError, match="window_size 8x7"):
        load_model(None, tmp_path)


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("7", 7),
        ("7x7", 7),
        ("8x6", (8, 6)),
        ("8,4", ((8, 8), (4, 4))),
        (" 8X6 , 7", ((8, 6), (7, 7))),
    ],
)
def test_read_windows_reads_what_users_write(text: str, windows: Windows) -> None:
    assert read_windows(text) == windows


def test_stage_windows_take_two_numbers_for_a_rectangle() -> None:
    assert stage_windows((8, 6), 2) == (Size(8, 6),) * 2
    assert stage_windows(((8, 6), 7), 2) == (Size(8, 6), Size(7, 7))
    for wrong in ((7, 7, 7), ((7, 7, 7),), (), ("7",), "7x7", 7.0, None, {7}):
        with pytest.raises(ConfigError, match="one for all stages"):
            stage_windows(wrong, 2)  # type: ignore[arg-type]  # what a caller might give


def test_config_with_rectangular_windows_survives_json() -> None:
    import json

    for windows in ((Size(8, 6),) * 2, (Size(8, 6), 4), (4, 8)):
        config = SwinConfig(
            "swin", window_size=windows, depths=(2, 2), num_heads=(1, 2), embed_dim=16,
            img_size=(96, 96), pads="roll-then-pad",
        )  # fmt: skip
        again = SwinConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config


# --- to ONNX, and in memory


@every_family
@torch.no_grad()
def test_onnx_of_rectangular_windows_equals_the_library(family: str, tmp_path: Path) -> None:
    fields = {"img_size": RAGGED, "window_size": EACH, **SMALL}
    model = library_folders.timm(tmp_path, family, **fields)
    loaded = load_model(None, tmp_path)
    graph = export_onnx(loaded.deploy, export_spec(loaded), metadata={})
    images = seeded_images(loaded.config)
    found = [torch.from_numpy(one) for one in run_onnx(graph, images.numpy())]
    assert apart(found, [model(images)]) < (CLOSE if family == "swin" else 1e-5)
    assert apart(found, [model(images.flip(2))]) > REJECTED
