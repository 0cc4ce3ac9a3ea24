"""Files after an end at every file-system step: killed, asked to end, interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kill_at_each_step import CASES, NOTICED

if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

PROGRAM = Path(__file__).parent.parent / "support" / "kill_at_each_step.py"
ROOT = PROGRAM.parent.parent
SIGNALS = ("SIGKILL", "SIGTERM")


def end_at_each_step(
    folder: Path, case: str, *command: object, number: str, stride: int = 1
) -> Any:  # noqa: ANN401
    """The problems found and the numbers of steps, from a process that may fork."""
    arguments = (case, number, folder / "work", stride, *command)
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{PROGRAM.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("case", sorted(set(CASES) - NOTICED.keys()))
def test_work_ended_at_each_step_leaves_the_old_or_the_new(
    case: str, number: str, tmp_path: Path
) -> None:
    found = end_at_each_step(tmp_path, case, number=number)
    assert found["problems"] == []
    assert found["steps"] > 15


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_work_that_is_asked_to_end_leaves_all_files_or_none(number: str, tmp_path: Path) -> None:
    found = end_at_each_step(tmp_path, "all-or-none", number=number)
    assert found["problems"] == []


@pytest.mark.parametrize("case", NOTICED)
def test_the_check_notices(case: str, tmp_path: Path) -> None:
    found = end_at_each_step(tmp_path, case, number="SIGKILL")
    assert any(NOTICED[case] in problem for problem in found["problems"])


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_build_trt_ended_at_its_steps_leaves_pairs(
    number: str, full: Path, engine: Path, tmp_path: Path
) -> None:
    found = end_at_each_step(
        tmp_path, "command", engine, "build-trt", full, "--fp16", "--batch", "1", "--output",
        "x.engine", number=number, stride=37,
    )  # fmt: skip
    assert found["problems"] == []
    assert found["steps"] > 60


@pytest.mark.slow
def test_export_ended_at_its_steps_leaves_pairs(full: Path, tmp_path: Path) -> None:
    found = end_at_each_step(
        tmp_path, "command", full, "export", "--model", "notebook-digits", "--output", "x.onnx",
        number="SIGKILL", stride=19,
    )  # fmt: skip
    assert found["problems"] == []
    assert found["steps"] > 20
