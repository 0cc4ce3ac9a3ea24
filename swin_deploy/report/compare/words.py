"""A comparison of two reports in words, as a table and as JSON values, for every renderer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from swin_deploy.report.compare import RunComparison
from swin_deploy.report.compare.changes import Change
from swin_deploy.report.numbers import one_line
from swin_deploy.report.tables import Table
from swin_deploy.report.words import count_noun

SCHEMA = 1


def comparison_headline(found: RunComparison) -> str:
    """Return the verdict in a few words."""
    count = len(found.regressions)
    return f"Worse: {count_noun(count, 'regression')}" if count else "No regression"


def comparison_sentences(found: RunComparison) -> tuple[str, ...]:
    """Return the number of compared lines by verdict, and whether both runs fail."""
    counts = Counter(change.verdict for change in found.changes)
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    sentences = [f"{count_noun(len(found.changes), 'line')} compared: {words}."]
    verdict = found.changes[0]
    if verdict.now == "fail" and verdict.verdict == "same":
        sentences.append("Both runs fail: see each report.")
    return tuple(sentences)


def told_changes(found: RunComparison) -> tuple[Change, ...]:
    """Return the overall verdict, then every change that is not ``same``, the worse ones first."""
    order = ("worse", "missing", "not comparable", "better", "new")
    others = [change for change in found.changes[1:] if change.verdict != "same"]
    return (found.changes[0], *sorted(others, key=lambda change: order.index(change.verdict)))


def change_table(changes: Sequence[Change]) -> Table:
    """Return one row a change."""
    rows = (
        (change.what, change.before, change.now, change.verdict, change.note) for change in changes
    )
    return Table(
        (
            ("What", "text"),
            ("Before", "text"),
            ("Now", "text"),
            ("Verdict", "verdict"),
            ("Note", "text"),
        ),
        tuple(tuple(one_line(cell) for cell in row) for row in rows),
    )


def condition_table(found: RunComparison) -> Table:
    """Return the conditions of the two reports that differ."""
    rows = ((change.what, change.before, change.now) for change in found.conditions)
    return Table(
        (("Condition", "text"), ("Before", "text"), ("Now", "text")),
        tuple(tuple(one_line(cell) for cell in row) for row in rows),
    )


def comparison_to_dict(found: RunComparison) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return {
        "schema": SCHEMA,
        "model": found.model,
        "before": found.before,
        "now": found.now,
        "regressions": len(found.regressions),
        "changes": [asdict(change) for change in found.changes],
        "conditions": [
            {"what": change.what, "before": change.before, "now": change.now}
            for change in found.conditions
        ],
    }
