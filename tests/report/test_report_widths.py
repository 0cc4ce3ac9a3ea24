"""Tables at the widths of terminals: no word is cut, no line is too long."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Command
from report_samples import (
    FAILING,
    FAILING_PARITY,
    PARTLY,
    PASSING,
    make_bench,
    make_evaluation,
    make_plan,
)
from rich.console import Console, RenderableType
from rich.text import Text

from exporters.plan.roofline import GPUS, bound_plan
from swin_deploy.doctor import Finding
from swin_deploy.report import terminal
from swin_deploy.report.grids import Column, Grid
from swin_deploy.report.models import render_findings

PLAN = make_plan()
RENDERED: dict[str, Callable[[], RenderableType]] = {
    "report": lambda: terminal.render_summary(PASSING),
    "report of a failure": lambda: terminal.render_summary(FAILING),
    "report not run": lambda: terminal.render_summary(PARTLY),
    "parity": lambda: terminal.render_parity(FAILING_PARITY),
    "bench": lambda: terminal.render_bench(make_bench()),
    "evaluate": lambda: terminal.render_evaluation(make_evaluation()),
    "plan": lambda: terminal.render_plan(PLAN),
    "bounds": lambda: terminal.render_bounds([bound_plan(PLAN, gpu) for gpu in GPUS.values()]),
    "doctor": lambda: render_findings(
        [Finding("onnxruntime", "missing", "not installed", "pip install 'swin-deploy[cpu]'")]
    ),
}


def lines_of(rendered: RenderableType, width: int) -> list[str]:
    page = io.StringIO()
    Console(file=page, width=width, highlight=False).print(rendered)
    return page.getvalue().splitlines()


def words_of(lines: list[str]) -> set[str]:
    return {word for line in lines for word in line.split()}


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("name", RENDERED)
def test_no_word_is_cut_and_no_line_is_too_long(name: str, width: int) -> None:
    rendered = RENDERED[name]()
    whole = words_of(lines_of(rendered, 1000))
    lines = lines_of(rendered, width)
    assert max(map(len, lines)) <= width
    known = whole | {f"{word}:" for word in whole}  # headers of what is stacked
    cut = {w for w in words_of(lines) - known if "…" not in w and not set(w) <= set("─")}
    # A word that is wider than the terminal must be cut, and a header may stand on its own.
    headers = {part for line in whole for part in re.split(r"(?<=\w)\s", line)}
    assert not {word for word in cut - headers if not any(len(one) > width - 2 for one in whole)}


@pytest.mark.parametrize("name", ["report", "parity"])
def test_parity_has_columns_at_80_and_is_stacked_at_60(name: str) -> None:
    rendered = RENDERED[name]()
    head = re.compile(r"^ *Verdict ", re.MULTILINE)
    assert any("Verdict" in line and "Rule" in line for line in lines_of(rendered, 80))
    stacked = lines_of(rendered, 60)
    assert not any("Verdict" in line and "Rule" in line for line in stacked)
    assert "  Verdict: pass" in map(str.rstrip, stacked) or "  Verdict: FAIL" in stacked
    assert not head.search("\n".join(stacked))


def test_grid_that_cuts_words_would_be_noticed() -> None:
    grid = Grid((Column("Name"), Column("Text")), [(Text("a" * 27), Text("b" * 27))])
    assert max(map(len, lines_of(grid, 40))) <= 40
    assert "Text: " in "\n".join(lines_of(grid, 57))
    assert "Text: " not in "\n".join(lines_of(grid, 60))


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", [("models",), ("doctor",), ("report", "a"), ("plan", "{}")])
def test_commands_keep_to_the_columns_there_are(
    width: int,
    command: tuple[str, ...],
    swin: Command,
    place: Path,
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert os.getcwd() == str(place)
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = swin(*(word.format(engine) for word in command))
    assert outcome.status in (0, 1)
    assert max(len(line) for line in outcome.out.splitlines()) <= width
    if command == ("models",):
        assert {"swin_tiny", "swinv2_large_window12to24_192to384"} <= words_of(
            outcome.out.splitlines()
        )
