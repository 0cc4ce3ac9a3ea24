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
        index: Index of the class.
        name: Name of the class; empty where only its index is known.
        probability: Softmax of the logits, from 0 to 1.
    """

    index: Count
    name: str
    probability: Share


@dataclass(frozen=True)
class Answer:
    """The classes that one model finds likeliest for one image.

    Attributes:
        guesses: Up to five classes, likeliest first; empty where a logit is not finite.
        change: ``same`` top class as the reference's; or another one: a ``near tie`` where the
            reference's margin is within the noise, else a ``flip``.
    """

    guesses: Annotated[tuple[Guess, ...], msgspec.Meta(max_length=5)]
    change: Change = "same"


@dataclass(frozen=True)
class Sample:
    """One image with the reference's answer; ``Hop.answers`` has the candidates' answers.

    Attributes:
        name: Name of the image.
        thumbnail: A small JPEG of the model's input, in base64.
        label: The right class; None where it is not known.
        label_name: Its name; empty where only its index is known.
        reference: The reference's answer.
    """

    name: str
    thumbnail: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]*={0,2}$")]
    label: Count | None
    label_name: str
    reference: Answer
