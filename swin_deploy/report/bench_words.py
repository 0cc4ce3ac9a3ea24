"""Results of a benchmark in words: the faster side, the ratio and its interval."""

from __future__ import annotations

from swin_deploy.bench import BenchReport, Comparison
from swin_deploy.report.numbers import one_line, ratio_text

BAR_TITLES = {
    "eager": "PyTorch as it is",
    "compile": "torch.compile",
    "original": "the original library's model",
}


def bench_sentences(bench: BenchReport) -> tuple[str, ...]:
    """Return one sentence for each comparison of our fastest runner with a baseline."""
    return tuple(map(_sentence, bench.comparisons))


def bench_line(bench: BenchReport) -> str:
    """Return the comparisons at the largest batch, and the names of runners that were not timed."""
    largest = max((found.batch for found in bench.comparisons), default=0)
    shown = [_sentence(found) for found in bench.comparisons if found.batch == largest]
    missing = list(dict.fromkeys(one_line(r.name) for r in bench.results if not r.timed))
    if missing:
        shown.append(f"Not timed: {', '.join(missing)}.")
    return " ".join(shown) or "nothing was compared."


def _sentence(found: Comparison) -> str:
    ours, theirs = one_line(found.ours), one_line(found.theirs)
    bar = BAR_TITLES[found.bar]
    start = f"Batch {found.batch}: "
    if not found.low:
        return f"{start}too few rounds to compare {ours} with {theirs} ({bar})."
    if not found.decided:
        return (
            f"{start}no difference between {ours} and {theirs} ({bar}): "
            f"{_interval(found.ratio, found.low, found.high)}, which includes 1."
        )
    if found.ratio > 1:
        interval = _interval(found.ratio, found.low, found.high)
        return f"{start}{ours} is faster than {theirs} ({bar}): {interval}."
    interval = _interval(1 / found.ratio, 1 / found.high, 1 / found.low)
    return f"{start}{bar} is faster here: {theirs} against {ours}, {interval}."


def _interval(ratio: float, low: float, high: float) -> str:
    return f"{ratio_text(ratio)}, {low:.2f} to {high:.2f}"
