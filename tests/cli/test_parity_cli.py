import json
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import onnx
import pytest
import torch
from command_line import DIGITS, IMAGES, SMALL_PARITY, Command, edit_manifest, listing
from onnx import numpy_helper
from safetensors.torch import load_file

from exporters.artifact import sha256_of
from swin_deploy.report.schema import load_schema


def nudge(source: Path, target: Path) -> None:
    """Change one value of one weight; the metadata stays."""
    graph = onnx.load(source)
    weights = [t for t in graph.graph.initializer if len(t.dims) == 2 and min(t.dims) > 8]
    values = numpy_helper.to_array(weights[-1]).copy()
    values[0, 0] += 1.0
    weights[-1].CopyFrom(numpy_helper.from_array(values, weights[-1].name))
    onnx.save(graph, target)


def test_parity_passes_and_writes_the_report(
    swin: Command, full: Path, engine: Path, half: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    outcome = swin(
        "parity", *SMALL_PARITY, "--onnx", full, "--onnx", half, "--engine", engine,
        "--images", IMAGES, "--report", "proof", "--json",
    ).assert_done()  # fmt: skip
    deploy, emulated, single, double, last = outcome.json["hops"]
    assert [hop["passed"] for hop in (deploy, emulated, single, double)] == [True] * 4
    assert emulated["name"] == "deploy model fp16, emulated"
    assert {result["inputs"].split(",")[0] for result in single["results"]} == {
        "images",
        "seeded",
        "extreme",
    }
    if not torch.cuda.is_available():
        assert last["passed"] is not True
        assert "needs an NVIDIA GPU" in last["not_run"]
    assert sorted(listing(tmp_path)) == [
        "proof/report.html",
        "proof/report.json",
        "proof/report.md",
    ]
    report = json.loads(Path("proof/report.json").read_text())
    assert [entry["file"] for entry in report["artifacts"]] == [full.name, half.name, engine.name]
    assert "wrote proof/report.html" in outcome.err


def test_parity_nudged_weight_is_status_1(swin: Command, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nudge(full, tmp_path / "nudged.onnx")
    outcome = swin("parity", *SMALL_PARITY, "--onnx", "nudged.onnx")
    assert outcome.status == 1
    assert "fail" in outcome.out.lower()
    assert "error" not in outcome.err
    values = swin("parity", *SMALL_PARITY, "--onnx", "nudged.onnx", "--json")
    assert values.status == 1
    assert [hop["passed"] for hop in values.json["hops"]] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("--onnx {engine}", "is not a whole ONNX file", id="engine-as-onnx"),
        pytest.param("--engine {half}", "is no engine of swin-deploy", id="onnx-as-engine"),
        pytest.param("--onnx {full} --image-size 112", "use the same --model", id="image-size"),
        pytest.param("--onnx {full} --checkpoint other.pt", "was made from", id="other-weights"),
        pytest.param("--engine {engine} --checkpoint other.pt", "was made from", id="engine-too"),
        pytest.param("--images nowhere", "image folder nowhere does not exist", id="no-images"),
        pytest.param("--images empty", "image folder empty holds no images", id="empty-folder"),
        pytest.param("--images other.pt", "other.pt is not a folder", id="file-as-folder"),
        pytest.param("--images torn", "image torn/x.png cannot be read", id="torn-image"),
        pytest.param("--report other.pt", "cannot write in other.pt", id="report-is-a-file"),
    ],
)
def test_parity_that_cannot_be_done_is_status_3(
    arguments: str,
    message: str,
    swin: Command,
    full: Path,
    half: Path,
    engine: Path,
    tmp_path: Path,
) -> None:
    state = load_file(DIGITS)
    torch.save({**state, "head.bias": state["head.bias"] + 1}, "other.pt")
    Path("empty").mkdir()
    Path("torn").mkdir()
    Path("torn/x.png").write_bytes(next(IMAGES.rglob("*.png")).read_bytes()[:60])
    before = listing(tmp_path)
    filled = arguments.format(full=full, half=half, engine=engine)
    swin("parity", *SMALL_PARITY, *filled.split()).assert_error(message)
    assert listing(tmp_path) == before


def test_parity_engine_of_another_version_is_status_3(swin: Command, own_engine: Path) -> None:
    edit_manifest(own_engine, version="1.0.0")
    outcome = swin("parity", *SMALL_PARITY, "--engine", own_engine)
    outcome.assert_error("was built by tensorrt-rtx 1.0.0, here is")


def test_parity_engine_of_another_flavor_is_not_run(
    swin: Command, own_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    edit_manifest(own_engine, flavor="tensorrt")
    values = swin("parity", *SMALL_PARITY, "--engine", own_engine, "--json").json
    assert "install it: pip install tensorrt" in values["hops"][1]["not_run"]


def test_bench_joins_the_report(swin: Command, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    parity = ("parity", *SMALL_PARITY, "--report", "proof")
    swin(*parity).assert_done()
    outcome = swin(
        "bench", "--model", "notebook-digits", "--onnx", full, "--batches", "1", "--seconds", "1",
        "--report", "proof", "--json",
    ).assert_done()  # fmt: skip
    assert len(outcome.json["results"]) == 3
    report = json.loads(Path("proof/report.json").read_text())
    assert report["parity"]["hops"]
    assert report["bench"]["results"] == outcome.json["results"]
    shown = Path("proof/report.md").read_text()
    assert "images/s" in shown.lower() or "images per s" in shown.lower()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda path: path.write_text("{"), "is not JSON", id="damaged"),
        pytest.param(lambda path: path.mkdir(), "is a folder", id="folder"),
    ],
)
def test_bench_report_that_cannot_be_joined_is_found_before_the_work(
    write: Callable[[Path], None], message: str, swin: Command
) -> None:
    Path("proof").mkdir()
    write(Path("proof/report.json"))
    outcome = swin("bench", "--model", "notebook-digits", "--report", "proof")
    outcome.assert_error(message)
    assert "Measuring" not in outcome.err


def test_bench_report_of_another_model_is_refused(swin: Command) -> None:
    swin("parity", *SMALL_PARITY, "--report", "proof").assert_done()
    values = json.loads(Path("proof/report.json").read_text())
    Path("proof/report.json").write_text(json.dumps(values | {"model": "notebook-swin-t"}))
    outcome = swin("bench", "--model", "notebook-digits", "--report", "proof")
    outcome.assert_error("is about notebook-swin-t, not notebook-digits; choose another folder")


def test_missing_onnxruntime_is_a_hop_not_run(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    values = swin("parity", *SMALL_PARITY, "--onnx", full, "--json").json
    hop = values["hops"][1]
    assert hop["passed"] is not True
    assert "pip install onnxruntime" in hop["not_run"]


# run


@pytest.mark.slow
def test_run_does_the_whole_line(swin: Command, built: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    outcome = swin(
        "run", "--model", "notebook-digits", "--limit", "10", "--bench-seconds", "1",
        "--batch", "1,2,4", "--json",
    ).assert_done()  # fmt: skip
    assert sorted(listing(tmp_path)) == [
        *(f"engines/{name}" for name in sorted(listing(built / "engines"))),
        "report/report.html",
        "report/report.json",
        "report/report.md",
    ]
    values = outcome.json
    assert values["verdict"] == "pass"
    assert values == json.loads(Path("report/report.json").read_text())
    jsonschema.Draft202012Validator(load_schema()).validate(values)
    assert len(values["parity"]["samples"]) == 6
    assert len(values["artifacts"]) == 3
    for entry in values["artifacts"]:
        assert sha256_of(tmp_path / "engines" / entry["file"]) == entry["sha256"]
    assert "open report/report.html" in outcome.err
    html = Path("report/report.html").read_text()
    assert "<html" in html
    assert str(tmp_path) not in html


def test_run_report_that_cannot_be_written_is_found_before_the_work(
    swin: Command, built: Path, tmp_path: Path
) -> None:
    Path("file").write_text("in the way")
    outcome = swin("run", "--model", "notebook-digits", "--report", "file")
    outcome.assert_error("cannot write in file")
    assert list(listing(tmp_path)) == ["file"]
