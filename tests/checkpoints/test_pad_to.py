"""Images rounded up to a multiple, as detectors pad: the size, the pixels and what is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error
from numpy.typing import NDArray
from photographs import write_photographs
from PIL import Image, ImageOps

import swin_deploy
from exporters.errors import ConfigError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import Size
from swin_deploy.config.sizes import rounded_up
from swin_deploy.images.decode import load_image
from swin_deploy.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, PreprocessingChoice

CONTENT, PADDED = (60, 100), Size(64, 128)
Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def maskformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MaskFormer's folder without an image processor."""
    folder = tmp_path_factory.mktemp("maskformer")
    peers.build_maskformer().save_pretrained(folder)
    return folder


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def detectors(path: Path) -> Pixels:
    """The definition: mmcv's ``rescale_size``, mean and std, and mmcv's ``impad_to_multiple``.

    Detectron2's ``ResizeShortestEdge`` and ``ImageList`` are the same for one picture of that size.
    """
    image = opened(path)
    short, long = CONTENT
    scale = min(long / max(image.size), short / min(image.size))
    width, height = (int(side * scale + 0.5) for side in image.size)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    mean, std = (np.array(one, np.float32) for one in (IMAGENET_MEAN, IMAGENET_STD))
    scaled = ((resized * (1 / 255)).astype(np.float32) - mean) / std
    padded = np.zeros((*PADDED, 3), np.float32)
    padded[:height, :width] = scaled
    return padded.transpose(2, 0, 1)


def differing(paths: list[Path], ours: Callable[[Path], Pixels], theirs: Any) -> list[str]:  # noqa: ANN401
    return [path.name for path in paths if not np.array_equal(ours(path), theirs(path))]


def wide(paths: list[Path]) -> list[Path]:
    """Those that a detector resizes into an image that is wide."""
    return [path for path in paths if opened(path).width >= opened(path).height]


def test_pixels_equal_the_detectors_definition(maskformer: Path, pictures: list[Path]) -> None:
    choice = PreprocessingChoice(source="openmmlab", interpolation="bilinear")
    loaded = load_model(None, maskformer, img_size=CONTENT, pad_to=32, preprocessing=choice)
    assert loaded.config.image == loaded.preprocessing.image_size == PADDED
    steps = loaded.preprocessing
    assert len(wide(pictures)) == 9
    assert differing(wide(pictures), lambda path: load_image(path, steps), detectors) == []
    for wrong in (
        dataclasses.replace(steps, interpolation="bicubic"),
        dataclasses.replace(steps, resize=PADDED, crop=PADDED),
        dataclasses.replace(steps, resize_mode="squash"),
        dataclasses.replace(steps, fill=(124, 116, 104)),
    ):
        assert differing(wide(pictures), lambda path, s=wrong: load_image(path, s), detectors)  # type: ignore[misc]


@pytest.mark.parametrize("divisor", [0, 32])
def test_pixels_equal_the_folders_processor(
    divisor: int, maskformer: Path, pictures: list[Path], tmp_path: Path
) -> None:
    library = peers.import_peer("transformers")
    load = peers.import_peer("transformers.image_utils").load_image
    edges = {"shortest_edge": CONTENT[0], "longest_edge": CONTENT[1]}
    fields = {"size": edges, "size_divisor": divisor}
    saved = library.MaskFormerImageProcessorPil(**fields)
    saved.save_pretrained(tmp_path)
    choice = PreprocessingChoice(source=tmp_path)
    loaded = load_model(None, maskformer, img_size=CONTENT, pad_to=32, preprocessing=choice)
    size = {"height": PADDED.rows, "width": PADDED.columns}
    theirs = library.MaskFormerImageProcessorPil(**fields, pad_size=size)

    def processed(path: Path) -> Pixels:
        made = theirs(load(str(path)), return_tensors="np")["pixel_values"][0]
        return np.asarray(made, np.float32)

    def ours(path: Path) -> Pixels:
        return load_image(path, loaded.preprocessing)

    assert differing(wide(pictures), ours, processed) == []
    (tall,) = (path for path in pictures if "02-portrait" in path.name)
    with pytest.raises(ValueError, match="negative"):
        processed(tall)
    image = ours(tall)  # shrunk until it fits
    rows, columns = (int(np.flatnonzero(image.any(axis=axes))[-1]) + 1 for axes in ((0, 2), (0, 1)))
    assert (rows, columns) == ((60, 40) if divisor == 0 else (64, 64))


def test_every_command_takes_it_and_says_both_sizes(
    maskformer: Path, pictures: list[Path], swin: Command, tmp_path: Path
) -> None:
    size = ("--image-size", "60x100", "--pad-to", 32)
    options = ("--checkpoint", maskformer, *size)
    done = swin("export", *options, "--output", "a.onnx", "--json").assert_done()
    assert "image size 60x100 padded to 64x128, multiples of 32" in done.err
    assert "to fit into 60 x 100" in done.err
    assert "then zeros below and on the right up to 64x128" in done.err
    manifest = json.loads(Path("a.onnx.json").read_text())
    assert manifest["config"]["img_size"] == [64, 128]
    steps = manifest["preprocessing"]
    assert (steps["crop"], steps["pad_size"]) == ([60, 100], [64, 128])
    assert done.json["preprocessing"] == steps
    swin("parity", *options, "--onnx", "a.onnx").assert_done()
    folder = pictures[0].parent
    swin("predict", maskformer, *size, folder, "--features", "checkpoint.npz").assert_done()
    swin("predict", "a.onnx", folder, "--features", "file.npz").assert_done()
    loaded = load_model(None, maskformer, img_size=CONTENT, pad_to=32)
    images = np.stack([load_image(path, loaded.preprocessing) for path in pictures])
    with torch.no_grad():
        maps = loaded.reference(torch.from_numpy(images))
        black = loaded.reference(torch.from_numpy(images[:, :, :60, :100]).new_zeros(images.shape))
    for name in ("checkpoint.npz", "file.npz"):
        kept = np.load(name)
        for index in range(4):
            made = torch.from_numpy(kept[f"stage{index + 1}"])
            assert rms_error(made, maps[index]) < FLOAT32_TOLERANCE
            assert rms_error(made, black[index]) > REJECTED
    settled = ("--preprocessing", "a.onnx.json", "--image-size", "64x128")
    again = swin("export", "--checkpoint", maskformer, *settled, "--output", "b.onnx", "--json")
    assert again.assert_done().json["preprocessing"] == steps


def test_model_without_a_file_takes_it(swin: Command) -> None:
    arguments = ("export", "--model", "notebook-digits", "--output", "a.onnx", "--json")
    done = swin(*arguments, "--image-size", 100, "--pad-to", 56).assert_done()
    assert "image size 100 padded to 112, multiples of 56" in done.err
    assert done.json["preprocessing"]["pad_size"] == 112
    assert swin_deploy.load("notebook-digits", pad_to=112).config.img_size == 112
    already = swin_deploy.load("notebook-digits", pad_to=28)
    assert "image size 56: multiples of 28 already" in already.notes
    assert already.preprocessing.resize_mode == "fit"
    swin(*arguments, "--pad-to", 32, "--force").assert_error("image size 64 cannot be tiled")


def test_file_for_the_padded_size_does_not_say_where_pictures_end(
    maskformer: Path, tmp_path: Path
) -> None:
    """It is for pictures of 64, and these are of 50; a manifest of the same call has both."""
    library = peers.import_peer("transformers")
    library.ViTImageProcessorPil(size=64).save_pretrained(tmp_path)
    asked: Any = {"img_size": 50, "pad_to": 32}
    choice = PreprocessingChoice(source=tmp_path)
    steps = load_model(None, maskformer, **asked, preprocessing=choice).preprocessing
    assert (steps.resize, steps.crop, steps.pad_size) == (50, 50, 64)
    (tmp_path / "ours.json").write_text(json.dumps(steps.to_dict()))
    choice = PreprocessingChoice(source=tmp_path / "ours.json")
    again = load_model(None, maskformer, **asked, preprocessing=choice).preprocessing
    assert dataclasses.replace(again, origin=steps.origin) == steps


def test_random_model_takes_it_and_has_steps_of_its_size() -> None:
    model = swin_deploy.load("swin_tiny", img_size=(200, 400), pad_to=224)
    assert model.config.image == model.preprocessing.image_size == Size(224, 448)
    assert "image size 200x400 padded to 224x448, multiples of 224" in model.notes[0]


def test_multiple_that_patches_do_not_divide_is_legal(maskformer: Path) -> None:
    loaded = load_model(None, maskformer, img_size=CONTENT, pad_to=7)
    assert loaded.config.image == Size(63, 105)
    assert any("image 63x105 completed with zeros to 64x108" in note for note in loaded.notes)


@pytest.mark.parametrize("mode", ["shortest", "squash", "pad", "square", "none"])
def test_users_resize_mode_makes_the_size_before_the_pads(
    mode: Any,  # noqa: ANN401
    maskformer: Path,
    pictures: list[Path],
) -> None:
    choice = PreprocessingChoice(resize_mode=mode)
    loaded = load_model(None, maskformer, img_size=CONTENT, pad_to=32, preprocessing=choice)
    plain = load_model(None, maskformer, img_size=CONTENT, preprocessing=choice)
    for path in pictures[:6]:
        image = load_image(path, loaded.preprocessing)
        np.testing.assert_array_equal(image[:, :60, :100], load_image(path, plain.preprocessing))
        assert not image[:, 60:].any()
        assert not image[:, :, 100:].any()


def test_crop_ratio_and_fit_exclude_each_other(maskformer: Path, swin: Command) -> None:
    options = ("--checkpoint", maskformer, "--crop-ratio", 0.9, "--output", "a.onnx")
    swin("export", *options, "--pad-to", 32).assert_error("fit shows the whole picture")
    choice = PreprocessingChoice(crop_ratio=0.5, resize_mode="shortest")
    loaded = load_model(None, maskformer, img_size=60, pad_to=32, preprocessing=choice)
    steps = loaded.preprocessing
    assert (steps.resize, steps.crop, steps.pad_size) == (120, 60, 64)


@pytest.mark.parametrize(
    ("size", "multiple", "wanted"),
    [
        ((800, 1333), 32, (800, 1344)),
        ((1333, 800), 32, (1344, 800)),
        ((800, 1344), 32, (800, 1344)),
        (224, 32, 224),
        (225, 32, 256),
        ((30, 20), 32, 32),
        ((1, 2), 1, (1, 2)),
    ],
)
def test_rounded_up_is_the_next_multiple(size: Any, multiple: int, wanted: Any) -> None:  # noqa: ANN401
    assert rounded_up(size, multiple) == wanted


@pytest.mark.parametrize("wrong", [0, -32, 1.5, "32", True, 1 << 17])
def test_multiple_that_is_none_is_refused(wrong: Any, swin: Command) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="a number of pixels from 1 to 65,536 is needed"):
        swin_deploy.load("notebook-digits", pad_to=wrong)
    if wrong != "32":
        outcome = swin("export", "--model", "notebook-digits", "--pad-to", wrong)
        assert outcome.status == 2
        assert "--pad-to" in outcome.err


@pytest.mark.parametrize("wrong", [(1, 2, 3), "64", 0, -1, 1.5, (0, 4)])
def test_image_size_that_is_none_is_refused_with_a_multiple(wrong: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="img_size"):
        swin_deploy.load("notebook-digits", img_size=wrong, pad_to=32)


def test_image_that_is_too_large_is_refused(swin: Command) -> None:
    outcome = swin("export", "--model", "notebook-digits", "--image-size", 65536, "--pad-to", 65535)
    outcome.assert_error("img_size 131070")


def test_file_that_was_exported_refuses_it(swin: Command, pictures: list[Path]) -> None:
    swin("export", "--model", "notebook-digits", "--output", "a.onnx").assert_done()
    swin("predict", "a.onnx", pictures[0], "--pad-to", 32).assert_error(
        "a.onnx has its pad to from its export"
    )
