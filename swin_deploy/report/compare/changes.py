"""What a comparison of two reports is made of: one change, its verdict, and the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from swin_deploy.report.numbers import one_line, percent_text

T = TypeVar("T")
Verdict = Literal["worse", "missing", "better", "same", "new", "not comparable"]
REGRESSIONS = ("worse", "missing")


@dataclass(frozen=True)
class Limits:
    """How much worse is a regression: the only copy.

    Attributes:
        floors: A hop needs more than before by more than this many floors: by less, another
            build of PyTorch or ONNX Runtime may be all that changed.
        allowed_share: The same where no floor was measured, as a share of what is allowed.
        accuracy_drop: Top-1 accuracy that is lost, as a share, and
        accuracy_images: on at least so many images.
        kernels: More kernels, as a share.
        bytes_moved: More bytes moved, as a share.
        half_share: Less of the bytes in half precision, as a share of all.
        file_bytes: A larger file, as a share.
        slower: Speed that may be lost before the intervals are asked whether they overlap.
    """

    floors: float = 0.5
    allowed_share: float = 0.1
    accuracy_drop: float = 0.001
    accuracy_images: int = 2
    kernels: float = 0.02
    bytes_moved: float = 0.01
    half_share: float = 0.01
    file_bytes: float = 0.05
    slower: float = 0.0


@dataclass(frozen=True)
class Change:
    """One thing in both reports, or in one of them.

    Attributes:
        what: What it is.
        before: Its value in the first report, as text; a dash where there is none.
        now: In the second.
        verdict: ``worse`` and ``missing`` are regressions.
        note: Why, where the values do not say it.
    """

    what: str
    before: str
    now: str
    verdict: Verdict
    note: str = ""


def rank_change(what: str, before: str, now: str, ranks: tuple[str, ...]) -> Change:
    """Words in the order from bad to good."""
    step = ranks.index(now) - ranks.index(before)
    return Change(what, before, now, "worse" if step < 0 else "better" if step else "same")


def missing(what: str, before: str = "yes", note: str = "") -> Change:
    """Return what there was before and is not there now."""
    return Change(what, before, "-", "missing", note)


def judged(gain: float, margin: float, reason: str = "") -> Verdict:
    """By how much something is better, when less than ``margin`` is nothing."""
    if reason:
        return "not comparable"
    if abs(gain) <= margin:
        return "same"
    return "better" if gain > 0 else "worse"


def accuracy_change(
    what: str, pair: tuple[float, float], images: int, limits: Limits, reason: str
) -> Change:
    """Return a change of top-1 accuracy on so many images."""
    before, now = pair
    margin = max(limits.accuracy_drop, (limits.accuracy_images - 0.5) / images)
    verdict = judged(now - before, margin, reason)
    return Change(what, percent_text(before), percent_text(now), verdict, reason)


def labelled(items: Iterable[T], name: Callable[[T], str]) -> dict[str, T]:
    """Items by name, in order; the second of one name is ``name (2)``."""
    found: dict[str, T] = {}
    counts: Counter[str] = Counter()
    for item in items:
        text = one_line(name(item))
        counts[text] += 1
        found[f"{text} ({counts[text]})" if counts[text] > 1 else text] = item
    return found
