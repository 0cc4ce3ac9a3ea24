"""Packages, compilers and GPU of this machine, and the packages that are missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from typing import Any

import torch

from swin_deploy.bench.conditions import package_versions
from swin_deploy.bench.gpu import device_name, gpu_state

# Purpose of each module that the suite uses.
WANTED = {
    "onnx": "every ONNX file",
    "onnxscript": "exporting ONNX",
    "onnxruntime": "running ONNX files",
    "tensorrt": "engines of full TensorRT",
    "tensorrt_rtx": "engines of TensorRT-RTX",
    "timm": "timm's model",
    "torchvision": "torchvision's model",
    "transformers": "nothing here yet but its version",
    "triton": "torch.compile on a GPU",
    "polygraphy": "a second opinion on parity (the suite does without)",
    "einops": "the notebook's model",
    "safetensors": "the trained model's weights",
}


def environment() -> dict[str, Any]:
    """Describe GPU, versions, compilers, and the missing packages with their purposes."""
    found: dict[str, Any] = {
        "gpu": device_name(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu cores": os.cpu_count(),
        "versions": package_versions("onnx", "onnxscript", "numpy", "einops"),
        "missing": {
            name: purpose
            for name, purpose in WANTED.items()
            if importlib.util.find_spec(name) is None
        },
        "compilers": {name: shutil.which(name) or "none" for name in ("gcc", "g++", "nvcc")},
        "onnxruntime providers": _providers(),
    }
    if torch.cuda.is_available():
        properties: Any = torch.cuda.get_device_properties(0)
        found["compute capability"] = f"{properties.major}.{properties.minor}"
        found["gpu memory MB"] = round(properties.total_memory / 1e6)
        found["cuda"] = str(torch.version.cuda)
        found["state"] = gpu_state() or "unknown: NVIDIA's management library is not here"
    return found


def _providers() -> list[str]:
    from exporters.backends import load_onnxruntime
    from exporters.errors import MissingBackendError

    try:
        return [str(name) for name in load_onnxruntime().get_available_providers()]
    except MissingBackendError:
        return []
