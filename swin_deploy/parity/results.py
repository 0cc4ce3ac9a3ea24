"""What parity finds out, as values: from one rule applied to a report on every hop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from swin_deploy.parity.samples import Answer, Sample


@dataclass(frozen=True)
class NoiseFloor:
    """What PyTorch itself loses when the reference runs in a candidate's precision.

    Both are infinite where the reference overflows in that precision.

    Attributes:
        atol: Largest error, weighted as ``ParityResult.needed_atol``.
        relative_l2: ||a - b|| / ||b|| over all values.
        source: What was run against what, in words.
    """

    atol: float
    relative_l2: float
    source: str

    @property
    def is_finite(self) -> bool:
        """Whether there is a floor to compare with."""
        return math.isfinite(self.atol) and math.isfinite(self.relative_l2)


@dataclass(frozen=True)
class Tolerance:
    """``|a - b| <= atol + rtol * |b|`` after both are divided by the reference's RMS.

    Attributes:
        min_cosine: Also asked for, where given.
        source: Where the numbers come from, for the report.
        relative_l2: Largest ||a - b|| / ||b|| allowed; None where no floor was measured.
        floor: What ``atol`` and ``relative_l2`` are multiples of; None for ceilings alone.
        atol_rule: Where ``atol`` comes from: ``ceiling``, or a multiple of the floor.
        l2_rule: Where ``relative_l2`` comes from.
    """

    atol: float
    rtol: float
    min_cosine: float | None
    source: str
    relative_l2: float | None = None
    floor: NoiseFloor | None = None
    atol_rule: str = "ceiling"
    l2_rule: str = "ceiling"


@dataclass(frozen=True)
class Check:
    """One rule applied to one result: it holds when ``needed <= allowed``.

    Attributes:
        rule: The figure and where its limit comes from, such as ``relative L2, 3 x floor``.
        needed: What the candidate needs.
        floor: What PyTorch itself loses; None where it was not measured or the rule has none.
        allowed: The limit.
    """

    rule: str
    needed: float
    floor: float | None
    allowed: float

    @property
    def passed(self) -> bool:
        """Within the limit; a NaN is not."""
        return self.needed <= self.allowed

    @property
    def share(self) -> float:
        """How much of the limit is needed: 1 is at the limit."""
        share = self.needed / self.allowed if self.allowed else math.inf
        return math.inf if math.isnan(share) else share


@dataclass(frozen=True)
class ParityResult:
    """One candidate against the reference on one set of images at one batch size.

    Errors are in units of the reference's RMS, in float64.

    Attributes:
        inputs: Name of the image set, such as ``images`` or ``seeded``, and what was compared.
        batch: Images a call.
        rows: Images compared.
        max_abs: Largest error.
        mean_abs: Mean error.
        relative_l2: ||a - b|| / ||b||.
        cosine: Smallest cosine similarity of a row.
        sqnr_db: Signal to quantisation noise ratio, in dB; infinite for equal outputs.
        needed_atol: The ``atol`` with which this would just pass, ``rtol`` in proportion.
        tolerance: What was allowed.
        checks: Every rule applied; empty for outputs that are not finite.
        top1_agreement: Share of rows with the reference's top class; None without classes.
        top5_agreement: Share of rows with the reference's five top classes, in any order.
        flips: Rows with another top class, though the reference's margin is beyond the floor.
        near_ties: Rows with another top class, where the reference's margin is within the floor.
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
    checks: tuple[Check, ...]
    top1_agreement: float | None
    top5_agreement: float | None
    flips: int | None
    near_ties: int | None
    passed: bool
    reason: str = ""

    @property
    def deciding(self) -> Check:
        """The rule that is nearest to its limit, or furthest beyond it."""
        nothing = Check("values", math.inf, None, self.tolerance.atol)
        return max(self.checks, key=lambda check: check.share, default=nothing)


@dataclass(frozen=True)
class DriftPoint:
    """How far a candidate's tokens are from the reference's behind one part of the model.

    Attributes:
        inputs: Name of the image set.
        module: Path in the deploy model, such as ``layers.3``.
        place: The same in words, such as ``stage 2, block 1``.
        relative_l2: Of the tokens, in the same order on both sides.
        floor: The same for the reference in the candidate's precision.
        allowed: The limit on ``relative_l2``.
        passed: Whether every rule held.
    """

    inputs: str
    module: str
    place: str
    relative_l2: float
    floor: float
    allowed: float
    passed: bool


@dataclass(frozen=True)
class Hop:
    """One stage of the line from checkpoint to engine, as compared with the reference.

    Attributes:
        name: Short name, such as ``deploy`` or ``onnx fp16``.
        stage: ``deploy``, ``onnx`` or ``engine``; ``original`` for the library's own model, loaded
            by the library, which shows whether the checkpoint was read rightly.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        file: File name of the artefact, or empty.
        backend: What ran it and where, such as ``ONNX Runtime 1.31.1, CPUExecutionProvider``.
        results: One for each image set and batch size.
        not_run: Why it could not run here; empty when it ran.
        top1_accuracy: Share of labelled images classified right; None without labels.
        drift: Along the model, for each image set in turn; empty where it was not looked at.
        drift_not_run: Why there is no drift; empty when there is.
        located: Where it goes wrong first, in words; empty when it passed.
        answers: What it sees in each of the report's samples; empty where it did not run.
    """

    name: str
    stage: str
    precision: str
    file: str
    backend: str
    results: tuple[ParityResult, ...] = ()
    not_run: str = ""
    top1_accuracy: float | None = None
    drift: tuple[DriftPoint, ...] = ()
    drift_not_run: str = ""
    located: str = ""
    answers: tuple[Answer, ...] = ()

    @property
    def passed(self) -> bool | None:
        """True or False when it ran, None when it could not run here."""
        if self.not_run:
            return None
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def worst(self) -> ParityResult | None:
        """The result that comes closest to its limit, or lies furthest beyond it."""
        return max(self.results, key=lambda r: (not r.passed, r.deciding.share), default=None)


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
        samples: A few real images to show.
        labelled: Number of labelled images that accuracies are of.
        doubt: Reason why accuracy shows nothing here; empty where the reference is better than
            guessing, and without labels.
    """

    model: str
    weights: str
    reference_backend: str
    inputs: dict[str, str]
    reference_top1_accuracy: float | None
    hops: tuple[Hop, ...]
    samples: tuple[Sample, ...] = ()
    labelled: int = 0
    doubt: str = ""

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """``inconclusive`` where no hop failed, but the labelled images show nothing."""
        if self.passed and self.doubt:
            return "inconclusive"
        return "pass" if self.passed else "fail"

    @property
    def passed(self) -> bool:
        """No hop failed and at least one ran; hops that could not run do not count as passed."""
        ran = [hop for hop in self.hops if hop.passed is not None]
        return bool(ran) and all(hop.passed for hop in ran)
