"""Results of an evaluation, as values: right answers, their intervals, and the verdict."""

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
    """Right answers on a set of images, compared with the reference's on the same images.

    Attributes:
        images: Number of images, at least one.
        right: Number of images answered right.
        lost: Number of images that the reference has right and this one wrong.
        gained: Number of images that the reference has wrong and this one right.
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
        """The 95 % interval of the accuracy, by Wilson's score."""
        return wilson_interval(self.right, self.images)

    @property
    def difference(self) -> float:
        """Accuracy minus the reference's, as a share."""
        return (self.gained - self.lost) / self.images

    @property
    def difference_interval(self) -> Interval:
        """The 95 % interval of the difference, for paired answers to the same images."""
        return paired_interval(self.lost, self.gained, self.images)


@dataclass(frozen=True)
class BackendAccuracy:
    """The accuracy of one model on one backend.

    Attributes:
        name: Short name, such as ``ONNX fp16``.
        stage: Kind of model that answered.
        precision: Precision of weights and activations.
        file: File name of the artefact, or empty.
        backend: Library and device that ran it.
        top1: Score of the largest logit; None if it could not run.
        top5: Score of the five largest logits; None if it could not run, or for five classes or
            fewer.
        agreed: Number of images with the reference's top class.
        not_finite: Number of images with a logit that is NaN or infinite; they count as wrong.
        lost_images: The first images that ``top1.lost`` counts, by path.
        not_run: Reason why it could not run here; empty if it ran.
        max_drop: Allowed drop of top-1 accuracy, as ``Evaluation.max_drop``.
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
        """True if it is as accurate as asked for; None if it could not run."""
        if self.top1 is None:
            return None
        if self.not_finite:
            return False
        interval = self.top1.difference_interval
        return interval.high >= 0 if self.max_drop is None else interval.low >= -self.max_drop


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a model and of the files made from it, on the same labelled images.

    Attributes:
        model: Model name.
        weights: Origin of the weights.
        created: Time of the evaluation, in UTC and ISO 8601.
        data: Origin of the images.
        classes: Rule that turned class names into indices.
        images: Number of images that every backend answered.
        skipped: Number of images that were not answered by every backend, being unreadable.
        num_classes: Number of classes of the model.
        max_drop: Allowed drop of top-1 accuracy, as a share; None if only a significant loss is a
            failure.
        reference: Accuracy of the PyTorch model with the checkpoint's weights.
        candidates: Accuracy of the deploy model and of each file, in the order of the line.
        doubt: Reason why accuracy shows nothing here; empty if the reference is better than
            guessing.
        assumptions: Settings that no source gave and that had to be chosen.
        conditions: Conditions of the results, by name.
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
        """The verdict; ``inconclusive`` if the reference is not better than guessing."""
        if self.doubt:
            return "inconclusive"
        return "pass" if self.passed else "fail"

    @property
    def passed(self) -> bool:
        """True if at least one candidate ran, none that ran failed, and there is no doubt.

        Without ``max_drop`` a candidate fails if its loss is significant: the whole interval of the
        difference is below zero. With it a candidate fails unless the images show that the drop is
        at most ``max_drop``: the interval's lower end is not below ``-max_drop`` (the usual test of
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
    """Count the right answers of a candidate, and those where the reference differs.

    Args:
        answers: Classes of each image, best first; empty for no answer, which is wrong.
        reference: The same of the reference, in the same order.
        labels: The right class of each image.
        top: Number of the first classes that count.

    Raises:
        ValueError: If the three are not equally long.
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
