"""What an evaluation found, as values: right answers, their intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from exporters.errors import FileError
from swin_deploy.config.assumptions import Assumption
from swin_deploy.intervals import Interval, paired_interval, wilson_interval

SCHEMA = 2
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

    images: int
    right: int
    lost: int = 0
    gained: int = 0

    @property
    def accuracy(self) -> float:
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

    def to_dict(self) -> dict[str, Any]:
        """The counts, and what follows from them."""
        return asdict(self) | {
            "accuracy": self.accuracy,
            "interval": asdict(self.interval),
            "difference": self.difference,
            "difference_interval": asdict(self.difference_interval),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Score:
        """A score from ``to_dict``; what follows from the counts is computed again."""
        return cls(*(values[name] for name in ("images", "right", "lost", "gained")))


@dataclass(frozen=True)
class BackendAccuracy:
    """The accuracy of one model on one backend.

    Attributes:
        name: Short name, such as ``ONNX fp16``.
        stage: ``reference``, ``deploy``, ``onnx`` or ``engine``.
        precision: Of weights and activations.
        file: File name of the artefact, or empty.
        backend: What ran it and where.
        top1: Right where the largest logit is the class; None where it could not run.
        top5: Right where the class is among the five largest; also None for five classes or fewer.
        agreed: Images with the reference's top class.
        not_finite: Images with a logit that is NaN or infinite; they count as wrong.
        lost_images: The first images that ``top1.lost`` counts, by path.
        not_run: Why it could not run here; empty when it ran.
    """

    name: str
    stage: str
    precision: str
    file: str
    backend: str
    top1: Score | None = None
    top5: Score | None = None
    agreed: int = 0
    not_finite: int = 0
    lost_images: tuple[str, ...] = ()
    not_run: str = ""

    def passed(self, max_drop: float | None) -> bool | None:
        """Whether it is as accurate as asked for; None where it could not run.

        Args:
            max_drop: As ``Evaluation.max_drop``.
        """
        if self.top1 is None:
            return None
        if self.not_finite:
            return False
        interval = self.top1.difference_interval
        return interval.high >= 0 if max_drop is None else interval.low >= -max_drop

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        scores = {
            name: None if score is None else score.to_dict()
            for name, score in (("top1", self.top1), ("top5", self.top5))
        }
        return asdict(self) | scores | {"lost_images": list(self.lost_images)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackendAccuracy:
        """A result from ``to_dict``."""
        fields = {key: value for key, value in values.items() if key != "passed"}
        for name in ("top1", "top5"):
            fields[name] = None if values[name] is None else Score.from_dict(values[name])
        return cls(**fields | {"lost_images": tuple(values["lost_images"])})


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
    images: int
    skipped: int
    num_classes: int
    max_drop: float | None
    reference: BackendAccuracy
    candidates: tuple[BackendAccuracy, ...]
    doubt: str = ""
    assumptions: tuple[Assumption, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)

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
        ran = [one.passed(self.max_drop) for one in self.candidates if not one.not_run]
        return bool(ran) and all(ran) and not self.doubt

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values, with each verdict."""
        return asdict(self) | {
            "schema": SCHEMA,
            "passed": self.passed,
            "verdict": self.verdict,
            "reference": self.reference.to_dict(),
            "candidates": [
                one.to_dict() | {"passed": one.passed(self.max_drop)} for one in self.candidates
            ],
            "assumptions": [asdict(one) for one in self.assumptions],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """An evaluation from ``to_dict`` or from ``evaluation.json``.

        Raises:
            FileError: If the values are not one of this schema.
        """
        try:
            if values["schema"] != SCHEMA:
                raise FileError(
                    f"evaluation of schema {values['schema']}, not {SCHEMA}; evaluate again"
                )
            fields = {k: v for k, v in values.items() if k not in ("schema", "passed", "verdict")}
            fields["reference"] = BackendAccuracy.from_dict(values["reference"])
            candidates = values["candidates"]
            fields["candidates"] = tuple(map(BackendAccuracy.from_dict, candidates))
            fields["assumptions"] = tuple(Assumption(**one) for one in values["assumptions"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as err:
            raise FileError(f"not an evaluation of swin-deploy ({err}); evaluate again") from err


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
