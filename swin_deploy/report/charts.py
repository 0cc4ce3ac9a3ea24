"""Bar charts as inline SVG between their labels and values: no script, and colours that print."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport
from swin_deploy.parity import ParityReport
from swin_deploy.report.numbers import (
    error_text,
    megabytes_text,
    one_line,
    percent_text,
    ratio_text,
)


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: Left of the bar.
        value: Right of the bar, in words.
        parts: Lengths from 0 to 1 of its parts with their CSS class, from left to right.
        mark: Where a thin line crosses, 0 to 1, or None.
    """

    label: str
    value: str
    parts: tuple[tuple[float, str], ...]
    mark: float | None = None


def render_bars(bars: Iterable[Bar]) -> str:
    """Return a chart in HTML, one row a bar; empty when there are no bars."""
    rows = "".join(_row(bar) for bar in bars)
    return f'<div class="chart">{rows}</div>' if rows else ""


def _row(bar: Bar) -> str:
    rects, start = [], 0.0
    for length, name in bar.parts:
        rects.append(
            f'<rect class="{name}" x="{100 * start:.2f}" y="0" '
            f'width="{100 * length:.2f}" height="10"></rect>'
        )
        start += length
    if bar.mark is not None:
        rects.append(
            f'<line class="mark" x1="{100 * bar.mark:.2f}" x2="{100 * bar.mark:.2f}" '
            'y1="0" y2="10"></line>'
        )
    return (
        f'<div class="bar"><span class="label">{html.escape(one_line(bar.label))}</span>'
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" x="0" y="0" width="100" height="10"></rect>{"".join(rects)}</svg>'
        f'<span class="value">{html.escape(one_line(bar.value))}</span></div>'
    )


def tolerance_bars(parity: ParityReport) -> list[Bar]:
    """Return, for each hop that ran, how much of the allowed error its worst case needs."""
    bars = []
    for hop in parity.hops:
        worst = hop.worst
        if worst is None or hop.passed is None:
            continue
        used = _share(worst.needed_atol, worst.tolerance.atol)
        value = f"{error_text(worst.needed_atol)} of {error_text(worst.tolerance.atol)}"
        bars.append(Bar(hop.name, value, ((min(1.0, used), "good" if hop.passed else "bad"),)))
    return bars


def _share(part: float, whole: float) -> float:
    """Return ``part / whole``, and 1 for what has no share: NaN, infinity, a whole of nothing."""
    share = part / whole if whole > 0 else 1.0
    return share if math.isfinite(share) else 1.0


def ratio_bars(bench: BenchReport) -> list[Bar]:
    """Return the images/s of each runner as a ratio to PyTorch, marked at 1."""
    ran = [result for result in bench.results if not result.not_run]
    longest = max((result.ratio for result in ran if math.isfinite(result.ratio)), default=1.0)
    scale = max(1.0, longest)
    return [
        Bar(
            f"{result.name}, batch {result.batch}",
            ratio_text(result.ratio),
            ((_share(result.ratio, scale), "good" if result.ratio >= 1 else "slow"),),
            mark=1 / scale,
        )
        for result in ran
    ]


def kind_bars(plan: KernelPlan) -> list[Bar]:
    """Return the bytes moved by each kind of kernel: first those in half, then the rest."""
    moved: dict[str, int] = {}
    half: dict[str, int] = {}
    for kernel in plan.kernels:
        moved[kernel.kind] = moved.get(kernel.kind, 0) + kernel.bytes_moved
        half[kernel.kind] = half.get(kernel.kind, 0) + kernel.half_bytes
    longest = max([*moved.values(), 1])
    return [
        Bar(
            f"{kind} ({sum(kernel.kind == kind for kernel in plan.kernels)})",
            f"{megabytes_text(count)} MB, {percent_text(half[kind] / max(1, count))} half",
            ((half[kind] / longest, "good"), ((count - half[kind]) / longest, "slow")),
        )
        for kind, count in sorted(moved.items(), key=lambda item: -item[1])
    ]
