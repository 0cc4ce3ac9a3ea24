"""Measure throughput side by side with the PyTorch reference, in one run."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ComparisonError, MissingBackendError

if TYPE_CHECKING:
    from swin_deploy.runners import Runner

MIN_ROUNDS = 3
WARMUP_SHARE = 0.25
PACKAGES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BenchResult:
    """Timings of one runner at one batch size.

    Attributes:
        name: Runner, such as ``PyTorch reference`` or ``ONNX Runtime fp32``.
        batch: Images a call.
        precision: ``fp32`` or ``fp16``.
        backend: What ran it and where.
        iterations: Timed calls.
        median_ms: Median latency of a call.
        p95_ms: 95th percentile latency of a call.
        images_per_s: Batch divided by the median latency.
        ratio: ``images_per_s`` divided by that of the PyTorch reference in the same run.
        not_run: Why it could not run here; empty when it ran.
    """

    name: str
    batch: int
    precision: str
    backend: str
    iterations: int = 0
    median_ms: float = 0.0
    p95_ms: float = 0.0
    images_per_s: float = 0.0
    ratio: float = 0.0
    not_run: str = ""


@dataclass(frozen=True)
class BenchReport:
    """One run of the benchmark, with its conditions.

    Attributes:
        model: Model name.
        img_size: Image side, in pixels.
        results: Reference first, then the others, by batch.
        conditions: What the numbers hold for: device, threads, versions, copies, warm-up.
    """

    model: str
    img_size: int
    results: tuple[BenchResult, ...]
    conditions: dict[str, str]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        warmup: Untimed rounds before the timed ones.
        iterations: Timed rounds; every runner is called once in a round.
        seconds: Budget for all batches together; it cuts warm-up and iterations short, but never
            below one untimed and ``MIN_ROUNDS`` timed rounds.
    """

    warmup: int = 10
    iterations: int = 200
    seconds: float = 15.0


DEFAULT_EFFORT = Effort()


def time_runners(
    runners: Sequence[Runner],
    images: NDArray[np.float32],
    *,
    model: str,
    batches: Sequence[int] = (1, 8),
    effort: Effort = DEFAULT_EFFORT,
    progress: Progress = lambda message: None,
) -> BenchReport:
    """Time runners in turn, round by round, so that whatever drifts hits all of them alike.

    A call is timed from a synchronised device to the end of its work. Images and outputs stay on
    the device: host copies are not included.

    Args:
        runners: The reference first; none open yet. All are open at the same time.
        images: Images [n, 3, H, W]; repeated where a batch is larger.
        model: Model name, for the report.
        batches: Images a call.
        effort: How long to measure.
        progress: Told what is timed, before it is timed.

    Returns:
        One result for each batch and runner. A runner whose package or device is not here, or
        that does not take a batch, has ``not_run`` with the reason.

    Raises:
        ComparisonError: If there is no runner, no image or no batch.
        DeployError: If a runner's file cannot be used.
    """
    if not runners or not len(images) or not batches:
        raise ComparisonError("nothing to time; give a runner, an image and a batch")
    missing: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        for index, runner in enumerate(runners):
            progress(f"{runner.name}: opening")
            try:
                stack.enter_context(runner)
            except MissingBackendError as err:
                missing[index] = str(err)
        results: list[BenchResult] = []
        for batch in batches:
            idle = missing | _out_of_range(runners, batch)
            ready = [runner for index, runner in enumerate(runners) if index not in idle]
            progress(f"batch {batch}: {', '.join(runner.name for runner in ready) or 'nothing'}")
            chosen = images[np.arange(batch) % len(images)]
            timings = iter(_time_rounds(ready, chosen, effort, effort.seconds / len(batches)))
            results += _with_ratios(
                [
                    _result(runner, batch, [] if index in idle else next(timings), idle.get(index))
                    for index, runner in enumerate(runners)
                ]
            )
    return BenchReport(model, images.shape[-1], tuple(results), _conditions(effort))


def _out_of_range(runners: Sequence[Runner], batch: int) -> dict[int, str]:
    return {
        index: f"it takes {runner.min_batch} to {runner.max_batch} images a call, not {batch}"
        for index, runner in enumerate(runners)
        if not runner.min_batch <= batch <= (runner.max_batch or batch)
    }


def _time_rounds(
    runners: Sequence[Runner], images: NDArray[np.float32], effort: Effort, seconds: float
) -> list[list[float]]:
    """Milliseconds of every timed call, one list for each runner."""
    for runner in runners:
        runner.prepare(images)
    start = time.perf_counter()
    for done in range(effort.warmup):
        if done and time.perf_counter() - start > seconds * WARMUP_SHARE:
            break
        for runner in runners:
            _time_call(runner)
    timings: list[list[float]] = [[] for _ in runners]
    for done in range(max(effort.iterations, MIN_ROUNDS)):
        if done >= MIN_ROUNDS and time.perf_counter() - start > seconds:
            break
        for runner, calls in zip(runners, timings, strict=True):
            calls.append(_time_call(runner))
    return timings


def _time_call(runner: Runner) -> float:
    """Milliseconds of one call, synchronised on both sides."""
    runner.synchronize()
    start = time.perf_counter()
    runner.execute()
    runner.synchronize()
    return (time.perf_counter() - start) * 1e3


def _result(runner: Runner, batch: int, calls_ms: list[float], not_run: str | None) -> BenchResult:
    median = float(np.median(calls_ms)) if calls_ms else 0.0
    return BenchResult(
        name=runner.name,
        batch=batch,
        precision=runner.precision,
        backend=runner.backend,
        iterations=len(calls_ms),
        median_ms=median,
        p95_ms=float(np.percentile(calls_ms, 95)) if calls_ms else 0.0,
        images_per_s=batch / median * 1e3 if median else 0.0,
        not_run=not_run or "",
    )


def _with_ratios(results: list[BenchResult]) -> list[BenchResult]:
    """Fill in ``ratio`` against the first; it stays 0 where one of the two did not run."""
    base = results[0].images_per_s
    return [
        dataclasses.replace(result, ratio=result.images_per_s / base if base else 0.0)
        for result in results
    ]


def _conditions(effort: Effort) -> dict[str, str]:
    import torch  # here, because reports use this module's values without PyTorch

    conditions = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "cpu": _cpu_name(),
        "threads": f"{torch.get_num_threads()} for PyTorch and for ONNX Runtime on the CPU",
        "copies": "not included: images and outputs stay on the device",
        "order": "interleaved: each round calls every runner once",
        "float32": "strict: TF32 off",
        "warm-up": f"{effort.warmup} rounds, or a quarter of the time",
        "iterations": f"{effort.iterations} rounds, or {effort.seconds:g} s for all batches; "
        f"at least {MIN_ROUNDS} rounds",
        "python": platform.python_version(),
    }
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        conditions["driver"] = driver.read_text(encoding="utf-8").splitlines()[0]
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            conditions[package] = importlib.metadata.version(package)
    return conditions


def _cpu_name() -> str:
    """Model name as the kernel gives it, or the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
