"""The judge of ``scripts/try_hostile``: it must reject each way to end badly."""

import dataclasses
from pathlib import Path

import pytest
from hostile_cases import GROUPS
from hostile_run import MOST_BYTES, MOST_LETTERS, MOST_S, Case, Ending, problem_of

CASE = Case("a case", lambda folder: (folder,), names="bad.pt")
GOOD = Ending(3, "error: bad.pt is damaged; copy it again\n", 1.0, 1 << 20)


def test_problem_of_a_good_ending_is_none() -> None:
    assert problem_of(CASE, GOOD, left=[]) == ""
    assert problem_of(CASE, dataclasses.replace(GOOD, status=0, errors=""), left=["out.onnx"]) == ""


@pytest.mark.parametrize(
    ("changes", "left", "message"),
    [
        ({"errors": "Traceback (most recent call last):\nKeyError: 1\n"}, [], "traceback, status"),
        ({"status": 1}, [], "status 1"),
        ({"status": -9}, [], "status -9"),
        ({"status": 70}, [], "status 70"),
        ({"seconds": MOST_S + 1}, [], "11.0 s"),
        ({"peak_bytes": MOST_BYTES + 1}, [], "1.1 GB"),
        ({"errors": f"x.py:1: UserWarning: x\n{GOOD.errors}"}, [], "noise"),
        ({"errors": "x.py:1: RuntimeWarning: x\n", "status": 0}, [], "noise"),
        ({"errors": ""}, [], "not one line at the end"),
        ({"errors": GOOD.errors * 2}, [], "not one line at the end"),
        ({"errors": f"{GOOD.errors}more\n"}, [], "not one line at the end"),
        ({"errors": f"error: bad.pt {'x' * MOST_LETTERS}\n"}, [], "a line of 514 letters"),
        ({"errors": "error: it is damaged\n"}, [], "does not name bad.pt"),
        ({}, ["half.onnx"], "left behind: ['half.onnx']"),
        ({"status": 0}, ["pwned"], "code ran"),
    ],
)  # fmt: skip
def test_problem_of_a_bad_ending_is_said(
    changes: dict[str, object], left: list[str], message: str
) -> None:
    ending = dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]
    assert message in problem_of(CASE, ending, left=left)


def test_groups_are_these() -> None:
    assert list(GROUPS) == ["checkpoints", "onnx", "json", "images", "options"]
    names = [case.name for case in GROUPS["options"](Path("honest"), 0)]
    assert len(names) == len(set(names)) > 500
