"""Results as plain JSON values: what ``report.json`` and ``--json`` hold."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.report import Report
from swin_deploy.report.tables import HEAVIEST

SCHEMA = 1
# Fields of a plan that are not figures of its kernels.
PLAN_FIELDS = (
    "batch",
    "attention_blocks",
    "flavor",
    "version",
    "float32_compute",
    "range_kernels",
    "range_fused_attention",
)


def report_to_dict(report: Report) -> dict[str, Any]:
    """Return the whole report; JSON has no infinity and no NaN, so both become None."""
    return {
        "schema": SCHEMA,
        "verdict": report.verdict,
        "model": report.model,
        "created": report.created,
        "conditions": dict(report.conditions),
        "artifacts": [asdict(artifact) for artifact in report.artifacts],
        "parity": None if report.parity is None else parity_to_dict(report.parity),
        "bench": None if report.bench is None else bench_to_dict(report.bench),
        "plan": None if report.plan is None else plan_to_dict(report.plan),
    }


def parity_to_dict(parity: ParityReport) -> dict[str, Any]:
    """Return the fields of ``parity``, and ``passed`` for it and for each hop (None: not run)."""
    fields: dict[str, Any] = _finite(asdict(parity))
    return fields | {"passed": parity.passed, "hops": [_hop_to_dict(hop) for hop in parity.hops]}


def _hop_to_dict(hop: Hop) -> dict[str, Any]:
    fields: dict[str, Any] = _finite(asdict(hop))
    return fields | {"passed": hop.passed}


def bench_to_dict(bench: BenchReport) -> dict[str, Any]:
    """Return the fields of ``bench``; a runner that did not run has None for its timings."""
    fields: dict[str, Any] = _finite(asdict(bench))
    for result in fields["results"]:
        if result["not_run"]:
            result |= dict.fromkeys(("median_ms", "p95_ms", "images_per_s", "ratio"))
    return fields


def plan_to_dict(plan: KernelPlan) -> dict[str, Any]:
    """Return the figures of ``plan`` and its heaviest kernels; shares are from 0 to 1."""
    return {
        "kernels": plan.kernel_count,
        "attention_blocks": plan.attention_blocks,
        "fused_attention": plan.fused_attention,
        "bytes_moved": plan.bytes_moved,
        "bytes_moved_per_image": plan.bytes_moved_per_image,
        "half_byte_share": plan.half_byte_share,
        "half_kernel_share": plan.half_kernel_share,
        "kernel_types": plan.kernel_types,
        "batch": plan.batch,
        "flavor": plan.flavor,
        "version": plan.version,
        "range_kernels": plan.range_kernels,
        "range_fused_attention": plan.range_fused_attention,
        "float32_compute": list(plan.float32_compute),
        "heaviest": [_finite(asdict(kernel)) for kernel in plan.heaviest(HEAVIEST)],
        "launches": [_finite(asdict(kernel)) for kernel in plan.kernels],
    }


def _finite(value: Any) -> Any:  # noqa: ANN401 (any JSON value in, any JSON value out)
    """Return ``value`` with lists for tuples and None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
