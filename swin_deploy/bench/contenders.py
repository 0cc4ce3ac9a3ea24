"""Runners to time: opened, called once, and their outputs checked."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.errors import MissingBackendError
from exporters.progress import Progress
from swin_deploy.bench import Kind, Mode
from swin_deploy.bench import gpu as device

if TYPE_CHECKING:
    from swin_deploy.runners import Outputs, Runner

# Relative L2 to the baseline's output above which a result is wrong, not rounded: float16 of
# trained Swin models is 1e-3 away, TF32 less.
WRONG_FLOAT32, WRONG = 1e-3, 5e-2
Events = tuple[Any, Any]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contender:
    """A runner to time, with its description for the report.

    Attributes:
        runner: The runner, not open yet.
        precision: Precision that the report shows; empty for the runner's.
        kind: Kind of model, see ``BenchResult``.
        mode: PyTorch's way of running it, see ``BenchResult``.
        not_run: Reason why it cannot run, if known beforehand; the runner is then not opened.
        timed: False for a first runner that only gives the outputs to compare the others with.
        shares_code: True if it runs the code that was compiled for the contender before it.
        model: Name of the model, see ``BenchResult``.
        way: Way that it runs, see ``BenchResult``.
    """

    runner: Runner
    precision: str = ""
    kind: Kind = "reference"
    mode: Mode = "eager"
    not_run: str = ""
    timed: bool = True
    shares_code: bool = False
    model: str = ""
    way: str = ""


@dataclass
class TimedRunner:
    """Timing state of one runner: why it was skipped, and its latencies at the current batch.

    Attributes:
        contender: The runner and its description.
        out: Reason why it cannot run here, at any batch; empty if it can.
        broken: Error when it was opened; empty if there was none.
        held: Device memory that it has taken since it was opened, in bytes.
        missing: Reason why it cannot run at this batch; empty if it can.
        failed: Error at this batch, on one line; empty if there was none.
        calls_ms: Latency of each timed call.
        device_ms: Time between CUDA events around each timed call; empty without events.
        copies_ms: Latency of each call timed with copies.
        peak: Device memory that the model and one call need, in bytes.
        error: Relative L2 to the first runner's output; None if it was not compared.
        ready_s: Seconds to the first result at this batch.
        stable: True if its latency had settled before the timed calls.
    """

    contender: Contender
    out: str = ""
    broken: str = ""
    held: int = 0
    missing: str = ""
    failed: str = ""
    calls_ms: list[float] = field(default_factory=list)
    device_ms: list[float] = field(default_factory=list)
    copies_ms: list[float] = field(default_factory=list)
    peak: int = 0
    error: float | None = None
    ready_s: float = 0.0
    stable: bool = False

    @property
    def runner(self) -> Runner:
        """The runner itself."""
        return self.contender.runner

    @property
    def ready(self) -> bool:
        """True if it can be timed at this batch."""
        return not self.missing and not self.failed

    def start_batch(self, batch: int) -> None:
        """Forget the state of the batch before, and note why this one cannot be run, if so."""
        self.calls_ms, self.device_ms, self.copies_ms = [], [], []
        self.peak, self.error, self.ready_s, self.stable = 0, None, 0.0, False
        self.missing, self.failed = self.out or _out_of_range(self.runner, batch), self.broken

    def try_call(self, events: Events | None) -> list[float]:
        """Time a call; keep the error in ``failed`` if it fails.

        Args:
            events: A pair of CUDA events; None to use the host's clock alone.

        Returns:
            Milliseconds of the call, then between ``events`` if given; empty if it was skipped or
            failed.
        """
        return self._try(lambda: time_call(self.runner, events))

    def try_run(self, images: NDArray[np.float32]) -> list[float]:
        """Time a call from images on the host to outputs on the host.

        Args:
            images: Normalised images, [B, in_channels, H, W].

        Returns:
            Milliseconds of the call; empty if it was skipped or failed.
        """
        return self._try(lambda: time_copies(self.runner, images))

    def _try(self, call: Callable[[], list[float]]) -> list[float]:
        if not self.ready:
            return []
        try:
            return call()
        except Exception as err:  # noqa: BLE001 - whatever a library raises is a row, not the end
            self.failed = one_line(err)
            return []


class CompileClock:
    """Budget of time for compiling.

    Args:
        seconds: The budget; None for no limit.

    Attributes:
        seconds: The budget; None for no limit.
        spent: Seconds spent so far.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.spent = seconds, 0.0

    @property
    def is_out(self) -> bool:
        """True if the budget is spent."""
        return self.seconds is not None and self.spent >= self.seconds


def one_line(err: BaseException) -> str:
    """Return the type and the first words of an exception, on one line."""
    text = " ".join(str(err).split()).partition(" Set TORCHDYNAMO_VERBOSE")[0]
    return f"{type(err).__name__}: {text[:240]}" if text else type(err).__name__


def open_lane(stack: contextlib.ExitStack, lane: TimedRunner, progress: Progress) -> None:
    """Open a runner; the lane keeps the reason if that fails.

    Args:
        stack: Stack that closes the runner.
        lane: The runner's timing state; ``out``, ``broken`` and ``held`` are set.
        progress: Function that is told which runner is opened.
    """
    lane.out = lane.contender.not_run
    if lane.out:
        return
    progress(f"opening {lane.runner.name}")
    used, allocated = device.used_bytes(), device.allocated_bytes()
    try:
        lane.runner.__enter__()
        stack.callback(_close, lane.runner)
    except MissingBackendError as err:
        lane.out = str(err)
    except Exception as err:  # noqa: BLE001 - whatever a library raises is a row, not the end
        lane.broken = one_line(err)
    lane.held = _memory_since(lane, used, allocated)


def _close(runner: Runner) -> None:
    """Release a runner; log an error, since the measurements must not be lost to it."""
    try:
        runner.__exit__(None, None, None)
    except Exception as err:  # noqa: BLE001 - whatever a library raises
        LOG.warning("%s did not close: %s", runner.name, one_line(err))


def _memory_since(lane: TimedRunner, used: int, allocated: int) -> int:
    """Return the bytes taken since: by PyTorch's tensors, or for a file on the whole device."""
    if lane.contender.mode != "file":
        return max(0, device.allocated_bytes() - allocated)
    return max(0, device.used_bytes() - used)


def _out_of_range(runner: Runner, batch: int) -> str:
    if runner.min_batch <= batch <= (runner.max_batch or batch):
        return ""
    fixed = runner.min_batch == runner.max_batch
    taken = f"{runner.min_batch}" if fixed else f"{runner.min_batch} to {runner.max_batch}"
    return f"it takes batches of {taken}, not {batch}"


def prepare_lanes(
    lanes: Sequence[TimedRunner],
    images: NDArray[np.float32],
    clock: CompileClock,
    *,
    alone: int,
    progress: Progress,
) -> Iterator[TimedRunner]:
    """Make every lane ready, and compare its output with the first one's.

    Args:
        lanes: The lanes, open.
        images: Images [B, in_channels, H, W] of one batch.
        clock: Budget of time for compiling.
        alone: Number of calls of each lane to time at once, on its own.
        progress: Function that is told what is done, before it is done.

    Yields:
        Each lane, when it is ready or has failed.
    """
    expected: Outputs | None = None
    for place, lane in enumerate(lanes):
        compiles = lane.contender.mode == "compile"
        shared = lane.contender.shares_code and lanes[place - 1].ready
        if lane.ready and compiles and clock.is_out and not shared:
            lane.missing = "the time for compiling was spent before its turn"
        if not lane.ready:
            continue
        progress(f"batch {len(images)}: making {lane.runner.name} ready")
        start = time.perf_counter()
        try:
            _first_calls(lane, images)
            outputs = lane.runner.fetch()
            expected = outputs if lane is lanes[0] else expected
            lane.failed = _check(lane, outputs, expected)
        except MissingBackendError as err:
            lane.missing = str(err)
        except Exception as err:  # noqa: BLE001 - whatever a library raises is a row, not the end
            lane.failed = one_line(err)
        if compiles:
            clock.spent += time.perf_counter() - start
        for _ in range(alone if lane.contender.timed else 0):
            lane.calls_ms += lane.try_call(None)
        yield lane


def _first_calls(lane: TimedRunner, images: NDArray[np.float32]) -> None:
    """Make a first call, which compiles and allocates, and a second one to measure its memory."""
    start = time.perf_counter()
    used, allocated = device.used_bytes(), device.allocated_bytes()
    device.start_peak()
    lane.runner.prepare(images)
    time_call(lane.runner, None)
    lane.ready_s = time.perf_counter() - start
    if lane.contender.mode == "compile":
        device.start_peak()  # trying out kernels takes memory that running them does not
    time_call(lane.runner, None)
    if lane.contender.mode == "file":
        lane.held += _memory_since(lane, used, allocated)
        lane.peak = lane.held
    else:
        lane.peak = lane.held + max(0, device.peak_bytes() - allocated)


def _check(lane: TimedRunner, outputs: Outputs, expected: Outputs | None) -> str:
    """Return the reason why the output is wrong; empty if it is right or cannot be compared."""
    if expected is None:
        return ""
    lane.error = relative_l2(outputs, expected)
    strict = (lane.contender.precision or lane.runner.precision) == "fp32"
    allowed = WRONG_FLOAT32 if strict else WRONG
    if lane.error <= allowed:
        return ""
    return (
        f"its output is wrong, so it was not timed: relative L2 {lane.error:.2g} to the "
        f"baseline's, {allowed:g} allowed"
    )


def relative_l2(outputs: Outputs, expected: Outputs) -> float:
    """Return the largest ||a - b|| / ||b|| over the outputs.

    Args:
        outputs: Outputs of a runner.
        expected: Outputs of the baseline for the same images.

    Returns:
        The error of the worst output; infinite if the shapes differ, a value is not finite, or
        there are no outputs.
    """
    if [one.shape for one in outputs] != [one.shape for one in expected]:
        return float("inf")
    errors = []
    for a, b in zip(outputs, expected, strict=True):
        scale = float(np.linalg.norm(b.astype(np.float64))) or 1.0
        error = float(np.linalg.norm(a.astype(np.float64) - b)) / scale
        errors.append(error if np.isfinite(error) else float("inf"))
    return max(errors, default=float("inf"))


def make_events(runner: Runner) -> Events | None:
    """Make a pair of CUDA events; None for a runner without a CUDA stream of its own."""
    if getattr(runner, "stream", None) is None:
        return None
    make: Any = torch.cuda.Event
    return make(enable_timing=True), make(enable_timing=True)


def time_call(runner: Runner, events: Events | None) -> list[float]:
    """Time one call, synchronised on both sides.

    Args:
        runner: The runner, open and with its images prepared.
        events: A pair of CUDA events to record around the call; None for none.

    Returns:
        Milliseconds of the call on the host's clock, then between the events if given.
    """
    runner.synchronize()
    start = time.perf_counter()
    if events is None:
        runner.execute()
        runner.synchronize()
        return [(time.perf_counter() - start) * 1e3]
    stream: Any = getattr(runner, "stream", None)
    events[0].record(stream)
    runner.execute()
    events[1].record(stream)
    runner.synchronize()
    return [(time.perf_counter() - start) * 1e3, float(events[0].elapsed_time(events[1]))]


def time_copies(runner: Runner, images: NDArray[np.float32]) -> list[float]:
    """Time one call from images on the host to outputs on the host, in milliseconds."""
    runner.synchronize()
    given = runner.inputs(images)  # a service has these already: outside the clock
    start = time.perf_counter()
    with_copies = getattr(runner, "execute_with_copies", None)
    if with_copies is None:
        runner.run(given)
    else:
        with_copies()
        runner.synchronize()
    return [(time.perf_counter() - start) * 1e3]
