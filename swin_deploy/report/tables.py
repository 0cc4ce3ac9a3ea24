"""Results as tables of text, one place for what the terminal, Markdown and HTML all show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from exporters.plan import Kernel, KernelPlan
from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.parity import Hop, ParityReport, ParityResult
from swin_deploy.report import Artifact
from swin_deploy.report.numbers import (
    cosine_text,
    decibel_text,
    error_text,
    latency_text,
    megabytes_text,
    one_line,
    percent_text,
    ratio_text,
)
from swin_deploy.report.words import case_text, tolerance_texts, verdict_word

Kind = Literal["text", "number", "verdict", "code"]
Facts = tuple[tuple[str, str], ...]
HEAVIEST = 10


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        columns: Header and kind of each column.
        rows: Cells, each one line.
    """

    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[str, ...], ...]


def _table(columns: tuple[tuple[str, Kind], ...], rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(columns, tuple(tuple(one_line(cell) for cell in row) for row in rows))


def hop_table(parity: ParityReport) -> Table:
    """Return one row a hop, with its worst case: needed beside allowed."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Hop", "text"),
        ("Verdict", "verdict"),
        ("Needed atol", "number"),
        ("Allowed atol", "number"),
        ("Worst case", "text"),
        ("Cases passed", "number"),
        ("Max error", "number"),
        ("Relative L2", "number"),
        ("Cosine", "number"),
    )
    return _table(columns, (_hop_row(hop) for hop in parity.hops))


def _hop_row(hop: Hop) -> tuple[str, ...]:
    verdict = verdict_word(hop.passed)
    worst = hop.worst
    if hop.passed is None or worst is None:
        return (hop.name, verdict, *("-",) * 7)
    passed = sum(result.passed for result in hop.results)
    return (
        hop.name,
        verdict,
        error_text(worst.needed_atol),
        error_text(worst.tolerance.atol),
        case_text(worst),
        f"{passed}/{len(hop.results)}",
        error_text(worst.max_abs),
        error_text(worst.relative_l2),
        cosine_text(worst.cosine),
    )


def case_table(hop: Hop) -> Table:
    """Return one row for each set of images and batch size; why, where the hop failed."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Images", "text"),
        ("Batch", "number"),
        ("Rows", "number"),
        ("Verdict", "verdict"),
        ("Needed atol", "number"),
        ("Allowed atol", "number"),
        ("Max error", "number"),
        ("Mean error", "number"),
        ("Relative L2", "number"),
        ("Cosine", "number"),
        ("SQNR dB", "number"),
        ("Top-1 agreement", "number"),
    )
    if hop.passed:
        return _table(columns, (_case_row(result) for result in hop.results))
    rows = ((*_case_row(result), result.reason) for result in hop.results)
    return _table((*columns, ("Reason", "text")), rows)


def _case_row(result: ParityResult) -> tuple[str, ...]:
    return (
        result.inputs,
        str(result.batch),
        str(result.rows),
        verdict_word(result.passed),
        error_text(result.needed_atol),
        error_text(result.tolerance.atol),
        error_text(result.max_abs),
        error_text(result.mean_abs),
        error_text(result.relative_l2),
        cosine_text(result.cosine),
        decibel_text(result.sqnr_db),
        percent_text(result.top1_agreement),
    )


def allowed_facts(parity: ParityReport) -> Facts:
    """Return each tolerance in words, with the hops that it holds for."""
    hops: dict[str, list[str]] = {}
    for hop in parity.hops:
        for rule in tolerance_texts(hop):
            hops.setdefault(rule, []).append(hop.name)
    return _facts((f"Allowed: {', '.join(names)}", rule) for rule, names in hops.items())


def parity_facts(parity: ParityReport) -> Facts:
    """Return what was compared with what: weights, reference, sets of images, accuracy."""
    images = [(f"Images: {name}", text) for name, text in parity.inputs.items()]
    facts = [("Weights", parity.weights), ("Reference", parity.reference_backend), *images]
    accuracy = {"reference": parity.reference_top1_accuracy}
    accuracy |= {hop.name: hop.top1_accuracy for hop in parity.hops}
    shares = [f"{n} {percent_text(share)}" for n, share in accuracy.items() if share is not None]
    return _facts([*facts, ("Top-1 accuracy", ", ".join(shares))] if shares else facts)


def _facts(facts: Iterable[tuple[str, str]]) -> Facts:
    return tuple((one_line(name), one_line(text)) for name, text in facts)


def bench_table(bench: BenchReport) -> Table:
    """Return one row for each runner and batch size."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Runner", "text"),
        ("Precision", "text"),
        ("Batch", "number"),
        ("Median ms", "number"),
        ("p95 ms", "number"),
        ("Images/s", "number"),
        ("vs PyTorch", "number"),
        ("Calls timed", "number"),
    )
    return _table(columns, (_bench_row(result) for result in bench.results))


def _bench_row(result: BenchResult) -> tuple[str, ...]:
    first = (result.name, result.precision, str(result.batch))
    if result.not_run:
        return (*first, "not run", *("-",) * 4)
    return (
        *first,
        latency_text(result.median_ms),
        latency_text(result.p95_ms),
        f"{result.images_per_s:,.1f}",
        ratio_text(result.ratio),
        str(result.iterations),
    )


def bench_facts(bench: BenchReport) -> Facts:
    """Return what the timings hold for: image size, conditions, what ran each runner."""
    ran = {result.name: result.backend for result in bench.results if not result.not_run}
    side = f"{bench.img_size} x {bench.img_size} pixels"
    return _facts([("Image size", side), *bench.conditions.items(), *ran.items()])


def bench_not_run(bench: BenchReport) -> Facts:
    """Return each runner that could not run here, with the reason."""
    return _facts(
        {result.name: result.not_run for result in bench.results if result.not_run}.items()
    )


def plan_facts(plan: KernelPlan) -> Facts:
    """Return the figures of an engine's kernel plan."""
    types = ", ".join(f"{name} {count}" for name, count in plan.kernel_types.items())
    return _facts(
        (
            ("Kernels", str(plan.kernel_count)),
            ("Fused attention", f"{plan.fused_attention} of {plan.attention_blocks}"),
            ("MB moved per image", megabytes_text(plan.bytes_moved_per_image)),
            (f"MB moved at batch {plan.batch}", megabytes_text(plan.bytes_moved)),
            ("Bytes in half", percent_text(plan.half_byte_share)),
            ("Kernels in half", percent_text(plan.half_kernel_share)),
            ("GEMM, attention in float32", str(len(plan.float32_compute))),
            ("Kernel types", types),
            ("Planned by", f"{plan.flavor} {plan.version}"),
        )
    )


def kernel_table(plan: KernelPlan) -> Table:
    """Return the kernels that move most bytes, heaviest first, with their ONNX nodes."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Kernel", "code"),
        ("Kind", "text"),
        ("Type", "text"),
        ("MB moved", "number"),
        ("Of all", "number"),
        ("In half", "number"),
        ("ONNX nodes", "code"),
    )
    return _table(columns, (_kernel_row(k, plan) for k in plan.heaviest(HEAVIEST)))


def _kernel_row(kernel: Kernel, plan: KernelPlan) -> tuple[str, ...]:
    return (
        kernel.name,
        kernel.kind,
        kernel.layer_type,
        megabytes_text(kernel.bytes_moved),
        percent_text(kernel.bytes_moved / max(1, plan.bytes_moved)),
        percent_text(kernel.half_bytes / max(1, kernel.bytes_moved)),
        ", ".join(kernel.onnx_nodes),
    )


def artifact_table(artifacts: tuple[Artifact, ...]) -> Table:
    """Return one row for each file, with its whole SHA-256."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Kind", "text"),
        ("File", "text"),
        ("MB", "number"),
        ("SHA-256", "code"),
    )
    rows = ((a.kind, a.file, megabytes_text(a.bytes), a.sha256) for a in artifacts)
    return _table(columns, rows)
