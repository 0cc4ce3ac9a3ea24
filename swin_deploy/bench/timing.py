"""Time several runners in turn, round by round, so that drift affects all of them alike."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.errors import ComparisonError
from exporters.progress import Progress, silent, within
from swin_deploy.bench import DEFAULT_EFFORT, BenchReport, BenchResult, Comparison, Effort
from swin_deploy.bench.comparisons import compare_baselines
from swin_deploy.bench.conditions import conditions_of
from swin_deploy.bench.contenders import (
    CompileClock,
    Contender,
    TimedRunner,
    make_events,
    open_lane,
    prepare_lanes,
)
from swin_deploy.bench.gpu import GpuSampler, gpu_state, open_gpu
from swin_deploy.config import Size
from swin_deploy.intervals import is_settled, ratio_interval, ratio_of

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
    """Time runners in the same rounds.

    A call is timed from a synchronised device to the end of its work. Images and outputs stay on
    the device, but for the extra calls that ``effort.transfers`` asks for. Before a runner is
    timed, its output is compared with the first runner's; a runner with a wrong output is not
    timed.

    Args:
        contenders: The contenders, the baseline first. All are open at the same time.
        images: Images [n, in_channels, H, W]; repeated if a batch is larger.
        model: Model name, for the report.
        batches: Batch sizes, in images a call; a repeated one is timed once.
        effort: Method and length of the measurement.
        progress: Function that is told what is timed, before it is timed.

    Returns:
        One result for each batch and contender that is timed. A result has the reason in
        ``not_run`` if the runner cannot run here, and in ``failed`` if it failed. If the first
        runner gave no outputs to compare the others with, the condition ``outputs not checked``
        says so.

    Raises:
        ComparisonError: If there is no contender, no image or no batch.
    """
    steps = time_in_steps(
        contenders, images, model=model, batches=batches, effort=effort, progress=progress
    )
    *_, report = steps
    return report


def time_in_steps(
    contenders: Sequence[Contender],
    images: NDArray[np.float32],
    *,
    model: str,
    batches: Sequence[int] = (1, 8),
    effort: Effort = DEFAULT_EFFORT,
    progress: Progress = silent,
) -> Iterator[BenchReport]:
    """Time runners as ``time_runners`` does, and report the results so far after every step.

    With ``effort.alone`` a runner has figures of its own calls as soon as it is ready, without a
    ratio; they are replaced when the rounds of its batch are done.

    The arguments are those of ``time_runners``.

    Yields:
        A report after each runner is made ready, with ``effort.alone`` alone, and after the rounds
        of each batch.

    Raises:
        ComparisonError: If there is no contender, no image or no batch.
    """
    race = _Race(contenders, images, model=model, batches=batches, effort=effort)
    with contextlib.ExitStack() as stack:
        for lane in race.lanes:
            open_lane(stack, lane, progress)
        for number, batch in enumerate(race.batches):
            part = within(progress, number / len(race.batches), (number + 1) / len(race.batches))
            yield from race.of_batch(batch, progress, part)


class _Race:
    """One run of the benchmark: its lanes, and the results of the batches so far.

    Args:
        contenders: The contenders, the baseline first.
        images: Images [n, in_channels, H, W].
        model: Model name.
        batches: Batch sizes.
        effort: Method and length of the measurement.

    Attributes:
        lanes: Timing state of each contender.
        batches: Batch sizes, each once.

    Raises:
        ComparisonError: If there is no contender, no image or no batch.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        images: NDArray[np.float32],
        *,
        model: str,
        batches: Sequence[int],
        effort: Effort,
    ) -> None:
        if not any(one.timed for one in contenders) or not len(images) or not batches:
            raise ComparisonError("nothing to time; give a runner, an image and a batch")
        self.lanes = [TimedRunner(contender) for contender in contenders]
        self.batches = tuple(dict.fromkeys(batches))
        self._timed = [lane for lane in self.lanes if lane.contender.timed]
        self._images, self._model, self._effort = images, model, effort
        self._clock = CompileClock(effort.compile_seconds)
        self._before, self._sampler = gpu_state(), GpuSampler(open_gpu())
        self._unchecked: dict[int, str] = {}  # by batch: why no outputs were compared
        self._results: list[BenchResult] = []
        self._comparisons: list[Comparison] = []

    def of_batch(self, batch: int, progress: Progress, part: Progress) -> Iterator[BenchReport]:
        """Make every lane ready for a batch, time them in rounds, and yield the reports."""
        images = self._images[np.arange(batch) % len(self._images)]
        alone = self._effort.alone
        for lane in self.lanes:
            lane.start_batch(batch)
        for _ in prepare_lanes(self.lanes, images, self._clock, alone=alone, progress=progress):
            if alone:
                yield self._report([_result(lane, None, batch) for lane in self._timed])
        self._unchecked |= _unchecked(self.lanes[0], batch)
        ready = [lane for lane in self._timed if lane.ready]
        names = ", ".join(lane.runner.name for lane in ready) or "nothing"
        part(f"batch {batch}: timing {names}", 0.0)
        seconds = self._effort.seconds / len(self.batches)
        _time_rounds(ready, self._effort, seconds, self._sampler, progress=part)
        if self._effort.transfers:
            _time_transfers(ready, images)
        self._results += [_result(lane, self._timed[0], batch) for lane in self._timed]
        self._comparisons += compare_baselines(self._timed, batch)
        yield self._report()

    def _report(self, of_this_batch: Sequence[BenchResult] = ()) -> BenchReport:
        found = (*self._results, *of_this_batch)
        states = {"before": self._before, "during": self._sampler.text, "after": gpu_state()}
        conditions = conditions_of(self._effort, found, states) | _checks(self._unchecked)
        size = Size(*self._images.shape[-2:]).plain
        return BenchReport(self._model, size, found, conditions, tuple(self._comparisons))


def _time_rounds(
    lanes: list[TimedRunner],
    effort: Effort,
    seconds: float,
    sampler: GpuSampler,
    *,
    progress: Progress,
) -> None:
    """Warm up until the latencies have settled, then time, within ``seconds``."""
    start = time.perf_counter()
    _warm_up(lanes, effort.warmup, seconds * WARMUP_SHARE)
    events = [make_events(lane.runner) for lane in lanes]
    for lane in lanes:
        lane.calls_ms, lane.device_ms = [], []
    told = 0.0
    for done in range(max(effort.iterations, effort.min_iterations)):
        elapsed = time.perf_counter() - start
        if done >= effort.min_iterations and elapsed > seconds:
            break
        if elapsed >= told + TOLD_SHARE * seconds:
            told = elapsed
            progress(f"{done} rounds timed", min(1.0, elapsed / max(seconds, elapsed)))
        for lane, pair in zip(lanes, events, strict=True):
            with_events = lane.try_call(pair)
            if with_events:
                lane.calls_ms.append(with_events[0])
                lane.device_ms += with_events[1:]
        sampler.sample()


def _time_transfers(lanes: list[TimedRunner], images: NDArray[np.float32]) -> None:
    rounds = max((len(lane.calls_ms) for lane in lanes), default=0)
    for _ in range(min(rounds, TRANSFER_ROUNDS)):
        for lane in lanes:
            lane.copies_ms += lane.try_run(images)


def _warm_up(lanes: list[TimedRunner], rounds: int, seconds: float) -> None:
    """Run untimed rounds until every latency has settled: at least one, at most ``rounds``."""
    start = time.perf_counter()
    warm: list[list[float]] = [[] for _ in lanes]
    for done in range(max(rounds, 1)):
        if done and (time.perf_counter() - start > seconds or all(map(is_settled, warm))):
            break
        for lane, calls in zip(lanes, warm, strict=True):
            calls += lane.try_call(None)
    for lane, calls in zip(lanes, warm, strict=True):
        lane.stable = is_settled(calls)


def _unchecked(first: TimedRunner, batch: int) -> dict[int, str]:
    """Return the reason why no output was compared with the first runner's, by batch.

    The result is empty if the outputs were compared.
    """
    reason = first.missing or first.failed
    return {batch: f"{first.runner.name}: {reason}"} if reason and first.error is None else {}


def _checks(unchecked: Mapping[int, str]) -> dict[str, str]:
    """Make the condition that says at which batches no outputs were compared, if there are any."""
    reasons = [f"batch {batch}, {reason}" for batch, reason in unchecked.items()]
    return {"outputs not checked": "; ".join(reasons)} if reasons else {}


def _result(lane: TimedRunner, baseline: TimedRunner | None, batch: int) -> BenchResult:
    """Make the result of a lane; without a baseline it has no ratio yet."""
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
        model=contender.model or runner.name,
        way=contender.way,
    )
    if not lane.ready or not lane.calls_ms:
        return result
    median = float(np.median(lane.calls_ms))
    base = baseline.calls_ms if baseline is not None and baseline.ready else []
    low, high = ratio_interval(base, lane.calls_ms) if base and lane is not baseline else (0.0, 0.0)
    return dataclasses.replace(
        result,
        iterations=len(lane.calls_ms),
        median_ms=median,
        p95_ms=float(np.percentile(lane.calls_ms, 95)),
        images_per_s=batch / median * 1e3,
        ratio=ratio_of(base, lane.calls_ms) if base else 0.0,
        ratio_low=low,
        ratio_high=high,
        device_ms=float(np.median(lane.device_ms)) if lane.device_ms else None,
        copies_ms=float(np.median(lane.copies_ms)) if lane.copies_ms else None,
        peak_mb=lane.peak / 1e6 if torch.cuda.is_available() else None,
        stable=lane.stable,
    )
