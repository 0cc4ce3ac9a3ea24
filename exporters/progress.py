"""Progress of long work, and the functions that are told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Tell = Callable[[str], None]  # of a warning or a remark, in one line


class Progress(Protocol):
    """A function that is told of each step of long work before the step is done."""

    def __call__(self, detail: str, share: float | None = None, /) -> None:
        """Tell of a step.

        Args:
            detail: The step that is done now, in one line.
            share: Share of the whole work that is done, 0 to 1; None where it is not known.
        """


def silent(_: str, __: float | None = None, /) -> None:
    """Ignore a step or a warning."""


def within(progress: Progress, first: float, last: float) -> Progress:
    """Return a progress for a part of the work, which scales its shares to the whole.

    Args:
        progress: The progress of the whole work.
        first: Share of the whole at which the part begins, 0 to 1.
        last: Share of the whole at which the part ends, 0 to 1.
    """

    def tell(detail: str, share: float | None = None, /) -> None:
        progress(detail, None if share is None else first + share * (last - first))

    return tell
