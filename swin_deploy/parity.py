"""Compare what two stages compute for the same images, and judge the difference."""

from __future__ import annotations

from dataclasses import dataclass


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
