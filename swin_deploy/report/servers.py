"""Checks of a server, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from swin_deploy.report.numbers import one_line
from swin_deploy.report.tables import Columns, make_table
from swin_deploy.report.terminal import table_grid
from swin_deploy.serving.answers import Check
from swin_deploy.serving.check import ServerReport

WORDS = {"pass": "pass", "fail": "FAIL", "not run": "not run"}
CHECKS: Columns[Check] = {
    "Check": ("text", lambda one: one.name),
    "Found": ("text", lambda one: one_line(one.detail)),
    "Verdict": ("verdict", lambda one: WORDS[one.outcome]),
}


def render_server(report: ServerReport) -> RenderableType:
    """Return the verdict, and one row for each check."""
    verdict = "PASS" if report.passed else "FAIL"
    title = f"{verdict}: {report.model} on {report.url}, compared with {report.reference}"
    return Group(Text(one_line(title)), table_grid(make_table(report.checks, CHECKS)))


def server_json(report: ServerReport) -> dict[str, Any]:
    """Return the verdict and the checks as JSON values."""
    return {"verdict": "pass" if report.passed else "fail", **dataclasses.asdict(report)}
