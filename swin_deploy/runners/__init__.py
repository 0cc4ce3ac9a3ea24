"""Runners with one interface for PyTorch modules, ONNX files and TensorRT engines.

===================  =============================================================================
``base``             the interface of every runner
``emulated``         parts of a module in emulated float16 or bfloat16, on any machine, and a watch
                     on every operation
``engine_manifest``  the facts in an engine's manifest, checked before TensorRT is used
``intermediates``    the intermediate tensors of a model, as outputs next to its own
``int8_noise``       a float32 model whose linear layers round to 8-bit integers
``openvino``         an ONNX file in OpenVINO on the CPU, in float32 or bfloat16
``ort``              an ONNX file in ONNX Runtime
``pytorch``          a module in PyTorch
``runtime_cache``    kernels that TensorRT-RTX compiles at run time, kept for the next run
``trt``              an engine in the TensorRT flavour that built it
``sizes``            one model at several image sizes: a runner for each, chosen by the images
``compiling``        torch.compile without logs, with each failure in one line
``deployed``         the deploy model compiled by PyTorch
``fused``            the deploy model with window attention as one Triton kernel, on a GPU
``refusals``         the reasons why an engine does not run here
``ways``             the ways to run a model that are asked for by name
``tensors``          names and types of the tensors that an engine takes and gives
``window_triton``    window attention as one Triton kernel
===================  =============================================================================

A runner is opened with ``with``; a missing package or device is reported then, not before.
``run`` takes and returns host arrays. For timing without host copies, ``prepare`` puts the images
where the model reads them, ``execute`` starts one call and ``synchronize`` waits for it.
"""

from __future__ import annotations

from swin_deploy.runners.base import Outputs, Runner
from swin_deploy.runners.deployed import TORCH_WAYS, TorchWay, deploy_runner
from swin_deploy.runners.openvino import OPENVINO_WAYS, OpenvinoRunner, OpenvinoWay
from swin_deploy.runners.ort import CPU_PROVIDER, CUDA_PROVIDER, OrtRunner
from swin_deploy.runners.pytorch import TorchRunner, torch_dtype
from swin_deploy.runners.sizes import SizesRunner
from swin_deploy.runners.trt import TrtRunner
from swin_deploy.runners.ways import WAYS, Way, openvino_ways, torch_ways

__all__ = [
    "CPU_PROVIDER",
    "CUDA_PROVIDER",
    "OPENVINO_WAYS",
    "TORCH_WAYS",
    "WAYS",
    "OpenvinoRunner",
    "OpenvinoWay",
    "OrtRunner",
    "Outputs",
    "Runner",
    "SizesRunner",
    "TorchRunner",
    "TorchWay",
    "TrtRunner",
    "Way",
    "deploy_runner",
    "openvino_ways",
    "torch_dtype",
    "torch_ways",
]
