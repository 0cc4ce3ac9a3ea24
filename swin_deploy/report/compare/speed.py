"""Throughput of two reports: ratios are compared if machine, threads and versions are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.report.compare.changes import Change, Limits, Verdict, missing, paired
from swin_deploy.report.numbers import ratio_text

# Conditions of the method, not of the machine: the intervals account for these.
METHOD = (
    "order",
    "interval",
    "warm-up",
    "iterations",
    "left out",
    "GPU before",
    "GPU during",
    "GPU after",
)
Span = tuple[float, float]


def compare_bench(before: BenchReport, now: BenchReport, limits: Limits) -> Iterator[Change]:
    """Compare the speed of every runner that was timed, and that of the fastest shipped."""
    pairs = paired(before.results, now.results, _runner)
    timed = [(name, one, found) for name, one, found in pairs if one is not None and one.timed]
    for name, one, found in timed:
        if found is None or not found.timed:
            note = (found.failed or found.not_run) if found else ""
            yield missing(name, ratio_text(one.ratio), note)
    other = _other_machine(before, now)
    if other:
        yield Change("Throughput", "-", "-", "not comparable", f"other machine: {other}")
        return
    baseline = _baseline(before)
    for name, one, found in timed:
        if found is not None and found.timed and one.name != baseline:
            spans = (one.ratio_low, one.ratio_high), (found.ratio_low, found.ratio_high)
            yield _speed(name, (one.ratio, found.ratio), spans, limits)
    yield from _comparisons(before, now, limits)


def _baseline(bench: BenchReport) -> str:
    return bench.results[0].name if bench.results else ""


def _runner(result: BenchResult) -> str:
    return f"{result.name}, {result.precision}, batch {result.batch}"


def _other_machine(before: BenchReport, now: BenchReport) -> str:
    """Return the conditions that differ in device, threads, versions or baseline; else empty."""
    sides = [dict(one.conditions, baseline=_baseline(one)) for one in (before, now)]
    names = (name for name in dict.fromkeys((*sides[0], *sides[1])) if name not in METHOD)
    return ", ".join(name for name in names if sides[0].get(name) != sides[1].get(name))


def _comparisons(before: BenchReport, now: BenchReport, limits: Limits) -> Iterator[Change]:
    later = {(one.bar, one.batch): one for one in now.comparisons}
    for one in before.comparisons:
        found = later.get((one.bar, one.batch))
        what = f"Fastest shipped vs {one.bar}, batch {one.batch}"
        if found is None:
            yield missing(what, ratio_text(one.ratio))
        else:
            spans = (one.low, one.high), (found.low, found.high)
            yield _speed(what, (one.ratio, found.ratio), spans, limits)


def _speed(
    what: str, ratios: tuple[float, float], spans: tuple[Span, Span], limits: Limits
) -> Change:
    """Judge a change of speed: slower or faster only if the two intervals do not overlap."""
    (low, high), (now_low, now_high) = spans
    texts = [
        f"{ratio_text(ratio)} ({span[0]:.2f} to {span[1]:.2f})" if span[1] else ratio_text(ratio)
        for ratio, span in zip(ratios, spans, strict=True)
    ]
    if not (low and now_low and math.isfinite(high + now_high)):
        return Change(what, texts[0], texts[1], "not comparable", "no interval: too few rounds")
    verdict: Verdict = "same"
    if now_high < low * (1 - limits.slower):
        verdict = "worse"
    elif now_low > high:
        verdict = "better"
    return Change(what, texts[0], texts[1], verdict)
