"""Measure throughput side by side with the PyTorch reference, in one run."""

from __future__ import annotations

from dataclasses import dataclass


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
