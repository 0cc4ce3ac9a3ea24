"""Options of exports and builds, as frozen values without behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
Batch = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# Kinds of what is compared; "original" is the library's own model of the checkpoint.
Stage = Literal["original", "deploy", "onnx", "engine"]
Precision = Literal["fp32", "fp16", "bf16"]
Flavor = Literal["tensorrt", "tensorrt-rtx"]
InputType = Literal["float32", "uint8"]
Runtime = Literal["tensorrt", "cpu"]  # "cpu": ONNX Runtime's CPU provider, and OpenVINO
HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]

OPSET_RANGE = (17, 23)
DEFAULT_OPSET = 17
DEFAULT_BATCH_OPT = 8
CURRENT = "current"  # among compute capabilities: the GPU of the build


@dataclass(frozen=True)
class ExportSpec:
    """An ONNX file to make.

    Attributes:
        input_shape: Shape of one input without the batch: (channels, height, width) of images, or
            (height, width, channels) of pixels.
        output_names: Names of the graph's outputs.
        opset: Operator set that the written file must have.
        batch: A fixed batch, or None for a dynamic one.
        precision: Precision of weights and activations; modules with a true attribute
            ``keep_float32`` stay float32 in any precision.
        io_precision: Precision of the graph's input and output.
        keep: Paths of further modules that stay float32.
        input_type: Type of the input: normalised images are ``float32``, pixels ``uint8``.
        input_name: Name of the graph's input.
        runtime: Runtimes that the graph is laid out for.
    """

    input_shape: tuple[int, int, int]
    output_names: tuple[str, ...]
    opset: int = DEFAULT_OPSET
    batch: int | None = None
    precision: Precision = "fp32"
    io_precision: Precision = "fp32"
    input_name: str = "images"
    keep: tuple[str, ...] = ()
    input_type: InputType = "float32"
    runtime: Runtime = "tensorrt"


@dataclass(frozen=True)
class BatchProfile:
    """Batches that an engine accepts: from ``min`` to ``max`` images, tuned for ``opt``."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class CacheFile:
    """A cache on disk; losing it costs time, and nothing else.

    Attributes:
        path: Path of the file, which need not exist yet.
        named: True if the user named the file: one that cannot be used is then an error, else a
            warning.
    """

    path: Path
    named: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine build; the precision is not one, it is written in the ONNX graph.

    Attributes:
        flavor: TensorRT flavour.
        workspace_mib: Scratch memory that the builder may plan for, in MiB; None for the default.
        optimization_level: Effort from 0 (fast build) to 5 (fast engine); None for the builder's
            default.
        timings: File that keeps kernel timings between builds, for flavours that time kernels.
        hardware_compatibility: GPUs other than that of the build on which the engine must run.
        version_compatible: True if later minor versions must run the engine.
        compute_capabilities: GPUs that the engine is for, such as ``8.6``, or ``current`` alone for
            the GPU of the build; none for the default.
    """

    flavor: Flavor
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timings: CacheFile | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()
