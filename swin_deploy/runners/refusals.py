"""The reasons why an engine does not run here, from TensorRT's log and its forecast."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from exporters.errors import BuildError, DeployError, MissingBackendError
from exporters.flavors import require
from exporters.text_files import shortened

KEPT_LINES = 20  # a logger lives as long as its engine
SHOWN_LINES = 3
ROOM = 500
# Messages of TensorRT, its compiler and CUDA. CUDA error 209: no kernel image for this GPU; 222:
# code of a newer compiler than the driver knows.
OF_MEMORY = re.compile(
    r"out ?of ?memory|not enough (\w+ )?memory|insufficient (\w+ )?memory|cudaError 2\b"
    r"|(could not|cannot|failed to|unable to) allocate",
    re.IGNORECASE,
)
OF_GPU = re.compile(
    # Not every "sm80": names of kernels have it, too.
    r"compute capabilit|\bsm_?\d+\w? (is |are )?(not |un)supported|gpu-architecture"
    r"|unsupported (sm|gpu|arch|device|toolchain|ptx)|no kernel image|cudaError (209|222)\b"
    r"|not supported on this (gpu|device)",
    re.IGNORECASE,
)
MEMORY_DIAGNOSTICS = {"INSUFFICIENT_GPU_MEMORY"}
GPU_DIAGNOSTICS = {"UNSUPPORTED_CC", "OLD_CUDA_DRIVER"}


@dataclass(frozen=True)
class Validity:
    """TensorRT-RTX's forecast for an engine on this GPU, made before it loads the engine.

    Engines that it calls invalid have run: it explains a refusal, and decides nothing.

    Attributes:
        name: ``VALID``, ``SUBOPTIMAL`` or ``INVALID``; empty without a forecast.
        diagnostics: Names of the reasons, such as ``UNSUPPORTED_CC``.
    """

    name: str = ""
    diagnostics: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return words such as ``validity INVALID: UNSUPPORTED_CC``; empty without a forecast."""
        if not self.name:
            return ""
        return f"validity {self.name}" + f": {', '.join(self.diagnostics)}" * bool(self.diagnostics)


def ask_validity(trt: Any, runtime: Any, data: bytes) -> Validity:
    """Ask a runtime for its forecast for an engine, before the engine is loaded.

    Args:
        trt: The TensorRT module, which has the feature ``engine_validity``.
        runtime: The runtime of that module.
        data: Bytes of the engine.
    """
    require(trt, "engine_validity")
    try:
        validity, bits = runtime.get_engine_validity(data)
    except RuntimeError:  # the message of loading the engine is better
        return Validity()
    reasons = trt.EngineInvalidityDiagnostics.__members__.items()
    return Validity(validity.name, tuple(n for n, one in reasons if int(one) & int(bits)))


def refusal(
    does_not: str, *, lines: list[str], validity: Validity, otherwise: type[DeployError]
) -> DeployError:
    """Make the error for an engine that TensorRT refuses to load or run.

    Args:
        does_not: Words for the failure, such as ``m.engine gets no execution context on ...``.
        lines: Lines that TensorRT logged, in order.
        validity: Forecast for the engine.
        otherwise: Class of the error for a reason that is neither the GPU's kind nor its memory.

    Returns:
        A ``BuildError`` if memory is short, a ``MissingBackendError`` if the GPU or its driver is
        not one that the engine runs on, else an ``otherwise``.
    """
    text, reasons = " ".join(lines), set(validity.diagnostics)
    said = lines[-SHOWN_LINES:] or ["TensorRT gives no reason"]
    why = shortened("; ".join(filter(None, [*said, validity.describe()])), ROOM)
    if OF_MEMORY.search(text) or reasons & MEMORY_DIAGNOSTICS:
        return BuildError(f"{does_not} ({why}); free GPU memory, or build it for smaller batches")
    if OF_GPU.search(text) or reasons & GPU_DIAGNOSTICS:
        return MissingBackendError(
            f"{does_not} ({why}); build it again on this machine (TensorRT-RTX: with "
            "--compute-capability current), or run it on a GPU of the kind that it is for"
        )
    return otherwise(f"{does_not} ({why}); build it again on this machine")


def make_logger(trt: Any) -> Any:
    """Make a TensorRT logger that prints nothing and keeps the last errors and lines.

    Args:
        trt: The TensorRT module.
    """

    class LastLines(trt.ILogger):  # type: ignore[misc]  # trt is a module found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT_LINES)
            self.lines: deque[str] = deque(maxlen=KEPT_LINES)

        def log(self, severity: Any, message: str) -> None:
            if severity != trt.ILogger.VERBOSE:
                self.lines.append(" ".join(message.split()))
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

        def forget(self) -> None:
            """Drop all lines, so that a later refusal is not explained by an earlier one."""
            self.errors.clear()
            self.lines.clear()

        def last(self) -> list[str]:
            """Return the last errors; if there are none, the last lines of any severity."""
            return list(self.errors) or list(self.lines)

    return LastLines()
