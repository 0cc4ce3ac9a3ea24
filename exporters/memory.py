"""Give free memory back to the system, between one large model and the next."""

from __future__ import annotations

import contextlib
import ctypes


def release_memory() -> None:
    """Give all memory that is free back to the system.

    glibc keeps freed blocks of up to 32 MiB for the process, which here are whole models: the next
    library's do not fit between them. Other C libraries are left to themselves.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
