"""``run --quick``: a first look that says that it is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Command


def test_quick_run_times_nothing_and_says_so(swin: Command) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    outcome = swin("run", "--model", "digits", "--quick", "--fp32").assert_done()
    assert "Measuring throughput" not in outcome.err
    assert "warning: quick: 8 images at most, one batch size (4), no throughput" in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("next: ")]
    assert line.startswith("next: swin-deploy run --model digits --fp32  #")
    document = json.loads(Path("report/report.json").read_text())
    assert document["bench"] is None
    assert document["conditions"]["quick"].startswith("8 images at most")
    assert "8 images at most" in Path("report/report.html").read_text()
    hops = {hop["name"]: hop["results"] for hop in document["parity"]["hops"]}
    pictures = [one for one in hops["deploy model"] if one["inputs"] == "images"]
    assert [(one["batch"], one["rows"]) for one in pictures] == [(4, 8)]


@pytest.mark.parametrize("arguments", [("--bench-seconds", "5"), ("--bench-seconds", "20")])
def test_quick_run_with_time_for_throughput_is_wrong_usage(
    arguments: tuple[str, ...], swin: Command
) -> None:
    outcome = swin("run", "--quick", *arguments)
    assert outcome.status == 2
    assert "--quick times nothing" in outcome.err
