"""Bundles for Optimum and OpenVINO Model Server, loaded by the libraries themselves."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import optimum_environment
import pytest
from command_line import Command
from photographs import write_photographs

from exporters.errors import ConfigError
from swin_deploy.images.decode import load_image
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.predict.predictor import Predictor
from swin_deploy.serving.bundle import read_bundle
from swin_deploy.serving.optimum import processor_config

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 56, "width": 56},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
EXPORT = ("export", "--model", "notebook-digits", "-q", "--output")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--resize-mode", "squash"),
        ("--scores", "sigmoid", "--mean", "0.4", "--std", "0.3"),
        ("--preprocessing", "processor.json"),
    ],
    ids=["centre crop", "squash", "sigmoid", "Hugging Face"],
)
def test_optimum_loads_the_folder_and_answers_as_predict(
    options: tuple[str, ...], swin: Command, tmp_path: Path
) -> None:
    pictures = [one for one in write_photographs(tmp_path / "p") if "sixteen" not in one.name]
    Path("processor.json").write_text(json.dumps(PROCESSOR))
    swin(*EXPORT, "m.onnx", *options).assert_done()
    outcome = swin("bundle", "m.onnx", "--for", "optimum", "--output", "hub").assert_done()
    steps = read_bundle(tmp_path / "hub").preprocessing
    squash = steps.resize_mode == "squash"
    assert ("cut one pixel apart" in outcome.err) is not squash
    assert ("turns pictures by their EXIF" in outcome.err) is not steps.turn
    assert steps.turn is ("--preprocessing" in options)
    theirs_alike = dataclasses.replace(steps, crop_rounding="huggingface")
    alike = [
        # The pipeline turns pictures by EXIF before its processor sees them.
        (steps.turn or "turned" not in one.name)
        and np.array_equal(load_image(one, steps), load_image(one, theirs_alike))
        for one in pictures
    ]
    assert sum(alike) >= (14 if squash else 7)
    with Predictor(tmp_path / "m.onnx", top=3, threshold=0.0) as predictor:
        wanted = predictor(pictures)
    found = optimum_environment.classify(tmp_path / "hub", pictures)
    for path, same, theirs, ours in zip(pictures, alike, found, wanted, strict=True):
        if not same:
            continue
        assert [one["label"] for one in theirs] == [one.label for one in ours.top], path.name
        for one, other in zip(theirs, ours.top, strict=True):
            assert one["score"] == pytest.approx(other.probability, abs=2e-4), path.name


@pytest.mark.slow
def test_program_in_the_readme_for_optimum_runs_as_it_is(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    swin("bundle", full, "--for", "optimum", "--output", "hub").assert_done()
    (picture, *_) = write_photographs(tmp_path / "p")
    shutil.copy(picture, tmp_path / "hub" / "photo.jpg")
    assert "'label':" in optimum_environment.run_readme(tmp_path / "hub")


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ({"resize_mode": "pad"}, "the resize mode pad"),
        ({"channel_order": "bgr"}, "channels in the order BGR"),
        ({"mean": (0.5,), "std": (0.5,)}, "images of other than three channels"),
        ({"resize": (40, 50)}, "the resize mode shortest"),
    ],
)
def test_steps_that_transformers_lacks_are_refused(steps: dict[str, object], what: str) -> None:
    given = {"crop": 32, "resize": 32} | steps
    with pytest.raises(ConfigError, match=what):
        processor_config(Preprocessing(**given))  # type: ignore[arg-type]


def test_openvino_reads_the_model_of_the_bundle_and_gives_the_golden_outputs(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    swin("bundle", full, "--for", "ovms", "--output", "served", "--name", "digits").assert_done()
    config = json.loads((tmp_path / "served" / "config.json").read_text())
    (entry,) = [one["config"] for one in config["model_config_list"]]
    assert not Path(entry["base_path"]).is_absolute()
    (model,) = (tmp_path / "served" / entry["base_path"] / "1").iterdir()
    compiled = openvino.Core().compile_model(str(model), "CPU", entry["plugin_config"])
    bundle = read_bundle(tmp_path / "served")
    golden, steps = bundle.service.golden, bundle.preprocessing
    assert golden is not None
    for row, name in enumerate(golden.pictures):
        image = load_image(tmp_path / "served" / "golden" / name, steps)[None]
        found = compiled(image)["logits"]
        wanted = golden.outputs["logits"][row : row + 1]
        np.testing.assert_allclose(found, wanted, atol=golden.atol * np.abs(wanted).max())


def test_preprocessing_of_an_ovms_bundle_is_that_of_predict(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    """It is imported by itself, where swin_deploy is not."""
    swin("bundle", full, "--for", "ovms", "--output", "served").assert_done()
    (picture, *_) = write_photographs(tmp_path / "p")
    code = (
        "import sys, pathlib, numpy\n"
        "sys.modules['swin_deploy'] = sys.modules['exporters'] = None\n"
        "import preprocessing\n"
        "image = preprocessing.prepare(pathlib.Path(sys.argv[1]).read_bytes(), kind='float32')\n"
        "numpy.save(sys.argv[2], image)\n"
    )
    command = [sys.executable, "-c", code, str(picture), str(tmp_path / "image.npy")]
    subprocess.run(command, check=True, cwd=tmp_path / "served", env=os.environ)
    wanted = load_image(picture, read_bundle(tmp_path / "served").preprocessing)
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy")[0], wanted)
