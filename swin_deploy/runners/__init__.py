"""Run a model the same way whether it is a PyTorch module, an ONNX file or a TensorRT engine.

===================  =============================================================================
``base``             what every runner offers
``emulated``         run parts of a module in float16 or bfloat16 on any machine, and see every
                     operation it makes
``engine_manifest``  what an engine's manifest says of it, checked before anything of TensorRT is
                     made
``intermediates``    look inside a model
``ort``              an ONNX file in ONNX Runtime
``pytorch``          a module in PyTorch
``runtime_cache``    kernels that TensorRT-RTX compiles where an engine runs, kept from one run to
                     the next
``trt``              an engine in the TensorRT flavour that built it
``compiling``        torch.compile that works or says in one line why not
``deployed``         the deploy model as PyTorch ships it
``fused``            the deploy model with window attention as one kernel, where Triton and a GPU
                     are there
``refusals``         why an engine does not run here
``tensors``          the tensors that an engine takes and gives
``window_triton``    window attention as one Triton kernel
===================  =============================================================================

A runner is opened with ``with``; what it needs and cannot find is reported then, not before.
``run`` takes and returns host arrays. For timing without host copies, ``prepare`` puts the images
where the model reads them, ``execute`` starts one call and ``synchronize`` waits for it.
"""

from __future__ import annotations

from swin_deploy.runners.base import Outputs, Runner
from swin_deploy.runners.deployed import TORCH_WAYS, TorchWay, deploy_runner
from swin_deploy.runners.ort import CPU_PROVIDER, CUDA_PROVIDER, OrtRunner
from swin_deploy.runners.pytorch import TorchRunner, torch_dtype
from swin_deploy.runners.trt import TrtRunner

__all__ = [
    "CPU_PROVIDER",
    "CUDA_PROVIDER",
    "TORCH_WAYS",
    "OrtRunner",
    "Outputs",
    "Runner",
    "TorchRunner",
    "TorchWay",
    "TrtRunner",
    "deploy_runner",
    "torch_dtype",
]
