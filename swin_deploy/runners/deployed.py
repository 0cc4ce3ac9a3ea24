"""The deploy model as PyTorch ships it: compiled, and on a GPU in float16 as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn

from swin_deploy.config import SwinConfig
from swin_deploy.runners.compiling import CompileMode
from swin_deploy.runners.fused import HEAD_DIMS, why_not_fused
from swin_deploy.runners.pytorch import TorchRunner

TorchWay = Literal["torch", "torch-max-autotune"]
TORCH_WAYS: tuple[TorchWay, ...] = get_args(TorchWay)
# The runner captures its own graph, so that both ways are captured alike.
MODES: dict[TorchWay, CompileMode] = {
    "torch": "default",
    "torch-max-autotune": "max-autotune-no-cudagraphs",
}


def deploy_runner(config: SwinConfig, make: Callable[[], nn.Module], way: TorchWay) -> TorchRunner:
    """The deploy model compiled; its name says no more than what this machine does.

    Args:
        config: Sizes of the model.
        make: What gives the deploy model, in float32, when the runner is opened.
        way: ``torch``, or ``torch-max-autotune``, which tries kernels for minutes a batch.
    """
    gpu = torch.cuda.is_available()
    fused = not why_not_fused() and _has_kernel(config)
    name = "deploy model fp16, compiled" if gpu else "deploy model, compiled"
    name += {"torch": "", "torch-max-autotune": " max-autotune"}[way]
    name += ", CUDA graph" if gpu else ""
    name += ", fused attention" if fused else ""
    return TorchRunner(
        name,
        make,
        arithmetic="fp16" if gpu else "fp32",
        compile_mode=MODES[way],
        graph=gpu,
        fused=True,
    )


def _has_kernel(config: SwinConfig) -> bool:
    return any(stage.dim // stage.num_heads in HEAD_DIMS for stage in config.stages)
