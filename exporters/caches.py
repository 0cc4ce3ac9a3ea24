"""Caches: where they lie, and files that several processes share.

A cache is whole when it is read and has one writer at a time; it is in a folder of the user's,
named after what it is good for.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from exporters.backends import current_gpu, load_tensorrt
from exporters.errors import FileError
from exporters.flavors import FLAVORS
from exporters.locks import take_lock
from exporters.spec import CacheFile, Flavor
from exporters.staging import real_path

FOLDER_VARIABLE = "SWIN_DEPLOY_CACHE"
SHA_DIGITS = 16
WAIT_S = 30.0
POLL_S = 0.05
TELL_S = 1.0
Progress = Callable[[str], None]


def cache_folder() -> Path:
    """``SWIN_DEPLOY_CACHE``, else ``swin-deploy`` in the user's folder for caches."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules have relative paths ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "swin-deploy"


def timing_cache(flavor: Flavor) -> CacheFile | None:
    """The user's timing cache for this flavour, its version and the GPU; None where it has none.

    Raises:
        MissingBackendError: If the flavour is not installed.
    """
    gpu = current_gpu()
    if gpu is None or not FLAVORS[flavor].timing_cache:
        return None
    version = str(load_tensorrt(flavor).__version__)
    return CacheFile(cache_folder() / _file_name("timing", flavor, version, gpu.name))


def runtime_cache_path(flavor: Flavor, version: str, *, gpu: str, sha256: str) -> Path:
    """The file for the kernels of one engine, compiled on one kind of GPU.

    Args:
        flavor: TensorRT flavour.
        version: Its version.
        gpu: Name of the GPU.
        sha256: Of the engine.
    """
    return cache_folder() / _file_name("runtime", flavor, version, gpu, sha256[:SHA_DIGITS])


def _file_name(*parts: str) -> str:
    """Parts with nothing in them that a file system minds."""
    return "-".join(re.sub(r"[^\w.-]+", "_", part) for part in parts) + ".cache"


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

    Without file locks (some network file systems) nothing is kept out: a cache is whole all the
    same, but what two processes write at the same moment is that of the later one.

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
