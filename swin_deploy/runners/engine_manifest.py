"""The facts in an engine's manifest, checked before TensorRT is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from exporters.artifact import manifest_path, read_manifest
from exporters.backends import Gpu, current_gpu
from exporters.engine.targets import Targets
from exporters.errors import BuildError, FileError, MissingBackendError
from exporters.flavors import FLAVORS, Traits
from exporters.soundness import MOST_BATCH
from exporters.spec import Flavor, Precision
from exporters.text_files import shortened, typed

Batch = Annotated[int, msgspec.Meta(ge=1, le=MOST_BATCH)]


@dataclass(frozen=True)
class EngineFacts:
    """The facts of an engine that a runner needs.

    Attributes:
        flavor: TensorRT flavour that built the engine.
        traits: Features of the flavour.
        version: Version of the flavour.
        precision: Precision of weights and activations.
        min_batch: Smallest batch of a call.
        max_batch: Largest batch of a call.
        targets: GPUs and versions that the engine is for.
        sha256: SHA-256 digest of the engine file.
    """

    flavor: Flavor
    traits: Traits
    version: str
    precision: Precision
    min_batch: int
    max_batch: int
    targets: Targets
    sha256: str


class _Profile(msgspec.Struct):
    min: Batch
    max: Batch


class _Manifest(msgspec.Struct):
    """The fields of a manifest that running the engine depends on."""

    flavor: Flavor
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)+$")]
    precision: Precision
    profile: _Profile
    targets: dict[str, Any]
    sha256: str


def read_facts(path: Path) -> EngineFacts:
    """Read the facts in an engine's manifest.

    Raises:
        FileError: If the engine or its manifest is missing, or the file was changed.
        BuildError: If the manifest is not one of an engine.
    """
    manifest = read_manifest(path)
    try:
        read = typed(manifest, _Manifest, where=manifest_path(path).name)
        return EngineFacts(
            flavor=read.flavor,
            traits=FLAVORS[read.flavor],
            version=read.version,
            precision=read.precision,
            min_batch=read.profile.min,
            max_batch=read.profile.max,
            targets=Targets.from_dict(read.targets),
            sha256=read.sha256,
        )
    except FileError as err:
        raise BuildError(
            f"the manifest of {shortened(path)} does not describe an engine ({err}); build it "
            "again with swin-deploy build-trt"
        ) from err


def require_version(facts: EngineFacts, path: Path, here: str) -> None:
    """Refuse an engine that the installed version of its flavour does not run.

    Args:
        facts: Facts of the engine.
        path: Path of the engine, for the message.
        here: The version installed.

    Raises:
        BuildError: If the version does not fit.
    """
    if not facts.targets.fits_version(facts.version, here):
        raise BuildError(
            f"{path} was built by {facts.flavor} {facts.version}, here is {here}; build it again, "
            "or install the other version"
        )


def require_gpu(facts: EngineFacts, path: Path) -> Gpu:
    """Return the GPU of this machine, if the engine is for it and PyTorch can use it.

    Args:
        facts: Facts of the engine.
        path: Path of the engine, for the message.

    Raises:
        MissingBackendError: If there is no GPU, the engine is for others, or PyTorch has no CUDA.
    """
    gpu = current_gpu()
    if gpu is None:
        raise MissingBackendError(
            f"{path.name} needs an NVIDIA GPU and driver; none here: run it on the GPU machine"
        )
    if not facts.targets.fits_gpu(gpu):
        raise MissingBackendError(
            f"{path.name} is for {facts.targets.describe()}, here is {gpu.name} of "
            f"{gpu.capability}; build it again on this machine, or for a GPU of this kind"
        )
    if not torch.cuda.is_available():
        raise MissingBackendError(
            f"PyTorch {torch.__version__} cannot use the GPU here, and {path.name} needs it; "
            "pip install a CUDA build of torch that fits the driver"
        )
    return gpu


def read_engine(facts: EngineFacts, path: Path) -> bytes:
    """Read an engine file, and check its digest against the manifest: an engine is executable.

    Raises:
        FileError: If the file cannot be read, or has changed since the manifest was read.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise FileError(f"cannot read {path}: {err.strerror or err}") from err
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise FileError(f"{path} has changed since it was opened (SHA-256 differs); try again")
    return data
