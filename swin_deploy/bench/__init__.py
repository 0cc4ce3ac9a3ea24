"""Throughput of several runners, measured in the same rounds: the values that reports show.

===============  =======================================================================
``timing``       time several runners in turn, round by round
``conditions``   conditions of a run: device, versions and method
``gpu``          memory, clocks, temperature and power of the GPU
``baselines``    PyTorch as others would run it: float16, TF32, compiled, as CUDA graphs
``originals``    the model of the library that a checkpoint comes from
``throughput``   all of these for one model and the files made from it
``comparisons``  the fastest deploy runner against the fastest baseline of each kind
``contenders``   runners to time, opened, called once and checked
===============  =======================================================================

Nothing here imports PyTorch or NumPy; the modules below do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from exporters.spec import Batch, Count, Positive

Kind = Literal["reference", "deploy", "original", "onnx", "engine"]
Mode = Literal["eager", "compile", "graph", "file"]
# Kinds of model that this project makes, in whichever way they run; the others are baselines.
SHIPPED: tuple[Kind, ...] = ("deploy", "onnx", "engine")


@dataclass(frozen=True)
class BenchResult:
    """Timings of one runner at one batch size.

    Attributes:
        name: Name of the runner, such as ``PyTorch reference`` or ``ONNX fp32``.
        batch: Number of images in a call.
        precision: Arithmetic: ``fp32`` (strict), ``tf32``, ``fp16`` or ``autocast``.
        backend: Library and device that ran it.
        iterations: Number of timed calls.
        median_ms: Median latency of a call, from a synchronised device to the end of its work.
        p95_ms: 95th percentile latency of a call.
        images_per_s: Batch divided by the median latency.
        ratio: ``images_per_s`` divided by that of the baseline, the first runner of the run.
        not_run: Reason why it could not run here; empty if it ran.
        kind: Kind of model: the reference, the deploy model, the original library's, or a file.
        mode: PyTorch's way of running it; ``file`` for ONNX and engines.
        ratio_low: Lower end of the ratio's 95 % interval; 0 if there is none.
        ratio_high: Upper end of that interval; 0 if there is none.
        device_ms: Median time between CUDA events around a call; None if there are none.
        copies_ms: Median latency with the images copied to the device and the outputs back;
            None if it was not asked for.
        peak_mb: Device memory that the model and one call need, in a million bytes; None on a CPU.
        relative_l2: Relative L2 error of its output, ||a - b|| / ||b|| against the baseline's;
            None without one.
        ready_s: Seconds to the first result at this batch, with compiling.
        stable: True if its latency had settled before the timed calls.
        failed: Error, on one line; empty if there was none.
        model: Name of the model: ``name`` without the way that it runs.
        way: Way that it runs, such as ``compiled, CUDA graph``; empty for the plain one.
    """

    name: str
    batch: Batch
    precision: str
    backend: str
    iterations: Count = 0
    median_ms: float = 0.0
    p95_ms: float = 0.0
    images_per_s: float = 0.0
    ratio: float = 0.0
    not_run: str = ""
    kind: Kind = "reference"
    mode: Mode = "eager"
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    device_ms: float | None = None
    copies_ms: float | None = None
    peak_mb: float | None = None
    relative_l2: float | None = None
    ready_s: float = 0.0
    stable: bool = False
    failed: str = ""
    model: str = ""
    way: str = ""

    @property
    def timed(self) -> bool:
        """True if it neither failed nor lacked what it needs to run."""
        return not self.not_run and not self.failed


@dataclass(frozen=True)
class Comparison:
    """Our fastest runner against the fastest baseline of one kind.

    Attributes:
        batch: Number of images in a call.
        bar: Kind of baseline. ``eager``: the reference as it is. ``compile``: torch.compile of the
            reference or of the original library's model. ``original``: that model in any way.
        ours: Name of the fastest deploy model, ONNX file or engine, in any way.
        theirs: Name of the fastest baseline of that kind.
        ratio: Speed of ours divided by that of theirs, in the same rounds.
        low: Lower end of its 95 % interval; 0 if there were too few rounds for one.
        high: Upper end of that interval; 0 if there were too few rounds for one.
    """

    batch: Batch
    bar: Literal["eager", "compile", "original"]
    ours: str
    theirs: str
    ratio: Positive
    low: float = 0.0
    high: float = 0.0

    @property
    def decided(self) -> bool:
        """True if the interval excludes 1, so that one of the two is faster."""
        return bool(self.low and self.high) and not self.low <= 1 <= self.high


@dataclass(frozen=True)
class BenchReport:
    """One run of the benchmark, with its conditions.

    Attributes:
        model: Model name.
        img_size: Image side in pixels, or rows and columns.
        results: Baseline first, then the others, by batch.
        conditions: Circumstances of the numbers: device, threads, versions, copies, warm-up.
        comparisons: Ratios of what is shipped to each way to do without it, by batch.
    """

    model: str
    # Without bounds: msgspec 0.22 crashes where a bounded number may also be a pair.
    img_size: int | tuple[int, int]
    results: tuple[BenchResult, ...]
    conditions: dict[str, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()

    @property
    def failures(self) -> tuple[BenchResult, ...]:
        """Results of deploy models, ONNX files and engines that failed; baselines do not count."""
        return tuple(r for r in self.results if r.failed and r.kind in SHIPPED)


@dataclass(frozen=True)
class Effort:
    """Method and length of a measurement.

    Attributes:
        warmup: Maximum number of untimed rounds; they end when every latency has settled.
        iterations: Maximum number of timed rounds; every runner is called once in a round.
        min_iterations: Minimum number of timed rounds, whatever the budget.
        seconds: Budget for all batches together, in seconds; it cuts warm-up and iterations short,
            but never below one untimed round and ``min_iterations``.
        compile_seconds: Budget for compiling in all batches together, in seconds: once it is spent,
            a model that is not compiled yet is not run. None for no limit.
        transfers: True to time calls with images copied to the device and outputs back, too.
        alone: Number of calls of each runner on its own as soon as it is ready, so that there are
            figures even if the run ends before the rounds.
    """

    warmup: int = 50
    iterations: int = 200
    min_iterations: int = 3
    seconds: float = 15.0
    compile_seconds: float | None = None
    transfers: bool = False
    alone: int = 0


DEFAULT_EFFORT = Effort()
