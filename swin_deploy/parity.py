"""Compare what two stages compute for the same images, and judge the difference.

One rule: ``|a - b| <= atol + rtol * |b|`` in float64, after both sides are divided by the
reference's RMS, so that small outputs cannot pass by being small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.backends import load_polygraphy_comparator
from exporters.errors import ComparisonError


@dataclass(frozen=True)
class Tolerance:
    """``|a - b| <= atol + rtol * |b|`` after both are divided by the reference's RMS.

    Attributes:
        min_cosine: Also asked for, where given.
        source: Where the numbers come from, for the report.
    """

    atol: float
    rtol: float
    min_cosine: float | None
    source: str


@dataclass(frozen=True)
class ParityResult:
    """One candidate against the reference on one set of images at one batch size.

    Errors are in units of the reference's RMS, in float64.

    Attributes:
        inputs: Name of the image set, such as ``images`` or ``seeded``.
        batch: Images a call.
        rows: Images compared.
        max_abs: Largest error.
        mean_abs: Mean error.
        relative_l2: ||a - b|| / ||b||.
        cosine: Smallest cosine similarity of a row.
        sqnr_db: Signal to quantisation noise ratio, in dB; infinite for equal outputs.
        needed_atol: The ``atol`` with which this would just pass, at the tolerance's ``rtol``.
        tolerance: What was allowed.
        top1_agreement: Share of rows with the reference's top class; None without classes.
        passed: Within tolerance.
        reason: Why not, in one line; empty when passed.
    """

    inputs: str
    batch: int
    rows: int
    max_abs: float
    mean_abs: float
    relative_l2: float
    cosine: float
    sqnr_db: float
    needed_atol: float
    tolerance: Tolerance
    top1_agreement: float | None
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Hop:
    """One stage of the line from checkpoint to engine, as compared with the reference.

    Attributes:
        name: Short name, such as ``deploy`` or ``onnx fp16``.
        stage: ``deploy``, ``onnx`` or ``engine``.
        precision: ``fp32`` or ``fp16``.
        file: File name of the artefact, or empty.
        backend: What ran it and where, such as ``ONNX Runtime 1.31.1, CPUExecutionProvider``.
        results: One for each image set and batch size.
        not_run: Why it could not run here; empty when it ran.
        top1_accuracy: Share of labelled images classified right; None without labels.
    """

    name: str
    stage: str
    precision: str
    file: str
    backend: str
    results: tuple[ParityResult, ...] = ()
    not_run: str = ""
    top1_accuracy: float | None = None

    @property
    def passed(self) -> bool | None:
        """True or False when it ran, None when it could not run here."""
        if self.not_run:
            return None
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def worst(self) -> ParityResult | None:
        """The result that comes closest to its limit, or lies furthest beyond it."""
        return max(
            self.results,
            key=lambda r: (not r.passed, r.needed_atol / r.tolerance.atol),
            default=None,
        )


@dataclass(frozen=True)
class ParityReport:
    """Every hop of one model against its reference.

    Attributes:
        model: Model name.
        weights: Which weights: a checkpoint file with its SHA-256, or random with their seed.
        reference_backend: What ran the reference and where.
        inputs: Each image set in words: name to description.
        reference_top1_accuracy: As ``Hop.top1_accuracy``, of the reference.
        hops: In the order of the line.
    """

    model: str
    weights: str
    reference_backend: str
    inputs: dict[str, str]
    reference_top1_accuracy: float | None
    hops: tuple[Hop, ...]

    @property
    def passed(self) -> bool:
        """No hop failed and at least one ran; hops that could not run do not count as passed."""
        ran = [hop for hop in self.hops if hop.passed is not None]
        return bool(ran) and all(hop.passed for hop in ran)


_MEASURED = "measured on a CPU: needs at most {} with random and outlier weights"
_NOT_MEASURED = "assumed: no engine has been measured on a GPU yet"

# The only copy, by stage and precision. Each comment has the largest atol needed at this rtol, on
# what, and the margin. Measured with PyTorch 2.13 and ONNX Runtime 1.31.1 on a two-core CPU, on
# noise and on smooth images, over three sizes: "S" is 56 pixels, 32 channels, depths 2-2; "M" is
# 112 pixels, 64 channels, depths 2-2-2; "T" is the notebook's Swin-T at 224 pixels. Three kinds of
# weights: initial; random (weights times 1.5, norms and biases random); outlier (random, and 1 in
# 64 channels with ten times the norm's gain and 20 more in the MLP's bias).
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    # 4.1e-6 (M, outlier), 3.3e-6 (T, random): margin 2.4.
    ("deploy", "fp32"): Tolerance(1e-5, 1e-5, None, _MEASURED.format("4.1e-6")),
    # 3.1e-6 (T, initial): margin 32; other processors and providers were not measured.
    ("onnx", "fp32"): Tolerance(1e-4, 1e-4, None, _MEASURED.format("3.1e-6")),
    # Not measured: it needs a GPU.
    ("engine", "fp32"): Tolerance(1e-3, 1e-3, None, _NOT_MEASURED),
    # PyTorch's own half precision, the noise floor of the others: 6.9e-3 (S, outlier), 6.5e-3
    # (T, initial): margin 2.9. Cosine at least 0.9999988 (S, random).
    ("deploy", "fp16"): Tolerance(2e-2, 1e-2, 0.9995, _MEASURED.format("6.9e-3")),
    # 4.6e-3 (T, random): margin 4.3. Cosine at least 0.9999989 (S with a head, outlier).
    ("onnx", "fp16"): Tolerance(2e-2, 1e-2, 0.9995, _MEASURED.format("4.6e-3")),
    # Not measured: it needs a GPU.
    ("engine", "fp16"): Tolerance(2e-2, 1e-2, 0.9995, _NOT_MEASURED),
}
# V2 multiplies cosines, and so their rounding, by up to 100: with temperatures at that limit the
# authors' model itself is 4.2e-5 from its own float64 values, and the deploy model, which rounds in
# other places, 7.9e-5 from it (stage maps of swinv2_tiny_window8_256): margin 5.
_V2 = Tolerance(
    4e-4, 1e-4, None, "measured on a CPU: needs at most 7.9e-5 with temperatures of 100"
)
FAMILY_TOLERANCES: dict[tuple[str, str, str], Tolerance] = {
    ("swinv2", "deploy", "fp32"): _V2,
    ("swinv2", "onnx", "fp32"): _V2,
}


def tolerance_for(stage: str, precision: str, *, family: str) -> Tolerance:
    """What is allowed for a stage and precision, of a family where that makes a difference."""
    return FAMILY_TOLERANCES.get((family, stage, precision)) or TOLERANCES[stage, precision]


@dataclass(frozen=True)
class _Errors:
    """The figures of a ``ParityResult``; by default those of outputs that have no distance."""

    max_abs: float = math.inf
    mean_abs: float = math.inf
    relative_l2: float = math.inf
    cosine: float = 0.0
    sqnr_db: float = -math.inf
    needed_atol: float = math.inf


def compare(
    actual: NDArray[np.floating],
    reference: NDArray[np.floating],
    tolerance: Tolerance,
    *,
    inputs: str,
    batch: int,
    classes: bool,
) -> ParityResult:
    """Compare a candidate's output with the reference's for the same images.

    1. Outputs of different shapes, or without values, cannot be compared.
    2. A NaN or an infinity on either side fails, even where both sides have it.
    3. Otherwise the tolerance decides. Where the reference is zero everywhere its RMS is no
       unit: the errors are then absolute.

    Args:
        actual: Candidate's output, [n, ...].
        reference: Reference's output, of the same shape.
        tolerance: What is allowed.
        inputs: Name of the image set, for the report.
        batch: Images a call, for the report.
        classes: Whether rows are logits [n, num_classes], whose top class can be compared.

    Raises:
        ComparisonError: If the shapes differ, there is nothing to compare, or ``classes`` is
            asked of something other than logits.
    """
    _check_comparable(actual, reference, classes)  # 1
    reason = _not_finite("output", actual) or _not_finite("reference", reference)  # 2
    errors = _Errors() if reason else _measure(*_in_units(actual, reference), tolerance.rtol)
    reason = reason or _excess(errors, tolerance)  # 3
    agreement = None
    if classes:
        agreement = float(np.mean(actual.argmax(axis=1) == reference.argmax(axis=1)))
    return ParityResult(
        inputs=inputs,
        batch=batch,
        rows=len(reference),
        max_abs=errors.max_abs,
        mean_abs=errors.mean_abs,
        relative_l2=errors.relative_l2,
        cosine=errors.cosine,
        sqnr_db=errors.sqnr_db,
        needed_atol=errors.needed_atol,
        tolerance=tolerance,
        top1_agreement=agreement,
        passed=not reason,
        reason=reason,
    )


def second_opinion(
    actual: NDArray[np.floating], reference: NDArray[np.floating], tolerance: Tolerance
) -> bool:
    """Whether Polygraphy finds every value within ``atol`` and ``rtol``; cosine is not asked.

    Polygraphy passes a value that is within either tolerance, ours is their sum. So both sides
    are divided by what is allowed for each value, and Polygraphy is asked for an ``atol`` of 1.

    Raises:
        MissingBackendError: If Polygraphy is not installed.
    """
    comparator = load_polygraphy_comparator()
    with np.errstate(invalid="ignore", over="ignore"):
        a, b = _in_units(actual, reference)
        allowed = tolerance.atol + tolerance.rtol * np.abs(b)
        runs = [
            (name, [comparator.IterationResult({"output": values / allowed}, runner_name=name)])
            for name, values in (("candidate", a), ("reference", b))
        ]
        verdict = comparator.Comparator.compare_accuracy(
            comparator.RunResults(runs),
            compare_func=comparator.SimpleCompareFunc(
                atol=1.0, rtol=0.0, check_error_stat="elemwise"
            ),
        )
    return bool(verdict)


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
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides in float64 and in units of the reference's RMS."""
    a, b = actual.astype(np.float64), reference.astype(np.float64)
    unit = math.sqrt(float(np.mean(b * b))) or 1.0
    return a / unit, b / unit


def _measure(a: NDArray[np.float64], b: NDArray[np.float64], rtol: float) -> _Errors:
    error = np.abs(a - b)
    noise, signal = float(np.linalg.norm(error)), float(np.linalg.norm(b))
    ratio = noise / signal if signal else (math.inf if noise else 0.0)
    return _Errors(
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        relative_l2=ratio,
        cosine=_smallest_cosine(a.reshape(len(a), -1), b.reshape(len(b), -1)),
        sqnr_db=-20 * math.log10(ratio) if ratio else math.inf,
        needed_atol=max(0.0, float((error - rtol * np.abs(b)).max())),
    )


def _smallest_cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of the rows of [n, m]; rows that are both zero are alike, a row and a zero row are not."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alike = (a == b).all(axis=1)
    cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), alike)
    return float(cosines.min())


def _excess(errors: _Errors, tolerance: Tolerance) -> str:
    """What lies beyond the tolerance, in words; empty when nothing does."""
    beyond = []
    if not errors.needed_atol <= tolerance.atol:
        beyond.append(
            f"needs atol {errors.needed_atol:.3g} (at rtol {tolerance.rtol:g}), "
            f"allowed {tolerance.atol:g}"
        )
    if tolerance.min_cosine is not None and not errors.cosine >= tolerance.min_cosine:
        beyond.append(f"cosine {errors.cosine:.6f}, at least {tolerance.min_cosine:g} allowed")
    return "; ".join(beyond)
