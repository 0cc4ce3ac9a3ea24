"""Commands on models of other images than RGB, with pictures, arrays and neither."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import Command
from conftest import randomised
from PIL import Image

from exporters.errors import FileError
from swin_deploy.config import SwinConfig
from swin_deploy.predict.pictures import find_pictures
from swin_deploy.predict.predictor import Predictor
from swin_deploy.reference import build_reference

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_only.py"
ASKED = ("--image-size", "64", "--mean", "0.5", "--std", "0.25")


def checkpoint(channels: int) -> Path:
    """A checkpoint of the authors' names in this folder; its windows are of 4 tokens."""
    config = SwinConfig(
        family="swin",
        img_size=64,
        in_channels=channels,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(1, 2),
        num_classes=3,
    )
    path = Path(f"c{channels}.pth")
    torch.save({"model": randomised(build_reference(config)).state_dict()}, path)
    return path


def arrays(folder: str, channels: int) -> Path:
    """Class folders of arrays of pixels and of floats, which are no less than they can show."""
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (Path(folder) / label).mkdir(parents=True)
        pixels = rng.integers(0, 256, (40, 36, channels), dtype=np.uint8)
        np.save(Path(folder) / label / "0.npy", pixels)
        np.save(
            Path(folder) / label / "1.npy", (pixels / 255).astype(np.float32).transpose(2, 0, 1)
        )
    return Path(folder)


def greys(folder: str) -> list[Path]:
    Path(folder).mkdir()
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8))
    scene.save(Path(folder) / "colour.png")
    scene.convert("L").save(Path(folder) / "grey.png")
    return sorted(Path(folder).iterdir())


def test_grey_model_is_exported_and_sees_pictures_as_grey(swin: Command) -> None:
    path = checkpoint(1)
    greys("pictures")
    outcome = swin("export", "--checkpoint", path, *ASKED, "--output", "grey.onnx").assert_done()
    assert "images of 64 with 1 channel" in outcome.err
    shape = onnx.load("grey.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [0, 1, 64, 64]
    pixels = ("--bake-preprocessing", "--output", "pixels.onnx")
    baked = swin("export", "--checkpoint", path, *ASKED, *pixels).assert_done()
    assert "takes pixels [batch, 64, 64, 1], uint8, after" in baked.err
    answers = []
    for artifact, *more in (("grey.onnx",), ("pixels.onnx",), (path, *ASKED)):
        lines = swin("predict", artifact, "pictures", *more).assert_done().out.splitlines()
        first, second = lines[1:4], lines[5:8]
        assert lines[0].endswith("colour.png")
        assert first == second  # Pillow's grey of the coloured picture is the grey picture
        answers.append(first)
    assert answers[0] == answers[1] == answers[2]
    command = [sys.executable, str(EXAMPLE), "grey.onnx", "pictures/colour.png"]
    alone = subprocess.run(command, check=False, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    share, _, _, label = answers[0][0].split()  # "61.2 %  class 1"
    assert alone.stdout.split() == [label, f"{share}%"]


def test_model_of_six_channels_passes_on_arrays_and_on_noise_alone(swin: Command) -> None:
    path = checkpoint(6)
    folder = arrays("arrays", 6)
    swin("export", "--checkpoint", path, *ASKED, "--output", "six.onnx").assert_done()
    proof = ("--checkpoint", path, "--onnx", "six.onnx", "--batches", "1,3", *ASKED)
    values = swin("parity", *proof, "--report", "alone", "--json").assert_done().json
    assert values["verdict"] == "pass"
    assert "64 x 64 pixels, 6 channels" in Path("alone/report.md").read_text()
    outcome = swin("parity", *proof, "--images", folder, "--report", "proof", "--json")
    assert all(hop["passed"] for hop in outcome.json["hops"] if not hop["not_run"])
    assert "data:image/jpeg" in Path("proof/report.html").read_text()
    data = ("--data", folder, "--onnx", "six.onnx", "--output", "evaluation", "--json")
    found = swin("evaluate", "--checkpoint", path, *ASKED, *data).json
    assert found["images"] == 6
    assert found["conditions"]["image size"] == "64 px, 6 channels"
    timed = ("--batches", "1", "--seconds", "1", "--against", "eager", "--json")
    bench = swin("bench", "--checkpoint", path, *ASKED, *timed).assert_done().json
    assert bench["conditions"]["channels"] == "6"


def test_pictures_that_do_not_fit_are_one_line(swin: Command) -> None:
    path = checkpoint(6)
    (picture, _) = greys("pictures")
    swin("predict", path, picture, *ASKED).assert_error("has bands R, G, B, and the model takes 6")
    np.save("two.npy", np.zeros((32, 32, 2), np.uint8))
    swin("predict", path, "two.npy", *ASKED).assert_error("of shape [32, 32, 2], and the model")
    outcome = swin("parity", "--checkpoint", path, "--images", "pictures", *ASKED)
    outcome.assert_error("give arrays [height, width, 6] in .npy files")
    wrong = swin("predict", path, picture, "--image-size", "64", "--mean", "0.1,0.2,0.3")
    wrong.assert_error("--mean has 3 numbers, the model takes 6 channels; give one number for all")


def test_mean_and_std_that_nothing_says_are_a_warning(swin: Command) -> None:
    outcome = swin("export", "--checkpoint", checkpoint(4), "--output", "a.onnx").assert_done()
    said = "mean and std: assuming mean 0.449 and std 0.226 for every channel"
    assert f"warning: {said}" in outcome.err
    assert "--mean with --std settles it" in outcome.err


def test_predictor_takes_arrays_of_any_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 36, 6), dtype=np.uint8)
    np.save("a.npy", pixels)
    named = list(find_pictures(("-",), io.BytesIO(Path("a.npy").read_bytes())))
    with Predictor(checkpoint(6), img_size=64) as predict:
        forms: list[Any] = [Path("a.npy"), pixels, np.moveaxis(pixels, -1, 0), *named]
        first, *others = predict.stream(forms)
        assert not first.error
        assert len(others) == 3
        assert all(one.top == first.top for one in others)
        assert first.top != predict(pixels[..., ::-1])[0].top
        with pytest.raises(FileError, match=r"image 0 is an array of shape \[40, 36, 3\]"):
            predict(pixels[..., :3])
