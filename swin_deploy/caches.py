"""Where caches lie: a folder of the user's, files named after what they are good for."""

from __future__ import annotations

import os
import re
from pathlib import Path

from exporters.backends import current_gpu, load_tensorrt
from exporters.flavors import FLAVORS
from exporters.spec import CacheFile, Flavor

FOLDER_VARIABLE = "SWIN_DEPLOY_CACHE"
SHA_DIGITS = 16


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
