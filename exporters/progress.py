"""How far long work is, told to whoever follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Tell = Callable[[str], None]  # of a warning or a remark, in one line


class Progress(Protocol):
    """Someone who is told what is done, before it is done."""

    def __call__(self, detail: str, share: float | None = None, /) -> None:
        """Tell of it.

        Args:
            detail: What is done now, in one line.
            share: Share of the whole that is behind, 0 to 1; None where nobody knows.
        """


def silent(_: str, __: float | None = None, /) -> None:
    """Tell nobody."""


def within(progress: Progress, first: float, last: float) -> Progress:
    """Return a progress for a part of the work, from one share of the whole to another."""

    def tell(detail: str, share: float | None = None, /) -> None:
        progress(detail, None if share is None else first + share * (last - first))

    return tell
