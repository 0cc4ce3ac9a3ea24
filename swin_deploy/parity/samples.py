"""A few images with what each model sees in them, as values for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from exporters.spec import Count, Share

Change = Literal["same", "near tie", "flip"]


@dataclass(frozen=True)
class Guess:
    """One of a model's likeliest classes for an image.

    Attributes:
        index: Of the class.
        name: Of the class; empty where only its index is known.
        probability: Softmax of the logits, from 0 to 1.
    """

    index: Count
    name: str
    probability: Share


@dataclass(frozen=True)
class Answer:
    """What one model sees in one image.

    Attributes:
        guesses: Up to five, likeliest first; empty where its logits are not finite.
        change: ``same`` top class as the reference's; or another one: a ``near tie`` where the
            reference's margin is within the noise, else a ``flip``.
    """

    guesses: Annotated[tuple[Guess, ...], msgspec.Meta(max_length=5)]
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
    thumbnail: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]*={0,2}$")]
    label: Count | None
    label_name: str
    reference: Answer
