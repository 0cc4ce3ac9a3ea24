"""Time several runners in turn, round by round, so that whatever drifts hits all of them alike."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.errors import ComparisonError
from swin_deploy.bench import DEFAULT_EFFORT, BenchReport, BenchResult, Effort
from swin_deploy.bench.bars import compare_bars
from swin_deploy.bench.conditions import conditions_of
from swin_deploy.bench.gpu import gpu_state
from swin_deploy.bench.intervals import is_settled, ratio_interval, ratio_of
from swin_deploy.bench.lanes import (
    CompileClock,
    Contender,
    Lane,
    make_events,
    open_lane,
    prepare_lanes,
)
from swin_deploy.progress import Progress, silent, within

MIN_ROUNDS = 3
WARMUP_SHARE = 0.25
TOLD_SHARE = 0.1  # of the time, between two reports of progress: telling takes some
TRANSFER_ROUNDS = 20


def time_runners(
    contenders: Sequence[Contender],
    images: NDArray[np.float32],
    *,
    model: str,
    batches: Sequence[int] = (1, 8),
    effort: Effort = DEFAULT_EFFORT,
    progress: Progress = silent,
) -> BenchReport:
    """Time runners beside each other.

    A call is timed from a synchronised device to the end of its work. Images and outputs stay on
    the device, but for the calls timed on top with ``effort.transfers``. Before it is timed, each
    output is held against the first runner's: the speed of a wrong result is worth nothing.

    Args:
        contenders: The baseline first. All are open at the same time.
        images: Images [n, 3, H, W]; repeated where a batch is larger.
        model: Model name, for the report.
        batches: Images a call; one that comes again is timed once.
        effort: How, and how long, to measure.
        progress: Told what is timed, before it is timed.

    Returns:
        One result for each batch and contender. What cannot run here has ``not_run``, what went
        wrong has ``failed``, each with the reason.

    Raises:
        ComparisonError: If there is no contender, no image or no batch.
    """
    if not contenders or not len(images) or not batches:
        raise ComparisonError("nothing to time; give a runner, an image and a batch")
    lanes = [Lane(contender) for contender in contenders]
    batches = tuple(dict.fromkeys(batches))
    before = gpu_state()
    results: list[BenchResult] = []
    comparisons = []
    clock = CompileClock(effort.compile_seconds)
    with contextlib.ExitStack() as stack:
        for lane in lanes:
            open_lane(stack, lane, progress)
        for number, batch in enumerate(batches):
            chosen = images[np.arange(batch) % len(images)]
            for lane in lanes:
                lane.start_batch(batch)
            prepare_lanes(lanes, chosen, clock, progress)
            ready = [lane for lane in lanes if lane.ready]
            names = ", ".join(lane.runner.name for lane in ready) or "nothing"
            part = within(progress, number / len(batches), (number + 1) / len(batches))
            part(f"batch {batch}: timing {names}", 0.0)
            seconds = effort.seconds / len(batches)
            _time_rounds(ready, chosen, effort, seconds, part)
            results += [_result(lane, lanes[0], batch) for lane in lanes]
            comparisons += compare_bars(lanes, batch)
    conditions = conditions_of(effort, results, (before, gpu_state()))
    return BenchReport(model, images.shape[-1], tuple(results), conditions, tuple(comparisons))


def _time_rounds(
    lanes: list[Lane],
    images: NDArray[np.float32],
    effort: Effort,
    seconds: float,
    progress: Progress,
) -> None:
    """Warm up until the latencies have settled, then time, within ``seconds``."""
    start = time.perf_counter()
    _warm_up(lanes, effort.warmup, seconds * WARMUP_SHARE)
    events = [make_events(lane.runner) for lane in lanes]
    told = 0.0
    for done in range(max(effort.iterations, MIN_ROUNDS)):
        elapsed = time.perf_counter() - start
        if done >= MIN_ROUNDS and elapsed > seconds:
            break
        if elapsed >= told + TOLD_SHARE * seconds:
            told = elapsed
            progress(f"{done} rounds timed", min(1.0, elapsed / max(seconds, elapsed)))
        for lane, pair in zip(lanes, events, strict=True):
            with_events = lane.try_call(pair)
            if with_events:
                lane.calls_ms.append(with_events[0])
                lane.device_ms += with_events[1:]
    if effort.transfers:
        _time_transfers(lanes, images)


def _time_transfers(lanes: list[Lane], images: NDArray[np.float32]) -> None:
    rounds = max((len(lane.calls_ms) for lane in lanes), default=0)
    for _ in range(min(rounds, TRANSFER_ROUNDS)):
        for lane in lanes:
            lane.copies_ms += lane.try_run(images)


def _warm_up(lanes: list[Lane], rounds: int, seconds: float) -> None:
    """Untimed rounds until every latency has settled: at least one, at most ``rounds``."""
    start = time.perf_counter()
    warm: list[list[float]] = [[] for _ in lanes]
    for done in range(max(rounds, 1)):
        if done and (time.perf_counter() - start > seconds or all(map(is_settled, warm))):
            break
        for lane, calls in zip(lanes, warm, strict=True):
            calls += lane.try_call(None)
    for lane, calls in zip(lanes, warm, strict=True):
        lane.stable = is_settled(calls)


def _result(lane: Lane, baseline: Lane, batch: int) -> BenchResult:
    contender, runner = lane.contender, lane.runner
    result = BenchResult(
        name=runner.name,
        batch=batch,
        precision=contender.precision or runner.precision,
        backend=runner.backend,
        not_run=lane.missing,
        kind=contender.kind,
        mode=contender.mode,
        relative_l2=lane.error,
        ready_s=lane.ready_s,
        failed=lane.failed,
    )
    if not lane.ready or not lane.calls_ms:
        return result
    median = float(np.median(lane.calls_ms))
    paired = baseline.ready and bool(baseline.calls_ms)
    other = paired and lane is not baseline
    low, high = ratio_interval(baseline.calls_ms, lane.calls_ms) if other else (0.0, 0.0)
    return dataclasses.replace(
        result,
        iterations=len(lane.calls_ms),
        median_ms=median,
        p95_ms=float(np.percentile(lane.calls_ms, 95)),
        images_per_s=batch / median * 1e3,
        ratio=ratio_of(baseline.calls_ms, lane.calls_ms) if paired else 0.0,
        ratio_low=low,
        ratio_high=high,
        device_ms=float(np.median(lane.device_ms)) if lane.device_ms else None,
        copies_ms=float(np.median(lane.copies_ms)) if lane.copies_ms else None,
        peak_mb=lane.peak / 1e6 if torch.cuda.is_available() else None,
        stable=lane.stable,
    )
