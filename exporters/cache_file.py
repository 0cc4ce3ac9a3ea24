"""Cache files that several processes share: whole when read, one writer at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from exporters.errors import FileError
from exporters.locks import take_lock
from exporters.staging import real_path

WAIT_S = 30.0
POLL_S = 0.05
TELL_S = 1.0
Progress = Callable[[str], None]


def read_cache(path: Path) -> bytes:
    """The bytes of a cache, empty if there is none yet; it needs no lock, for it is replaced whole.

    Raises:
        FileError: If it is there and cannot be read.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileError(f"the cache {path} is a device or a pipe; name another")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as err:
        raise FileError(
            f"cannot read the cache {path}: {err.strerror or err}; delete it, or name another"
        ) from err


@contextlib.contextmanager
def locked(
    path: Path, *, wait_s: float = WAIT_S, progress: Progress = lambda _: None
) -> Iterator[None]:
    """Keep other processes from writing a cache; the lock goes with the process, however it ends.

    Without file locks (Windows) nothing is kept out: a cache is whole all the same, but what two
    processes write at the same moment is that of the later one.

    Args:
        path: The cache; the lock is a file beside it.
        wait_s: How long to wait for another process, in seconds.
        progress: Told once a second that it waits.

    Raises:
        FileError: If the lock cannot be made, or another process keeps it.
    """
    beside = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = real_path(beside).open("ab")
    except OSError as err:
        raise FileError(f"cannot lock {path}: {err.strerror or err}; name another cache") from err
    with stream:  # closing it gives the lock back
        _wait_for_lock(stream.fileno(), beside, wait_s=wait_s, progress=progress)
        yield


def _wait_for_lock(file: int, path: Path, *, wait_s: float, progress: Progress) -> None:
    started = told = time.monotonic()
    while take_lock(file) is False:
        now = time.monotonic()
        if now - started > wait_s:
            raise FileError(
                f"another process has kept {path} locked for {wait_s:g} s; end it, or name "
                "another cache"
            )
        if now - told >= TELL_S:
            told = now
            progress(f"waiting for another process to let go of {path.name}")
        time.sleep(POLL_S)
