"""GPUs and versions that an engine is for: asked of the builder, recorded, checked at load."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from exporters.backends import Gpu
from exporters.errors import BuildError, FileError, MissingBackendError
from exporters.flavors import FLAVORS, refuse_missing, require
from exporters.spec import CURRENT, EngineOptions
from exporters.text_files import listed, typed

# NVIDIA: an engine without a list of GPUs runs on these and later ones.
AHEAD_OF_TIME_MINIMUM = "8.0"
AMPERE = "8.0"
FP8_MINIMUM = "8.9"  # NVIDIA: Ada and Hopper are the first with FP8
CAPABILITY = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")


@dataclass(frozen=True)
class Targets:
    """The GPUs and TensorRT versions that an engine may run on.

    Attributes:
        built_on: Name of the GPU of the build; empty if the engine does not depend on it.
        capabilities: Compute capabilities such as ``8.6`` that the engine is for; empty if
            ``minimum`` is given instead.
        minimum: Lowest compute capability; empty if ``capabilities`` are given instead.
        version_compatible: True if later minor versions run it.
    """

    built_on: str
    capabilities: tuple[str, ...]
    minimum: str
    version_compatible: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the targets as JSON values, for the manifest."""
        return dataclasses.asdict(self) | {"capabilities": list(self.capabilities)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Targets:
        """Read the targets that ``to_dict`` wrote.

        Raises:
            FileError: If a value is missing or of another type, or there is no valid capability.
        """
        targets = typed(values, cls, where="targets")
        named = [*targets.capabilities, *filter(None, [targets.minimum])]
        wrong = [name for name in named if not CAPABILITY.fullmatch(name)]
        if wrong or not named:
            raise FileError(f"targets: no compute capabilities such as 8.6: {listed(wrong)}")
        return targets

    def fits_gpu(self, gpu: Gpu) -> bool:
        """Tell whether an engine for these targets may be loaded on a GPU."""
        if self.minimum:
            return _order(gpu.capability) >= _order(self.minimum)
        return gpu.capability in self.capabilities

    def fits_version(self, built: str, here: str) -> bool:
        """Tell whether an engine of version ``built`` may be loaded by version ``here``."""
        if not self.version_compatible:
            return built == here
        old, new = ([int(part) for part in version.split(".")] for version in (built, here))
        return old[0] == new[0] and old <= new

    def describe(self) -> str:
        """Describe the GPUs in words, for messages."""
        if self.minimum:
            return f"GPUs of compute capability {self.minimum} and later"
        where = f" (built on {self.built_on})" if self.built_on else ""
        return f"GPUs of compute capability {', '.join(self.capabilities)}{where}"


def check_options(options: EngineOptions, gpu: Gpu | None) -> None:
    """Refuse options that the flavour does not have, and targets that cannot be met.

    Args:
        options: Builder settings.
        gpu: The GPU of this machine; None without one.

    Raises:
        BuildError: If an option was given that the flavour lacks, or the GPU of the build is named
            with others.
        MissingBackendError: If the engine is to be for the GPU of the build, and there is none.
    """
    refuse_missing(options)
    asked = options.compute_capabilities
    if CURRENT not in asked:
        return
    if len(asked) > 1:
        raise BuildError(
            f"compute capabilities {', '.join(asked)}: {CURRENT} stands alone; name every GPU, or "
            f"{CURRENT} only"
        )
    if gpu is None:
        raise MissingBackendError(
            f"compute capability {CURRENT} needs an NVIDIA GPU and driver, and none is here; name "
            "the GPUs, such as 8.9, or build on the GPU machine"
        )


def targets_of(options: EngineOptions, gpu: Gpu | None) -> Targets:
    """Return what an engine built with these options on this machine may run on.

    Args:
        options: Builder settings.
        gpu: The GPU of this machine; None only for a flavour that builds without one.
    """
    if gpu is not None and options.compute_capabilities == (CURRENT,):
        return Targets(gpu.name, (gpu.capability,), "", options.version_compatible)
    if options.compute_capabilities:
        return Targets("", options.compute_capabilities, "", options.version_compatible)
    if gpu is None or FLAVORS[options.flavor].builds_without_gpu:
        return Targets("", (), AHEAD_OF_TIME_MINIMUM, options.version_compatible)
    if options.hardware_compatibility == "ampere-plus":
        return Targets(gpu.name, (), AMPERE, options.version_compatible)
    return Targets(gpu.name, (gpu.capability,), "", options.version_compatible)


def has_fp8(gpu: Gpu) -> bool:
    """Tell whether a GPU computes in FP8."""
    return _order(gpu.capability) >= _order(FP8_MINIMUM)


def fp8_targets(options: EngineOptions, gpu: Gpu | None) -> Targets:
    """Return what an engine with values in FP8 may run on.

    Args:
        options: Builder settings.
        gpu: The GPU of this machine; None only for a flavour that builds without one.

    Raises:
        BuildError: If a GPU that the engine is to be for has no FP8.
    """
    found = targets_of(options, gpu)
    if found.minimum and options.hardware_compatibility == "none":
        return dataclasses.replace(found, minimum=FP8_MINIMUM)
    asked = [*found.capabilities, *filter(None, [found.minimum])]
    lacking = [name for name in asked if _order(name) < _order(FP8_MINIMUM)]
    if lacking:
        what = f"ampere-plus, from {found.minimum} on" if found.minimum else listed(lacking)
        where = f" ({found.built_on})" if found.built_on else ""
        raise BuildError(
            f"FP8 needs GPUs of compute capability {FP8_MINIMUM} (Ada, Hopper) or later, and the "
            f"engine is to be for {what}{where}; leave these out, or use --fp16"
        )
    return found


def ask_for_targets(trt: Any, config: Any, options: EngineOptions) -> None:
    """Pass the options about GPUs and versions to the builder's configuration.

    Args:
        trt: The TensorRT module.
        config: The builder's configuration, which is changed.
        options: Builder settings.

    Raises:
        BuildError: If this version of TensorRT does not have a target that was asked for.
    """
    if options.hardware_compatibility != "none":
        require(trt, "hardware_compatibility")
        name = options.hardware_compatibility.replace("-", "_").upper()
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, name)
    if options.version_compatible:
        require(trt, "version_compatible")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.compute_capabilities:
        require(trt, "compute_capabilities")
        _set_capabilities(trt, config, options.compute_capabilities)


def _set_capabilities(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    known = _known_capabilities(trt)
    unknown = [name for name in capabilities if name not in known]
    if unknown:
        raise BuildError(
            f"{trt.__name__} {trt.__version__} builds for no GPU of compute capability "
            f"{listed(unknown)}; it has {', '.join(name for name in known if name != CURRENT)}, "
            f"and {CURRENT} for the GPU that is there when it builds"
        )
    config.num_compute_capabilities = len(capabilities)  # room for them; else none is taken
    for index, name in enumerate(capabilities):
        if not config.set_compute_capability(known[name], index):
            raise BuildError(
                f"{trt.__name__} {trt.__version__} does not take compute capability {name}; "
                "leave it out of --compute-capability"
            )


def _known_capabilities(trt: Any) -> dict[str, Any]:
    """Return members such as ``SM86`` by number, ``8.6``, in order, the GPU of the build last."""
    members = trt.ComputeCapability.__members__
    found = {
        f"{name[2:-1]}.{name[-1]}": member
        for name, member in members.items()
        if name.startswith("SM") and name[2:].isdecimal()
    }
    numbered = sorted(found.items(), key=lambda entry: _order(entry[0]))
    return {**dict(numbered), CURRENT: trt.ComputeCapability.CURRENT}


def _order(capability: str) -> tuple[int, int]:
    """Return a compute capability as numbers to compare, so that ``12.0`` is above ``8.9``."""
    major, minor = capability.split(".")
    return int(major), int(minor)
