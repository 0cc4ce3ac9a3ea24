"""The GPU beside the timings: memory that a runner takes, clocks, temperature, power."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
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


@dataclass(frozen=True)
class GpuState:
    """The GPU at one moment; None for what its management library refuses.

    Attributes:
        sm_mhz: Clock of the multiprocessors.
        memory_mhz: Clock of the memory.
        celsius: Temperature.
        watts: Power drawn.
        reasons: Bits of what holds the clocks down, see ``THROTTLING``.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: int | None
    reasons: int | None

    @property
    def text(self) -> str:
        """The state in words; parts that are not known are left out."""
        parts = (
            ("SM {} MHz", self.sm_mhz),
            ("memory {} MHz", self.memory_mhz),
            ("{} C", self.celsius),
            ("{} W", self.watts),
            ("clocks held by: {}", None if self.reasons is None else _reasons(self.reasons)),
        )
        return ", ".join(text.format(value) for text, value in parts if value is not None)


def gpu_state() -> str:
    """Clocks, temperature, power and throttling of the GPU now; empty where they are not known."""
    read = open_gpu()
    return read().text if read else ""


def open_gpu() -> Callable[[], GpuState] | None:
    """What reads the state of the GPU; None without a GPU or NVIDIA's management library."""
    if not torch.cuda.is_available():
        return None
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return find_gpu(library, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return None


def find_gpu(nvml: Any, uuid: str) -> Callable[[], GpuState] | None:  # noqa: ANN401 - a C library
    """What reads the state of one GPU from NVIDIA's management library; None if it has it not."""
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
    """The state of the GPU under load: read between timed rounds, a few times a second.

    Args:
        read: What reads the state; None where nothing can.
        every_s: Seconds between two readings at least, so that reading costs nothing to speak of.
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
        figures = (
            ("SM {} MHz", [state.sm_mhz for state in self._states]),
            ("memory {} MHz", [state.memory_mhz for state in self._states]),
            ("{} C", [state.celsius for state in self._states]),
            ("{} W", [state.watts for state in self._states]),
        )
        parts = [text.format(_range(values)) for text, values in figures if _range(values)]
        held = _holders([state.reasons for state in self._states])
        count = len(self._states)
        return f"{', '.join([*parts, *held])} ({count} readings between timed rounds)"


def _range(values: list[int | None]) -> str:
    """The median, and the range where there is one; empty where nothing is known."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{median(known):g} ({low} to {high})"


def _holders(reasons: list[int | None]) -> list[str]:
    """What held the clocks down, and in how many readings."""
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
