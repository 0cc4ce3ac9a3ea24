"""Every command on every pair of family, output form and precision: what ran, was judged, status.

A case is named after its cell, such as ``swinv2-stages-fp16``. Files are shared by the cases, and
made where a case runs alone. FP8 and int8 go from the export to parity in one case. What each
command must refuse, with status 1, is at the end; export, plan and precision check nothing that
could fail.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from command_line import Command, Outcome
from exported import in_float32, needs_rtx
from matrix import CALIBRATED_CELLS, CELLS, CLASSES, IMAGES, QUICK_CELLS, Cell
from onnx import numpy_helper
from overflowing import attention, write_checkpoint

from exporters.precisions import FP8_FORMS
from swin_deploy.report.schema import load_schema

pytestmark = needs_rtx
pytest.importorskip("onnxruntime")

NO_GPU = not torch.cuda.is_available()
SMALL = ("--batches", "1,3")
SETS = ("seeded", "extreme")
EMULATED = {"fp32": [], **{one: [f"deploy model {one}, emulated"] for one in ("fp16", "bf16")}}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="session")
def images(folder: Path) -> Path:
    return Cell(folder, *CELLS[0]).images


@pytest.fixture
def cell(request: pytest.FixtureRequest, folder: Path) -> Cell:
    return Cell(folder, *request.param)


PARAMETERS = [
    pytest.param(cell, id="-".join(cell), marks=() if cell in QUICK_CELLS else pytest.mark.slow)
    for cell in CELLS
]
every_cell = pytest.mark.parametrize("cell", PARAMETERS, indirect=True)


def assert_judged(hop: dict[str, Any], names: tuple[str, ...]) -> None:
    """A hop that passed, on every image set: each output at each batch, and the tokens."""
    assert hop["passed"] is True, hop
    found = Counter(result["inputs"] for result in hop["results"])
    labels = [f"{one}, {name}" if len(names) > 1 else one for one in SETS for name in names]
    for label in labels:
        assert found.pop(label) == 2
        assert found.pop(f"{label}, batch 3 against batch 1") == 1
        assert found.pop(f"{label}, rows in another place") == 1
    emulated = hop["name"].endswith("emulated")
    assert bool(hop["drift_not_run"]) is emulated
    along = 0 if emulated else 1 + (names == ("logits",))
    assert sum(found.values()) == along * len(SETS), found
    assert {point["inputs"] for point in hop["drift"]} == (set() if emulated else set(SETS))


def assert_hops(hops: list[dict[str, Any]], cell: Cell, expected: list[str]) -> None:
    """The hops in order; what cannot run here is not run and says why."""
    assert [hop["name"] for hop in hops] == expected
    for hop in hops:
        if hop["stage"] == "engine" and NO_GPU:
            assert hop["passed"] is None
            assert "needs an NVIDIA GPU" in hop["not_run"]
        elif hop["name"] == "ONNX bf16" and NO_GPU:
            assert hop["passed"] is None
            assert "lacks bfloat16 kernels" in hop["not_run"]
        elif hop["stage"] == "engine":
            assert hop["passed"] is True
        else:
            assert_judged(hop, cell.output_names)


@every_cell
def test_export(cell: Cell, swin: Command) -> None:
    manifest = swin(*cell.export, "--json").assert_done().json
    assert manifest["outputs"] == list(cell.output_names)
    assert manifest["precision"] == cell.precision
    graph = onnx.load(cell.onnx_path)
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.output] == list(cell.output_names)


@every_cell
def test_build_trt(cell: Cell, swin: Command) -> None:
    manifest = swin(*cell.build, "--json").assert_done().json
    assert manifest["outputs"] == list(cell.output_names)
    assert manifest["precision"] == cell.precision
    assert manifest["plan"]["attention_blocks"] == 4 + (cell.family == "s3")
    assert (manifest["plan"]["float32_compute"] == []) is (cell.precision != "fp32")


@every_cell
def test_plan(cell: Cell, swin: Command) -> None:
    of_engine = swin("plan", cell.engine(), "--json").assert_done().json
    of_graph = swin("plan", cell.onnx(), "--batch", 2, "--json").assert_done().json
    assert of_engine["kernels"] == of_graph["kernels"] > 0
    assert of_engine["bytes_moved"] == of_graph["bytes_moved"] > 0
    swin("plan", cell.engine(), "--blocks").assert_done()


@every_cell
def test_parity(cell: Cell, swin: Command) -> None:
    files = ("--onnx", cell.onnx(), "--engine", cell.engine())
    only = ("--original", "none")
    values = swin("parity", *cell.model, *files, *SMALL, *only, "--json").assert_done().json
    ends = [f"ONNX {cell.precision}", f"engine {cell.precision}"]
    assert values["passed"] is True
    assert_hops(values["hops"], cell, ["deploy model", *EMULATED[cell.precision], *ends])


@every_cell
def test_bench(cell: Cell, swin: Command) -> None:
    files = ("--onnx", cell.onnx(), "--engine", cell.engine())
    outcome = swin("bench", *cell.model, *files, "--batch", "1,2", "--seconds", 1, "--json")
    rows = outcome.assert_done().json["results"]
    names = [(row["name"], row["batch"]) for row in rows if row["kind"] != "original"]
    ends = [f"ONNX {cell.precision}", f"engine {cell.precision}"]
    assert names == [
        (name, batch) for batch in (1, 2) for name in ("PyTorch reference", "deploy model", *ends)
    ]
    for row in rows:
        assert not row["failed"] or row["kind"] == "original", row
        timed = row["kind"] in ("reference", "deploy") or row["name"] in ("ONNX fp32", "ONNX fp16")
        if timed:
            assert row["median_ms"] > 0
        elif NO_GPU and row["kind"] != "original":
            assert row["not_run"]


@every_cell
def test_evaluate(cell: Cell, swin: Command, images: Path) -> None:
    files = ("--onnx", cell.onnx(), "--engine", cell.engine(), "--data", images)
    outcome = swin("evaluate", *cell.model, *files, "--batch", 4, "--json")
    if cell.output != "logits":
        outcome.assert_error(f"gives {', '.join(cell.output_names)}, accuracy needs class logits")
        return
    values = outcome.json
    # Of random weights most are not better than guessing, and that is a verdict of its own.
    assert (outcome.status, values["verdict"]) in {(0, "pass"), (1, "inconclusive")}
    assert all(one["passed"] is not False for one in values["candidates"])
    assert values["images"] == IMAGES
    deploy, graph, engine = (one["not_run"] for one in values["candidates"])
    assert not deploy
    if NO_GPU:
        assert bool(graph) is (cell.precision == "bf16")
        assert "needs an NVIDIA GPU" in engine


@every_cell
def test_precision(cell: Cell, swin: Command) -> None:
    if cell.precision == "fp32":  # it has no noise to look for
        cell = dataclasses.replace(cell, precision="fp16")
    values = swin("precision", *cell.model, "--noise", cell.precision, "--json").assert_done().json
    assert values["parts"]
    assert all(part["noise"] is not None for part in values["parts"])


@every_cell
def test_run(cell: Cell, swin: Command) -> None:
    values = swin(*cell.run, "--json").assert_done().json
    jsonschema.Draft202012Validator(load_schema()).validate(values)
    half = [] if cell.precision == "fp32" else [cell.precision]
    onnx_hops = [f"ONNX {precision}" for precision in ("fp32", *half)]
    expected = ["deploy model", *EMULATED[cell.precision], *onnx_hops, f"engine {cell.precision}"]
    assert values["verdict"] == "pass"
    hops = values["parity"]["hops"]
    originals = [hop for hop in hops if hop["stage"] == "original"]
    assert len(originals) == (cell.family != "notebook")
    assert all(hop["passed"] is not False for hop in originals)
    assert [hop["name"] for hop in hops if hop not in originals] == expected
    assert len(values["artifacts"]) == len(onnx_hops) + 1
    assert {row["batch"] for row in values["bench"]["results"]} == {1, 2}


@every_cell
def test_report(cell: Cell, swin: Command) -> None:
    report = cell.report()
    values = swin("report", report, "--output", "again", "--json").assert_done().json
    assert values == json.loads(report.read_text())
    shown = swin("report", report).assert_done().out
    assert all(hop["name"].split()[0] in shown for hop in values["parity"]["hops"])
    same = swin("report", report.parent, "again", "--json").assert_done().json
    assert not same["regressions"]


@pytest.mark.parametrize("cell", CALIBRATED_CELLS, ids="-".join, indirect=True)
def test_calibrated_precisions_from_export_to_parity(cell: Cell, swin: Command) -> None:
    manifest = swin(*cell.export, "--json").assert_done().json
    assert manifest["precision"] == cell.precision
    hops = [f"ONNX {cell.precision}"]
    if cell.precision in FP8_FORMS:
        plan = swin(*cell.build, "--json").assert_done().json["plan"]
        reading = [one for one in plan["kernels"] if one["kind"] == "gemm" and one["fp8_inputs"]]
        assert len(reading) == len(manifest["calibration"]["scales"])
        assert plan["lost_fp8"] == []
        hops.insert(0, f"deploy model {cell.precision}, emulated")
    only = ("--original", "none", "--json")
    values = swin("parity", *cell.model, "--onnx", cell.onnx(), *SMALL, *only).assert_done().json
    found = {hop["name"]: hop for hop in values["hops"]}
    assert all(found[name]["passed"] for name in hops)


# What must fail, with status 1


def damaged(source: Path, target: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of an ONNX file with other weights; the metadata stays."""
    graph = onnx.load(source)
    change(graph.graph)
    onnx.save(graph, target)
    return target


def change_weight(body: onnx.GraphProto, size: float = 1.0) -> None:
    """One value of a matrix of the last block."""
    weights = {tensor.name: tensor for tensor in body.initializer}
    last = [node for node in body.node if node.name.endswith(".mlp.2/MatMul")][-1]
    values = numpy_helper.to_array(weights[last.input[1]]).copy()
    values[0, 0] += size
    weights[last.input[1]].CopyFrom(numpy_helper.from_array(values, last.input[1]))


def break_class(body: onnx.GraphProto) -> None:
    """NaN in the bias of the head."""
    (bias,) = [tensor for tensor in body.initializer if list(tensor.dims) == [CLASSES]]
    values = numpy_helper.to_array(bias).copy()
    values[0] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))


def assert_failed(outcome: Outcome) -> Any:  # noqa: ANN401 - any JSON value
    """Status 1 and a result that says why; no error and no traceback."""
    assert outcome.status == 1, outcome.err
    assert "error:" not in outcome.err
    assert "Traceback" not in outcome.err
    return outcome.json


@every_cell
def test_parity_of_a_damaged_weight_is_status_1(cell: Cell, swin: Command) -> None:
    cell = dataclasses.replace(cell, precision="fp32")
    bad = damaged(cell.onnx(), Path("bad.onnx"), change_weight)
    only = ("--original", "none")
    values = assert_failed(swin("parity", *cell.model, "--onnx", bad, *SMALL, *only, "--json"))
    deploy, graph = values["hops"]
    assert (deploy["passed"], graph["passed"]) == (True, False)
    assert "first wrong: " in graph["located"]
    assert ".mlp" in graph["located"] or "MLP" in graph["located"]
    failed = [result["inputs"] for result in graph["results"] if not result["passed"]]
    for one in SETS:
        wrong = f"{one}, {cell.output_names[-1]}" if cell.output == "stages" else one
        assert failed.count(wrong) == 2
        assert f"{one}, stage1" not in failed


def test_bench_of_a_damaged_weight_is_status_1(swin: Command, folder: Path) -> None:
    cell = Cell(folder, "swin", "stages", "fp32")
    bad = damaged(cell.onnx(), Path("bad.onnx"), lambda body: change_weight(body, 100.0))
    command = ("bench", *cell.model, "--onnx", bad, "--batch", 1, "--seconds", 1, "--json")
    rows = {row["name"]: row for row in assert_failed(swin(*command))["results"]}
    assert "its output is wrong" in rows["ONNX fp32"]["failed"]
    assert not rows["deploy model"]["failed"]


def test_evaluate_of_a_damaged_weight_is_status_1(
    swin: Command, folder: Path, images: Path
) -> None:
    cell = Cell(folder, "swin", "logits", "fp32")
    bad = damaged(cell.onnx(), Path("bad.onnx"), break_class)
    command = ("evaluate", *cell.model, "--onnx", bad, "--data", images, "--json")
    values = assert_failed(swin(*command))
    assert [one["passed"] for one in values["candidates"]] == [True, False]
    assert values["candidates"][1]["not_finite"] == IMAGES


def test_report_of_a_run_that_got_worse_is_status_1(swin: Command, folder: Path) -> None:
    cell = Cell(folder, "swin", "tokens", "fp32")
    Path("worse").mkdir()
    bad = damaged(cell.onnx(), Path("worse") / cell.onnx().name, change_weight)
    parity = ("--quiet", "parity", *cell.model, *SMALL)
    swin(*parity, "--onnx", cell.onnx(), "--report", "good").assert_done()
    assert swin(*parity, "--onnx", bad, "--report", "bad").status == 1
    assert assert_failed(swin("report", "good", "bad", "--json"))["regressions"]
    swin("report", "bad", "good", "--json").assert_done()


def test_build_trt_of_products_in_float32_is_status_1(swin: Command, folder: Path) -> None:
    full, half = (Cell(folder, "swin", "tokens", one) for one in ("fp32", "fp16"))
    graphs = onnx.load(half.onnx()), onnx.load(full.onnx())
    mixed = in_float32(*graphs, lambda name: "layers.0.mlp.2" in name)
    onnx.save(mixed, "mixed.onnx")
    outcome = swin("build-trt", "mixed.onnx", "--fp16", "--batch", 2, "--output", "x.engine")
    assert outcome.status == 1
    assert "would run in float32" in outcome.err
    assert not Path("x.engine").exists()


def test_run_of_a_model_beyond_float16_is_status_1(swin: Command, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, attention)
    sizes = ("--batch", 2, "--bench-seconds", 1)
    outcome = swin("run", "--checkpoint", checkpoint, "--fp16", *sizes, "--json")
    values = assert_failed(outcome)
    failed = {hop["name"] for hop in values["parity"]["hops"] if hop["passed"] is False}
    assert "deploy model fp16, emulated" in failed
    assert Path("report/report.json").exists()
