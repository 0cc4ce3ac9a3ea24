"""Kernels that TensorRT-RTX compiles at run time, kept for the next run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporters.artifact import write_atomic
from exporters.caches import locked, read_cache
from exporters.errors import FileError
from exporters.flavors import require
from exporters.text_files import shortened

Warn = Callable[[str], None]


def open_runtime_cache(trt: Any, runtime_config: Any, path: Path, *, warn: Warn) -> Any:
    """Give a runtime configuration the kernels in a file; an unusable file is only a warning.

    Args:
        trt: The TensorRT module.
        runtime_config: Configuration of an engine; no execution context is made from it yet.
        path: Path of the cache file, which need not exist.
        warn: Function that is given each warning, one line.

    Returns:
        The runtime cache, or None if TensorRT makes none. TensorRT holds no reference to it: it
        must live as long as the execution context, or the process crashes.
    """
    require(trt, "runtime_cache")
    try:
        data = read_cache(path)
    except FileError as err:
        warn(f"compiling the engine's kernels anew: {err}")
        data = b""
    try:
        return _filled(trt, runtime_config, data, path=path, warn=warn)
    except RuntimeError as err:
        reason = shortened(" ".join(str(err).split()), 200)
        warn(f"{trt.__name__} takes no runtime cache ({reason}); every start compiles the kernels")
        return None


def _filled(trt: Any, runtime_config: Any, data: bytes, *, path: Path, warn: Warn) -> Any:
    """Create a configuration's runtime cache, with the kernels in ``data`` if they fit here."""
    runtime_cache = runtime_config.create_runtime_cache()
    if runtime_cache is not None and data and not runtime_cache.deserialize(data):
        warn(f"{path} is no runtime cache for this engine here; compiling its kernels anew")
        runtime_cache = runtime_config.create_runtime_cache()
    if runtime_cache is None or not runtime_config.set_runtime_cache(runtime_cache):
        warn(f"{trt.__name__} takes no runtime cache; every start compiles the kernels")
    return runtime_cache


def keep_runtime_cache(runtime_cache: Any, path: Path, *, warn: Warn) -> None:
    """Write the kernels compiled so far; the later of two processes with one engine wins.

    Args:
        runtime_cache: The cache of an open engine.
        path: Path of the cache file.
        warn: Function that is given each warning, one line; nothing is raised for the cache.
    """
    try:
        serialized = runtime_cache.serialize()
    except RuntimeError as err:
        warn(f"the engine's compiled kernels are not kept: {shortened(str(err), 200)}")
        return
    if serialized is None:
        warn("TensorRT gives no runtime cache; the next start compiles the kernels anew")
        return
    data = bytes(serialized)
    try:
        with locked(path):
            if read_cache(path) != data:
                write_atomic(path, data)
    except FileError as err:
        warn(f"the engine's compiled kernels are not kept: {err}")
