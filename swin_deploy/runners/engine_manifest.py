"""The facts in an engine's manifest, checked before TensorRT is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from exporters.artifact import manifest_path, read_manifest
from exporters.backends import Gpu, current_gpu
from exporters.engine.targets import Targets
from exporters.errors import BuildError, FileError, MissingBackendError
from exporters.flavors import FLAVORS, Traits
from exporters.plan import KernelPlan
from exporters.precisions import PRECISIONS
from exporters.soundness import MOST_BATCH
from exporters.spec import Flavor, Precision
from exporters.text_files import naming, shortened, typed

Batch = Annotated[int, msgspec.Meta(ge=1, le=MOST_BATCH)]


class Batches(msgspec.Struct, frozen=True):
    """The fewest and the most images of a call."""

    min: Batch
    max: Batch


@dataclass(frozen=True, eq=False)
class EngineManifest:
    """An engine on the disk and what its manifest says of it, checked against the file once.

    Attributes:
        path: Place of the engine.
        flavor: TensorRT flavour.
        version: Version of the flavour that built it.
        precision: Precision of weights and activations.
        profile: The fewest and the most images of a call.
        targets: GPUs and versions that it is for.
        sha256: Digest of the file.
        plan: Kernels that it launches.
        values: The whole manifest, as JSON values.
        input_type: Type of the input; ``uint8`` for pixels of 0 to 255.
    """

    path: Path
    flavor: Flavor
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)+$")]
    precision: Precision
    profile: Batches
    targets: Targets
    sha256: str
    plan: KernelPlan = field(repr=False)
    values: dict[str, Any] = field(repr=False)
    input_type: str = "float32"

    @property
    def traits(self) -> Traits:
        """Abilities and limits of the flavour."""
        return FLAVORS[self.flavor]


def read_engine_manifest(path: Path) -> EngineManifest:
    """Read and check the manifest of an engine.

    Args:
        path: Path of the engine; its manifest is next to it.

    Raises:
        FileError: If the engine or its manifest is missing, or the file was changed.
        BuildError: If the manifest is not one of an engine.
    """
    return engine_manifest(path, read_manifest(path))


def engine_manifest(path: Path, values: dict[str, Any]) -> EngineManifest:
    """Check the values of an engine's manifest, as they were read or written.

    Args:
        path: Path of the engine, for messages.
        values: The whole manifest, as JSON values.

    Raises:
        BuildError: If the manifest is not one of an engine.
    """
    known = values.get("kind") == "engine" and values.get("precision") in PRECISIONS
    if not known or "plan" not in values:
        raise BuildError(f"{path} is no engine of swin-deploy; build one with build-trt")
    with naming(path):
        plan = KernelPlan.from_dict(values["plan"])
    try:
        targets = Targets.from_dict(values.get("targets", {}))
        made = {"path": path, "plan": plan, "targets": targets, "values": values}
        return typed(values | made, EngineManifest, where=manifest_path(path).name)
    except FileError as err:
        raise BuildError(
            f"the manifest of {shortened(path)} does not describe an engine ({err}); build it "
            "again with swin-deploy build-trt"
        ) from err


def require_version(engine: EngineManifest, here: str) -> None:
    """Refuse an engine that the installed version of TensorRT cannot run.

    Args:
        engine: The engine's manifest.
        here: Version that is installed.

    Raises:
        BuildError: If the version does not fit.
    """
    if not engine.targets.fits_version(engine.version, here):
        raise BuildError(
            f"{engine.path} was built by {engine.flavor} {engine.version}, here is {here}; build "
            "it again, or install the other version"
        )


def require_gpu(engine: EngineManifest) -> Gpu:
    """Return the GPU of this machine; refuse one that the engine or PyTorch cannot use.

    Raises:
        MissingBackendError: If there is no GPU, the engine is for others, or PyTorch has no CUDA.
    """
    gpu = current_gpu()
    if gpu is None:
        raise MissingBackendError(
            f"{engine.path.name} needs an NVIDIA GPU and driver; none here: run it on the "
            "GPU machine"
        )
    if not engine.targets.fits_gpu(gpu):
        raise MissingBackendError(
            f"{engine.path.name} is for {engine.targets.describe()}, here is {gpu.name} of "
            f"{gpu.capability}; build it again on this machine, or for a GPU of this kind"
        )
    if not torch.cuda.is_available():
        raise MissingBackendError(
            f"PyTorch {torch.__version__} cannot use the GPU here, and {engine.path.name} needs "
            "it; pip install a CUDA build of torch that fits the driver"
        )
    return gpu


def read_engine(engine: EngineManifest) -> bytes:
    """Read the bytes of an engine, and check that they are those of its manifest.

    The check comes first because an engine is executable.

    Raises:
        FileError: If the file cannot be read, or has changed since the manifest was read.
    """
    try:
        data = engine.path.read_bytes()
    except OSError as err:
        raise FileError(f"cannot read {engine.path}: {err.strerror or err}") from err
    if hashlib.sha256(data).hexdigest() != engine.sha256:
        raise FileError(
            f"{engine.path} has changed since it was opened (SHA-256 differs); try again"
        )
    return data
