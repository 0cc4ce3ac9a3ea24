"""Parts of a comparison of two reports: one change, its verdict, and the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from swin_deploy.report.numbers import one_line, percent_text

T = TypeVar("T")
Verdict = Literal["worse", "missing", "better", "same", "new", "not comparable"]
REGRESSIONS = ("worse", "missing")


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a change for the worse is a regression: the only copy.

    Attributes:
        floors: Rise of a hop's error, in noise floors; a smaller one may come from another build
            of PyTorch or ONNX Runtime alone.
        allowed_share: The same if no floor was measured, as a share of the hop's limit.
        accuracy_drop: Drop of top-1 accuracy, as a share; ``accuracy_images`` must be lost, too.
        accuracy_images: Number of images lost from which a drop of accuracy is a regression.
        kernels: Rise of the number of kernels, as a share.
        bytes_moved: Rise of the bytes moved, as a share.
        half_share: Drop of the share of the bytes that are in half precision.
        file_bytes: Growth of a file, as a share.
        slower: Gap between the ends of two intervals of speed, as a share of the earlier one's.
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
        what: Name of the thing.
        before: Its value in the first report, as text; a dash if there is none.
        now: Its value in the second report, as text; a dash if there is none.
        verdict: Verdict on the change; ``worse`` and ``missing`` are regressions.
        note: Reason or limit that explains the verdict; empty if the values say it.
    """

    what: str
    before: str
    now: str
    verdict: Verdict
    note: str = ""


def rank_change(what: str, before: str, now: str, ranks: tuple[str, ...]) -> Change:
    """Judge a change from one word to another.

    Args:
        what: Name of the thing.
        before: Its word in the first report.
        now: Its word in the second report.
        ranks: Words from bad to good.

    Raises:
        ValueError: If a word is not in ``ranks``.
    """
    step = ranks.index(now) - ranks.index(before)
    return Change(what, before, now, "worse" if step < 0 else "better" if step else "same")


def missing(what: str, before: str = "yes", note: str = "") -> Change:
    """Return the change of a thing that was there before and is missing now."""
    return Change(what, before, "-", "missing", note)


def judged(gain: float, margin: float, reason: str = "") -> Verdict:
    """Judge an improvement from before to now; changes up to ``margin`` count as zero.

    Args:
        gain: The improvement; negative for a change for the worse.
        margin: Largest change that counts as none.
        reason: Reason why the two cannot be compared; empty if they can.
    """
    if reason:
        return "not comparable"
    if abs(gain) <= margin:
        return "same"
    return "better" if gain > 0 else "worse"


def accuracy_change(
    what: str, pair: tuple[float, float], images: int, limits: Limits, reason: str
) -> Change:
    """Judge a change of top-1 accuracy.

    Args:
        what: Name of the accuracy.
        pair: Accuracy before and now, as shares.
        images: Number of images that both were measured on.
        limits: Limits of a regression.
        reason: Reason why the two cannot be compared; empty if they can.
    """
    before, now = pair
    margin = max(limits.accuracy_drop, (limits.accuracy_images - 0.5) / images)
    verdict = judged(now - before, margin, reason)
    return Change(what, percent_text(before), percent_text(now), verdict, reason)


def paired(
    before: Iterable[T], now: Iterable[T], name: Callable[[T], str]
) -> Iterator[tuple[str, T | None, T | None]]:
    """Yield the items of two reports by name: those of the first in order, then the new ones."""
    known, later = labelled(before, name), labelled(now, name)
    for text in dict.fromkeys((*known, *later)):
        yield text, known.get(text), later.get(text)


def labelled(items: Iterable[T], name: Callable[[T], str]) -> dict[str, T]:
    """Index items by name, in order; the second item of one name is ``name (2)``."""
    found: dict[str, T] = {}
    counts: Counter[str] = Counter()
    for item in items:
        text = one_line(name(item))
        counts[text] += 1
        found[f"{text} ({counts[text]})" if counts[text] > 1 else text] = item
    return found
