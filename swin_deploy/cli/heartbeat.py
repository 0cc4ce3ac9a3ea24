"""Progress of a step: a line every 30 s in a log, a bar with the time left on a terminal."""

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
ENOUGH = 0.05  # share done from which the time left is shown
TICK_S = 0.5
CLEAR_LINE = "\r\033[K"


@dataclass
class Heartbeat:
    """Lines about a step for a log, one every ``EVERY_S`` seconds.

    Attributes:
        title: Name of the step.
        tell: Function that is given each line.
        clock: Function that returns the time, in seconds.
        detail: The last thing that the step did.
        share: Share done, 0 to 1; None if it is not known.
        started: Time of the start.
        told: Time of the last line.
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
        """Keep what the step is doing and, if known, the share done; show it if a line is due."""
        self.detail = detail
        self.share = self.share if share is None else share
        self.beat()

    def beat(self) -> None:
        """Show a line, if one is due."""
        now = self.clock()
        if now - self.told >= EVERY_S:
            self.told = now
            self.tell(f"    {self.line(now)}")

    def line(self, now: float) -> str:
        """Return the line: title, time so far, share done, estimated time left and detail."""
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
    """Thread that calls a function every ``every_s`` seconds until it is stopped."""

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
        """Stop after the call in progress, if any, and wait for the thread."""
        self._stopped.set()
        self._thread.join()


class Bar:
    """Progress bar on the terminal, shown from ``BAR_AFTER_S`` after the step's start."""

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._started = clock()
        self._shown: tuple[str, float | None] = ("", None)
        self._progress: Progress | None = None

    def update(self, detail: str, share: float | None) -> None:
        """Show what the step is doing and, if known, the share done."""
        self._shown = (detail, self._shown[1] if share is None else share)
        self.beat()

    def beat(self) -> None:
        """Draw the bar, once ``BAR_AFTER_S`` have passed."""
        if self._clock() - self._started < BAR_AFTER_S:
            return
        if self._progress is None:
            self._progress = _new_bar(self._title)
        detail, share = self._shown
        total, done = (None, 0.0) if share is None else (1.0, share)
        self._progress.update(self._progress.task_ids[0], total=total, completed=done, at=detail)

    def stop(self) -> None:
        """Remove the bar."""
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
        refresh_per_second=2,  # little load next to what is timed
        redirect_stdout=False,  # results only; warnings on standard error go above the bar
    )
    bar.add_task(title, total=None, at="")
    console.file.write(CLEAR_LINE)
    bar.start()
    console.show_cursor(True)  # a process that is killed would leave it hidden
    return bar
