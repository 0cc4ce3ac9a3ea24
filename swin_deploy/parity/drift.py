"""Distance of a candidate's tokens from the reference's along the model, with the noise there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exporters.spec import Precision, Runtime
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import (
    Case,
    DriftPoint,
    ParityResult,
    Tolerance,
    compare,
    limits,
    without_ceiling,
)
from swin_deploy.parity.points import (
    ComparePoint,
    Order,
    batch_first,
    in_candidate_order,
    token_orders,
)
from swin_deploy.parity.reference_run import ReferenceOutputs, Trace, trace_images
from swin_deploy.runners import Outputs
from swin_deploy.runners.intermediates import Probed


@dataclass(frozen=True)
class Drift:
    """Comparison of a candidate's intermediate tokens with the reference's.

    Attributes:
        points: Drift at every point, for each image set in turn.
        results: Result of the tokens nearest to their limit, and that of the features if there are
            any, for each image set in turn.
    """

    points: tuple[DriftPoint, ...]
    results: tuple[ParityResult, ...]


def missing_points(
    reference: ReferenceOutputs, candidate: Probed | None, precision: Precision
) -> str:
    """Return the reason why intermediate tokens cannot be compared; empty if they can."""
    if candidate is None:
        return "only its outputs can be read"
    if reference.trace is None or precision not in reference.trace.noise:
        return f"the reference's noise in {precision} was not measured"
    paths = [point.candidate.path for point in reference.trace.points]
    missing = [path for path in paths if path not in candidate.paths]
    return f"it has no part named {missing[0]}" if missing else ""


def measure_drift(
    reference: ReferenceOutputs, candidate: Probed, ceiling: Tolerance, precision: Precision
) -> Drift:
    """Compare a candidate's tokens with the reference's after every part of the model.

    Args:
        reference: Reference's outputs, with its trace and its noise in this precision.
        candidate: The model to probe. It must have every module in ``reference.trace.points``.
        ceiling: Ceiling of the outputs; intermediate tokens are judged against the noise alone,
            with errors weighted by its ``rtol`` over ``atol``.
        precision: Precision of the candidate.

    Raises:
        ComparisonError: If its tokens are of another shape.
        DeployError: If it cannot run.
        ValueError: If the reference has no trace.
    """
    trace = reference.trace
    if trace is None:
        raise ValueError("the reference has no trace")
    orders = token_orders(trace.points, candidate, trace.reference.config)
    unbounded = without_ceiling(ceiling)
    points: list[DriftPoint] = []
    results: list[ParityResult] = []
    with candidate.open(tuple(point.candidate for point in trace.points)) as runner:
        for number, images in enumerate(reference.image_sets):
            tokens = runner.run(trace_images(images))[len(reference.names) :]
            floors = trace.noise[precision].trace[number]
            allowed = [
                limits(unbounded, floor, precision=precision, spread=images.spread)
                for floor in floors
            ]
            tokens = _batch_first(trace, tokens, orders, candidate.runtime)
            compared = list(_compare_points(trace, tokens, allowed, images, number, orders))
            points += [_drift_point(images, *pair) for pair in compared]
            results += _telling(compared)
    return Drift(tuple(points), tuple(results))


def _batch_first(
    trace: Trace, tokens: Outputs, orders: tuple[Order | None, ...], runtime: Runtime
) -> Outputs:
    """Return a candidate's tokens at each point of a trace, images first and without pads."""
    batch = len(trace.tokens[0][0])
    return tuple(
        one if order is None else batch_first(one, batch, order, runtime=runtime)
        for one, order in zip(tokens, orders, strict=True)
    )


def _compare_points(
    trace: Trace,
    tokens: Outputs,
    allowed: list[Tolerance],
    images: ImageSet,
    number: int,
    orders: tuple[Order | None, ...],
) -> Iterator[tuple[ComparePoint, ParityResult]]:
    for index, point in enumerate(trace.points):
        expected = in_candidate_order(trace.tokens[number][index], orders[index])
        yield (
            point,
            compare(
                tokens[index],
                expected,
                allowed[index],
                Case(images.name, len(expected), place=point.place),
            ),
        )


def _telling(compared: list[tuple[ComparePoint, ParityResult]]) -> list[ParityResult]:
    """Pick the tokens with the highest needed / allowed ratio, and the features if there are any.

    Tokens that failed come before tokens that passed.
    """
    tokens = [result for point, result in compared if point.place.part != "features"]
    features = [result for point, result in compared if point.place.part == "features"]
    return [max(tokens, key=lambda r: (not r.passed, r.deciding.share)), *features]


def _drift_point(images: ImageSet, point: ComparePoint, result: ParityResult) -> DriftPoint:
    tolerance = result.tolerance
    return DriftPoint(
        inputs=images.name,
        module=point.candidate.path,
        where=point.place,
        relative_l2=result.relative_l2,
        floor=tolerance.floor.relative_l2 if tolerance.floor else 0.0,
        allowed=tolerance.atol if tolerance.relative_l2 is None else tolerance.relative_l2,
        passed=result.passed,
    )
