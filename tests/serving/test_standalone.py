"""The code that a bundle carries is this package's, in one file that imports nothing of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import write_photographs
from PIL import Image

from exporters.errors import FileError
from swin_deploy.images.decode import load_image
from swin_deploy.images.pages import Page
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.scores import SCORES, scores_of
from swin_deploy.serving.check import bad_pictures
from swin_deploy.serving.standalone import standalone

PREPROCESS = "swin_deploy.serving.preprocess_model"
LEFT_OUT = ("Preprocessing.from_dict",)
STEPS = {
    "shortest": Preprocessing(crop=56, resize=64),
    "odd margins of Hugging Face": Preprocessing(crop=57, resize=64, crop_rounding="huggingface"),
    "squash": Preprocessing(crop=56, resize=56, resize_mode="squash", interpolation="bilinear"),
    "rectangle": Preprocessing(crop=(40, 64), resize=(48, 70), interpolation="lanczos"),
    "pad, bgr": Preprocessing(crop=64, resize=64, resize_mode="pad", channel_order="bgr"),
    "square on white": Preprocessing(
        crop=64, resize=64, resize_mode="square", fill=(255, 255, 255), on_white=True
    ),
    "fit with zeros": Preprocessing(
        crop=(64, 96), resize=(48, 96), resize_mode="fit", multiple=32, turn=True
    ),
    "page": Preprocessing(
        crop=(96, 64), resize=64, page=Page(True, True, "donut"), interpolation="bilinear"
    ),
    "grey": Preprocessing(crop=32, resize=32, mean=(0.5,), std=(0.5,)),
}


def module_of(source: str) -> types.ModuleType:
    """A module from the text of a file."""
    module = types.ModuleType("standing_alone")
    sys.modules["standing_alone"] = module  # dataclasses look their module up
    exec(compile(source, "standing_alone.py", "exec"), vars(module))
    return module


@pytest.fixture(scope="module")
def alone() -> types.ModuleType:
    return module_of(standalone(PREPROCESS, "TritonPythonModel", leave_out=LEFT_OUT))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("name", STEPS)
def test_preprocessing_alone_is_bit_equal(
    name: str, alone: types.ModuleType, photographs: list[Path]
) -> None:
    steps = STEPS[name]
    theirs = alone.steps_of(as_json(steps.to_dict()))
    assert type(theirs) is not type(steps)
    for path in photographs:
        wanted = load_image(path, steps)
        found = alone.prepared(path.read_bytes(), theirs, most_pixels=10**9, kind="float32")
        np.testing.assert_array_equal(found, wanted)


def test_other_steps_are_noticed(alone: types.ModuleType, photographs: list[Path]) -> None:
    steps = STEPS["shortest"]
    other = dataclasses.replace(steps, interpolation="bilinear")
    found = alone.prepared(
        photographs[0].read_bytes(),
        alone.steps_of(as_json(other.to_dict())),
        most_pixels=10**9,
        kind="float32",
    )
    assert not np.array_equal(found, load_image(photographs[0], steps))


def as_json(values: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    import json

    return json.loads(json.dumps(values))


@pytest.mark.parametrize("kind", SCORES)
def test_scores_alone_are_equal(kind: str) -> None:
    alone = module_of(standalone("swin_deploy.serving.scores_model", "TritonPythonModel"))
    logits = np.random.default_rng(1).normal(0, 30, (3, 7)).astype(np.float32)
    np.testing.assert_array_equal(alone.scores_of(logits, kind), scores_of(logits, kind))  # type: ignore[arg-type]


def test_pixel_limit_and_damage_are_refused_in_one_line(
    alone: types.ModuleType, photographs: list[Path]
) -> None:
    steps = alone.steps_of(as_json(STEPS["shortest"].to_dict()))
    good = photographs[2].read_bytes()
    bad = bad_pictures(good) | {"too large": good, "junk": b"\x00" * 999}
    for what, data in bad.items():
        with pytest.raises(alone.FileError) as info:
            alone.prepared(data, steps, most_pixels=333 * 251 - 1, kind="float32")
        assert "\n" not in str(info.value), what
    assert alone.prepared(good, steps, most_pixels=333 * 251, kind="float32").shape == (3, 56, 56)
    assert not issubclass(alone.FileError, FileError)  # its own


def test_postscript_in_a_request_starts_no_program(
    alone: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would give it to Ghostscript, if the server has it."""
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    steps = alone.steps_of(as_json(STEPS["shortest"].to_dict()))
    with pytest.raises(alone.FileError, match="is PostScript, a program to be run; give it as"):
        alone.prepared(POSTSCRIPT, steps, most_pixels=10**9, kind="float32")
    assert not started.exists()
    with contextlib.suppress(OSError), Image.open(io.BytesIO(POSTSCRIPT)) as image:
        image.load()
    assert started.exists()  # the stand-in would have been found


def test_what_is_no_picture_is_refused_without_a_place_in_the_memory(
    alone: types.ModuleType,
) -> None:
    steps = alone.steps_of(as_json(STEPS["shortest"].to_dict()))
    with pytest.raises(alone.FileError) as info:
        alone.prepared(b"<svg/>", steps, most_pixels=10**9, kind="float32")
    assert "it has no format of pictures that Pillow knows" in str(info.value)
    assert "0x" not in str(info.value)


def test_file_alone_imports_nothing_of_this_package(tmp_path: Path) -> None:
    """It runs where swin_deploy and exporters cannot be imported, nor anything heavy."""
    (tmp_path / "model.py").write_text(
        standalone(PREPROCESS, "TritonPythonModel", leave_out=LEFT_OUT)
    )
    code = (
        "import sys\n"
        "for name in ('swin_deploy', 'exporters', 'msgspec', 'torch', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        "import model\n"
        "steps = model.Preprocessing(crop=8, resize=8)\n"
        "print(len(steps.mean))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "3"), run.stderr


def test_two_definitions_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exporters_twice").mkdir()
    folder = tmp_path / "exporters_twice"
    (folder / "__init__.py").touch()
    (folder / "one.py").write_text("from exporters_twice.two import g\nX = 1\ndef f(): return X, g")
    (folder / "two.py").write_text("X = 2\ndef g(): return X")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("swin_deploy.serving.standalone.OURS", ("exporters_twice",))
    with pytest.raises(ValueError, match=r"X is defined in exporters_twice\.one and in"):
        standalone("exporters_twice.one", "f")
