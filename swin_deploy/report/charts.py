"""Bar charts as values for the templates, and the templates, which escape foreign text."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from exporters.plan import KernelPlan
from exporters.plan.totals import block_totals
from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.parity import ParityReport
from swin_deploy.report.numbers import (
    capital,
    end_of,
    error_text,
    megabytes_text,
    one_line,
    ratio_text,
)
from swin_deploy.report.plan_tables import SHOWN_KINDS, shown_bytes

TEMPLATES = Path(__file__).parent / "templates"


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

    @property
    def spans(self) -> Iterator[tuple[float, float, str]]:
        """Start, length and CSS class of each part."""
        start = 0.0
        for length, name in self.parts:
            yield start, length, name
            start += length


@functools.cache
def _environment() -> jinja2.Environment:
    """Make the environment of the templates: it escapes values and fails on unknown names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"capital": capital, "end_of": end_of, "error": error_text}
    return environment


def _shown(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Put foreign text on one line; return charts, which are markup, unchanged."""
    return one_line(value) if type(value) is str else value


def fill_template(name: str, **values: Any) -> str:  # noqa: ANN401 - any value of a template
    """Return a template filled with values; all foreign text is escaped."""
    return _environment().get_template(name).render(values)


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
    known = result.precision in result.name
    name = result.name if known else f"{result.name}, {result.precision}"
    return Bar(
        f"{name}, batch {result.batch}",
        ratio_text(result.ratio) + (f", {low:.2f} to {high:.2f}" if high else ""),
        ((_share(result.ratio, scale), "good" if result.ratio >= 1 else "slow"),),
        mark=1 / scale,
        whisker=(_share(low, scale), _share(high, scale)) if high else None,
    )


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
