"""What the page of the GPU suite says of its document."""

import pytest

from benchmarks.gpu_suite.document import (
    DRY_RUN,
    of_this_device,
    open_document,
)
from benchmarks.gpu_suite.markdown import render_document
from benchmarks.gpu_suite.models import TINY
from benchmarks.gpu_suite.speed import _by_batch
from benchmarks.gpu_suite.summary import (
    cut_short,
    engine_answers,
    found_faults,
    goals,
    speed_table,
)
from swin_deploy.bench import BenchReport, BenchResult, Comparison

# what the page says


def row(name, speed, kind, mode="eager", precision="fp16"):
    model, _, way = name.partition(", ")
    return {
        "name": name, "model": model, "way": way,
        "images_per_s": speed, "kind": kind, "mode": mode, "precision": precision,
        "batch": 128, "not_run": "", "failed": "", "backend": "B", "iterations": 20,
        "relative_l2": 1e-4,
    }  # fmt: skip


def measured(*rows, title="gpu suite", **others):
    """A document whose throughput part has these rows; other parts have theirs."""
    parts = {f"throughput-{TINY}": rows} | {
        f"{name}-{TINY}": found for name, found in others.items()
    }
    return {
        "title": title,
        "parts": {
            name: {
                "status": "done", "reason": "", "seconds": 1.0, "conditions": {"device": "H200"},
                "data": {"batches": {"128": {"results": list(found)}}},
            }
            for name, found in parts.items()
        },
    }  # fmt: skip


TIMM = row("timm's model, compiled", 8000.0, "original", "compile")
RTX = row("tensorrt-rtx fp16", 10000.0, "engine", "file")


def test_goals_compare_with_what_was_measured():
    document = measured(
        TIMM,
        row("deploy model", 9000.0, "deploy"),
        RTX,
        float32=[
            row("timm's model", 2000.0, "original", precision="fp32"),
            row("tensorrt-rtx fp16, CUDA graph", 9900.0, "engine", "file"),
        ],
        pytorch=[
            row("timm's model", 5000.0, "original"),
            row("timm's model, CUDA graph", 6000.0, "original", "graph"),
            row("deploy model, CUDA graph", 6600.0, "deploy", "graph"),
        ],
    )
    speed, compiled, eager = goals(document)
    assert (speed.verdict, speed.measured.split()[0]) == ("met", "10,000")
    assert (compiled.verdict, compiled.measured.split()[0]) == ("missed", "1.25x")
    assert (eager.verdict, eager.measured.split()[0]) == ("met", "4.95x")
    assert "in the same arithmetic 1.10x" in eager.measured
    assert [goal.verdict for goal in goals(measured())] == ["not measured"] * 3
    dry = goals(document | {"title": DRY_RUN})
    assert {goal.verdict for goal in dry} == {DRY_RUN}


def test_goals_are_of_the_rounds_of_one_process():
    """The best of one part is not held against the best of another."""
    apart = measured(RTX, pytorch=[TIMM])
    assert goals(apart)[1].verdict == "not measured"
    slower = measured(RTX, TIMM, pytorch=[TIMM | {"images_per_s": 1.0}, RTX])
    assert goals(slower)[1].measured.startswith("1.25x")


def test_goals_count_the_compiled_deploy_model_as_ours():
    ours = row("deploy model, compiled", 12000.0, "deploy", "compile")
    assert goals(measured(ours, TIMM))[1].measured.startswith("1.50x")
    assert goals(measured(ours))[1].verdict == "not measured"  # it is no bar for itself


def test_goals_leave_out_rows_that_failed():
    fast = row("deploy model", 99999.0, "deploy") | {"failed": "wrong output"}
    assert goals(measured(fast))[0].verdict == "not measured"


def test_answers_leave_out_rows_whose_output_nothing_was_held_against():
    unchecked = row("deploy model", 99999.0, "deploy") | {"relative_l2": None}
    assert goals(measured(unchecked))[0].verdict == "not measured"
    assert goals(measured(unchecked, TIMM, RTX))[1].measured.startswith("1.25x")


def test_page_of_two_devices_answers_for_the_last_one_and_says_which_is_not(tmp_path):
    document = measured(RTX, pytorch=[RTX | {"images_per_s": 77777.0}])
    document["parts"][f"pytorch-{TINY}"]["conditions"] = {"device": "another"}
    document["conditions"] = {"device": "H200", "code": "2"}
    here = of_this_device(document)
    assert goals(here)[0].measured.startswith("10,000")
    page = render_document(open_document(tmp_path / "r.json", dry=False) | {
        "parts": {
            name: part | {"data": None} for name, part in document["parts"].items()
        },
        "conditions": document["conditions"],
    })  # fmt: skip
    assert "# GPU suite: H200" in page
    assert f"| pytorch-{TINY} | done | 1 | other code, device |" in page
    assert f"| throughput-{TINY} | done | 1 | other code |" in page


HOP = {"passed": True, "results": [{"cosine": 0.9999}], "name": "engine", "located": ""}
RIGHT = {"finite": True, "relative l2": 1e-3}


@pytest.mark.parametrize(
    ("found", "words", "faults"),
    [
        ({"parity": {"hops": [HOP]}}, "within tolerance, smallest cosine 0.9999000", 0),
        ({"parity": {"hops": [HOP, HOP | {"passed": False}]}}, "OUT OF TOLERANCE", 1),
        ({"parity": None, "failed": {"x": "no memory"}}, "NOT JUDGED (no memory)", 1),
        ({"parity": {"hops": [HOP]}, "runs": {"8": RIGHT, "128": RIGHT | {"relative l2": 0.3}}},
         "WRONG at batch 128", 1),
        ({"parity": {"hops": [HOP]}, "as a CUDA graph": {"runs": {"1": RIGHT | {"finite": False}}}},
         "WRONG at batch 1 as a CUDA graph", 1),
    ],
    ids=["right", "out", "not judged", "wrong", "wrong graph"],
)  # fmt: skip
def test_engine_answers_and_faults_are_of_what_was_judged_and_called(found, words, faults):
    part = {"status": "done", "reason": "", "data": found | {"target": "default"}}
    document = {"parts": {"engine-tensorrt-rtx-m": part}}
    (answer,) = engine_answers(document)
    assert answer.startswith(f"tensorrt-rtx, m: runs (target default), {words}")
    assert len(found_faults(document)) == faults


def test_page_shows_what_was_cut_short_without_ratios():
    document = measured(RTX, TIMM)
    part = document["parts"][f"throughput-{TINY}"]
    part["data"]["under way"] = {"1": {"results": [TIMM | {"batch": 1, "iterations": 5}]}}
    assert cut_short(document) == [
        [f"throughput-{TINY}", "1", "timm's model, compiled, fp16", "8,000", "5"]
    ]
    assert [table_row[1] for table_row in speed_table(document)] == ["128"]


@pytest.mark.parametrize(
    ("name", "flavor", "model"),
    [
        ("engine-tensorrt-rtx-notebook-swin-t", "tensorrt-rtx", "notebook-swin-t"),
        ("engine-tensorrt-notebook-swin-t", "tensorrt", "notebook-swin-t"),
    ],
)
def test_engine_answers_say_how_far_a_broken_engine_came(name, flavor, model):
    runs = {"8": {"relative l2": 1e-3, "first call s": 2.0, "finite": True}}
    part = {"status": "failed", "reason": "SIGSEGV", "data": {"runs": runs}}
    (answer,) = engine_answers({"parts": {name: part}})
    assert answer == f"{flavor}, {model}: failed (SIGSEGV); batch 8 ran, relative L2 0.001"


def test_faults_are_failures_and_steps_out_of_tolerance_not_what_is_missing():
    hop = {"name": "ONNX fp16", "passed": False, "located": "stage 1, block 2"}
    document = {
        "title": "gpu suite",
        "parts": {
            "a": {"status": "not run", "reason": "no GPU", "data": None},
            "b": {"status": "failed", "reason": "SIGSEGV", "data": None},
            "c": {"status": "cut short", "reason": "it was ended after 9 s", "data": None},
            "parity-x": {
                "status": "done",
                "reason": "",
                "data": {
                    "parity": {"hops": [hop, hop | {"passed": True}, hop | {"passed": None}]},
                    "failed": {"deploy model": "out of memory"},
                    "not run": {"ONNX fp32": "no onnxruntime"},
                },
            },
        },
    }
    assert found_faults(document) == [
        "b failed: SIGSEGV",
        "parity-x, deploy model failed: out of memory",
        "parity-x, ONNX fp16: out of tolerance (stage 1, block 2)",
    ]


def test_page_of_nothing_says_so(tmp_path):
    page = render_document(open_document(tmp_path / "r.json", dry=False))
    assert "no part done" in page
    assert "not measured" in page


def test_report_of_several_batches_is_taken_apart_with_its_comparisons():
    results = [BenchResult("ONNX fp32", batch, "fp32", "B", kind="onnx") for batch in (8, 1)]
    compared = [Comparison(batch, "original", "a", "b", 1.5) for batch in (8, 1)]
    found = _by_batch(BenchReport("m", 224, tuple(results), {}, tuple(compared)))
    assert list(found) == ["8", "1"]
    for batch, values in found.items():
        assert [one["batch"] for one in values["results"]] == [int(batch)]
        assert [one["batch"] for one in values["comparisons"]] == [int(batch)]
