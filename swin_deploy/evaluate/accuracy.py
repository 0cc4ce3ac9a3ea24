"""What an evaluation found, as values: right answers, their intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from exporters.spec import Count, Precision, Share, Stage
from swin_deploy.config.assumptions import Assumption
from swin_deploy.intervals import Interval, paired_interval, wilson_interval

SCHEMA: Literal[3] = 3
LISTED = 100  # images that are named
Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Score:
    """Right answers on a set of images, beside the reference's on the same images.

    Attributes:
        images: Images in all, at least one.
        right: Images answered right.
        lost: Images that the reference has right and this one wrong.
        gained: Images that the reference has wrong and this one right.
    """

    images: Annotated[int, msgspec.Meta(ge=1)]
    right: Count
    lost: Count = 0
    gained: Count = 0

    @property
    def accuracy(self) -> Share:
        """Share of the images answered right."""
        return self.right / self.images

    @property
    def interval(self) -> Interval:
        """Where the accuracy lies, at 95 %."""
        return wilson_interval(self.right, self.images)

    @property
    def difference(self) -> float:
        """Accuracy minus the reference's, as a share."""
        return (self.gained - self.lost) / self.images

    @property
    def difference_interval(self) -> Interval:
        """Where the difference lies, at 95 %, the images being the same."""
        return paired_interval(self.lost, self.gained, self.images)


@dataclass(frozen=True)
class BackendAccuracy:
    """The accuracy of one model on one backend.

    Attributes:
        name: Short name, such as ``ONNX fp16``.
        stage: Kind of what answered.
        precision: Of weights and activations.
        file: File name of the artefact, or empty.
        backend: What ran it and where.
        top1: Right where the largest logit is the class; None where it could not run.
        top5: Right where the class is among the five largest; also None for five classes or fewer.
        agreed: Images with the reference's top class.
        not_finite: Images with a logit that is NaN or infinite; they count as wrong.
        lost_images: The first images that ``top1.lost`` counts, by path.
        not_run: Reason why it could not run here; empty when it ran.
        max_drop: Drop of top-1 accuracy that it is allowed, as ``Evaluation.max_drop``.
    """

    name: str
    stage: Literal["reference"] | Stage
    precision: Precision
    file: str
    backend: str
    top1: Score | None = None
    top5: Score | None = None
    agreed: Count = 0
    not_finite: Count = 0
    lost_images: tuple[str, ...] = ()
    not_run: str = ""
    max_drop: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether it is as accurate as asked for; None where it could not run."""
        if self.top1 is None:
            return None
        if self.not_finite:
            return False
        interval = self.top1.difference_interval
        return interval.high >= 0 if self.max_drop is None else interval.low >= -self.max_drop


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a model and of what was made from it, on the same labelled images.

    Attributes:
        model: Model name.
        weights: Which weights.
        created: When, in UTC and ISO 8601.
        data: Where the images come from.
        classes: How class names became indices.
        images: Images that every backend answered.
        skipped: Images left out because they cannot be read.
        num_classes: Of the model.
        max_drop: Allowed drop of top-1 accuracy, as a share; None where only a loss that shows
            is a failure.
        reference: The PyTorch model with the checkpoint's weights.
        candidates: What was made from it, in the order of the line.
        doubt: Reason why accuracy shows nothing here; empty where the reference is better than
            guessing.
        assumptions: What nothing said and had to be chosen.
        conditions: What the results hold for.
    """

    model: str
    weights: str
    created: str
    data: str
    classes: str
    images: Count
    skipped: Count
    num_classes: Annotated[int, msgspec.Meta(ge=1)]
    max_drop: float | None
    reference: BackendAccuracy
    candidates: tuple[BackendAccuracy, ...]
    doubt: str = ""
    assumptions: tuple[Assumption, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def schema(self) -> Literal[3]:
        """Version of the form of ``evaluation.json``."""
        return SCHEMA

    @property
    def verdict(self) -> Verdict:
        """``inconclusive`` where the reference is not better than guessing; else as ``passed``."""
        if self.doubt:
            return "inconclusive"
        return "pass" if self.passed else "fail"

    @property
    def passed(self) -> bool:
        """No candidate failed and one ran; those that could not run do not count as passed.

        Without ``max_drop`` a candidate fails where a loss shows: the whole interval of the
        difference is below zero. With it a candidate fails unless the images show that the drop
        is no larger: the interval's lower end is not below ``-max_drop`` (the usual test of
        non-inferiority, at 2.5 % on one side).
        """
        ran = [one.passed for one in self.candidates if not one.not_run]
        return bool(ran) and all(ran) and not self.doubt


def score_answers(
    answers: Sequence[tuple[int, ...]],
    reference: Sequence[tuple[int, ...]],
    labels: Sequence[int],
    *,
    top: int,
) -> Score:
    """Count the right answers of a candidate, and those that the reference has otherwise.

    Args:
        answers: For each image its classes, best first; empty for no answer, which is wrong.
        reference: The same of the reference.
        labels: The right classes.
        top: How many of the first classes count.
    """
    pairs = [
        (label in ours[:top], label in theirs[:top])
        for ours, theirs, label in zip(answers, reference, labels, strict=True)
    ]
    return Score(
        images=len(pairs),
        right=sum(ours for ours, _ in pairs),
        lost=sum(theirs and not ours for ours, theirs in pairs),
        gained=sum(ours and not theirs for ours, theirs in pairs),
    )
