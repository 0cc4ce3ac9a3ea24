"""A comparison of two reports in words, as a table and as JSON values, for every renderer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from swin_deploy.report.compare import RunComparison
from swin_deploy.report.compare.changes import Change
from swin_deploy.report.tables import Columns, Table, make_table
from swin_deploy.report.words import count_noun

SCHEMA = 1
SIDES: Columns[Change] = {
    "Before": ("text", lambda change: change.before),
    "Now": ("text", lambda change: change.now),
}


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
    columns: Columns[Change] = {
        "What": ("text", lambda change: change.what),
        **SIDES,
        "Verdict": ("verdict", lambda change: change.verdict),
        "Note": ("text", lambda change: change.note),
    }
    return make_table(changes, columns)


def condition_table(found: RunComparison) -> Table:
    """Return the conditions of the two reports that differ."""
    what: Columns[Change] = {"Condition": ("text", lambda change: change.what)}
    return make_table(found.conditions, {**what, **SIDES})


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
