"""Comparison of two outputs with a tolerance: errors in float64, in the reference's RMS."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.arrays import plain_array
from exporters.backends import load_polygraphy_comparator
from exporters.errors import ComparisonError
from swin_deploy.parity.checks import Check, NoiseFloor, Tolerance
from swin_deploy.parity.results import Case, ParityResult

TOP = 5
CHUNK = 1 << 24  # values compared at a time: 128 MiB a side in float64
Wide = NDArray[np.float64]


@dataclass(frozen=True)
class _Errors:
    """The figures of a ``ParityResult``; by default those of outputs that have no distance."""

    max_abs: float = math.inf
    mean_abs: float = math.inf
    relative_l2: float = math.inf
    cosine: float = 0.0
    sqnr_db: float = -math.inf
    needed_atol: float = math.inf


@dataclass(frozen=True)
class _Agreement:
    """The figures of a ``ParityResult`` on classes; by default those without classes."""

    top1_agreement: float | None = None
    top5_agreement: float | None = None
    flips: int | None = None
    near_ties: int | None = None


def compare(
    actual: NDArray[np.floating],
    reference: NDArray[np.floating],
    tolerance: Tolerance,
    case: Case,
    *,
    classes: bool = False,
) -> ParityResult:
    """Compare a candidate's output with the reference's for the same images.

    1. Outputs of different shapes, or without values, cannot be compared.
    2. A NaN or an infinity on either side fails, even where both sides have it.
    3. Otherwise the tolerance decides. If the reference is zero everywhere, its RMS cannot be the
       unit, and the errors are absolute.

    Args:
        actual: Candidate's output, [n, ...].
        reference: Reference's output, of the same shape.
        tolerance: Limits on the errors.
        case: Images and values that these are.
        classes: True if the rows are logits [n, num_classes], whose top class can be compared.

    Raises:
        ComparisonError: If the shapes differ, there is nothing to compare, or ``classes`` is
            asked of something other than logits.
    """
    _check_comparable(actual, reference, classes)  # 1
    reason = _not_finite("output", actual) or _not_finite("reference", reference)  # 2
    errors = _Errors() if reason else _measure(actual, reference, tolerance.rtol / tolerance.atol)
    checks = () if reason else _checks(errors, tolerance)  # 3
    reason = reason or "; ".join(_excess(check) for check in checks if not check.passed)
    agreement = _agreement(actual, reference, tolerance.floor) if classes else _Agreement()
    return ParityResult(
        case=case,
        rows=len(reference),
        **dataclasses.asdict(errors),
        **dataclasses.asdict(agreement),
        tolerance=tolerance,
        checks=checks,
        passed=not reason,
        reason=reason,
    )


def measure_floor(
    noisy: NDArray[np.floating],
    reference: NDArray[np.floating],
    ceiling: Tolerance,
    *,
    source: str,
) -> NoiseFloor:
    """Measure the error of the reference in another precision against itself in float32.

    Args:
        noisy: Output of the reference in the other precision, [n, ...].
        reference: Its float32 output, of the same shape.
        ceiling: Tolerance whose ``rtol`` over ``atol`` weights the errors, as in ``compare``.
        source: The two runs that are compared, in words.

    Returns:
        The floor, in units of the reference's RMS; infinite if a value on either side is NaN or
        infinite.
    """
    if not np.isfinite(noisy).all() or not np.isfinite(reference).all():
        return NoiseFloor(math.inf, math.inf, source)
    errors = _measure(noisy, reference, ceiling.rtol / ceiling.atol)
    return NoiseFloor(errors.needed_atol, errors.relative_l2, source)


def second_opinion(
    actual: NDArray[np.floating], reference: NDArray[np.floating], tolerance: Tolerance
) -> bool:
    """Ask Polygraphy whether every value is within ``atol`` and ``rtol``.

    Polygraphy passes a value that is within either tolerance, while ours is their sum. Both sides
    are therefore divided by the error allowed for each value, and Polygraphy applies an ``atol``
    of 1.

    Args:
        actual: Candidate's output, [n, ...].
        reference: Reference's output, of the same shape.
        tolerance: Limits on the errors; only ``atol`` and ``rtol`` are used.

    Returns:
        True if every value is within tolerance.

    Raises:
        ComparisonError: If the shapes differ, or there is nothing to compare.
        MissingBackendError: If Polygraphy is not installed.
    """
    _check_comparable(actual, reference, classes=False)
    comparator = load_polygraphy_comparator()
    within = comparator.SimpleCompareFunc(atol=1.0, rtol=0.0, check_error_stat="elemwise")
    with np.errstate(invalid="ignore", over="ignore"):
        for a, b in _in_units(actual, reference):
            allowed = tolerance.atol + tolerance.rtol * np.abs(b)
            sides = {"candidate": a / allowed, "reference": b / allowed}
            runs = [
                (name, [comparator.IterationResult({"output": values}, name)])
                for name, values in sides.items()
            ]
            results = comparator.RunResults(runs)
            if not comparator.Comparator.compare_accuracy(results, compare_func=within):
                return False
    return True


def _check_comparable(
    actual: NDArray[np.floating], reference: NDArray[np.floating], classes: bool
) -> None:
    if actual.shape != reference.shape:
        raise ComparisonError(
            f"the output has shape {list(actual.shape)}, the reference {list(reference.shape)}; "
            "compare the same model, image size and batch"
        )
    if not reference.size:
        raise ComparisonError(
            f"nothing to compare: the outputs have shape {list(reference.shape)}; give some images"
        )
    if classes and reference.ndim != 2:
        raise ComparisonError(
            f"outputs of shape {list(reference.shape)} have no top class; expected logits "
            "[images, classes]"
        )


def _not_finite(side: str, values: NDArray[np.floating]) -> str:
    count = int(np.count_nonzero(~np.isfinite(values)))
    return f"{count} of {values.size} values of the {side} are NaN or infinite" if count else ""


def _in_units(
    actual: NDArray[np.floating], reference: NDArray[np.floating]
) -> Iterator[tuple[Wide, Wide]]:
    """Yield both sides in float64, in units of the reference's RMS, some rows at a time."""
    chunks = _chunks(reference.shape)
    squares = (np.square(plain_array(reference[rows], np.float64)).sum() for rows in chunks)
    unit = math.sqrt(float(sum(squares)) / reference.size) or 1.0
    for rows in chunks:
        a, b = (plain_array(side[rows], np.float64) / unit for side in (actual, reference))
        yield a, b


def _chunks(shape: tuple[int, ...]) -> list[slice]:
    """Split the rows into slices of at most ``CHUNK`` values, or of one row each."""
    count = max(1, CHUNK // max(1, math.prod(shape[1:])))
    return [slice(start, start + count) for start in range(0, shape[0], count)]


def _measure(
    actual: NDArray[np.floating], reference: NDArray[np.floating], weight: float
) -> _Errors:
    """Measure the errors of finite outputs; ``weight`` is ``rtol`` over ``atol``."""
    largest = total = noise = signal = needed = 0.0
    cosine = math.inf
    for a, b in _in_units(actual, reference):
        cosine = min(cosine, _smallest_cosine(a.reshape(len(a), -1), b.reshape(len(b), -1)))
        error = np.abs(np.subtract(a, b, out=a), out=a)
        largest, total = max(largest, float(error.max())), total + float(error.sum())
        noise, signal = noise + _square(error), signal + _square(b)
        size = np.abs(b, out=b)
        error /= 1 + weight * size
        needed = max(needed, float(error.max()))
    ratio = math.sqrt(noise) / math.sqrt(signal) if signal else (math.inf if noise else 0.0)
    return _Errors(
        max_abs=largest,
        mean_abs=total / reference.size,
        relative_l2=ratio,
        cosine=cosine,
        sqnr_db=-20 * math.log10(ratio) if ratio else math.inf,
        needed_atol=needed,
    )


def _square(values: Wide) -> float:
    """Return the squared L2 norm of all values."""
    flat = values.reshape(-1)
    return float(flat.dot(flat))


def _smallest_cosine(a: Wide, b: Wide) -> float:
    """Return the smallest cosine similarity over the rows of two arrays [n, m].

    Two equal rows of zeros count as 1, a row of zeros against another row as 0.
    """
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alike = (a == b).all(axis=1)
    cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), alike)
    return float(cosines.min())


def _checks(errors: _Errors, tolerance: Tolerance) -> tuple[Check, ...]:
    """Apply every rule of a tolerance."""
    floor, cosine = tolerance.floor, tolerance.min_cosine
    lost = (floor.atol, floor.relative_l2) if floor and floor.is_finite else (None, None)
    multiple = tolerance.atol_multiple
    checks = [Check("max_error", errors.needed_atol, lost[0], tolerance.atol, multiple)]
    if tolerance.relative_l2 is not None:
        limit, multiple = tolerance.relative_l2, tolerance.l2_multiple
        checks.append(Check("relative_l2", errors.relative_l2, lost[1], limit, multiple))
    if cosine is not None:
        checks.append(Check("cosine", 1 - errors.cosine, None, 1 - cosine))
    return tuple(checks)


def _excess(check: Check) -> str:
    """Describe a failed check: its error, its limit, and the floor if it has one."""
    beside = "" if check.floor is None else f", PyTorch itself loses {check.floor:.3g}"
    return f"{check.rule}: error {check.needed:.3g}, limit {check.allowed:.3g}{beside}"


def top_changes(
    actual: NDArray[np.floating], reference: NDArray[np.floating], floor: NoiseFloor | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the rows of logits whose top class differs, and those of them that are near ties.

    The reference's margin tells a near tie: two logits that are closer than twice the floor change
    places in PyTorch itself, too.

    Args:
        actual: Candidate's logits, [n, num_classes].
        reference: Reference's logits, of the same shape.
        floor: Noise floor of the logits; None counts as 0.

    Returns:
        Two arrays [n]: True where the top class differs, and True where that is a near tie.
    """
    flipped = actual.argmax(axis=1) != reference.argmax(axis=1)
    margin = np.concatenate([margins(b) for _, b in _in_units(reference, reference)])
    return flipped, flipped & (margin <= 2 * (floor.atol if floor else 0.0))


def _agreement(
    actual: NDArray[np.floating], reference: NDArray[np.floating], floor: NoiseFloor | None
) -> _Agreement:
    """Measure the agreement of the top classes of logits [n, num_classes]."""
    flipped, tied = top_changes(actual, reference, floor)
    count = min(TOP, reference.shape[1])
    top = [np.sort(np.argsort(side, axis=1)[:, -count:], axis=1) for side in (actual, reference)]
    return _Agreement(
        top1_agreement=float(np.mean(~flipped)),
        top5_agreement=float(np.mean((top[0] == top[1]).all(axis=1))),
        flips=int(np.count_nonzero(flipped & ~tied)),
        near_ties=int(np.count_nonzero(tied)),
    )


def margins(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the top logit minus the second of each row [n]; infinity if there is one class."""
    if logits.shape[1] < 2:
        return np.full(len(logits), math.inf)
    ordered = np.sort(logits, axis=1)
    return ordered[:, -1] - ordered[:, -2]
