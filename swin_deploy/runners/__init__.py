"""Run a model the same way whether it is a PyTorch module, an ONNX file or a TensorRT engine.

A runner is opened with ``with``; what it needs and cannot find is reported then, not before.
``run`` takes and returns host arrays. For timing without host copies, ``prepare`` puts the images
where the model reads them, ``execute`` starts one call and ``synchronize`` waits for it.
"""

from __future__ import annotations

from swin_deploy.runners.base import Outputs, Runner
from swin_deploy.runners.deployed import TORCH_WAYS, TorchWay, deploy_runner
from swin_deploy.runners.ort import CPU_PROVIDER, CUDA_PROVIDER, OrtRunner
from swin_deploy.runners.pytorch import TORCH_DTYPES, TorchRunner
from swin_deploy.runners.trt import TrtRunner

__all__ = [
    "CPU_PROVIDER",
    "CUDA_PROVIDER",
    "TORCH_DTYPES",
    "TORCH_WAYS",
    "OrtRunner",
    "Outputs",
    "Runner",
    "TorchRunner",
    "TorchWay",
    "TrtRunner",
    "deploy_runner",
]
