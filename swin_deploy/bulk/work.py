"""A part made: its pictures in, its file out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exporters.staging import replace_files
from exporters.text_files import LISTED
from swin_deploy.bulk.answers import columns_of, parquet_of
from swin_deploy.bulk.parts import Part
from swin_deploy.bulk.pictures import pictures_of
from swin_deploy.predict.predictor import Prediction, Predictor


@dataclass
class Seen:
    """What a run came across, in a size that does not grow with the number of images.

    Attributes:
        failed: Number of images without an answer.
        errors: Reasons of the first of them.
        odd: Number of images by what is unexpected about them.
        examples: Names of the first of them.
    """

    failed: int = 0
    errors: list[str] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, name: str, what: str) -> None:
        """Note what is unexpected about an image."""
        self.odd[what] += 1
        names = self.examples.setdefault(what, [])
        if len(names) < LISTED:
            names.append(name)

    def fail(self, error: str) -> None:
        """Note an image without an answer."""
        self.failed += 1
        if len(self.errors) < LISTED:
            self.errors.append(error)

    def add(self, other: Seen) -> None:
        """Add what another part of the run came across."""
        self.failed += other.failed
        self.errors += other.errors[: LISTED - len(self.errors)]
        self.odd += other.odd
        for what, names in other.examples.items():
            own = self.examples.setdefault(what, [])
            own += names[: LISTED - len(own)]


def make_part(
    part: Part,
    predictor: Predictor,
    folder: Path,
    *,
    tell: Callable[[int], None] = lambda done: None,
) -> Seen:
    """Answer to the pictures of a part and write its file, which is there whole or not at all.

    A part is a stream by itself: its batches, and so its answers to the last digit, are the same
    whoever makes it and whatever was made before.

    Args:
        part: The part.
        predictor: The model.
        folder: Folder of part files.
        tell: Function that is told the number of images done so far, in each batch or more often.

    Returns:
        What was unexpected.

    Raises:
        DeployError: If the model does not run, or the file cannot be written.
    """
    seen = Seen()

    def answers() -> Iterator[Prediction]:
        found = predictor.stream(pictures_of(part), tell=seen.note)
        for done, answer in enumerate(found, 1):
            if answer.error:
                seen.fail(answer.error)
            tell(done)
            yield answer

    columns = columns_of(predictor)
    replace_files({folder / part.file: lambda: parquet_of(answers(), part, columns)})
    return seen
