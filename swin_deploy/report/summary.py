"""The tiles on top of every report: is the model equal, right, fast, small and fused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from swin_deploy.bench import BenchReport, Comparison
from swin_deploy.evaluate.accuracy import Evaluation, Score
from swin_deploy.intervals import wilson_interval
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.report.accuracy import accuracy_headline
from swin_deploy.report.numbers import megabytes_text, one_line, percent_text, ratio_text
from swin_deploy.report.results import Report
from swin_deploy.report.words import case_text, count_noun

State = Literal["good", "warn", "bad", "none"]
SHIPPED = ("engine", "onnx")  # kinds of files, the one that is preferred for use first
KINDS = {"engine": "TensorRT engine", "onnx": "ONNX"}


@dataclass(frozen=True)
class Tile:
    """One answer.

    Attributes:
        question: Question in a word.
        value: Short answer.
        detail: Figures that the answer comes from.
        state: Colour of the answer, such as ``warn`` if a step was not run and ``none`` if it is
            neither good nor bad.
    """

    question: str
    value: str
    detail: str
    state: State


def tiles(report: Report) -> tuple[Tile, ...]:
    """Return the tiles that a report has the results for, in their order."""
    found = (
        None if report.parity is None else _equal(report.parity),
        _right(report),
        None if report.bench is None else _fast(report.bench),
        _size(report),
        _fused(report),
    )
    return tuple(tile for tile in found if tile is not None)


def _equal(parity: ParityReport) -> Tile:
    """Make the tile of parity: the share of its limit that the worst case needs."""
    ran = [(hop, hop.worst) for hop in parity.hops if hop.passed is not None]
    judged = [(hop, worst) for hop, worst in ran if worst is not None]
    missing = [one_line(hop.name) for hop in parity.hops if hop.passed is None]
    unseen = f"; not run: {', '.join(missing)}" if missing else ""
    if not judged:
        return Tile("Equal?", "Not run", f"nothing could run here{unseen}", "warn")
    hop, worst = max(judged, key=lambda pair: (not pair[0].passed, pair[1].deciding.share))
    cases = count_noun(sum(len(one.results) for one, _ in judged), "case")
    detail = f"the worst of {cases}: {one_line(hop.name)}, {case_text(worst)}{unseen}"
    if not hop.passed:
        return Tile("Equal?", "No", detail, "bad")
    share = f"{math.ceil(100 * worst.deciding.share)} % of the limit"
    return Tile("Equal?", share, detail, "warn" if missing else "good")


def _right(report: Report) -> Tile:
    """Make the tile of top-1 accuracy on labelled images, of PyTorch and of the last model."""
    evaluation, parity = report.evaluation, report.parity
    if evaluation is not None and evaluation.reference.top1 is not None:
        after = [one for one in evaluation.candidates if one.top1 is not None]
        last = after[-1] if after else evaluation.reference
        doubt, before = evaluation.doubt, evaluation.reference.top1
        state: State = "good" if evaluation.passed else "bad"
        tile = _accuracy(before, last.top1 or before, one_line(last.name), doubt, state)
        return replace(tile, detail=f"{_failure(evaluation)}{tile.detail}")
    if parity is None or parity.reference_top1_accuracy is None or not parity.labelled:
        detail = "no labelled images: give --images with class folders, or --classes"
        return Tile("Right?", "Not measured", detail, "none")
    hop = _shipped(parity)
    count, before_share = parity.labelled, parity.reference_top1_accuracy
    after_share = before_share
    if hop is not None and hop.top1_accuracy is not None:
        after_share = hop.top1_accuracy
    scores = [Score(count, round(share * count)) for share in (before_share, after_share)]
    name = "the deploy model" if hop is None else one_line(hop.name)
    state = "good" if after_share >= before_share else "warn"
    return _accuracy(scores[0], scores[1], name, parity.doubt, state)


def _failure(evaluation: Evaluation) -> str:
    """Return the headline of a failed evaluation, to start the details with; else empty."""
    failed = not evaluation.passed and not evaluation.doubt
    return f"{accuracy_headline(evaluation)}; " if failed else ""


def _accuracy(before: Score, after: Score, name: str, doubt: str, state: State) -> Tile:
    low, high = wilson_interval(after.right, after.images).low, after.interval.high
    interval = f"{math.floor(1e3 * low) / 10:.1f} to {math.ceil(1e3 * high) / 10:.1f} % at 95 %"
    images = count_noun(after.images, "image")
    detail = f"top-1 of PyTorch and of {name}, {images}, {interval}"
    value = f"{percent_text(before.accuracy)} \u2192 {percent_text(after.accuracy)}"
    if doubt:
        return Tile("Right?", value, f"no better than guessing; {detail}", "warn")
    return Tile("Right?", value, detail, state)


def _shipped(parity: ParityReport) -> Hop | None:
    """Return the hop of the last engine that ran, else of the last ONNX file; None without."""
    for stage in SHIPPED:
        ran = [hop for hop in parity.hops if hop.stage == stage and hop.passed is not None]
        if ran:
            return ran[-1]
    return None


def _fast(bench: BenchReport) -> Tile:
    """Make the tile of speed: our fastest runner against eager PyTorch, at the largest batch."""
    missing = {one_line(r.name) for r in bench.results if not r.timed and r.kind == "engine"}
    unseen = f"; not timed: {', '.join(sorted(missing))}" if missing else ""
    eager = [found for found in bench.comparisons if found.bar == "eager"]
    if not eager:
        return Tile("Fast?", "Not measured", f"nothing to compare{unseen}", "none")
    found = max(eager, key=lambda one: one.batch)
    device = bench.conditions.get("device", "this machine")
    detail = f"{one_line(found.ours)} against PyTorch, batch {found.batch}, {device}{unseen}"
    if not found.low:
        return Tile(
            "Fast?", "Not decided", f"too few rounds, more with --bench-seconds; {detail}", "none"
        )
    if not found.decided:
        return Tile("Fast?", "No difference", detail, "warn" if missing else "none")
    figures = _images_per_s(bench, found)
    state: State = "bad" if found.ratio < 1 else "warn" if missing else "good"
    return Tile("Fast?", f"{ratio_text(found.ratio)} PyTorch", f"{figures}{detail}", state)


def _images_per_s(bench: BenchReport, found: Comparison) -> str:
    """Return images a second of our fastest runner, in words; empty if it has no result."""
    for result in bench.results:
        if result.batch == found.batch and result.timed and found.ours.startswith(result.name):
            return f"{result.images_per_s:,.0f} images/s; "
    return ""


def _size(report: Report) -> Tile | None:
    """Make the tile of the last engine's size, or of the last ONNX file's; None without files."""
    for kind in SHIPPED:
        files = [one for one in report.artifacts if one.kind == kind]
        if files:
            others = [one for one in report.artifacts if one is not files[-1]]
            sizes = [
                f"{KINDS.get(one.kind, one.kind)} {megabytes_text(one.bytes)}" for one in others
            ]
            detail = KINDS[kind] + (f"; besides, in MB: {', '.join(sizes)}" if sizes else "")
            return Tile("Size", f"{megabytes_text(files[-1].bytes)} MB", detail, "none")
    return None


def _fused(report: Report) -> Tile | None:
    """Make the tile of the attention blocks that one kernel computes whole; None without a plan."""
    plan = report.plan
    if plan is None or not plan.attention_blocks:
        return None
    moved = f"{megabytes_text(plan.bytes_moved)} MB moved at batch {plan.batch}"
    detail = f"{count_noun(plan.kernel_count, 'kernel')}, {moved}"
    state: State = "good" if plan.fused_attention == plan.attention_blocks else "warn"
    value = f"{plan.fused_attention} of {plan.attention_blocks}"
    return Tile("Attention fused", value, detail, state)
