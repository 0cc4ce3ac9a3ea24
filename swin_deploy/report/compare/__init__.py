"""Two reports of one model: what got worse, what got better, and what cannot be compared.

===========  =============================================================
``changes``  one change and its verdict, and how much worse is worse
``parity``   hops, flips, accuracy on labelled images
``plan``     the kernel plan and the files
``speed``    throughput, where machine and versions are the same
``words``    the comparison in words, as a table and as JSON values
``pages``    a comparison of two reports for the terminal, and as Markdown
===========  =============================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exporters.errors import ComparisonError
from swin_deploy.report.compare.changes import REGRESSIONS, Change, Limits, rank_change
from swin_deploy.report.compare.parity import compare_evaluation, compare_parity
from swin_deploy.report.compare.plan import compare_files, compare_plan
from swin_deploy.report.compare.speed import compare_bench
from swin_deploy.report.results import Report

__all__ = ["Change", "Limits", "RunComparison", "compare_reports"]


@dataclass(frozen=True)
class RunComparison:
    """What changed from one report to the next.

    Attributes:
        model: Model name.
        before: When the first was made.
        now: When the second was.
        changes: Everything that was compared.
        conditions: What differs in what the reports hold for.
    """

    model: str
    before: str
    now: str
    changes: tuple[Change, ...]
    conditions: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What got worse or is missing now."""
        return tuple(change for change in self.changes if change.verdict in REGRESSIONS)


DEFAULT_LIMITS = Limits()


def compare_reports(before: Report, now: Report, limits: Limits = DEFAULT_LIMITS) -> RunComparison:
    """Compare two reports of one model.

    Args:
        before: The earlier one.
        now: The later one.
        limits: How much worse is a regression.

    Raises:
        ComparisonError: If they are of different models or image sizes.
    """
    size = "image size"
    for name, first, second in (
        ("model", before.model, now.model),
        (size, before.conditions.get(size), now.conditions.get(size)),
    ):
        if first != second:
            raise ComparisonError(
                f"the reports cannot be compared: {name} {first} before, {second} now; give two "
                "reports of one model"
            )
    word = rank_change("Verdict", before.verdict, now.verdict, ("fail", "not judged", "pass"))
    changes = (
        word,
        *compare_parity(before.parity, now.parity, limits),
        *compare_evaluation(before.evaluation, now.evaluation, limits),
        *compare_plan(before.plan, now.plan, limits),
        *compare_files(before.artifacts, now.artifacts, limits),
        *compare_bench(before.bench, now.bench, limits),
    )
    conditions = tuple(_other_conditions(before.conditions, now.conditions))
    return RunComparison(now.model, before.created, now.created, changes, conditions)


def _other_conditions(before: dict[str, str], now: dict[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            first, second = before.get(name, "-"), now.get(name, "-")
            yield Change(name, first, second, "not comparable")
