"""The only imports of onnxruntime, OpenVINO, TensorRT and Polygraphy, each inside a function."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporters.errors import BuildError, MissingBackendError
from exporters.flavors import FLAVORS, major_of
from exporters.spec import Flavor
from exporters.text_files import error_words

INSTALL: dict[str, str] = {
    "onnxruntime": "pip install onnxruntime (CPU) or pip install onnxruntime-gpu (NVIDIA GPU)",
    "openvino": 'pip install "swin-deploy[openvino]"',
    **{flavor: traits.install for flavor, traits in FLAVORS.items()},
    "polygraphy": "pip install polygraphy",
}
# CUdevice_attribute of cuda.h
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
# Number types among OpenVINO's OPTIMIZATION_CAPABILITIES
CPU_TYPES = ("FP32", "BF16", "FP16", "INT8")


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Name of the model.
        capability: Compute capability, such as ``8.9``.
    """

    name: str
    capability: str


def load_onnxruntime() -> Any:
    """Import the ``onnxruntime`` module.

    Raises:
        MissingBackendError: If neither onnxruntime nor onnxruntime-gpu is installed, or it does
            not load.
    """
    return _import("onnxruntime", "onnxruntime", "InferenceSession")


@dataclass(frozen=True)
class Cpu:
    """A CPU as OpenVINO sees it.

    Attributes:
        name: Name of the model.
        abilities: Number types that it has instructions for, such as ``FP32`` and ``BF16``.
    """

    name: str
    abilities: tuple[str, ...]


def openvino_version(openvino: Any) -> str:
    """Return the version of the ``openvino`` module without its build, such as ``2026.4.1``."""
    return str(openvino.__version__).partition("-")[0]


def openvino_core(openvino: Any) -> Any:
    """Start the ``Core`` of the ``openvino`` module, which runs models on the CPU.

    Raises:
        MissingBackendError: If it does not start, or has no part for CPUs.
    """
    try:
        core = openvino.Core()
        openvino_cpu(core)
    except (RuntimeError, OSError) as err:
        raise MissingBackendError(
            f"openvino does not run on this CPU ({error_words(err)}); mend its installation: "
            f"{INSTALL['openvino']}"
        ) from err
    return core


def openvino_cpu(core: Any) -> Cpu:
    """Return the CPU that an OpenVINO ``Core`` runs models on."""
    can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip() or "CPU"
    return Cpu(name, tuple(one for one in CPU_TYPES if one in can))


def load_openvino() -> Any:
    """Import the ``openvino`` module without its telemetry.

    OpenVINO 2026.4: importing it sends an event over the network and writes an identity into the
    home folder, unless its telemetry package cannot be imported. Remove when importing sends
    nothing.

    Raises:
        MissingBackendError: If it is not installed, or does not load.
    """
    with _hidden("openvino_telemetry"):
        return _import("openvino", "openvino", "Core")


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let imports of a module inside the block fail as if it were not installed."""
    if module in sys.modules:  # somebody else has imported it, and its consequences are theirs
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # as Python's import system defines it
    try:
        yield
    finally:
        del sys.modules[module]


def load_tensorrt(flavor: Flavor) -> Any:
    """Import the Python module of a TensorRT flavour.

    Raises:
        MissingBackendError: If it is not installed, or its libraries do not load.
        BuildError: If it is of a major version that the code was not checked against.
    """
    traits = FLAVORS[flavor]
    trt = _import(traits.module, flavor, "__version__")
    if major_of(trt.__version__) not in traits.majors:
        raise BuildError(
            f"{flavor} {trt.__version__} is of another major version than "
            f"{' and '.join(map(str, traits.majors))}, which this code was checked against; "
            f"install one of these"
        )
    return trt


def tensorrt_version(flavor: Flavor) -> str:
    """Read the version of a TensorRT flavour from its module, which is the one that runs.

    The metadata of packages name another version if the module comes from another folder, and
    none if only parts of the package are installed.

    Returns:
        The version; empty if the module is not installed or does not load.
    """
    with contextlib.suppress(MissingBackendError):
        return str(_import(FLAVORS[flavor].module, flavor, "__version__").__version__)
    return ""


def load_polygraphy_comparator() -> Any:
    """Import Polygraphy's ``comparator`` module and silence its log.

    Raises:
        MissingBackendError: If Polygraphy is not installed.
    """
    logger = _import("polygraphy.logger", "polygraphy", "G_LOGGER").G_LOGGER
    logger.module_severity = logger.CRITICAL
    return _import("polygraphy.comparator", "polygraphy", "Comparator")


def _import(module: str, backend: str, has: str) -> Any:
    return import_package(module, name=backend, install=INSTALL[backend], has=has)


def import_package(module: str, *, name: str, install: str, has: str = "") -> Any:
    """Import an optional package, or a module in it.

    Args:
        module: Dotted name of the module.
        name: Name of the package in messages.
        install: Command that installs it.
        has: Name that the module must have; an uninstalled package may leave its folder.

    Raises:
        MissingBackendError: If it is not installed, lacks ``has``, or raises anything while it
            loads.
    """
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as err:  # a package that is broken may raise anything
        if isinstance(err, ModuleNotFoundError) and err.name == module.split(".")[0]:
            raise MissingBackendError(f"{name} is not installed; install it: {install}") from err
        reason = error_words(err)
        raise MissingBackendError(
            f"{name} does not load ({reason}); mend its installation: {install}"
        ) from err
    if has and not hasattr(found, has):
        raise MissingBackendError(
            f"{name} is not whole, it has no {has}; mend its installation: {install}"
        )
    return found


def cuda_device_count() -> int:
    """Count the NVIDIA GPUs that the driver offers, without torch or CUDA; 0 without a driver."""
    for driver in _drivers():
        count = ctypes.c_int(0)
        if driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def current_gpu() -> Gpu | None:
    """Return the first GPU that the driver offers, which TensorRT uses; None without one."""
    for driver in _drivers():
        device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
        name = ctypes.create_string_buffer(256)
        failed = (
            driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetName(name, len(name), device)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
        )
        if not failed:
            return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")
    return None


def _drivers() -> Iterator[Any]:
    """Yield CUDA's driver library, initialised, under each name that it loads by."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            driver = ctypes.CDLL(library)
            if driver.cuInit(0) == 0:
                yield driver


def choose_flavor() -> Flavor:
    """Return the first flavour of the table that is importable and can build on this machine.

    That is full TensorRT, which times its kernels, if it and a GPU are there; else TensorRT-RTX,
    which builds engines without a GPU.

    Raises:
        MissingBackendError: If no flavour that this machine can use is installed.
        BuildError: If one is of a major version that the code was not checked against.
    """
    gpus = cuda_device_count()
    usable = [name for name, traits in FLAVORS.items() if gpus or traits.builds_without_gpu]
    for flavor in usable[:-1]:
        with contextlib.suppress(MissingBackendError):
            load_tensorrt(flavor)
            return flavor
    load_tensorrt(usable[-1])
    return usable[-1]
