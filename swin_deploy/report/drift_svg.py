"""Distance of each hop from the reference after every part of the model, as inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swin_deploy.parity import DriftPoint, Hop, ParityReport
from swin_deploy.report.numbers import error_text, one_line

WIDTH, HEIGHT = 360, 196  # in the SVG's units: text of 11 is readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 12, 156
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
    charts = "".join(_chart(hop) for hop in parity.hops if hop.drift)
    return f'<div class="drifts">{charts}</div>' if charts else ""


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


def _chart(hop: Hop) -> str:
    points = worst_points(hop)
    axis = _axis(points)
    wrong = sum(not point.passed for point in points)
    about = f"{wrong} of {len(points)} places beyond the limit" if wrong else "within the limit"
    label = f"{one_line(hop.name)}: {about}"
    parts = "".join((*_grid(axis), *_stages(points, axis), *_noise(points, axis)))
    dots = "".join(_dot(point, index, axis) for index, point in enumerate(points))
    return (
        f'<figure class="drift"><figcaption><b>{html.escape(one_line(hop.name))}</b> '
        f"{html.escape(about)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f"{parts}{_line(points, axis)}{dots}</svg></figure>"
    )


def _axis(points: tuple[DriftPoint, ...]) -> Axis:
    values = [v for p in points for v in (p.relative_l2, p.floor, p.allowed)]
    decades = [math.log10(v) for v in values if math.isfinite(v) and v > SMALLEST] or [0.0]
    low, high = math.floor(min(decades)), math.ceil(max(decades))
    return Axis(low, max(high, low + FEWEST_DECADES), len(points))


def _grid(axis: Axis) -> Iterator[str]:
    step = 1 + (axis.high - axis.low) // 6  # at most seven labels
    for decade in range(axis.low, axis.high + 1, step):
        y = axis.y(10.0**decade)
        yield f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"></line>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>'


def _stages(points: tuple[DriftPoint, ...], axis: Axis) -> Iterator[str]:
    """Yield the stages' numbers below the chart, each in the middle of its blocks."""
    stages: dict[int, list[int]] = {}
    for index, point in enumerate(points):
        if point.where.part == "block" and point.where.stage is not None:
            stages.setdefault(point.where.stage, []).append(index)
    for number, inside in stages.items():
        start, end = axis.x(inside[0]), axis.x(inside[-1])
        yield (
            f'<line class="axis" x1="{start - 4:.1f}" x2="{end + 4:.1f}" y1="{BOTTOM + 8}" '
            f'y2="{BOTTOM + 8}"></line><text x="{(start + end) / 2:.1f}" y="{BOTTOM + 24}" '
            f'text-anchor="middle">{number}</text>'
        )
    if stages:
        yield f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 3}" text-anchor="middle">stage</text>'


def _noise(points: tuple[DriftPoint, ...], axis: Axis) -> Iterator[str]:
    """Yield the floor as an area and the limit as a dashed line, where the floor is finite."""
    for run in _runs(points, "floor"):
        top = [f"{axis.x(i):.1f},{axis.y(points[i].floor):.1f}" for i in run]
        start, end = axis.x(run[0]), axis.x(run[-1])
        corners = " ".join((f"{start:.1f},{BOTTOM}", *top, f"{end:.1f},{BOTTOM}"))
        yield f'<polygon class="noise" points="{corners}"></polygon>'
        yield f'<polyline class="floor" points="{" ".join(top)}"></polyline>'
        limit = " ".join(f"{axis.x(i):.1f},{axis.y(points[i].allowed):.1f}" for i in run)
        yield f'<polyline class="limit" points="{limit}"></polyline>'


def _line(points: tuple[DriftPoint, ...], axis: Axis) -> str:
    return "".join(
        '<polyline class="hop" points="'
        + " ".join(f"{axis.x(i):.1f},{axis.y(points[i].relative_l2):.1f}" for i in run)
        + '"></polyline>'
        for run in _runs(points, "relative_l2")
    )


def _runs(points: tuple[DriftPoint, ...], field: str) -> Iterable[list[int]]:
    """Group the indices of successive points whose ``field`` is finite."""
    runs: list[list[int]] = [[]]
    for index, point in enumerate(points):
        if math.isfinite(getattr(point, field)):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _dot(point: DriftPoint, index: int, axis: Axis) -> str:
    x, y = axis.x(index), axis.y(point.relative_l2)
    title = (
        f"{one_line(point.place)}: {error_text(point.relative_l2)}, noise "
        f"{error_text(point.floor)}, limit {error_text(point.allowed)}"
    )
    return (
        f'<circle class="{"within" if point.passed else "beyond"}" cx="{x:.1f}" cy="{y:.1f}" '
        f'r="{2.6 if point.passed else 4}"><title>{html.escape(title)}</title></circle>'
    )
