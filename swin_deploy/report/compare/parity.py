"""Hops, flips and accuracy of two reports."""

from __future__ import annotations

from collections.abc import Iterator

from swin_deploy.evaluate.accuracy import BackendAccuracy, Evaluation, Score
from swin_deploy.parity import Check, Hop, ParityReport
from swin_deploy.parity.checks import FIGURES
from swin_deploy.report.compare.changes import (
    Change,
    Limits,
    Verdict,
    accuracy_change,
    judged,
    missing,
    paired,
    rank_change,
)
from swin_deploy.report.numbers import error_text, percent_text
from swin_deploy.report.words import count_flips, verdict_word

LABELLED = "Accuracy on labelled images"


def compare_parity(before: ParityReport, now: ParityReport, limits: Limits) -> Iterator[Change]:
    """Compare every hop: verdict, error, flips and accuracy.

    Figures are compared on the same images and weights only.
    """
    for name in before.inputs:
        if name not in now.inputs:
            yield missing(f"Images: {name}")
    reason = _other_inputs(before, now)
    for name, hop, later in paired(before.hops, now.hops, lambda hop: hop.name):
        if hop is not None:
            yield from _hop(name, hop, later, limits=limits, reason=reason)
        elif later is not None:
            verdict: Verdict = "worse" if later.passed is False else "new"
            yield Change(name, "-", verdict_word(later.passed), verdict)


def _other_inputs(before: ParityReport, now: ParityReport) -> str:
    """Return the reason why figures cannot be compared, whatever the images' folder; else empty."""
    if before.weights != now.weights:
        return "other weights"
    sets = [[(s.name, s.contents) for s in one.image_sets] for one in (before, now)]
    return "" if sets[0] == sets[1] else "other images"


def _hop(
    name: str, before: Hop, now: Hop | None, *, limits: Limits, reason: str
) -> Iterator[Change]:
    word = verdict_word(before.passed)
    if now is None or (now.passed is None and before.passed is not None):
        yield missing(name, word, now.not_run if now else "")
        return
    yield rank_change(name, word, verdict_word(now.passed), ("FAIL", "not run", "pass"))
    if before.passed is None or now.passed is None:
        return
    worst = [_worst_checks(hop) for hop in (before, now)]
    for figure in (one for one in worst[0] if one in worst[1]):
        what = f"{name}: error, {figure}"
        yield _needed(what, worst[0][figure], worst[1][figure], limits, reason)
    yield from _flips(name, before, now, reason)
    if before.top1_accuracy is not None and now.top1_accuracy is not None:
        images = max((result.rows for result in now.results), default=1)
        pair = before.top1_accuracy, now.top1_accuracy
        yield accuracy_change(f"{name}: top-1", pair, images, limits, reason)


def _worst_checks(hop: Hop) -> dict[str, Check]:
    """Return for each figure the check that is nearest to its limit."""
    worst: dict[str, Check] = {}
    for check in (check for result in hop.results for check in result.checks):
        figure = FIGURES.get(check.figure, check.figure)
        worst[figure] = max(worst.get(figure, check), check, key=lambda one: one.share)
    return dict(sorted(worst.items()))


def _needed(what: str, before: Check, now: Check, limits: Limits, reason: str) -> Change:
    floor = max(before.floor or 0.0, now.floor or 0.0)
    margin = limits.floors * floor if floor else limits.allowed_share * now.allowed
    rise = now.needed - before.needed
    noise = f"noise {error_text(floor)}, " if floor else ""
    return Change(
        what,
        error_text(before.needed),
        error_text(now.needed),
        judged(-rise, margin, reason),
        reason or f"{noise}limit {error_text(now.allowed)}",
    )


def _flips(name: str, before: Hop, now: Hop, reason: str) -> Iterator[Change]:
    first, second = count_flips(before), count_flips(now)
    if first and second:
        verdict = judged(first[0] - second[0], 0, reason)
        yield Change(f"{name}: flips", str(first[0]), str(second[0]), verdict, reason)


def compare_evaluation(before: Evaluation, now: Evaluation, limits: Limits) -> Iterator[Change]:
    """Compare the accuracy on labelled images."""
    words = verdict_word(before.passed), verdict_word(now.passed)
    reason = "other weights" if before.weights != now.weights else ""
    if before.images != now.images:
        reason = "other images"
    if reason:
        yield Change(LABELLED, words[0], words[1], "not comparable", reason)
    else:
        yield rank_change(LABELLED, words[0], words[1], ("FAIL", "pass"))
    for name, one, later in paired(before.candidates, now.candidates, lambda c: c.name):
        if one is not None and one.top1 is not None:
            yield _candidate(f"{name}: top-1, labelled", one.top1, later, limits, reason)


def _candidate(
    what: str, before: Score, now: BackendAccuracy | None, limits: Limits, reason: str
) -> Change:
    if now is None or now.top1 is None:
        return missing(what, percent_text(before.accuracy), now.not_run if now else "")
    pair = before.accuracy, now.top1.accuracy
    return accuracy_change(what, pair, now.top1.images, limits, reason)
