"""Pictures to one of several sizes: which, what is said of it, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import library_folders
import numpy as np
import pytest
import several_sizes
from command_line import IMAGES, Command, call_main
from PIL import Image

import swin_deploy
from exporters.errors import ConfigError, FileError
from swin_deploy.config import Size
from swin_deploy.images.opening import size_of_picture
from swin_deploy.predict import opened

SIDES = {"small": (30, 25), "exact": (32, 32), "big": (300, 300), "wide": (30, 90)}
WANTED: dict[str, object] = {"small": 32, "exact": 32, "big": 64, "wide": [32, 64]}
STEM = "t-fp32-opset17"
WORDS = ("--image-size", "64", "--image-size", "32", "--image-size", "32x64")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of timm at 64, 32 and 32x64."""
    folder = tmp_path_factory.mktemp("sizes")
    library_folders.timm(folder / "t", "swin", img_size=64)
    path = folder / "made" / f"{STEM}-sizes.json"
    words = ("--quiet", "export", "--checkpoint", folder / "t", *WORDS, "--output", path)
    assert call_main(words) == 0
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, shape in SIDES.items():
        Image.fromarray(pixels(shape)).save(folder / f"{name}.png")
    return folder


def pixels(
    shape: tuple[int, int], seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def test_predict_says_the_size_of_each_picture(sizes: Path, pictures: Path, swin: Command) -> None:
    done = swin("predict", sizes, pictures, "--json").assert_done()
    rows = {Path(row["image"]).stem: row for row in map(json.loads, done.out.splitlines())}
    assert {name: row["image_size"] for name, row in rows.items()} == WANTED
    for name, row in rows.items():
        side = WANTED[name] if name != "wide" else "32x64"
        alone = sizes.parent / f"{STEM}-{side}.onnx"
        single = json.loads(swin("predict", alone, pictures / f"{name}.png", "--json").out)
        assert "image_size" not in single
        for found, wanted in zip(row["top"], single["top"], strict=True):
            assert found["index"] == wanted["index"]
            assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
    for text in ("64 px: resize", "32x64 px: resize", "nearest ratio of rows to columns"):
        assert text in done.err
    shown = swin("predict", sizes, pictures / "wide.png").assert_done()
    assert "wide.png, at 32x64 px" in shown.out


def test_predict_writes_the_size_into_a_table_and_goes_on(
    sizes: Path, pictures: Path, swin: Command, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    command = ("predict", sizes, pictures, "--csv", table, "--top", "1")
    swin(*command).assert_done()
    whole = table.read_text()
    rows = list(csv.DictReader(io.StringIO(whole)))
    assert [row["image_size"] for row in rows] == ["64", "32", "32", "32x64"]
    table.write_text("\n".join(whole.splitlines()[:3]) + "\n")
    assert "has 2 of them already" in swin(*command).assert_done().err
    assert table.read_text() == whole


def test_predict_of_one_size_takes_its_file(sizes: Path, pictures: Path, swin: Command) -> None:
    one = pictures / "small.png"
    done = swin("predict", sizes, one, "--image-size", "64", "--json").assert_done()
    alone = swin("predict", sizes.parent / f"{STEM}-64.onnx", one, "--json")
    assert done.out == alone.out
    swin("predict", sizes, one, "--image-size", "96").assert_error("its sizes are 64, 32, 32x64")
    swin("predict", sizes, one, "--window-size", "7").assert_error("window size from its export")


def test_predict_refuses_arrays_of_other_sizes(sizes: Path, swin: Command) -> None:
    np.save("fits.npy", pixels((32, 64)))
    np.save("turned.npy", np.moveaxis(pixels((32, 64)), -1, 0))
    np.save("odd.npy", pixels((64, 60)))
    done = swin("predict", sizes, "fits.npy", "turned.npy", "odd.npy", "--json")
    assert done.status == 1
    first, second, third = map(json.loads, done.out.splitlines())
    assert first["image_size"] == second["image_size"] == [32, 64]
    assert first["top"] == second["top"]
    assert "array of 64x60" in third["error"]
    assert "has sizes 64, 32, 32x64" in third["error"]
    swin("predict", sizes, "odd.npy").assert_error("64, 32, 32x64")


def test_predict_gives_what_the_file_of_the_size_gives(sizes: Path, swin: Command) -> None:
    digits = [str(path) for path in sorted(IMAGES.rglob("*.png"))[::30]]
    several = swin("predict", sizes, *digits, "--json").assert_done()
    alone = swin("predict", sizes.parent / f"{STEM}-32.onnx", *digits, "--json")
    answers = [
        [json.loads(line)["top"][0]["index"] for line in one.out.splitlines()]
        for one in (several, alone)
    ]
    assert answers[0] == answers[1]


def test_predictor_takes_pictures_of_any_form_and_order(sizes: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(pixels((300, 290))).save(data, "PNG")
    given: list[Any] = [data.getvalue(), Image.fromarray(pixels((30, 30))), pixels((32, 64)), 3]
    with swin_deploy.Predictor(sizes, batch=2) as predict:
        assert list(predict.sizes) == [Size(64, 64), Size(32, 32), Size(32, 64)]
        answers = predict(given[:3])
        assert [one.size for one in answers] == [Size(64, 64), Size(32, 32), Size(32, 64)]
        assert [one.image for one in answers] == ["image 0", "image 1", "image 2"]
        with pytest.raises(FileError, match="is a int"):
            predict(given)
        with pytest.raises(FileError, match="cannot be read"):
            predict(b"no picture")
    with swin_deploy.Predictor(sizes, img_size=(32, 64)) as predict:
        assert predict(given[1])[0].size is None
    for wrong in ("32", (1, 2, 3), 57):
        with pytest.raises(ConfigError, match="its sizes are 64, 32, 32x64"):
            swin_deploy.Predictor(sizes, img_size=wrong)  # type: ignore[arg-type]  # on purpose


def test_features_of_maps_that_differ_are_refused(pictures: Path, swin: Command) -> None:
    words = ("export", "--model", "notebook-digits", "--outputs", "stages")
    sides = ("--image-size", "112", "--image-size", "56")
    swin(*words, *sides, "--output", "m-sizes.json").assert_done()
    command = ("predict", "m-sizes.json", pictures, "--features", "f.npz")
    swin(*command).assert_error("choose one size with --image-size")
    assert not Path("f.npz").exists()
    swin(*command, "--image-size", "56").assert_done()
    words = ("export", "--model", "notebook-digits", "--outputs", "features")
    swin(*words, *sides, "--output", "p-sizes.json").assert_done()
    swin("predict", "p-sizes.json", pictures, "--features", "f.npz", "--force").assert_done()
    assert np.load("f.npz")["features"].shape[0] == len(SIDES)


def test_predict_takes_the_engines_where_a_gpu_is(
    sizes: Path, pictures: Path, swin: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    own = several_sizes.copied(sizes, tmp_path / "own")
    swin("build-trt", own, "--flavor", "tensorrt-rtx").assert_done()
    monkeypatch.setattr(opened, "current_gpu", lambda: None)
    done = swin("predict", own, pictures).assert_done()
    assert "no NVIDIA GPU is here: the ONNX files run, not the engines" in done.err
    monkeypatch.setattr(opened, "current_gpu", lambda: "a GPU")
    assert "TensorRT-RTX" in opened.open_artifact(own).runner.backend


@pytest.mark.parametrize(("turn", "wanted"), [(True, (70, 30)), (False, (30, 70))])
def test_size_of_picture_knows_which_side_is_up(
    tmp_path: Path, turn: bool, wanted: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels((30, 70))).save(tmp_path / "x.jpg", exif=exif)
    assert size_of_picture(tmp_path / "x.jpg", channels=3, turn=turn) == wanted
