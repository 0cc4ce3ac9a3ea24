"""A few images with each model's answers, as values for a template."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from swin_deploy.parity import Answer, ParityReport, Sample
from swin_deploy.parity.samples import Change
from swin_deploy.report.numbers import percent_text
from swin_deploy.report.words import count_noun

RANKS = 5
SAME_SHARE = 0.005  # half a point


@dataclass(frozen=True)
class Cell:
    """One class of an answer.

    Attributes:
        name: Name of the class, or its index.
        percent: Probability in percent.
        differs: True if the reference has another class at this rank.
    """

    name: str
    percent: str
    differs: bool


@dataclass(frozen=True)
class Row:
    """The answer of one model, or of several that agree, to an image.

    Attributes:
        name: Names of the models.
        change: Change of the top class from the reference's.
        guesses: Likeliest classes, best first.
    """

    name: str
    change: Change
    guesses: tuple[Cell, ...]


@dataclass(frozen=True)
class Card:
    """One image.

    Attributes:
        name: File name of the image.
        truth: Right class; empty if it is not known.
        picture: JPEG in base64; empty without one.
        ranks: Number of classes shown.
        rows: Answers, the reference's first; models that agree with it share its row.
    """

    name: str
    truth: str
    picture: str
    ranks: int
    rows: tuple[Row, ...]


def sample_cards(parity: ParityReport) -> tuple[Card, ...]:
    """Return one card for each sample."""
    return tuple(_card(parity, index, sample) for index, sample in enumerate(parity.samples))


def sample_sentence(parity: ParityReport) -> str:
    """Return the number of shown answers with another top class, in a sentence."""
    changes = [answer.change for hop in parity.hops for answer in hop.answers]
    flips, ties = changes.count("flip"), changes.count("near tie")
    count = count_noun(len(parity.samples), "image")
    shown = f"{count}: those whose two likeliest classes are closest, and some"
    found = "every top class is the reference's" if not flips + ties else ""
    words = [count_noun(n, word) for n, word in ((flips, "flip"), (ties, "near tie")) if n]
    return f"{shown} spread over the set; {found or ', '.join(words)}."


def _card(parity: ParityReport, index: int, sample: Sample) -> Card:
    answers = [(hop.name, hop.answers[index]) for hop in parity.hops if len(hop.answers) > index]
    first = _cells(sample.reference, sample.reference)
    same = [name for name, answer in answers if _agrees(answer, sample.reference)]
    others = [
        Row(name, a.change, _cells(a, sample.reference)) for name, a in answers if name not in same
    ]
    name = "reference"
    if same and not others:
        name = f"all {len(same) + 1} models agree" if len(same) > 1 else "both models agree"
    elif same:
        name = f"reference and {', '.join(same)}"
    rows = (Row(name, "same", first), *others)
    return Card(
        name=sample.name,
        truth="" if sample.label is None else _class(sample.label, sample.label_name),
        picture=sample.thumbnail,
        ranks=max(1, *(len(row.guesses) for row in rows)),
        rows=rows,
    )


def _agrees(answer: Answer, reference: Answer) -> bool:
    """Return True if the classes are the same, with probabilities within ``SAME_SHARE``."""
    pairs = list(zip_longest(answer.guesses[:RANKS], reference.guesses[:RANKS]))
    return bool(pairs) and all(
        a is not None
        and b is not None
        and a.index == b.index
        and abs(a.probability - b.probability) <= SAME_SHARE
        for a, b in pairs
    )


def _cells(answer: Answer, reference: Answer) -> tuple[Cell, ...]:
    pairs = zip_longest(answer.guesses[:RANKS], reference.guesses[:RANKS])
    return tuple(
        Cell(
            _class(guess.index, guess.name),
            percent_text(guess.probability).removesuffix("%"),
            differs=other is None or other.index != guess.index,
        )
        for guess, other in pairs
        if guess is not None
    )


def _class(index: int, name: str) -> str:
    return name or str(index)
