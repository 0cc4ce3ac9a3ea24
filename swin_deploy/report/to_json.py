"""Results as plain JSON values: what ``report.json`` and ``--json`` hold."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from exporters.plan import KernelPlan
from exporters.plan.roofline import Bound
from exporters.plan.totals import BlockTotal, block_pairs, block_totals
from swin_deploy.bench import BenchReport
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.report.plan_tables import HEAVIEST
from swin_deploy.report.results import Report

SCHEMA = 3
# Fields of a plan that are not figures of its kernels.
PLAN_FIELDS = (
    "batch",
    "attention_blocks",
    "flavor",
    "version",
    "float32_compute",
    "range_kernels",
    "range_fused_attention",
    "lost_float32",
    "blocks",
    "unsized_products",
)

BENCH_FIGURES = ("median_ms", "p95_ms", "images_per_s", "ratio", "ratio_low", "ratio_high")


def report_to_dict(report: Report) -> dict[str, Any]:
    """Return the whole report; JSON has no infinity and no NaN, so both become None."""
    return {
        "schema": SCHEMA,
        "verdict": report.verdict,
        "model": report.model,
        "created": report.created,
        "conditions": dict(report.conditions),
        "made_from": dict(report.made_from),
        "next_command": report.next_command,
        "artifacts": [asdict(artifact) for artifact in report.artifacts],
        "assumptions": [asdict(assumption) for assumption in report.assumptions],
        "parity": None if report.parity is None else parity_to_dict(report.parity),
        "bench": None if report.bench is None else bench_to_dict(report.bench),
        "plan": None if report.plan is None else plan_to_dict(report.plan),
        "evaluation": None if report.evaluation is None else _finite(report.evaluation.to_dict()),
    }


def parity_to_dict(parity: ParityReport) -> dict[str, Any]:
    """Return the fields of ``parity``, and verdicts of it and of each hop (None: not run)."""
    fields: dict[str, Any] = _finite(asdict(parity))
    verdicts = {"passed": parity.passed, "verdict": parity.verdict}
    return fields | verdicts | {"hops": [_hop_to_dict(hop) for hop in parity.hops]}


def _hop_to_dict(hop: Hop) -> dict[str, Any]:
    fields: dict[str, Any] = _finite(asdict(hop))
    return fields | {"passed": hop.passed}


def bench_to_dict(bench: BenchReport) -> dict[str, Any]:
    """Return the fields of ``bench``; a runner that was not timed has None for its figures."""
    fields: dict[str, Any] = _finite(asdict(bench))
    for result in fields["results"]:
        if result["not_run"] or result["failed"]:
            result |= dict.fromkeys(BENCH_FIGURES)
    return fields


def plan_to_dict(plan: KernelPlan) -> dict[str, Any]:
    """Return the figures of ``plan`` and its heaviest kernels; shares are from 0 to 1."""
    return {
        "kernels": plan.kernel_count,
        "attention_blocks": plan.attention_blocks,
        "fused_attention": plan.fused_attention,
        "bytes_moved": plan.bytes_moved,
        "bytes_moved_per_image": plan.bytes_moved_per_image,
        "floor_bytes": plan.floor_bytes or None,
        "floor_ratio": plan.floor_ratio,
        "flops": plan.flops if plan.blocks else None,
        "unsized_products": plan.unsized_products,
        "bytes_by_type": plan.bytes_by_type,
        "half_byte_share": plan.half_byte_share,
        "half_kernel_share": plan.half_kernel_share,
        "kernel_types": plan.kernel_types,
        "kernel_kinds": plan.kernel_kinds,
        "batch": plan.batch,
        "flavor": plan.flavor,
        "version": plan.version,
        "range_kernels": plan.range_kernels,
        "range_fused_attention": plan.range_fused_attention,
        "float32_compute": list(plan.float32_compute),
        "lost_float32": list(plan.lost_float32),
        "blocks": [_finite(asdict(total)) for total in block_totals(plan)],
        "heaviest": [_finite(asdict(kernel)) for kernel in plan.heaviest(HEAVIEST)],
        "launches": [_finite(asdict(kernel)) for kernel in plan.kernels],
    }


def bound_to_dict(bound: Bound) -> dict[str, Any]:
    """Return a roofline: what the plan takes on a GPU at least, and each kernel of it."""
    return {
        "gpu": asdict(bound.gpu),
        "batch": bound.batch,
        "latency_ms_at_least": bound.latency_ms,
        "images_per_s_at_most": bound.images_per_s,
        "memory_share": bound.memory_share,
        "compute_ms": bound.compute_ms,
        "launch_ms": bound.launch_ms,
        "kernel_us_at_least": list(bound.kernel_us),
    }


def pairs_to_dict(first: KernelPlan, second: KernelPlan) -> list[dict[str, Any]]:
    """Return the parts of two plans side by side; None where one has no such part."""
    return [
        {
            "first": _total_to_dict(pair.first),
            "second": _total_to_dict(pair.second),
            "more_bytes": pair.more_bytes,
        }
        for pair in block_pairs(first, second)
    ]


def _total_to_dict(total: BlockTotal | None) -> dict[str, Any] | None:
    return None if total is None else asdict(total)


def _finite(value: Any) -> Any:  # noqa: ANN401 (any JSON value in, any JSON value out)
    """Return ``value`` with lists for tuples and None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
