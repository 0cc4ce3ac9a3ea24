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
    """A request to end the process (SIGTERM), handled like an interrupt."""


def leave_at_once() -> None:
    """Let a signal end the process at once, with its line and its exit status."""
    _listen(_leave)


def unwind() -> None:
    """Let a signal raise an exception, so that running work is cleaned up."""
    _listen(_unwind)


def ignore_at_exit() -> None:
    """Ignore signals from the interpreter's shutdown on: all work and output is done by then.

    Call it before anything else registers with ``atexit``, so that it runs last.
    """
    for number in WORDS:
        atexit.register(signal.signal, number, signal.SIG_IGN)


@contextlib.contextmanager
def nothing_to_clean() -> Iterator[None]:
    """Let signals end the process at once in a block that only imports and reads.

    Signals raise exceptions again after the block. Nothing changes if they did not before it.
    """
    ours = signal.getsignal(signal.SIGINT) is _unwind or signal.getsignal(signal.SIGTERM) is _unwind
    if ours:
        leave_at_once()
    try:
        yield
    finally:
        if ours:
            unwind()


def received() -> KeyboardInterrupt | None:
    """Return the interrupt that was raised, or None; a library may have hidden it in its error."""
    handlers = (signal.getsignal(number) for number in WORDS)
    mine = [one for one in handlers if isinstance(one, partial) and one.func is _again]
    return _exception(mine[0].args[0]) if mine else None


def farewell(err: BaseException | None) -> tuple[str, int]:
    """Return the line and the exit status for an interrupt: 128 plus the signal's number."""
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
    """Tell whether the command is in the middle of an import."""
    while frame is not None and frame.f_globals.get("__name__") != "swin_deploy.cli":
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
