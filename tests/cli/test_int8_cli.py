"""An int8 file on the command line, calibrated on images that are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import library_folders
import pytest
from command_line import IMAGES, Command

from exporters.backends import load_openvino
from exporters.errors import MissingBackendError
from swin_deploy.candidates import tell_apart
from swin_deploy.runners import OpenvinoRunner, OrtRunner

DIGITS = ("--model", "notebook-digits")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled images as two folders with no image in common: to calibrate on, and to judge."""
    folder = tmp_path_factory.mktemp("halves")
    for number, image in enumerate(sorted(IMAGES.rglob("*.png"))):
        target = folder / ("calibration", "judged")[number % 2] / image.relative_to(IMAGES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.read_bytes())
    return folder / "calibration", folder / "judged"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, halves: tuple[Path, Path]) -> Path:
    from swin_deploy.api.models import load

    path = tmp_path_factory.mktemp("int8") / "digits.onnx"
    load("notebook-digits").export(path, precision="int8", runtime="cpu", images=halves[0])
    return path


def openvino() -> tuple[str, ...]:
    """The options that have OpenVINO run the file, too; none without it."""
    try:
        load_openvino()
    except MissingBackendError:
        return ()
    return ("--runner", "openvino")


def test_parity_on_images_not_calibrated_on_stays_below_one_percent(
    swin: Command, digits: Path, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    report = tmp_path / "report"
    told = swin(
        "parity", *DIGITS, "--onnx", digits, "--images", halves[1], "--limit", 180,
        *openvino(), "--report", report, "--json",
    ).assert_done().json  # fmt: skip
    hops = {hop["name"]: hop for hop in told["hops"] if hop["precision"] == "int8"}
    assert list(hops) == ["ONNX int8", *(["OpenVINO int8"] if openvino() else [])]
    for hop in hops.values():
        assert hop["passed"] is True
        seen = [(one["case"], one["relative_l2"]) for one in hop["results"]]
        logits = [l2 for case, l2 in seen if case["image_set"] == "images" and not case["place"]]
        assert 0.004 < max(logits) < 0.010
    again = swin("report", report, "--json").assert_done().json
    assert [hop["name"] for hop in again["parity"]["hops"]][-len(hops) :] == list(hops)


def test_export_int8_of_v2_passes_parity(swin: Command, tmp_path: Path) -> None:
    library_folders.huggingface(tmp_path / "v2", "swinv2", window_size=4)
    model, path = ("--checkpoint", tmp_path / "v2"), tmp_path / "x.onnx"
    int8 = ("--for", "cpu", "--precision", "int8", "--images", IMAGES)
    swin("export", *model, *int8, "--output", path).assert_done()
    told = swin("parity", *model, "--onnx", path, "--original", "none", "--json").assert_done()
    assert [hop["passed"] for hop in told.json["hops"] if hop["precision"] == "int8"] == [True]


def test_evaluate_counts_the_answers_that_int8_changes(
    swin: Command, digits: Path, halves: tuple[Path, Path]
) -> None:
    told = swin("evaluate", *DIGITS, "--onnx", digits, "--data", halves[1], "--json")
    values = told.assert_done().json
    (ours,) = [one for one in values["candidates"] if one["precision"] == "int8"]
    assert ours["top1"]["images"] == 180
    assert 178 <= ours["agreed"] <= 180


def test_bench_times_it_and_reads_its_error(swin: Command, digits: Path) -> None:
    few = ("--batch", 2, "--seconds", 1, "--against", "eager")
    rows = swin("bench", *DIGITS, "--onnx", digits, *few, "--json").assert_done().json["results"]
    (row,) = [one for one in rows if one["name"] == "ONNX int8"]
    assert row["images_per_s"] > 0
    assert 0.001 < row["relative_l2"] < 0.1


def test_predict_names_the_class(swin: Command, digits: Path) -> None:
    outcome = swin("predict", digits, IMAGES / "3", "--json").assert_done()
    answers = [json.loads(line)["top"][0]["class"] for line in outcome.out.splitlines()]
    assert answers.count("3") > 0.9 * len(answers)


def test_tell_apart_adds_the_file_to_names_that_repeat_alone() -> None:
    paths = [Path("a/x.onnx"), Path("b/x.onnx"), Path("b/y.onnx"), Path("z.onnx")]
    runners = [OrtRunner(path, "fp32", name="ONNX fp32") for path in paths[:3]]
    alone = OrtRunner(paths[3], "int8", name="ONNX int8")
    tell_apart(list(zip([*runners, alone], paths, strict=True)))
    assert [one.name for one in (*runners, alone)] == [
        "ONNX fp32, a/x.onnx", "ONNX fp32, b/x.onnx", "ONNX fp32, y.onnx", "ONNX int8",
    ]  # fmt: skip


def test_openvino_names_of_an_int8_file_are_two() -> None:
    names = [
        OpenvinoRunner(Path("x"), "int8", way=way).name for way in ("openvino", "openvino-bf16")
    ]
    assert names == ["OpenVINO int8", "OpenVINO int8 with bf16"]
    assert OpenvinoRunner(Path("x"), "fp16", way="openvino-bf16").name == "OpenVINO bf16"
