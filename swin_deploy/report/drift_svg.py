"""Distance of each hop from the reference after every part of the model, as inline SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from swin_deploy.parity import DriftPoint, Hop, ParityReport
from swin_deploy.report.charts import fill_template

WIDTH, HEIGHT = 360, 196  # in the SVG's units: text of 11 is readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 12, 156
PLACES = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM}
FEWEST_DECADES = 2
SMALLEST = 1e-12  # smaller errors are drawn as this one


@dataclass(frozen=True)
class Axis:
    """The axes of a chart: whole decades upwards, points from left to right.

    Attributes:
        low: Exponent of the lowest decade.
        high: Exponent of the highest decade.
        count: Number of points.
    """

    low: int
    high: int
    count: int

    @property
    def decades(self) -> range:
        """Decades that have a line and a label: seven at most."""
        return range(self.low, self.high + 1, 1 + (self.high - self.low) // 6)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value, clamped to the chart.

        NaN and infinity map to the top.
        """
        decade = math.log10(max(value, SMALLEST)) if math.isfinite(value) else self.high
        share = (decade - self.low) / (self.high - self.low)
        return BOTTOM - min(1.0, max(0.0, share)) * (BOTTOM - TOP)

    def x(self, index: int) -> float:
        """Return the x coordinate of a point."""
        return LEFT + 8 + index * (RIGHT - LEFT - 16) / max(1, self.count - 1)


def render_drift(parity: ParityReport) -> str:
    """Return one chart in HTML for each hop with drift; empty if there is none."""
    charts = [_chart(hop) for hop in parity.hops if hop.drift]
    return fill_template("drift.html.j2", charts=charts, **PLACES)


def worst_points(hop: Hop) -> tuple[DriftPoint, ...]:
    """Return for each part the point with the highest share of its limit over the image sets."""
    worst: dict[str, DriftPoint] = {}
    for point in hop.drift:
        found = worst.setdefault(point.module, point)
        if _share(point) > _share(found):
            worst[point.module] = point
    return tuple(worst.values())


def _share(point: DriftPoint) -> float:
    share = point.relative_l2 / point.allowed if point.allowed else math.inf
    return math.inf if math.isnan(share) else share


def _chart(hop: Hop) -> dict[str, Any]:
    points = worst_points(hop)
    wrong = sum(not point.passed for point in points)
    stages: dict[int, list[int]] = {}
    for index, point in enumerate(points):
        if point.where.part == "block" and point.where.stage is not None:
            stages.setdefault(point.where.stage, []).append(index)
    return {
        "name": hop.name,
        "about": f"{wrong} of {len(points)} places beyond the limit"
        if wrong
        else "within the limit",
        "axis": _axis(points),
        "points": points,
        "stages": stages,
        "noise": _runs(points, "floor"),
        "lines": _runs(points, "relative_l2"),
    }


def _axis(points: tuple[DriftPoint, ...]) -> Axis:
    values = [v for p in points for v in (p.relative_l2, p.floor, p.allowed)]
    decades = [math.log10(v) for v in values if math.isfinite(v) and v > SMALLEST] or [0.0]
    low, high = math.floor(min(decades)), math.ceil(max(decades))
    return Axis(low, max(high, low + FEWEST_DECADES), len(points))


def _runs(points: tuple[DriftPoint, ...], field: str) -> list[list[tuple[int, DriftPoint]]]:
    """Group successive points, with their index, whose ``field`` is finite."""
    groups = groupby(enumerate(points), key=lambda pair: math.isfinite(getattr(pair[1], field)))
    return [list(run) for finite, run in groups if finite]
