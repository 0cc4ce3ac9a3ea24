"""The only imports of onnxruntime, TensorRT and Polygraphy, each inside a function."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from typing import Any

from exporters.errors import MissingBackendError
from exporters.spec import Flavor

TENSORRT_MODULES: dict[Flavor, str] = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}
INSTALL = {
    "onnxruntime": "pip install onnxruntime (CPU) or pip install onnxruntime-gpu (NVIDIA GPU)",
    "tensorrt": "pip install tensorrt",
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13",
    "polygraphy": "pip install polygraphy",
}


def load_onnxruntime() -> Any:
    """The ``onnxruntime`` module.

    Raises:
        MissingBackendError: If neither onnxruntime nor onnxruntime-gpu is installed.
    """
    return _import("onnxruntime", "onnxruntime")


def load_tensorrt(flavor: Flavor) -> Any:
    """The Python module of a TensorRT flavour.

    Raises:
        MissingBackendError: If it is not installed, or its libraries do not load.
    """
    return _import(TENSORRT_MODULES[flavor], flavor)


def load_polygraphy_comparator() -> Any:
    """Polygraphy's ``comparator`` module, its logging quiet.

    Raises:
        MissingBackendError: If Polygraphy is not installed.
    """
    logger = _import("polygraphy.logger", "polygraphy").G_LOGGER
    logger.module_severity = logger.CRITICAL
    return _import("polygraphy.comparator", "polygraphy")


def _import(module: str, backend: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as err:
        missing = isinstance(err, ModuleNotFoundError) and err.name == module.split(".")[0]
        what = "is not installed" if missing else f"does not load ({_one_line(err)})"
        raise MissingBackendError(f"{backend} {what}; install it: {INSTALL[backend]}") from err


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split())


def cuda_device_count() -> int:
    """NVIDIA GPUs that the driver offers; 0 without a driver. Needs neither torch nor CUDA."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            driver = ctypes.CDLL(library)
            count = ctypes.c_int(0)
            if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
                return count.value
    return 0


def choose_flavor() -> Flavor:
    """Full TensorRT where it is importable and a GPU is there, else TensorRT-RTX.

    TensorRT-RTX builds engines on machines without a GPU; full TensorRT times its kernels.

    Raises:
        MissingBackendError: If the flavour that this machine can use is not installed.
    """
    if cuda_device_count():
        with contextlib.suppress(MissingBackendError):
            load_tensorrt("tensorrt")
            return "tensorrt"
    load_tensorrt("tensorrt-rtx")
    return "tensorrt-rtx"
