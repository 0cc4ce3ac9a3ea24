"""Throughput, measured side by side in one run: the values that reports show.

===============  =======================================================================
``timing``       several runners in turn, round by round, until the time is spent
``conditions``   what the numbers hold for
``gpu``          memory, clocks, temperature and power of the GPU
``baselines``    PyTorch as others would run it: float16, TF32, compiled, as CUDA graphs
``originals``    the model of the library that a checkpoint comes from
``throughput``   all of these for one model and the files made from it
``comparisons``  what is shipped against each way to do without it
``contenders``   what is timed, made ready
===============  =======================================================================

Nothing here imports PyTorch or NumPy; the modules below do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from exporters.spec import Batch, Count

Kind = Literal["reference", "deploy", "original", "onnx", "engine"]
Mode = Literal["eager", "compile", "graph", "file"]
# What this project makes, in whichever way it runs; everything else is what one would do without.
SHIPPED: tuple[Kind, ...] = ("deploy", "onnx", "engine")


@dataclass(frozen=True)
class BenchResult:
    """Timings of one runner at one batch size.

    Attributes:
        name: Runner, such as ``PyTorch reference`` or ``ONNX fp32``.
        batch: Images a call.
        precision: ``fp32`` (strict), ``tf32``, ``fp16`` or ``autocast``.
        backend: What ran it and where.
        iterations: Timed calls.
        median_ms: Median latency of a call, from a synchronised device to the end of its work.
        p95_ms: 95th percentile latency of a call.
        images_per_s: Batch divided by the median latency.
        ratio: ``images_per_s`` divided by that of the baseline, the first runner of the run.
        not_run: Why it could not run here; empty when it ran.
        kind: Which model: the reference, the deploy model, the original library's, or a file.
        mode: How PyTorch ran it; ``file`` for ONNX and engines.
        ratio_low: Lower end of the ratio's 95 % interval; 0 where there is none.
        ratio_high: Upper end.
        device_ms: Median time between CUDA events around a call; None where there are none.
        copies_ms: Median latency with the images copied to the device and the outputs back;
            None where it was not asked for.
        peak_mb: Device memory that the model and one call need, in a million bytes; None on a CPU.
        relative_l2: ||a - b|| / ||b|| of its output against the baseline's; None without one.
        ready_s: Seconds from asking for this batch to the first result: compiling is in it.
        stable: Whether its latency had settled before the timed calls.
        failed: What went wrong, on one line; empty when nothing did.
        model: Model in the name: ``name`` without the way that it runs.
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
        """Whether there are timings."""
        return not self.not_run and not self.failed


@dataclass(frozen=True)
class Comparison:
    """The fastest of what is shipped against the fastest of one way to do without it.

    Attributes:
        batch: Images a call.
        bar: ``eager``, ``compile`` or ``original``: the reference as it is, torch.compile of the
            reference or of the original library's model, that model in any way.
        ours: Name of the fastest deploy model, ONNX file or engine, in any way.
        theirs: Name of the fastest runner of the bar.
        ratio: Speed of ours divided by that of theirs, in the same rounds.
        low: Lower end of its 95 % interval; 0 where there were too few rounds for one.
        high: Upper end.
    """

    batch: Batch
    bar: Literal["eager", "compile", "original"]
    ours: str
    theirs: str
    ratio: float
    low: float = 0.0
    high: float = 0.0

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 1, so that one of the two is faster."""
        return bool(self.low) and not self.low <= 1 <= self.high


@dataclass(frozen=True)
class BenchReport:
    """One run of the benchmark, with its conditions.

    Attributes:
        model: Model name.
        img_size: Image side in pixels, or rows and columns.
        results: Baseline first, then the others, by batch.
        conditions: What the numbers hold for: device, threads, versions, copies, warm-up.
        comparisons: What is shipped against each way to do without it, by batch.
    """

    model: str
    # Without bounds: msgspec 0.22 crashes where a bounded number may also be a pair.
    img_size: int | tuple[int, int]
    results: tuple[BenchResult, ...]
    conditions: dict[str, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()

    @property
    def failures(self) -> tuple[BenchResult, ...]:
        """What failed of the things to ship; a baseline that fails is shown, and no fault."""
        return tuple(r for r in self.results if r.failed and r.kind in SHIPPED)


@dataclass(frozen=True)
class Effort:
    """How, and how long, to measure.

    Attributes:
        warmup: Untimed rounds at most; they end when every latency has settled.
        iterations: Timed rounds at most; every runner is called once in a round.
        min_iterations: Timed rounds at least, whatever the budget.
        seconds: Budget for all batches together; it cuts warm-up and iterations short, but never
            below one untimed round and ``min_iterations``.
        compile_seconds: Time that compiling may take, of all batches together: once it is spent,
            what is not compiled yet is not run. None for no limit.
        transfers: Also time calls with images copied to the device and outputs back.
        alone: Calls of each runner on its own as soon as it is ready: figures to keep in case that
            the rounds never come.
    """

    warmup: int = 50
    iterations: int = 200
    min_iterations: int = 3
    seconds: float = 15.0
    compile_seconds: float | None = None
    transfers: bool = False
    alone: int = 0


DEFAULT_EFFORT = Effort()
