"""A few images with what each model sees in them, as values for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Change = Literal["same", "near tie", "flip"]


@dataclass(frozen=True)
class Guess:
    """One of a model's likeliest classes for an image.

    Attributes:
        index: Of the class.
        name: Of the class; empty where only its index is known.
        probability: Softmax of the logits, from 0 to 1.
    """

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What one model sees in one image.

    Attributes:
        guesses: Up to five, likeliest first; empty where its logits are not finite.
        change: ``same`` top class as the reference's; or another one: a ``near tie`` where the
            reference's margin is within the noise, else a ``flip``.
    """

    guesses: tuple[Guess, ...]
    change: Change = "same"


@dataclass(frozen=True)
class Sample:
    """One image, and what the reference sees in it; ``Hop.answers`` has the others' answers.

    Attributes:
        name: Of the image.
        thumbnail: A small JPEG of what the model was given, in base64.
        label: The right class; None where it is not known.
        label_name: Its name; empty where only its index is known.
        reference: The reference's answer.
    """

    name: str
    thumbnail: str
    label: int | None
    label_name: str
    reference: Answer
