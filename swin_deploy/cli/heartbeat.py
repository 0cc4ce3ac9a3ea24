"""Signs of life of a step: lines now and then for a log, a bar with the time left on a terminal."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY_S = 30.0  # between two lines in a log
BAR_AFTER_S = 2.0  # shorter steps have no bar
ENOUGH = 0.05  # share done from which the time left is told
TICK_S = 0.5
CLEAR_LINE = "\r\033[K"


@dataclass
class Heartbeat:
    """What a log is told of a step, and when.

    Attributes:
        title: Name of the step.
        tell: Called with a line every ``EVERY_S``.
        clock: Function that gives the time, in seconds.
    """

    title: str
    tell: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    detail: str = ""
    share: float | None = None
    started: float = field(init=False)
    told: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.told = self.clock()

    def update(self, detail: str, share: float | None) -> None:
        """Note what the step is at."""
        self.detail = detail
        self.share = self.share if share is None else share
        self.beat()

    def beat(self) -> None:
        """Tell, if it is time."""
        now = self.clock()
        if now - self.told >= EVERY_S:
            self.told = now
            self.tell(f"    {self.line(now)}")

    def line(self, now: float) -> str:
        """The step, how far it is, how long it has taken and may take still, and its detail."""
        parts = [f"{self.title}: {_time(now - self.started)} so far"]
        if self.share is not None:
            parts.append(f"{100 * self.share:.0f} % done")
            if ENOUGH <= self.share < 1:
                left = (now - self.started) * (1 - self.share) / self.share
                parts.append(f"about {_time(left)} left")
        return ", ".join(parts) + (f" ({self.detail})" if self.detail else "")


def _time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


class Ticker:
    """Calls a function now and then in a thread of its own, until it is stopped."""

    def __init__(self, tick: Callable[[], None], every_s: float = TICK_S) -> None:
        self._stopped = threading.Event()
        self._tick = tick
        self._every_s = every_s
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._tick()

    def stop(self) -> None:
        """Let a call that is under way end, and make no more."""
        self._stopped.set()
        self._thread.join()


class Bar:
    """A bar on the terminal; nothing until ``BAR_AFTER_S`` after the step began."""

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._started = clock()
        self._shown: tuple[str, float | None] = ("", None)
        self._progress: Progress | None = None

    def update(self, detail: str, share: float | None) -> None:
        """Show what the step is at."""
        self._shown = (detail, self._shown[1] if share is None else share)
        self.beat()

    def beat(self) -> None:
        """Begin, if it is time, and draw."""
        if self._clock() - self._started < BAR_AFTER_S:
            return
        if self._progress is None:
            self._progress = _new_bar(self._title)
        detail, share = self._shown
        total, done = (None, 0.0) if share is None else (1.0, share)
        self._progress.update(self._progress.task_ids[0], total=total, completed=done, at=detail)

    def stop(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()


def _new_bar(title: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("  {task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[at]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=2,  # little, beside what is timed
        redirect_stdout=False,  # results only; warnings on standard error go above the bar
    )
    bar.add_task(title, total=None, at="")
    console.file.write(CLEAR_LINE)
    bar.start()
    console.show_cursor(True)  # a process that is killed gives it back to nobody
    return bar
