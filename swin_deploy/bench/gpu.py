"""State of the GPU during the timings: memory, clocks, temperature and power."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0
FIGURES = {
    "sm_mhz": "SM {} MHz",
    "memory_mhz": "memory {} MHz",
    "celsius": "{} C",
    "watts": "{} W",
}
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
    """Return the name of the GPU that PyTorch uses, or ``CPU``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def allocated_bytes() -> int:
    """Return the device memory that PyTorch's tensors take now, in bytes; 0 on a CPU."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def start_peak() -> None:
    """Forget the peak of PyTorch's memory so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Return the peak memory of PyTorch's tensors since ``start_peak``, in bytes; 0 on a CPU."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


def used_bytes() -> int:
    """Return the device memory that all processes take together, in bytes; 0 on a CPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.empty_cache()  # memory PyTorch keeps for later would hide the use of others
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


@dataclass(frozen=True)
class GpuState:
    """The state of the GPU at one moment; None for a value that its management library refuses.

    Attributes:
        sm_mhz: Clock of the multiprocessors, in MHz.
        memory_mhz: Clock of the memory, in MHz.
        celsius: Temperature, in degrees Celsius.
        watts: Power drawn, in watts.
        reasons: Bits of the reasons that hold the clocks down, see ``THROTTLING``.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: int | None
    reasons: int | None

    @property
    def text(self) -> str:
        """The state in words; values that are not known are skipped."""
        held = [] if self.reasons is None else [f"clocks held by: {_reasons(self.reasons)}"]
        return ", ".join((*_figures([self]), *held))


def gpu_state() -> str:
    """Describe clocks, temperature, power and throttling of the GPU now; empty if not known."""
    read = open_gpu()
    return read().text if read else ""


def open_gpu() -> Callable[[], GpuState] | None:
    """Return a function that reads the state of the GPU PyTorch uses.

    Returns:
        The function; None without a GPU or NVIDIA's management library.
    """
    if not torch.cuda.is_available():
        return None
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return find_gpu(library, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return None


def find_gpu(nvml: Any, uuid: str) -> Callable[[], GpuState] | None:  # noqa: ANN401 - a C library
    """Return a function that reads the state of one GPU from NVIDIA's management library.

    Args:
        nvml: The library, loaded.
        uuid: UUID of the GPU.

    Returns:
        The function; None if the library does not start or does not know the GPU.
    """
    if nvml.nvmlInit_v2() != 0:
        return None
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
        return None

    def read(name: str, *arguments: int, kind: type[Any] = ctypes.c_uint) -> int | None:
        value = kind(0)
        failed = getattr(nvml, name)(handle, *arguments, ctypes.byref(value))
        return None if failed else int(value.value)

    def state() -> GpuState:
        reasons = read("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
        watts = read("nvmlDeviceGetPowerUsage")
        return GpuState(
            sm_mhz=read("nvmlDeviceGetClockInfo", CLOCK_SM),
            memory_mhz=read("nvmlDeviceGetClockInfo", CLOCK_MEMORY),
            celsius=read("nvmlDeviceGetTemperature", TEMPERATURE_GPU),
            watts=None if watts is None else round(watts / 1000),
            reasons=reasons,
        )

    return state


class GpuSampler:
    """Readings of the GPU's state under load, between timed rounds, a few times a second.

    Args:
        read: Function that reads the state; None if there is none.
        every_s: Minimum number of seconds between two readings, so that they cost next to nothing.
    """

    def __init__(self, read: Callable[[], GpuState] | None, *, every_s: float = 0.25) -> None:
        self._read, self._every = read, every_s
        self._next = 0.0
        self._states: list[GpuState] = []

    def sample(self) -> None:
        """Read the state, if it is time to."""
        if self._read is None or time.monotonic() < self._next:
            return
        self._states.append(self._read())
        self._next = time.monotonic() + self._every

    @property
    def text(self) -> str:
        """The readings so far in words: median and range of each; empty if there are none."""
        if not self._states:
            return ""
        held = _holders([state.reasons for state in self._states])
        count = len(self._states)
        return (
            f"{', '.join((*_figures(self._states), *held))} ({count} readings between timed rounds)"
        )


def _figures(states: Sequence[GpuState]) -> Iterator[str]:
    """Describe each figure that is known over some states."""
    for name, text in FIGURES.items():
        found = _range([getattr(state, name) for state in states])
        if found:
            yield text.format(found)


def _range(values: list[int | None]) -> str:
    """Describe values by their median, with the range if they differ; empty if none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{median(known):g} ({low} to {high})"


def _holders(reasons: list[int | None]) -> list[str]:
    """Describe the reasons that held the clocks down, with the number of readings of each."""
    known = [bits for bits in reasons if bits is not None]
    counts = {
        name: sum(bool(bits & bit) for bits in known)
        for bit, name in THROTTLING.items()
        if any(bits & bit for bits in known)
    }
    held = [f"{name} in {count} of {len(known)}" for name, count in counts.items()]
    return [f"clocks held by: {', '.join(held) or 'nothing'}"] if known else []


def _reasons(bits: int) -> str:
    return " and ".join(name for bit, name in THROTTLING.items() if bits & bit) or "nothing"
