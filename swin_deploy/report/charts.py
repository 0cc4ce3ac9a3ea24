"""Bar charts as inline SVG between their labels and values: no script, and colours that print."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass

from exporters.plan import KernelPlan
from exporters.plan.totals import block_totals
from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.parity import ParityReport
from swin_deploy.report.numbers import (
    error_text,
    megabytes_text,
    one_line,
    ratio_text,
)
from swin_deploy.report.plan_tables import SHOWN_KINDS, shown_bytes


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: Text left of the bar.
        value: Text right of the bar.
        parts: Lengths from 0 to 1 of its parts with their CSS class, from left to right.
        mark: Position of a thin line across the bar, 0 to 1; None for no line.
        whisker: Ends of the value's interval, 0 to 1; None for no whisker.
    """

    label: str
    value: str
    parts: tuple[tuple[float, str], ...]
    mark: float | None = None
    whisker: tuple[float, float] | None = None


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
    if bar.whisker is not None:
        rects.append(_whisker(*bar.whisker))
    return (
        f'<div class="bar"><span class="label">{html.escape(one_line(bar.label))}</span>'
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" x="0" y="0" width="100" height="10"></rect>{"".join(rects)}</svg>'
        f'<span class="value">{html.escape(one_line(bar.value))}</span></div>'
    )


def _whisker(low: float, high: float) -> str:
    left, right = f"{100 * low:.2f}", f"{100 * high:.2f}"
    lines = ((left, right, 5, 5), (left, left, 2, 8), (right, right, 2, 8))
    return "".join(
        f'<line class="whisker" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"></line>'
        for x1, x2, y1, y2 in lines
    )


def tolerance_bars(parity: ParityReport) -> list[Bar]:
    """Return a bar for each hop that ran: the share of the limit that its worst case needs."""
    bars = []
    for hop in parity.hops:
        worst = hop.worst
        if worst is None or hop.passed is None:
            continue
        check = worst.deciding
        used = _share(check.needed, check.allowed)
        value = f"{error_text(check.needed)} of {error_text(check.allowed)}"
        bars.append(Bar(hop.name, value, ((min(1.0, used), "good" if hop.passed else "bad"),)))
    return bars


def _share(part: float, whole: float) -> float:
    """Return ``part / whole``; 1 if that is NaN or infinite, or if the whole is not positive."""
    share = part / whole if whole > 0 else 1.0
    return share if math.isfinite(share) else 1.0


def ratio_bars(bench: BenchReport) -> list[Bar]:
    """Return the images/s of each runner as a ratio to the baseline, marked at 1.

    There are no bars if no runner but the baseline has a ratio.
    """
    baseline = [result for result in bench.results if result.timed and result.ratio == 1]
    ran = [r for r in bench.results if r.timed and (r.ratio_high or r in baseline)]
    if len(ran) == len(baseline):
        return []
    ends = [end for result in ran for end in (result.ratio, result.ratio_high)]
    scale = max([1.0, *filter(math.isfinite, ends)])
    return [_ratio_bar(result, scale) for result in ran]


def _ratio_bar(result: BenchResult, scale: float) -> Bar:
    low, high = result.ratio_low, result.ratio_high
    return Bar(
        f"{_precise_name(result)}, batch {result.batch}",
        ratio_text(result.ratio) + (f", {low:.2f} to {high:.2f}" if high else ""),
        ((_share(result.ratio, scale), "good" if result.ratio >= 1 else "slow"),),
        mark=1 / scale,
        whisker=(_share(low, scale), _share(high, scale)) if high else None,
    )


def _precise_name(result: BenchResult) -> str:
    known = result.precision in result.name
    return result.name if known else f"{result.name}, {result.precision}"


def block_bars(plan: KernelPlan) -> list[Bar]:
    """Return the bytes of each part of the model by kind of kernel, marked at its floor."""
    totals = [total for total in block_totals(plan) if total.kernels]
    longest = max((max(total.bytes_moved, total.floor_bytes) for total in totals), default=1) or 1
    return [
        Bar(
            total.name,
            f"{megabytes_text(total.bytes_moved)} MB"
            + (f", {ratio_text(total.floor_ratio)} of min." if total.floor_ratio else ""),
            tuple(
                (size / longest, kind)
                for kind, size in zip(SHOWN_KINDS, shown_bytes(total.bytes_by_kind), strict=True)
            ),
            mark=total.floor_bytes / longest if total.floor_bytes else None,
        )
        for total in totals
    ]
