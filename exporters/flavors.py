"""Features of the TensorRT flavours: one table, which every branch in the code reads.

A name that only some flavours or versions have belongs to a feature. ``require`` looks for the
names of a feature in the module at hand before they are used, and says which one is missing.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from exporters.errors import BuildError
from exporters.spec import EngineOptions, Flavor


@dataclass(frozen=True)
class Traits:
    """One row of the table.

    Attributes:
        title: Name that messages and reports show.
        module: Name of the Python module.
        install: Command that installs it.
        majors: Major versions that the code was checked against.
        proof: The checks, builds and engine runs that this project has executed with it.
        builds_without_gpu: True if it builds engines on a machine without a GPU.
        typing_flag_majors: Major versions in which a strongly typed network needs a flag.
        timing_cache: True if the builder times kernels, so that earlier timings save time.
        runtime_cache: True if engines are compiled where they run, and the result can be kept.
        eager_kernels: True if the runtime compiles kernels in the background by default, and must
            be told to compile them before a call.
        engine_validity: True if the runtime tells before loading whether an engine fits the GPU.
        native_cuda_graph: True if the runtime captures CUDA graphs by itself; else the stream is
            captured.
        hardware_compatibility: True if an engine can be built to run on other GPUs than that of
            its build.
        version_compatible: True if an engine can be built to run with later minor versions.
        compute_capabilities: True if an engine is built for a list of compute capabilities.
        on_triton: True if a backend of Triton Inference Server loads its engines.
    """

    title: str
    module: str
    install: str
    majors: tuple[int, ...]
    proof: str
    builds_without_gpu: bool
    typing_flag_majors: tuple[int, ...]
    timing_cache: bool
    runtime_cache: bool
    eager_kernels: bool
    engine_validity: bool
    native_cuda_graph: bool
    hardware_compatibility: bool
    version_compatible: bool
    compute_capabilities: bool
    on_triton: bool


# In order of preference where there is a GPU.
FLAVORS: dict[Flavor, Traits] = {
    "tensorrt": Traits(
        title="TensorRT",
        module="tensorrt",
        install="pip install tensorrt",
        majors=(10, 11),
        proof="every name checked against 10.16 and 11.4, no build and no engine executed",
        builds_without_gpu=False,
        typing_flag_majors=(10,),  # later networks are strongly typed, with or without the flag
        timing_cache=True,
        runtime_cache=False,
        eager_kernels=False,
        engine_validity=False,
        native_cuda_graph=False,
        hardware_compatibility=True,
        version_compatible=True,
        compute_capabilities=False,
        on_triton=True,
    ),
    "tensorrt-rtx": Traits(
        title="TensorRT-RTX",
        module="tensorrt_rtx",
        install="pip install tensorrt-rtx-cu13",
        majors=(1,),
        proof="builds executed with 1.6 and 1.7; engines executed with 1.6.1, float16, on an H200",
        builds_without_gpu=True,
        typing_flag_majors=(),
        timing_cache=False,  # its timing cache functions are there and do nothing
        runtime_cache=True,
        eager_kernels=True,
        engine_validity=True,
        native_cuda_graph=True,
        hardware_compatibility=False,  # it warns that the setting is unsupported, and goes on
        version_compatible=False,  # needs the lean runtime, which its package does not have
        compute_capabilities=True,
        on_triton=False,
    ),
}

# Names that not every flavour and version has, by the feature of ``Traits`` that needs them.
FEATURE_NAMES: dict[str, tuple[str, ...]] = {
    "typing_flag_majors": ("NetworkDefinitionCreationFlag.STRONGLY_TYPED",),
    "timing_cache": (
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_timing_cache",
        "ITimingCache.combine",
        "ITimingCache.serialize",
    ),
    "runtime_cache": (
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.deserialize",
        "IRuntimeCache.serialize",
    ),
    "eager_kernels": (
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "DynamicShapesKernelSpecializationStrategy.EAGER",
    ),
    "engine_validity": (
        "Runtime.get_engine_validity",
        "EngineInvalidityDiagnostics.__members__",
    ),
    "native_cuda_graph": (
        "IRuntimeConfig.cuda_graph_strategy",
        "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    ),
    "hardware_compatibility": (
        "IBuilderConfig.hardware_compatibility_level",
        "HardwareCompatibilityLevel.AMPERE_PLUS",
        "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
    ),
    "version_compatible": ("BuilderFlag.VERSION_COMPATIBLE", "Runtime.engine_host_code_allowed"),
    "compute_capabilities": (
        "ComputeCapability.CURRENT",
        "ComputeCapability.__members__",
        "IBuilderConfig.num_compute_capabilities",
        "IBuilderConfig.set_compute_capability",
    ),
}
# Advice by option, for flavours that lack the feature.
INSTEAD = {
    "timing_cache": "it times no kernels when it builds; leave --timing-cache out",
    "hardware_compatibility": "name the GPUs with --compute-capability",
    "version_compatible": "build the engine again with the version that runs it",
    "compute_capabilities": "it builds for the GPU that is there; see --hardware-compatibility, "
    "or use --flavor tensorrt-rtx",
}


def major_of(version: str) -> int:
    """Return the major version, the number before the first dot."""
    return int(version.split(".")[0])


def refuse_missing(options: EngineOptions) -> None:
    """Refuse options that the flavour does not have.

    Raises:
        BuildError: If an option was given that the flavour lacks.
    """
    traits = FLAVORS[options.flavor]
    asked = {
        "timing_cache": options.timings is not None,
        "hardware_compatibility": options.hardware_compatibility != "none",
        "version_compatible": options.version_compatible,
        "compute_capabilities": bool(options.compute_capabilities),
    }
    for feature, given in asked.items():
        if given and not getattr(traits, feature):
            option = feature.replace("_", "-").replace("capabilities", "capability")
            raise BuildError(f"{options.flavor} has no --{option}: {INSTEAD[feature]}")


def require(trt: Any, feature: str) -> None:
    """Look for the names of a feature before they are used.

    Args:
        trt: A TensorRT module.
        feature: A key of ``FEATURE_NAMES``.

    Raises:
        BuildError: If the module lacks one; a flavour that has the feature got it in a later
            version.
    """
    for name in FEATURE_NAMES[feature]:
        try:
            operator.attrgetter(name)(trt)
        except AttributeError as err:
            raise BuildError(
                f"{trt.__name__} {trt.__version__} has no {name}, which this needs; "
                "install a later version"
            ) from err
