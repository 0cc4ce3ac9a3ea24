"""The accuracy on labelled images as tables and words, for every renderer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

from swin_deploy.evaluate.accuracy import BackendAccuracy, Evaluation, Score
from swin_deploy.intervals import LEVEL_PERCENT, Interval, images_to_show
from swin_deploy.report.numbers import one_line, percent_text
from swin_deploy.report.tables import Columns, Facts, Table, make_table
from swin_deploy.report.words import count_noun, verdict_word

ACCURACY_LEGEND = (
    ("Top-1, top-5", "images whose class has the largest logit, or is among the five largest."),
    (
        "95% interval",
        "that holds the accuracy on images of this kind: Wilson's score interval.",
    ),
    (
        "Change",
        "top-1 accuracy minus the reference's in percentage points, from the images on which they "
        "differ: Tango's score interval for pairs, at 95%. Its ends are rounded outwards.",
    ),
    ("Lost, gained", "images that the reference has right and this one wrong, and the reverse."),
    ("Agreement", "images with the reference's top class."),
)


# Cells of a model by header: of its score and, but for the reference's, of what it differs by.
SCORES: Mapping[str, Callable[[BackendAccuracy, Score], str]] = {
    "Top-1": lambda _, top1: percent_text(top1.accuracy),
    "95% interval": lambda _, top1: _percent_range(top1),
    "Change, points": lambda _, top1: points_range(top1.difference_interval),
    "Lost": lambda _, top1: f"{top1.lost:,}",
    "Gained": lambda _, top1: f"{top1.gained:,}",
    "Agreement": lambda result, top1: percent_text(result.agreed / top1.images),
    "Top-5": lambda result, _: percent_text(result.top5.accuracy if result.top5 else None),
}
COMPARED = ("Change, points", "Lost", "Gained", "Agreement")


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return one row for the reference and for each candidate."""
    reference = evaluation.reference

    def cell(name: str, result: BackendAccuracy) -> str:
        if result.top1 is None or (name in COMPARED and result is reference):
            return "-"
        return SCORES[name](result, result.top1)

    columns: Columns[BackendAccuracy] = {
        "Model": ("text", lambda result: result.name),
        "Verdict": ("verdict", lambda r: "-" if r is reference else verdict_word(r.passed)),
        **{name: ("number", functools.partial(cell, name)) for name in SCORES},
    }
    return make_table((reference, *evaluation.candidates), columns)


def accuracy_facts(evaluation: Evaluation) -> Facts:
    """Return the conditions of the accuracy: images, classes, weights, backends, assumptions."""
    skipped = f"{count_noun(evaluation.skipped, 'image')} could not be read"
    assumed = tuple(("Assumed", one.text) for one in evaluation.assumptions)
    ran = [one for one in (evaluation.reference, *evaluation.candidates) if not one.not_run]
    top5 = tuple(
        (f"Top-5 change: {one.name}", f"{points_range(one.top5.difference_interval)} points")
        for one in ran[1:]
        if one.top5 is not None
    )
    return (
        *assumed,
        ("Images", evaluation.data),
        *((("Left out", skipped),) if evaluation.skipped else ()),
        ("Classes", f"{evaluation.num_classes}; {evaluation.classes}"),
        ("Weights", evaluation.weights),
        *top5,
        *((f"Ran on: {one.name}", one.backend) for one in ran),
    )


def accuracy_headline(evaluation: Evaluation) -> str:
    """Return the verdict in a few words, with the models that it does not cover."""
    ran = [one for one in evaluation.candidates if not one.not_run]
    not_run = len(evaluation.candidates) - len(ran)
    caveat = f", {count_noun(not_run, 'model')} not run" if not_run else ""
    if evaluation.doubt:
        return f"Inconclusive: the reference itself is not better than guessing{caveat}"
    if evaluation.max_drop is None:
        return ("No loss found" if evaluation.passed else "Loss found") + caveat
    shown = "is shown" if evaluation.passed else "is not shown"
    return f"A drop of at most {_limit(evaluation.max_drop)} {shown}{caveat}"


def accuracy_sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """Return one sentence for each candidate, with its difference from the reference."""
    found = tuple(_sentence(one, evaluation.max_drop) for one in evaluation.candidates)
    return (f"{one_line(evaluation.doubt)}.", *found) if evaluation.doubt else found


def accuracy_line(evaluation: Evaluation) -> str:
    """Return the verdict with each model's top-1 and its change, in one line."""
    reference = evaluation.reference.top1
    parts = [f"reference {percent_text(reference.accuracy if reference else None)}"]
    for one in evaluation.candidates:
        if one.top1 is None:
            parts.append(f"{one_line(one.name)} not run")
        else:
            change = points_range(one.top1.difference_interval)
            share = percent_text(one.top1.accuracy)
            parts.append(f"{one_line(one.name)} {share} ({change} points)")
    return f"{accuracy_headline(evaluation)}: {', '.join(parts)}"


def _sentence(result: BackendAccuracy, max_drop: float | None) -> str:
    name = one_line(result.name)
    if result.top1 is None:
        reason = one_line(result.not_run).rstrip(".")
        return f"{name} was not run, and nothing is shown about it: {reason}."
    interval = result.top1.difference_interval
    found = "loss found" if interval.high < 0 else "gain found" if interval.low > 0 else ""
    text = (
        f"{name}: {found or 'no loss found'}: difference {points_range(interval)} points at "
        f"{LEVEL_PERCENT} %"
    )
    if result.not_finite:
        text += f"; {count_noun(result.not_finite, 'image')} gave NaN or infinity"
    if max_drop is not None and not result.passed:
        text += _too_few(result.top1, max_drop)
    return f"{text}."


def _too_few(score: Score, max_drop: float) -> str:
    """Say that the drop is not ruled out, with the number of images needed if there are too few."""
    enough = images_to_show(max_drop) if max_drop else None
    if enough is None or score.images >= enough:
        return f"; a drop of more than {_limit(max_drop)} is not ruled out"
    return (
        f"; {count_noun(score.images, 'image')} cannot rule out a drop of {_limit(max_drop)}: even "
        f"with equal answers that takes {enough:,}"
    )


def points_range(interval: Interval) -> str:
    """Return an interval of a difference in percentage points, its ends rounded outwards."""
    low = math.floor(interval.low * 1e4 + 1e-9) / 100
    high = math.ceil(interval.high * 1e4 - 1e-9) / 100
    return f"{low:+.2f} to {high:+.2f}"


def _percent_range(score: Score) -> str:
    low, high = score.interval.low, score.interval.high
    return f"{math.floor(low * 1e3) / 10:.1f} to {math.ceil(high * 1e3) / 10:.1f}%"


def _limit(max_drop: float) -> str:
    return f"{100 * max_drop:g} points"
