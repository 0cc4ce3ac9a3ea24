"""Findings of parity as values, from one result to a report on every hop.

Every fact is a field. The texts (``rule``, ``inputs``, ``place``, ``located``) are made from the
fields for people; nothing reads them back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from exporters.spec import Batch, Count, Precision, Share, Stage
from swin_deploy.parity.checks import FIGURES, Check, Tolerance
from swin_deploy.parity.samples import Answer, Sample

Part = Literal["embed", "block", "merge", "features"]
Against = Literal["reference", "smallest batch", "other rows"]
Cause = Literal["part", "folding", "after the last part", "noise", "reading", "error"]


@dataclass(frozen=True)
class Place:
    """A place along the model.

    Attributes:
        part: Kind of the part whose tokens are compared; ``features`` for their mean.
        stage: Number of the stage, from 1; for a merge, the stage before it; None elsewhere.
        block: Number of the block in its stage, from 1; None elsewhere.
    """

    part: Part
    stage: int | None = None
    block: int | None = None

    @property
    def text(self) -> str:
        """Name for people, such as ``stage 2, block 1``."""
        if self.part == "block":
            return f"stage {self.stage}, block {self.block}"
        if self.part == "merge":
            return f"merge behind stage {self.stage}"
        return "embedding" if self.part == "embed" else "features"


@dataclass(frozen=True)
class Case:
    """One comparison: its images, its batch size, and the values on both sides.

    Attributes:
        image_set: Name of the image set, such as ``images`` or ``seeded``.
        batch: Number of images in a call.
        output: Name of the output if the model has several; else empty.
        against: Other side: the reference's values, or the candidate's own values for the same
            images in the smallest batch or in other rows of the batch.
        against_batch: Number of images in a call of the other side; None for the reference.
        place: Place of the tokens along the model; None for outputs.
    """

    image_set: str
    batch: Batch
    output: str = ""
    against: Against = "reference"
    against_batch: int | None = None
    place: Place | None = None

    @property
    def text(self) -> str:
        """Name for people, without the batch."""
        how = {
            "reference": "",
            "smallest batch": f"batch {self.batch} against batch {self.against_batch}",
            "other rows": "rows in another place",
        }[self.against]
        place = self.place.text if self.place else ""
        return ", ".join(filter(None, (self.image_set, self.output, how, place)))


@dataclass(frozen=True)
class ParityResult:
    """One candidate against the reference on one set of images at one batch size.

    Errors are in units of the reference's RMS, in float64.

    Attributes:
        case: Images, batch and values that were compared.
        rows: Images compared.
        max_abs: Largest error.
        mean_abs: Mean error.
        relative_l2: Relative L2 error, ||a - b|| / ||b||.
        cosine: Smallest cosine similarity of a row.
        sqnr_db: Signal to quantisation noise ratio, in dB; infinite for equal outputs.
        needed_atol: The ``atol`` with which this would just pass, ``rtol`` in proportion.
        tolerance: Limits that were applied.
        checks: Every rule applied; empty for outputs that are not finite.
        top1_agreement: Share of rows with the reference's top class; None without classes.
        top5_agreement: Share of rows with the reference's five top classes, in any order.
        flips: Number of rows with another top class and a reference margin of more than twice the
            floor; None without classes.
        near_ties: Number of rows with another top class and a reference margin of at most twice
            the floor; None without classes.
        passed: True if it is within tolerance.
        reason: Reason why it failed, in one line; empty if it passed.
    """

    case: Case
    rows: Count
    max_abs: float
    mean_abs: float
    relative_l2: float
    cosine: float
    sqnr_db: float
    needed_atol: float
    tolerance: Tolerance
    checks: tuple[Check, ...]
    top1_agreement: Share | None
    top5_agreement: Share | None
    flips: Count | None
    near_ties: Count | None
    passed: bool
    reason: str = ""

    @property
    def inputs(self) -> str:
        """The case for people, without the batch."""
        return self.case.text

    @property
    def batch(self) -> int:
        """Number of images in a call."""
        return self.case.batch

    @property
    def deciding(self) -> Check:
        """The rule that is nearest to its limit, or furthest beyond it."""
        nothing = Check("values", math.inf, None, self.tolerance.atol)
        return max(self.checks, key=lambda check: check.share, default=nothing)


@dataclass(frozen=True)
class DriftPoint:
    """Distance of a candidate's tokens from the reference's after one part of the model.

    Attributes:
        inputs: Name of the image set.
        module: Path in the deploy model, such as ``layers.3``.
        where: Place along the model.
        relative_l2: Relative L2 error of the tokens, in the same order on both sides.
        floor: The same for the reference in the candidate's precision.
        allowed: The limit on ``relative_l2``.
        passed: True if every rule held.
    """

    inputs: str
    module: str
    where: Place
    relative_l2: float
    floor: float
    allowed: float
    passed: bool

    @property
    def place(self) -> str:
        """Name of the place for people, such as ``stage 2, block 1``."""
        return self.where.text


@dataclass(frozen=True)
class FirstFault:
    """The first place where a candidate that failed is wrong, and the inputs that show it.

    Attributes:
        cause: Kind of fault. ``part``: a part of the model is beyond its noise. ``folding``: a
            model folded afresh is wrong there, too. ``after the last part``: every part is within
            its noise. ``noise``: PyTorch itself loses as much. ``reading``: the library's own
            model of the same file gives something else. ``error``: it could not be run.
        module: Path of the part in the deploy model; empty if no part is wrong.
        where: Place of the part along the model; None if no part is wrong.
        operation: First operation in the part that is beyond its noise; empty if not found.
        check: Rule that the operation fails; None without an operation.
        batches: Batch sizes that alone show it; empty if all do.
        image_sets: Names of the image sets that alone show it; empty if all do.
        detail: Message for ``error`` and ``reading``, precision for ``noise``; else empty.
    """

    cause: Cause
    module: str = ""
    where: Place | None = None
    operation: str = ""
    check: Check | None = None
    batches: tuple[int, ...] = ()
    image_sets: tuple[str, ...] = ()
    detail: str = ""

    @property
    def text(self) -> str:
        """One sentence for people, without a full stop."""
        if self.cause == "error":
            return self.detail
        if self.cause == "reading":
            return f"{self.detail}: it is not read rightly here"
        if self.cause == "noise":
            noise = "no part of the model is beyond its noise: PyTorch itself loses as much"
            return f"{noise} in {self.detail}"
        return "; ".join(filter(None, (self._place_text, self._inputs_text)))

    @property
    def _place_text(self) -> str:
        if self.where is None:
            within = "every part of the model is within its noise"
            seen = self.batches or self.image_sets
            return within if seen else f"{within}: wrong behind the last of them"
        first = f"first wrong: {self.module} ({self.where.text})"
        if self.cause == "folding":
            wrong = "as a model folded afresh: the folding or the deploy model's code is wrong"
            return f"{first}, {wrong}"
        if self.check is None:
            return first
        needed, floor = self.check.needed, self.check.floor
        times = f"{needed / floor:.3g} times the noise there" if floor else f"{needed:.2g}"
        return f"{first}, {self.operation}: {FIGURES[self.check.figure]} {times}"

    @property
    def _inputs_text(self) -> str:
        found = []
        if self.batches:
            found.append(f"batches of {', '.join(map(str, self.batches))}")
        if self.image_sets:
            found.append(f"the {' and '.join(self.image_sets)} inputs")
        return f"it shows only on {' and on '.join(found)}" if found else ""


@dataclass(frozen=True)
class ComparedImages:
    """One image set of a comparison.

    Attributes:
        name: Name of the set: ``images``, ``seeded`` or ``extreme``.
        contents: Number and kind of the images.
        folder: Name of the folder that they are from; empty for generated images.
    """

    name: str
    contents: str
    folder: str = ""

    @property
    def description(self) -> str:
        """The contents, and the folder if there is one."""
        return f"{self.contents} in {self.folder}" if self.folder else self.contents


@dataclass(frozen=True)
class Hop:
    """One stage of the line from checkpoint to engine, as compared with the reference.

    Attributes:
        name: Short name, such as ``deploy`` or ``onnx fp16``.
        stage: Kind of the candidate; ``original`` is the library's own model, loaded by the
            library, which shows whether the checkpoint was read rightly.
        precision: Precision that it computes in.
        file: File name of the artefact, or empty.
        backend: Library and device that ran it, such as
            ``ONNX Runtime 1.31.1, CPUExecutionProvider``.
        results: Results of every comparison: outputs for each image set and batch size, rows of
            batches against each other, and tokens along the model.
        not_run: Reason why it could not run here; empty if it ran.
        top1_accuracy: Share of labelled images classified right; None without labels.
        drift: Drift at each point along the model, for each image set in turn; empty if it was
            not measured.
        drift_not_run: Reason why there is no drift; empty if there is.
        first_fault: Place where it goes wrong first; None if it passed or was not looked into.
        answers: Answer to each of the report's samples; empty if it did not run.
    """

    name: str
    stage: Stage
    precision: Precision
    file: str
    backend: str
    results: tuple[ParityResult, ...] = ()
    not_run: str = ""
    top1_accuracy: Share | None = None
    drift: tuple[DriftPoint, ...] = ()
    drift_not_run: str = ""
    first_fault: FirstFault | None = None
    answers: tuple[Answer, ...] = ()

    @property
    def located(self) -> str:
        """The first fault for people; empty if there is none."""
        return self.first_fault.text if self.first_fault else ""

    @property
    def passed(self) -> bool | None:
        """True or False if it ran, None if it could not run here."""
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
        weights: Origin of the weights: a checkpoint file with its SHA-256, or random with a seed.
        reference_backend: Library and device that ran the reference.
        image_sets: Image sets that were compared.
        reference_top1_accuracy: Share of labelled images that the reference classifies right; None
            without labels.
        hops: Hops in the order of the line.
        samples: A few real images to show.
        labelled: Number of labelled images on which the accuracies are measured.
        doubt: Reason why accuracy shows nothing here; empty if the reference is better than
            guessing, and without labels.
    """

    model: str
    weights: str
    reference_backend: str
    image_sets: tuple[ComparedImages, ...]
    reference_top1_accuracy: Share | None
    hops: tuple[Hop, ...]
    samples: tuple[Sample, ...] = ()
    labelled: Count = 0
    doubt: str = ""

    @property
    def inputs(self) -> dict[str, str]:
        """Description of each image set for people, by name."""
        return {one.name: one.description for one in self.image_sets}

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """The verdict; ``inconclusive`` if no hop failed, but the labelled images show nothing."""
        if self.passed and self.doubt:
            return "inconclusive"
        return "pass" if self.passed else "fail"

    @property
    def passed(self) -> bool:
        """True if at least one hop ran and none that ran failed."""
        ran = [hop for hop in self.hops if hop.passed is not None]
        return bool(ran) and all(hop.passed for hop in ran)
