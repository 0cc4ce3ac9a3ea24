"""Interrupts (SIGINT) and requests to end (SIGTERM): both end a command cleanly, with one line.

While a command only loads, there is nothing to clean up, and the process leaves at once. Later
they are exceptions. Neither is raised in the middle of an import: there an exception is lost,
turned into another, or ends the process with a traceback of C++.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import NoReturn

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
SAID = "; nothing half-written is left"
GRACE_S = 1.0  # in which the same signal again, as timeout(1) sends it, does not cut cleaning short
POLL_S = 0.05
Handler = Callable[[int, FrameType | None], None]


class Terminated(KeyboardInterrupt):
    """The process was asked to end; handled wherever an interrupt is."""


def leave_at_once() -> None:
    """Let a signal end the process where it stands, with its line and its status."""
    _listen(_leave)


def unwind() -> None:
    """Let a signal be an exception, so that what is under way is cleaned up."""
    _listen(_unwind)


def ignore_at_exit() -> None:
    """Ignore signals from when the interpreter takes itself down: all is done and said by then.

    To be called before anything else registers with ``atexit``, so that it comes last.
    """
    for number in WORDS:
        atexit.register(signal.signal, number, signal.SIG_IGN)


@contextlib.contextmanager
def nothing_to_clean() -> Iterator[None]:
    """Leave at once for the time of a block that only imports and reads, if there was to unwind."""
    ours = signal.getsignal(signal.SIGINT) is _unwind or signal.getsignal(signal.SIGTERM) is _unwind
    if ours:
        leave_at_once()
    try:
        yield
    finally:
        if ours:
            unwind()


def received() -> KeyboardInterrupt | None:
    """Return the interrupt that was raised; libraries turn it into their own errors at times."""
    handlers = (signal.getsignal(number) for number in WORDS)
    mine = [one for one in handlers if isinstance(one, partial) and one.func is _again]
    return _exception(mine[0].args[0]) if mine else None


def farewell(err: BaseException | None) -> tuple[str, int]:
    """Return the line and the exit status for an interrupt."""
    # CPython (seen with 3.11) takes an interrupt that has passed through an exec of text, as
    # dataclasses do, for one that nobody caught, and kills itself with it at exit. Another forgets.
    exec("")
    number = signal.SIGTERM if isinstance(err, Terminated) else signal.SIGINT
    return WORDS[number] + SAID, 128 + number


def _listen(handler: Handler) -> None:
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    try:
        below = "\n" if os.isatty(2) else ""  # the line of progress
        os.write(2, f"{below}{WORDS[signal.Signals(number)]}{SAID}\n".encode())
    finally:
        os._exit(128 + number)


def _unwind(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame) and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, POLL_S)
        return
    _listen(partial(_again, number, time.monotonic()))
    raise _exception(number)


def _again(first: int, since: float, number: int, frame: FrameType | None) -> None:
    if time.monotonic() - since > GRACE_S:
        _leave(number, frame)


def _exception(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the command is in the middle of an import."""
    while frame is not None and frame.f_globals.get("__name__") != "swin_deploy.cli":
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
