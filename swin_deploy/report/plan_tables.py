"""A kernel plan as tables of text: its figures, its parts, its kernels, and its time on GPUs."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from exporters.plan import Kernel, KernelPlan
from exporters.plan.roofline import Bound, bound_plan
from exporters.plan.totals import BlockPair, BlockTotal, block_pairs, block_totals, plan_total
from swin_deploy.report.numbers import megabytes_text, one_line, percent_text, ratio_text
from swin_deploy.report.plan_figures import HEAVIEST
from swin_deploy.report.tables import Columns, Facts, Kind, Table, make_table

# Kinds of kernels that tables and charts show, and the kinds of a plan that each one sums.
SHOWN_KINDS = {
    "attention": ("attention",),
    "gemm": ("gemm",),
    "norm": ("norm", "elementwise", "other"),  # other: plans of older releases
    "copy": ("copy",),
}
TIME = "us at least"


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
        *([("GEMM that read FP8", str(plan.fp8_products))] if plan.fp8_products else []),
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
        ("Of the minimum", _floor_text(plan)),
        (f"MB at the minimum, batch {plan.batch}", megabytes_text(plan.floor_bytes)),
        (
            "GFLOP per image",
            f"{plan.flops / plan.batch / 1e9:.3f}{unsized if plan.unsized_products else ''}",
        ),
    )


def kernel_table(plan: KernelPlan) -> Table:
    """Return the kernels that move most bytes, heaviest first, with their ONNX nodes."""
    columns: Columns[Kernel] = {
        "Kernel": ("code", lambda kernel: kernel.name),
        "Kind": ("text", lambda kernel: kernel.kind),
        "Block": ("code", lambda kernel: kernel.block),
        "MB moved": ("number", lambda kernel: megabytes_text(kernel.bytes_moved)),
        "Of all": ("number", lambda kernel: _share(kernel.bytes_moved, plan.bytes_moved)),
        "In half": ("number", lambda kernel: _share(kernel.half_bytes, kernel.bytes_moved)),
        "ONNX nodes": ("code", lambda kernel: ", ".join(kernel.onnx_nodes)),
    }
    return make_table(plan.heaviest(HEAVIEST), columns)


def _share(part: int, whole: int) -> str:
    return percent_text(part / max(1, whole))


def launch_table(plan: KernelPlan, bounds: Sequence[Bound] = ()) -> Table:
    """Return every kernel in launch order.

    Args:
        plan: The plan.
        bounds: Rooflines of the plan; the first one, if any, adds each kernel's least time.
    """
    times = bounds[0].kernel_us if bounds else ()
    columns: Columns[tuple[int, Kernel]] = {
        "No.": ("number", lambda pair: str(pair[0])),
        "Block": ("code", lambda pair: pair[1].block),
        "Kind": ("code", lambda pair: pair[1].kind),
        "MB read": ("number", lambda pair: megabytes_text(pair[1].bytes_read)),
        "MB written": ("number", lambda pair: megabytes_text(pair[1].bytes_written)),
        "Of all": ("number", lambda pair: _share(pair[1].bytes_moved, plan.bytes_moved)),
        "GFLOP": ("number", lambda pair: _gflop_text(pair[1].flops)),
        **({TIME: ("number", lambda pair: f"{times[pair[0] - 1]:.2f}")} if bounds else {}),
        "Operators of its ONNX nodes": ("text", lambda pair: _operators_text(pair[1])),
    }
    return make_table(enumerate(plan.kernels, start=1), columns)


def _operators_text(kernel: Kernel) -> str:
    """Return ``Reshape x2, Transpose``; the builder's name if it names no ONNX node."""
    counts = Counter(kernel.operators)
    texts = (name if count == 1 else f"{name} x{count}" for name, count in counts.items())
    return ", ".join(texts) or kernel.name


def block_table(plan: KernelPlan, bounds: Sequence[Bound] = ()) -> Table:
    """Return every part of the model in its order, and the total.

    Args:
        plan: The plan.
        bounds: Rooflines of the plan; the first one, if any, adds each part's least time.
    """
    whole = plan_total(plan)
    columns: Columns[BlockTotal] = {
        "Block": ("code", lambda total: total.name),
        "Kernels": ("number", lambda total: str(total.kernels)),
        "MB moved": ("number", lambda total: megabytes_text(total.bytes_moved)),
        "Of all": ("number", lambda total: _share(total.bytes_moved, plan.bytes_moved)),
        "Of min.": ("number", lambda total: _floor_text(total if total.kernels else None)),
        "GFLOP": ("number", lambda total: _gflop_text(total.flops)),
        **{f"{kind} MB": ("number", functools.partial(_kind_text, kind)) for kind in SHOWN_KINDS},
        **({TIME: ("number", _time_cell(plan, whole, bounds[0]))} if bounds else {}),
    }
    return make_table((*block_totals(plan), whole), columns)


def _kind_text(kind: str, total: BlockTotal) -> str:
    size = sum(total.bytes_by_kind.get(one, 0) for one in SHOWN_KINDS[kind])
    return megabytes_text(size) if size else "-"


def _time_cell(plan: KernelPlan, whole: BlockTotal, bound: Bound) -> Callable[[BlockTotal], str]:
    def cell(total: BlockTotal) -> str:
        pairs = zip(plan.kernels, bound.kernel_us, strict=True)
        times = (us for one, us in pairs if total is whole or one.block == total.name)
        return f"{sum(times):.1f}"

    return cell


def shown_bytes(by_kind: dict[str, int]) -> tuple[int, ...]:
    """Return the bytes of each of ``SHOWN_KINDS``."""
    return tuple(sum(by_kind.get(kind, 0) for kind in kinds) for kinds in SHOWN_KINDS.values())


def roofline_table(bounds: Iterable[Bound]) -> Table:
    """Return one row a GPU: its least latency, the share bound by memory, and the launches."""
    columns: Columns[Bound] = {
        "GPU": ("text", lambda bound: bound.gpu.name),
        "Latency ms at least": ("number", lambda bound: f"{bound.latency_ms:.3f}"),
        "Images/s at most": ("number", lambda bound: f"{bound.images_per_s:,.0f}"),
        "Bound by memory": ("number", lambda bound: percent_text(bound.memory_share)),
        "FLOPs alone ms": ("number", lambda bound: f"{bound.compute_ms:.3f}"),
        "Launches ms": ("number", lambda bound: f"{bound.launch_ms:.3f}"),
        "FP16 TFLOPS": ("number", lambda bound: f"{bound.gpu.fp16_tflops:,.1f}"),
        "GB/s": ("number", lambda bound: f"{bound.gpu.memory_gb_s:,.0f}"),
    }
    return make_table(bounds, columns)


def comparison_table(first: KernelPlan, second: KernelPlan, bounds: Sequence[Bound]) -> Table:
    """Return the figures of two plans side by side, and the second over the first.

    Args:
        first: The plan A.
        second: The plan B.
        bounds: Rooflines of ``first``; those of ``second`` are computed for the same GPUs.
    """
    columns: tuple[tuple[str, Kind], ...]
    columns = (("", "text"), ("A", "number"), ("B", "number"), ("B/A", "number"))
    plans = (first, second)
    at = f"batch {first.batch}"
    rows = [
        _figure("Kernels", [plan.kernel_count for plan in plans], "{:,.0f}"),
        ("Fused attention", *(f"{p.fused_attention} of {p.attention_blocks}" for p in plans), "-"),
        _figure(f"MB moved at {at}", [plan.bytes_moved / 1e6 for plan in plans], "{:,.1f}"),
        _figure(f"MB at the minimum, {at}", [p.floor_bytes / 1e6 for p in plans], "{:,.1f}"),
        ("Of the minimum", *(_floor_text(plan) for plan in plans), "-"),
        _figure(f"GFLOP at {at}", [plan.flops / 1e9 for plan in plans], "{:,.2f}"),
        ("Bytes in half", *(percent_text(plan.half_byte_share) for plan in plans), "-"),
    ]
    for bound in bounds:
        times = [bound.latency_ms, bound_plan(second, bound.gpu).latency_ms]
        rows.append(_figure(f"{bound.gpu.name} ms at least", times, "{:.3f}"))
    return Table(columns, tuple(rows))


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
    columns: Columns[BlockPair] = {
        "Block of A": ("code", lambda pair: pair.first.name if pair.first else "-"),
        "Block of B": ("code", lambda pair: pair.second.name if pair.second else "-"),
        "Kernels A": ("number", lambda pair: _kernels(pair.first)),
        "Kernels B": ("number", lambda pair: _kernels(pair.second)),
        "MB A": ("number", lambda pair: _moved(pair.first)),
        "MB B": ("number", lambda pair: _moved(pair.second)),
        "MB more in B": ("number", lambda pair: f"{pair.more_bytes / 1e6:+,.1f}"),
        "Of min. A": ("number", lambda pair: _floor_text(pair.first)),
        "Of min. B": ("number", lambda pair: _floor_text(pair.second)),
    }
    pairs = list(block_pairs(first, second))
    if count is not None:
        pairs = sorted(pairs, key=lambda pair: -abs(pair.more_bytes))[:count]
    return make_table(pairs, columns)


def _kernels(total: BlockTotal | None) -> str:
    return str(total.kernels) if total else "-"


def _moved(total: BlockTotal | None) -> str:
    return megabytes_text(total.bytes_moved) if total else "-"


def _floor_text(total: BlockTotal | KernelPlan | None) -> str:
    ratio = total.floor_ratio if total else None
    return "-" if ratio is None else ratio_text(ratio)


def _gflop_text(flops: int) -> str:
    return f"{flops / 1e9:,.3f}" if flops else "-"
