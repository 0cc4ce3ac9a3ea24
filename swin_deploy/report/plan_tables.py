"""A kernel plan as tables of text: its figures, its parts, its kernels, and its time on GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from exporters.plan import Kernel, KernelPlan
from exporters.plan.roofline import Bound, bound_plan
from exporters.plan.totals import BlockPair, BlockTotal, block_pairs, block_totals, plan_total
from swin_deploy.report.numbers import megabytes_text, one_line, percent_text, ratio_text
from swin_deploy.report.plan_figures import HEAVIEST
from swin_deploy.report.tables import Facts, Kind, Table

# Kinds of kernels that tables and charts show, and the kinds of a plan that each one sums.
SHOWN_KINDS = {
    "attention": ("attention",),
    "gemm": ("gemm",),
    "norm": ("norm", "elementwise", "other"),  # other: plans of older releases
    "copy": ("copy",),
}
Columns = tuple[tuple[str, Kind], ...]


def plan_facts(plan: KernelPlan) -> Facts:
    """Return the figures of an engine's kernel plan."""
    types = ", ".join(f"{name} {count}" for name, count in plan.kernel_types.items())
    kinds = ", ".join(f"{name} {count}" for name, count in plan.kernel_kinds.items())
    facts = (
        ("Kernels", str(plan.kernel_count)),
        ("Fused attention", f"{plan.fused_attention} of {plan.attention_blocks}"),
        ("MB moved per image", megabytes_text(plan.bytes_moved_per_image)),
        (f"MB moved at batch {plan.batch}", megabytes_text(plan.bytes_moved)),
        *_needed_facts(plan),
        ("Bytes in half", percent_text(plan.half_byte_share)),
        ("Kernels in half", percent_text(plan.half_kernel_share)),
        ("GEMM, attention in float32", str(len(plan.float32_compute))),
        ("Kernel kinds", kinds),
        ("Kernel types", types),
        ("Planned by", f"{plan.flavor} {plan.version}"),
    )
    return tuple((one_line(name), one_line(text)) for name, text in facts)


def plan_line(plan: KernelPlan) -> str:
    """Return the figures that matter most, in one line."""
    ratio = f", {ratio_text(plan.floor_ratio)} of the minimum" if plan.floor_ratio else ""
    float32 = len(plan.float32_compute)
    return (
        f"{plan.kernel_count} kernels, {plan.fused_attention} of {plan.attention_blocks} attention "
        f"blocks fused, {megabytes_text(plan.bytes_moved_per_image)} MB moved per image{ratio}, "
        f"{percent_text(plan.half_byte_share)} of the bytes in half"
        + (f", {float32} GEMM or attention kernels in float32" if float32 else "")
        + f" ({plan.flavor} {plan.version})"
    )


def _needed_facts(plan: KernelPlan) -> Facts:
    """Return floor and operations; for a plan without blocks, that they are not known."""
    if not plan.blocks:
        return (("Minimum", "not known: planned by an older release; build the engine again"),)
    unsized = f", without {plan.unsized_products} products of unknown shapes"
    return (
        ("Of the minimum", _floor_text(plan.floor_ratio)),
        (f"MB at the minimum, batch {plan.batch}", megabytes_text(plan.floor_bytes)),
        (
            "GFLOP per image",
            f"{plan.flops / plan.batch / 1e9:.3f}{unsized if plan.unsized_products else ''}",
        ),
    )


def kernel_table(plan: KernelPlan) -> Table:
    """Return the kernels that move most bytes, heaviest first, with their ONNX nodes."""
    columns: Columns = (
        ("Kernel", "code"),
        ("Kind", "text"),
        ("Block", "code"),
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
        kernel.block,
        megabytes_text(kernel.bytes_moved),
        percent_text(kernel.bytes_moved / max(1, plan.bytes_moved)),
        percent_text(kernel.half_bytes / max(1, kernel.bytes_moved)),
        ", ".join(kernel.onnx_nodes),
    )


def launch_table(plan: KernelPlan, bounds: Sequence[Bound] = ()) -> Table:
    """Return every kernel in launch order.

    Args:
        plan: The plan.
        bounds: Rooflines of the plan; the first one, if any, adds each kernel's least time.
    """
    columns: Columns = (
        ("No.", "number"),
        ("Block", "code"),
        ("Kind", "code"),
        ("MB read", "number"),
        ("MB written", "number"),
        ("Of all", "number"),
        ("GFLOP", "number"),
        *_time_columns(bounds),
        ("Operators of its ONNX nodes", "text"),
    )
    rows = (
        (
            str(number),
            kernel.block,
            kernel.kind,
            megabytes_text(kernel.bytes_read),
            megabytes_text(kernel.bytes_written),
            percent_text(kernel.bytes_moved / max(1, plan.bytes_moved)),
            _gflop_text(kernel.flops),
            *(f"{bound.kernel_us[number - 1]:.2f}" for bound in bounds[:1]),
            _operators_text(kernel),
        )
        for number, kernel in enumerate(plan.kernels, start=1)
    )
    return _table(columns, rows)


def _operators_text(kernel: Kernel) -> str:
    """Return ``Reshape x2, Transpose``; the builder's name if it names no ONNX node."""
    counts = Counter(kernel.operators)
    texts = (name if count == 1 else f"{name} x{count}" for name, count in counts.items())
    return ", ".join(texts) or kernel.name


def _time_columns(bounds: Sequence[Bound]) -> Columns:
    return tuple(("us at least", "number") for _ in bounds[:1])


def block_table(plan: KernelPlan, bounds: Sequence[Bound] = ()) -> Table:
    """Return every part of the model in its order, and the total.

    Args:
        plan: The plan.
        bounds: Rooflines of the plan; the first one, if any, adds each part's least time.
    """
    columns: Columns = (
        ("Block", "code"),
        ("Kernels", "number"),
        ("MB moved", "number"),
        ("Of all", "number"),
        ("Of min.", "number"),
        ("GFLOP", "number"),
        *((f"{kind} MB", "number") for kind in SHOWN_KINDS),
        *_time_columns(bounds),
    )
    rows = (
        (*_block_row(total, plan.bytes_moved), *_block_times(total.name, plan, bounds))
        for total in block_totals(plan)
    )
    return _table(columns, (*rows, _last_row(plan, bounds)))


def _block_row(total: BlockTotal, moved: int) -> tuple[str, ...]:
    return (
        total.name,
        str(total.kernels),
        megabytes_text(total.bytes_moved),
        percent_text(total.bytes_moved / max(1, moved)),
        _floor_text(total.floor_ratio if total.kernels else None),
        _gflop_text(total.flops),
        *(megabytes_text(size) if size else "-" for size in shown_bytes(total.bytes_by_kind)),
    )


def _block_times(name: str, plan: KernelPlan, bounds: Sequence[Bound]) -> tuple[str, ...]:
    def time(bound: Bound) -> float:
        pairs = zip(plan.kernels, bound.kernel_us, strict=True)
        return sum(us for kernel, us in pairs if kernel.block == name)

    return tuple(f"{time(bound):.1f}" for bound in bounds[:1])


def _last_row(plan: KernelPlan, bounds: Sequence[Bound]) -> tuple[str, ...]:
    times = (f"{sum(bound.kernel_us):.1f}" for bound in bounds[:1])
    return (*_block_row(plan_total(plan), plan.bytes_moved), *times)


def shown_bytes(by_kind: dict[str, int]) -> tuple[int, ...]:
    """Return the bytes of each of ``SHOWN_KINDS``."""
    return tuple(sum(by_kind.get(kind, 0) for kind in kinds) for kinds in SHOWN_KINDS.values())


def roofline_table(bounds: Iterable[Bound]) -> Table:
    """Return one row a GPU: its least latency, the share bound by memory, and the launches."""
    columns: Columns = (
        ("GPU", "text"),
        ("Latency ms at least", "number"),
        ("Images/s at most", "number"),
        ("Bound by memory", "number"),
        ("FLOPs alone ms", "number"),
        ("Launches ms", "number"),
        ("FP16 TFLOPS", "number"),
        ("GB/s", "number"),
    )
    rows = (
        (
            bound.gpu.name,
            f"{bound.latency_ms:.3f}",
            f"{bound.images_per_s:,.0f}",
            percent_text(bound.memory_share),
            f"{bound.compute_ms:.3f}",
            f"{bound.launch_ms:.3f}",
            f"{bound.gpu.fp16_tflops:,.1f}",
            f"{bound.gpu.memory_gb_s:,.0f}",
        )
        for bound in bounds
    )
    return _table(columns, rows)


def comparison_table(first: KernelPlan, second: KernelPlan, bounds: Sequence[Bound]) -> Table:
    """Return the figures of two plans side by side, and the second over the first.

    Args:
        first: The plan A.
        second: The plan B.
        bounds: Rooflines of ``first``; those of ``second`` are computed for the same GPUs.
    """
    columns: Columns = (("", "text"), ("A", "number"), ("B", "number"), ("B/A", "number"))
    plans = (first, second)
    at = f"batch {first.batch}"
    rows = [
        _figure("Kernels", [plan.kernel_count for plan in plans], "{:,.0f}"),
        ("Fused attention", *(f"{p.fused_attention} of {p.attention_blocks}" for p in plans), "-"),
        _figure(f"MB moved at {at}", [plan.bytes_moved / 1e6 for plan in plans], "{:,.1f}"),
        _figure(f"MB at the minimum, {at}", [p.floor_bytes / 1e6 for p in plans], "{:,.1f}"),
        ("Of the minimum", *(_floor_text(plan.floor_ratio) for plan in plans), "-"),
        _figure(f"GFLOP at {at}", [plan.flops / 1e9 for plan in plans], "{:,.2f}"),
        ("Bytes in half", *(percent_text(plan.half_byte_share) for plan in plans), "-"),
    ]
    for bound in bounds:
        times = [bound.latency_ms, bound_plan(second, bound.gpu).latency_ms]
        rows.append(_figure(f"{bound.gpu.name} ms at least", times, "{:.3f}"))
    return _table(columns, rows)


def _figure(name: str, values: Sequence[float], form: str) -> tuple[str, ...]:
    """Return a row of two numbers, and the second over the first."""
    one, other = values
    ratio = ratio_text(other / one) if one and other else "-"
    return (name, form.format(one), form.format(other), ratio)


def pair_table(first: KernelPlan, second: KernelPlan, count: int | None = None) -> Table:
    """Return the parts of two plans side by side.

    Args:
        first: The plan A.
        second: The plan B.
        count: Number of parts to show, those that differ most first; None for all of them, in the
            model's order.
    """
    columns: Columns = (
        ("Block of A", "code"),
        ("Block of B", "code"),
        ("Kernels A", "number"),
        ("Kernels B", "number"),
        ("MB A", "number"),
        ("MB B", "number"),
        ("MB more in B", "number"),
        ("Of min. A", "number"),
        ("Of min. B", "number"),
    )
    pairs = list(block_pairs(first, second))
    if count is not None:
        pairs = sorted(pairs, key=lambda pair: -abs(pair.more_bytes))[:count]
    return _table(columns, map(_pair_row, pairs))


def _pair_row(pair: BlockPair) -> tuple[str, ...]:
    sides = (pair.first, pair.second)
    return (
        *(total.name if total else "-" for total in sides),
        *(str(total.kernels) if total else "-" for total in sides),
        *(megabytes_text(total.bytes_moved) if total else "-" for total in sides),
        f"{pair.more_bytes / 1e6:+,.1f}",
        *(_floor_text(total.floor_ratio if total else None) for total in sides),
    )


def _floor_text(ratio: float | None) -> str:
    return "-" if ratio is None else ratio_text(ratio)


def _gflop_text(flops: int) -> str:
    return f"{flops / 1e9:,.3f}" if flops else "-"


def _table(columns: Columns, rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(columns, tuple(tuple(one_line(cell) for cell in row) for row in rows))
