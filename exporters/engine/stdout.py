"""Standard output kept for results while TensorRT works, which prints there past its logger."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

STDOUT, STDERR = 1, 2
# One build at a time: another would take standard error, in its place, for standard output.
TURN = threading.Lock()


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what the process prints on standard output to standard error.

    TensorRT-RTX 1.7.1: its compiler prints warnings and errors there, between the lines of a
    result in JSON. Remove when it logs them.
    """
    with TURN:
        try:
            kept = os.dup(STDOUT)
        except OSError:  # closed: nothing is printed
            yield
            return
        _flush()
        try:
            with contextlib.suppress(OSError):  # standard error is closed
                os.dup2(STDERR, STDOUT)
            yield
        finally:
            _flush()
            os.dup2(kept, STDOUT)
            os.close(kept)


def _flush() -> None:
    """Write what Python and C hold back for standard output to where it leads now."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, none at all
        sys.stdout.flush()
    ctypes.CDLL("ucrtbase" if os.name == "nt" else None).fflush(None)
