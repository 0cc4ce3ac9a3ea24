"""Names, types and golden pictures in bundles: as the file has them, or told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundles import write_engine_of
from command_line import Command
from photographs import write_photographs

from swin_deploy.serving.bundle import read_bundle

EXPORT = ("export", "--model", "notebook-digits", "-q", "--output")
HALF = ("--precision", "fp16", "--io-precision", "fp16")
NAMES = ["a\nb", "", "  c", *"3456789"]


def config_of(model: str, folder: Path) -> str:
    return (folder / "bundle" / "models" / model / "config.pbtxt").read_text()


@pytest.mark.parametrize("decoder", ["pillow", "dali"])
def test_half_input_is_half_in_every_step(decoder: str, swin: Command, tmp_path: Path) -> None:
    swin(*EXPORT, "half.onnx", *HALF).assert_done()
    swin("bundle", "half.onnx", "--for", "triton", "--preprocessing", decoder, "--name", "m",
         ).assert_done()  # fmt: skip
    for model, tensor in (("m-preprocess", "images"), ("m-model", "images"), ("m", "logits")):
        text = config_of(model, tmp_path).split(f'name: "{tensor}"\n')[1]
        assert text.split("\n")[0].strip() == "data_type: TYPE_FP16", model
    if decoder == "dali":
        source = (tmp_path / "bundle/models/m-preprocess/1/dali.py").read_text()
        assert "dtype=types.FLOAT16" in source


def test_engine_alone_has_the_types_of_its_edges_or_needs_its_file(
    swin: Command, tmp_path: Path
) -> None:
    for name, options in (("half", ()), ("pixels", ("--bake-preprocessing",))):
        swin(*EXPORT, f"{name}.onnx", *HALF, *options).assert_done()
        write_engine_of(tmp_path / f"{name}.onnx", tmp_path / f"{name}.engine")
        (tmp_path / f"{name}.onnx").rename(tmp_path / f"{name}-away.onnx")
        (tmp_path / f"{name}.onnx.json").rename(tmp_path / f"{name}-away.onnx.json")
    make = ("bundle", "half.engine", "--for", "triton", "--name", "m")
    swin(*make, "--reference", "notebook-digits").assert_done()
    assert config_of("m-model", tmp_path).count("TYPE_FP16") == 4  # two edges, two warm-ups
    outcome = swin("bundle", "pixels.engine", "--for", "triton", "--reference", "notebook-digits")
    outcome.assert_error("says the sizes and types of its outputs and is not next to it")


@pytest.mark.parametrize("target", ["triton", "ovms", "optimum"])
def test_names_that_no_line_holds_are_told(target: str, swin: Command, tmp_path: Path) -> None:
    Path("names.json").write_text(json.dumps(NAMES))
    swin(*EXPORT, "m.onnx", "--classes", "names.json").assert_done()
    outcome = swin("bundle", "m.onnx", "--for", target, "--name", "m").assert_done()
    folder = tmp_path / "bundle"
    if target == "optimum":  # JSON holds every name
        names = json.loads((folder / "config.json").read_text())["id2label"]
        assert [names[str(index)] for index in range(3)] == ["a\nb", "class 1", "  c"]
        assert "other names than predict" not in outcome.err
        return
    path = folder / ("models/m-scores/labels.txt" if target == "triton" else "labels.txt")
    assert path.read_text().split("\n")[:3] == ["a b", "class 1", "  c"]
    assert "other names than predict for 1 of the classes: 'a\\nb' is 'a b'" in outcome.err


def test_golden_outputs_of_a_checkpoint_are_for_the_files_own_pictures(
    swin: Command, tmp_path: Path
) -> None:
    """The steps that an export was given are in its file, and in no checkpoint."""
    steps = ("--resize-mode", "pad", "--mean", "0.4", "--std", "0.3")
    swin(*EXPORT, "m.onnx", *steps).assert_done()
    found = []
    for options in ((), ("--reference", "notebook-digits")):
        swin("bundle", "m.onnx", "--for", "triton", *options).assert_done()
        golden = read_bundle(tmp_path / "bundle").service.golden
        assert golden is not None
        found.append(golden.outputs["logits"])
    itself, checkpoint = found
    np.testing.assert_allclose(itself, checkpoint, atol=1e-4)


def test_manifest_of_sizes_is_no_reference(swin: Command) -> None:
    swin(*EXPORT, "m.json", "--image-size", "56", "--image-size", "112").assert_done()
    outcome = swin("bundle", "m-56.onnx", "--for", "triton", "--reference", "m.json")
    outcome.assert_error("m.json is a manifest of sizes, and m-56.onnx has one; give the file of")


@pytest.mark.parametrize("inside", [(), ("--bake-preprocessing",)])
def test_file_with_another_normalisation_is_no_reference(
    inside: tuple[str, ...], swin: Command, tmp_path: Path
) -> None:
    """Its pixels have another range, and cut off what is outside it."""
    swin(*EXPORT, "m.onnx").assert_done()
    swin(*EXPORT, "other.onnx", "--mean", "0.2", *inside).assert_done()
    make = ("bundle", "m.onnx", "--for", "triton", "--reference")
    swin(*make, "other.onnx").assert_error("other.onnx was exported with another mean, std or")
    assert not (tmp_path / "bundle").exists()
    swin(*EXPORT, "same.onnx", *inside).assert_done()
    swin(*make, "same.onnx").assert_done()


def test_golden_picture_that_cannot_be_read_is_named(swin: Command, tmp_path: Path) -> None:
    swin(*EXPORT, "m.onnx").assert_done()
    write_photographs(tmp_path / "p")
    (tmp_path / "p" / "00 broken.png").write_bytes(b"x")
    outcome = swin("bundle", "m.onnx", "--for", "triton", "--images", "p")
    outcome.assert_error("00 broken.png cannot be read")
    assert not (tmp_path / "bundle").exists()
