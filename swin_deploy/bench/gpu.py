"""The GPU beside the timings: memory that a runner takes, clocks, temperature, power."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import torch

CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0
# nvmlClocksEventReasons of nvml.h; the first two say that nothing is wrong.
THROTTLING = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "hardware power brake",
    0x100: "display clocks",
}


def device_name() -> str:
    """The GPU that PyTorch uses, or ``CPU``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def allocated_bytes() -> int:
    """Device memory that PyTorch's tensors take now; 0 on a CPU."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def start_peak() -> None:
    """Forget the peak of PyTorch's memory so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Most device memory that PyTorch's tensors took since ``start_peak``; 0 on a CPU."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


def used_bytes() -> int:
    """Device memory that the driver has given to anyone; 0 on a CPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.empty_cache()  # what PyTorch keeps for later would hide what others take
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def gpu_state() -> str:
    """Clocks, temperature, power and throttling of the GPU now; empty where they are not known."""
    if not torch.cuda.is_available():
        return ""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return read_state(library, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return ""


def read_state(nvml: Any, uuid: str) -> str:  # noqa: ANN401 - a C library
    """What NVIDIA's management library says of one GPU; parts that it refuses are left out."""
    if nvml.nvmlInit_v2() != 0:
        return ""
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
        return ""

    def read(name: str, *arguments: int, kind: type[Any] = ctypes.c_uint) -> int | None:
        value = kind(0)
        failed = getattr(nvml, name)(handle, *arguments, ctypes.byref(value))
        return None if failed else int(value.value)

    reasons = read("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
    watts = read("nvmlDeviceGetPowerUsage")
    parts = (
        ("SM {} MHz", read("nvmlDeviceGetClockInfo", CLOCK_SM)),
        ("memory {} MHz", read("nvmlDeviceGetClockInfo", CLOCK_MEMORY)),
        ("{} C", read("nvmlDeviceGetTemperature", TEMPERATURE_GPU)),
        ("{} W", None if watts is None else round(watts / 1000)),
        ("clocks held by: {}", None if reasons is None else _reasons(reasons)),
    )
    return ", ".join(text.format(value) for text, value in parts if value is not None)


def _reasons(bits: int) -> str:
    return " and ".join(name for bit, name in THROTTLING.items() if bits & bit) or "nothing"
