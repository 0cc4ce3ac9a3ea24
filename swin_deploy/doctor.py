"""The abilities of this machine: packages, runtimes, TensorRT flavours and GPUs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any, Literal

from exporters.backends import (
    INSTALL,
    Gpu,
    cuda_device_count,
    current_gpu,
    import_package,
    load_onnxruntime,
    load_openvino,
    load_polygraphy_comparator,
    load_tensorrt,
    openvino_core,
    openvino_cpu,
    openvino_version,
)
from exporters.engine.targets import FP8_MINIMUM, has_fp8
from exporters.errors import DeployError, MissingBackendError
from exporters.flavors import FLAVORS
from exporters.spec import Flavor
from exporters.text_files import shortened

# Packages that the main job needs besides PyTorch: the module of each, and a name in it.
REQUIRED = {
    "numpy": ("numpy", "ndarray"),
    "onnx": ("onnx", "ModelProto"),
    "onnxscript": ("onnxscript", "script"),
    "pillow": ("PIL.Image", "open"),
    "safetensors": ("safetensors.torch", "load_file"),
    "einops": ("einops", "rearrange"),
    "msgspec": ("msgspec", "convert"),
    "filelock": ("filelock", "lock_descriptor"),
}

NO_VNNI = (
    "this CPU has no VNNI: int8 files are slower here, and sums of two products may saturate in "
    "ONNX Runtime; check them with parity and evaluate on this machine"
)

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """The result of one check of the machine.

    Attributes:
        name: Name of the package or device, such as ``torch`` or ``GPU``.
        state: ``ok``, ``missing`` (the main job works without it) or ``broken``.
        detail: Versions and properties found, or the reason of the state.
        remedy: Command or advice that mends the state; empty if there is nothing to do.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


def check_machine() -> list[Finding]:
    """Check every package and device that the commands can use, and return a finding for each."""
    return list(_findings())


def _findings() -> Iterator[Finding]:
    yield Finding("machine", "ok", f"{platform.platform()}, {os.cpu_count()} CPU cores")
    yield Finding("python", "ok", platform.python_version())
    gpus = cuda_device_count()
    yield _gpu(gpus)
    yield _sound("torch", "pip install torch", _torch, gpus)
    if lacks_vnni():
        yield Finding("int8", "missing", NO_VNNI)
    yield _sound("packages", "pip install swin-deploy", _packages)
    yield _sound("onnxruntime", INSTALL["onnxruntime"], _onnxruntime, gpus)
    yield _sound("openvino", INSTALL["openvino"], _openvino)
    for flavor in sorted(FLAVORS, reverse=True):
        yield _sound(flavor, INSTALL[flavor], _tensorrt, flavor, gpus)
    yield _sound("polygraphy", INSTALL["polygraphy"], _polygraphy)


def lacks_vnni(flags: str | None = None) -> bool:
    """Tell whether this is a CPU of Intel's or AMD's that is known to lack VNNI.

    Args:
        flags: Text of ``/proc/cpuinfo``; None to read it. Other systems do not tell.
    """
    if flags is None:
        try:
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
    words = next((line for line in flags.splitlines() if line.startswith("flags")), "")
    return " sse2 " in f"{words} " and "vnni" not in words


def _sound(name: str, install: str, look: Callable[..., Finding], *about: object) -> Finding:
    """Check a package; every exception becomes a finding, ``missing`` or ``broken``."""
    try:
        return look(*about)
    except DeployError as err:
        text = str(err).split(";")[0]
        absent = (name in FLAVORS or name == "openvino") and text.endswith("is not installed")
        return Finding(name, "missing" if absent else "broken", text, install)
    except Exception as err:  # noqa: BLE001 - a package that is half there may raise anything
        reason = shortened(" ".join(str(err).split())) or type(err).__name__
        return Finding(name, "broken", f"{name} does not work ({reason})", install)


def _gpu(gpus: int) -> Finding:
    if gpus:
        return Finding("GPU", "ok", f"{gpus} NVIDIA device(s){_first(current_gpu())}")
    return Finding(
        "GPU",
        "missing",
        "no NVIDIA GPU or driver: engines are built and audited here, but not run",
        "run 'swin-deploy run' on a machine with a GPU to compare and time the engine",
    )


def _first(gpu: Gpu | None) -> str:
    """Return what is known of the first GPU, in words; nothing if the driver does not tell."""
    if gpu is None:
        return ""
    fp8 = "with FP8" if has_fp8(gpu) else f"without FP8, which {FP8_MINIMUM} and later have"
    return f", {gpu.name} of compute capability {gpu.capability}, {fp8}"


def _torch(gpus: int) -> Finding:
    torch = import_package("torch", name="torch", install="pip install torch", has="load")
    detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding("torch", "ok", f"{detail}, CUDA on {torch.cuda.get_device_name()}")
    if gpus:
        remedy = "pip install torch, a build for your CUDA driver"
        return Finding("torch", "broken", f"{detail}: the GPU is there, but CUDA is not", remedy)
    return Finding("torch", "ok", f"{detail}, CPU only")


def _packages() -> Finding:
    """Import every package of ``REQUIRED``; one finding for all."""
    broken: dict[str, str] = {}
    for name, (module, part) in REQUIRED.items():
        try:
            import_package(module, name=name, install=f"pip install {name}", has=part)
        except MissingBackendError as err:
            broken[name] = str(err).split(";")[0]
    if broken:
        remedy = f"pip install --force-reinstall {' '.join(broken)}"
        return Finding("packages", "broken", "; ".join(broken.values()), remedy)
    detail = ", ".join(f"{name} {packages.version(name)}" for name in REQUIRED)
    return Finding("packages", "ok", detail)


def _onnxruntime(gpus: int) -> Finding:
    both = {"onnxruntime", "onnxruntime-gpu"} <= _installed()
    if both:
        return Finding(
            "onnxruntime",
            "broken",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
        )
    onnxruntime = load_onnxruntime()
    providers = onnxruntime.get_available_providers()
    detail = f"{onnxruntime.__version__}, providers {', '.join(providers)}"
    if gpus and "CUDAExecutionProvider" not in providers:
        remedy = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        return Finding("onnxruntime", "missing", f"{detail}: no CUDA provider", remedy)
    return Finding("onnxruntime", "ok", detail)


def _openvino() -> Finding:
    openvino = load_openvino()
    cpu = openvino_cpu(openvino_core(openvino))
    detail = f"{openvino_version(openvino)}, runs ONNX files on {cpu.name}"
    return Finding("openvino", "ok", f"{detail}: {', '.join(cpu.abilities)}")


def _tensorrt(flavor: Flavor, gpus: int) -> Finding:
    trt = load_tensorrt(flavor)
    traits = FLAVORS[flavor]
    if gpus:
        can = "builds and runs engines"
    elif traits.builds_without_gpu:
        can = "builds engines here; running them needs a GPU"
    else:
        can = "needs a GPU to build or run anything"
    return Finding(flavor, "ok", f"{trt.__version__}, {can}; {traits.proof}")


def _polygraphy() -> Finding:
    load_polygraphy_comparator()
    version = packages.version("polygraphy")
    return Finding("polygraphy", "ok", f"{version}, a second opinion on parity")


def _installed() -> set[str]:
    return {str(entry.metadata["Name"]).lower() for entry in packages.distributions()}


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as JSON values, by name."""
    return {f.name: {"state": f.state, "detail": f.detail, "remedy": f.remedy} for f in findings}
