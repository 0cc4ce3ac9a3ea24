"""Changes between two reports of one model: worse, better, missing, or not comparable.

===========  =============================================================
``changes``  one change and its verdict, and the limits of a regression
``parity``   hops, flips, accuracy on labelled images
``plan``     the kernel plan and the files
``speed``    throughput, if machine and versions are the same
``words``    the comparison in words, as a table and as JSON values
``pages``    a comparison of two reports for the terminal, and as Markdown
===========  =============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from exporters.errors import ComparisonError
from swin_deploy.report.compare.changes import (
    REGRESSIONS,
    Change,
    Limits,
    missing,
    rank_change,
)
from swin_deploy.report.compare.parity import LABELLED, compare_evaluation, compare_parity
from swin_deploy.report.compare.plan import compare_files, compare_plan
from swin_deploy.report.compare.speed import compare_bench
from swin_deploy.report.results import Report

__all__ = ["Change", "Limits", "RunComparison", "compare_reports"]


@dataclass(frozen=True)
class RunComparison:
    """Changes from one report to the next.

    Attributes:
        model: Model name.
        before: Time at which the first report was made, in UTC and ISO 8601.
        now: Time at which the second report was made, in UTC and ISO 8601.
        changes: Everything that was compared, the overall verdict first.
        conditions: Conditions of the reports that differ.
    """

    model: str
    before: str
    now: str
    changes: tuple[Change, ...]
    conditions: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Changes for the worse, and things that are missing now."""
        return tuple(change for change in self.changes if change.verdict in REGRESSIONS)


T = TypeVar("T")
DEFAULT_LIMITS = Limits()
RANKS = ("fail", "inconclusive", "not judged", "pass")  # of verdicts, the best last


def compare_reports(before: Report, now: Report, limits: Limits = DEFAULT_LIMITS) -> RunComparison:
    """Compare two reports of one model.

    Args:
        before: The earlier report.
        now: The later report.
        limits: Limits beyond which a change for the worse is a regression.

    Raises:
        ComparisonError: If the reports are about different models or image sizes.
    """
    size = "image size"
    for name, first, second in (
        ("model", before.model, now.model),
        (size, before.made_from.get(size), now.made_from.get(size)),
    ):
        if first and second and first != second:
            raise ComparisonError(
                f"the reports cannot be compared: {name} {first} before, {second} now; give two "
                "reports of one model"
            )
    word = rank_change("Verdict", before.verdict, now.verdict, RANKS)
    changes = (
        word,
        *_both("Parity", compare_parity, before.parity, now.parity, limits),
        *_both(LABELLED, compare_evaluation, before.evaluation, now.evaluation, limits),
        *_both("Kernel plan", compare_plan, before.plan, now.plan, limits),
        *compare_files(before.artifacts, now.artifacts, limits),
        *_both("Throughput", compare_bench, before.bench, now.bench, limits),
    )
    conditions = tuple(_other_conditions(before.conditions, now.conditions))
    return RunComparison(now.model, before.created, now.created, changes, conditions)


def _both(
    name: str,
    compare: Callable[[T, T, Limits], Iterable[Change]],
    before: T | None,
    now: T | None,
    limits: Limits,
) -> Iterable[Change]:
    """Compare a part that both reports have; one that is not there any more is missing."""
    if before is None:
        return () if now is None else [Change(name, "-", "there", "new")]
    return [missing(name)] if now is None else compare(before, now, limits)


def _other_conditions(before: dict[str, str], now: dict[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            first, second = before.get(name, "-"), now.get(name, "-")
            yield Change(name, first, second, "not comparable")
