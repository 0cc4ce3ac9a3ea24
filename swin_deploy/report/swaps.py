"""A model around the deploy model beside the unmodified one, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from swin_deploy.report.numbers import error_text
from swin_deploy.report.tables import Columns, make_table
from swin_deploy.report.terminal import table_grid
from swin_deploy.swap.prove import OutputError

ERRORS: Columns[OutputError] = {
    "Compared with the unmodified": ("text", lambda one: one.of),
    "Output": ("text", lambda one: one.output),
    "Error, RMS": ("number", lambda one: error_text(one.error)),
    "Allowed": ("number", lambda one: error_text(one.limit)),
    "Verdict": ("verdict", lambda one: "pass" if one.passed else "FAIL"),
}


def render_errors(errors: Sequence[OutputError]) -> RenderableType:
    """Return one row for each output."""
    return table_grid(make_table(errors, ERRORS))


def errors_to_json(errors: Sequence[OutputError]) -> list[dict[str, Any]]:
    """Return one object for each output; an infinite error is null."""
    return [
        {
            "of": one.of,
            "output": one.output,
            "error": one.error if math.isfinite(one.error) else None,
            "limit": one.limit,
            "passed": one.passed,
        }
        for one in errors
    ]
