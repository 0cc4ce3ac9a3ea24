"""What this machine can do: packages, runtimes, TensorRT flavours and GPUs."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata as packages
from typing import Any

from exporters.backends import INSTALL, cuda_device_count, load_onnxruntime, load_tensorrt
from exporters.errors import BuildError, MissingBackendError
from exporters.flavors import FLAVORS
from exporters.spec import Flavor


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        name: What was looked for.
        state: ``ok``, ``missing`` (and the main job can do without) or ``broken``.
        detail: What was found.
        remedy: How to get what is missing; empty when nothing is.
    """

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything the line can use, in the order of the line."""
    return list(_findings())


def _findings() -> Iterator[Finding]:
    yield Finding("machine", "ok", f"{platform.platform()}, {os.cpu_count()} CPU cores")
    yield Finding("python", "ok", platform.python_version())
    gpus = cuda_device_count()
    yield _gpu(gpus)
    yield _torch(gpus)
    yield _onnxruntime(gpus)
    for flavor in sorted(FLAVORS, reverse=True):
        yield _tensorrt(flavor, gpus)
    yield _package("polygraphy", "a second opinion on parity")


def _gpu(gpus: int) -> Finding:
    if gpus:
        return Finding("GPU", "ok", f"{gpus} NVIDIA device(s)")
    return Finding(
        "GPU",
        "missing",
        "no NVIDIA GPU or driver: engines are built and audited here, but not run",
        "run 'swin-deploy run' on a machine with a GPU to compare and time the engine",
    )


def _torch(gpus: int) -> Finding:
    import torch

    detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding("torch", "ok", f"{detail}, CUDA on {torch.cuda.get_device_name()}")
    if gpus:
        remedy = "pip install torch, a build for your CUDA driver"
        return Finding("torch", "broken", f"{detail}: the GPU is there, but CUDA is not", remedy)
    return Finding("torch", "ok", f"{detail}, CPU only")


def _onnxruntime(gpus: int) -> Finding:
    both = {"onnxruntime", "onnxruntime-gpu"} <= _installed()
    if both:
        return Finding(
            "onnxruntime",
            "broken",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
        )
    try:
        onnxruntime = load_onnxruntime()
    except MissingBackendError as err:
        return Finding("onnxruntime", "broken", str(err), INSTALL["onnxruntime"])
    providers = onnxruntime.get_available_providers()
    detail = f"{onnxruntime.__version__}, providers {', '.join(providers)}"
    if gpus and "CUDAExecutionProvider" not in providers:
        remedy = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        return Finding("onnxruntime", "missing", f"{detail}: no CUDA provider", remedy)
    return Finding("onnxruntime", "ok", detail)


def _tensorrt(flavor: Flavor, gpus: int) -> Finding:
    try:
        trt = load_tensorrt(flavor)
    except MissingBackendError as err:
        return Finding(flavor, "missing", str(err).split(";")[0], INSTALL[flavor])
    except BuildError as err:
        return Finding(flavor, "broken", str(err).split(";")[0], INSTALL[flavor])
    traits = FLAVORS[flavor]
    if gpus:
        can = "builds and runs engines"
    elif traits.builds_without_gpu:
        can = "builds engines here; running them needs a GPU"
    else:
        can = "needs a GPU to build or run anything"
    return Finding(flavor, "ok", f"{trt.__version__}, {can}; {traits.proof}")


def _package(name: str, purpose: str) -> Finding:
    with contextlib.suppress(packages.PackageNotFoundError):
        return Finding(name, "ok", f"{packages.version(name)}, {purpose}")
    return Finding(name, "broken", "is not installed", INSTALL[name])


def _installed() -> set[str]:
    return {str(entry.metadata["Name"]).lower() for entry in packages.distributions()}


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """The findings as JSON values, by name."""
    return {f.name: {"state": f.state, "detail": f.detail, "remedy": f.remedy} for f in findings}
