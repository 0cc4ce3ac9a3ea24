"""Kernel timings that the builder keeps between builds, in a file that several builds share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporters.artifact import ensure_writable, write_atomic
from exporters.caches import Progress, locked, read_cache
from exporters.errors import BuildError, FileError
from exporters.flavors import require
from exporters.spec import CacheFile

Warn = Callable[[str], None]


def attach_timing_cache(trt: Any, config: Any, file: CacheFile, *, warn: Warn) -> Any:
    """Give the builder the timings in a file, or an empty cache without any, and return the cache.

    Args:
        trt: The TensorRT module.
        config: The builder's configuration; the cache returned must live as long.
        file: The cache. One that cannot be used is replaced, with a warning, unless it was named.
        warn: Function that is told of each warning, in one line.

    Raises:
        BuildError: If a named file is not a timing cache of this TensorRT and this GPU.
        FileError: If a named file cannot be read or written.
    """
    require(trt, "timing_cache")
    try:
        ensure_writable(file.path)
        data = read_cache(file.path)
    except FileError as err:
        if file.named:
            raise
        warn(f"building without kept kernel timings: {err}")
        data = b""
    timing_cache = _load(config, data)
    if timing_cache is not None and config.set_timing_cache(timing_cache, ignore_mismatch=False):
        return timing_cache
    _refuse(file, warn)
    timing_cache = config.create_timing_cache(b"")
    config.set_timing_cache(timing_cache, ignore_mismatch=False)
    return timing_cache


def keep_timing_cache(
    config: Any, timing_cache: Any, path: Path, *, progress: Progress, warn: Warn
) -> None:
    """Add a build's timings to those of other builds in a file.

    A cache that cannot be written is a warning, not an error: the engine is there without it.

    Args:
        config: The builder's configuration.
        timing_cache: The cache that ``attach_timing_cache`` returned.
        path: Path of the file.
        progress: Function that is told once a second that another process holds the file's lock.
        warn: Function that is told of each warning, in one line.
    """
    try:
        with locked(path, progress=progress):
            other_timing_cache = _load(config, read_cache(path))
            if other_timing_cache is not None:  # one of another GPU is skipped
                timing_cache.combine(other_timing_cache, ignore_mismatch=False)
            write_atomic(path, bytes(timing_cache.serialize()))
    except FileError as err:
        warn(f"the kernel timings of this build are not kept: {err}")


def _load(config: Any, data: bytes) -> Any:
    """Return the cache in ``data``, or None; TensorRT makes an empty one of what it cannot read."""
    timing_cache = config.create_timing_cache(data)
    if not data or timing_cache is None:
        return timing_cache
    empty = bytes(config.create_timing_cache(b"").serialize())
    unread = data != empty and bytes(timing_cache.serialize()) == empty
    return None if unread else timing_cache


def _refuse(file: CacheFile, warn: Warn) -> None:
    reason = f"{file.path} is no timing cache of this TensorRT and this GPU"
    if file.named:
        raise BuildError(f"{reason}; delete it, or name another")
    warn(f"{reason}; timing every kernel anew")
