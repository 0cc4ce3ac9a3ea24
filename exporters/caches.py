"""Caches: their paths, and files that several processes share.

A cache is whole when it is read and has one writer at a time. It is in a folder of the user's, and
its name says for which flavour, version and GPU it is valid.
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
    """Return ``SWIN_DEPLOY_CACHE``, else ``swin-deploy`` in the user's folder for caches."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules have relative paths ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "swin-deploy"


def timing_cache(flavor: Flavor) -> CacheFile | None:
    """Return the user's timing cache for a flavour, its installed version and this GPU.

    Returns:
        The cache; None without a GPU, or if the flavour keeps no timings.

    Raises:
        MissingBackendError: If the flavour is not installed.
        BuildError: If it is of a major version that the code was not checked against.
    """
    gpu = current_gpu()
    if gpu is None or not FLAVORS[flavor].timing_cache:
        return None
    version = str(load_tensorrt(flavor).__version__)
    return CacheFile(cache_folder() / _file_name("timing", flavor, version, gpu.name))


def runtime_cache_path(flavor: Flavor, version: str, *, gpu: str, sha256: str) -> Path:
    """Return the path of the cache for the kernels of one engine, compiled on one kind of GPU.

    Args:
        flavor: TensorRT flavour.
        version: Version of the flavour.
        gpu: Name of the GPU.
        sha256: SHA-256 of the engine, in hexadecimal digits.
    """
    return cache_folder() / _file_name("runtime", flavor, version, gpu, sha256[:SHA_DIGITS])


def _file_name(*parts: str) -> str:
    """Join parts to a file name, with an underscore for what a file system may not accept."""
    return "-".join(re.sub(r"[^\w.-]+", "_", part) for part in parts) + ".cache"


def read_cache(path: Path) -> bytes:
    """Read the bytes of a cache, without a lock, because caches are only replaced whole.

    Returns:
        The bytes; empty if there is no cache yet.

    Raises:
        FileError: If the cache is there and cannot be read.
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
    """Hold an exclusive lock on a cache file.

    Without file locks (some network file systems) nothing is kept out: a cache is whole all the
    same, but what two processes write at the same moment is that of the later one.

    Args:
        path: Path of the cache; the lock is a file next to it.
        wait_s: Longest time to wait for another process, in seconds.
        progress: Function that is told once a second that this process waits.

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
