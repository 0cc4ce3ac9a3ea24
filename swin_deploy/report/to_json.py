"""Results as plain JSON values, for ``report.json`` and ``--json``."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from exporters.plan import KernelPlan
from exporters.plan.roofline import Bound
from exporters.plan.totals import block_pairs
from swin_deploy.bench import BenchResult
from swin_deploy.report.plan_figures import plan_figures
from swin_deploy.report.schema import DERIVED, TIMINGS


def to_json(value: Any) -> Any:  # noqa: ANN401 - any result in, any JSON value out
    """Return a result as JSON values, with the derived values of ``report.schema``.

    NaN and infinity, which JSON does not have, become ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.

    Args:
        value: A report, a part of it, or anything made of such parts.
    """
    if isinstance(value, KernelPlan):
        value = plan_figures(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        derived = [name for cls in type(value).__mro__ for name in DERIVED.get(cls, ())]
        names = (*derived, *(field.name for field in dataclasses.fields(value)))
        lost = TIMINGS if isinstance(value, BenchResult) and not value.timed else ()
        return {n: None if n in lost else to_json(getattr(value, n)) for n in names}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def bound_to_dict(bound: Bound) -> dict[str, Any]:
    """Return a roofline as JSON values: the least time of a plan and its kernels on a GPU."""
    return {
        "gpu": to_json(bound.gpu),
        "batch": bound.batch,
        "latency_ms_at_least": bound.latency_ms,
        "images_per_s_at_most": bound.images_per_s,
        "memory_share": bound.memory_share,
        "compute_ms": bound.compute_ms,
        "launch_ms": bound.launch_ms,
        "kernel_us_at_least": list(bound.kernel_us),
    }


def pairs_to_dict(first: KernelPlan, second: KernelPlan) -> list[dict[str, Any]]:
    """Return the parts of two plans side by side, as JSON values; None for a missing part."""
    return [to_json(pair) | {"more_bytes": pair.more_bytes} for pair in block_pairs(first, second)]
