"""The deploy model compiled by PyTorch, on a GPU in float16 and as one CUDA graph."""

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
DEPLOY_MODEL = "deploy model"
# The runner captures its own graph, so that both ways are captured alike.
MODES: dict[TorchWay, CompileMode] = {
    "torch": "default",
    "torch-max-autotune": "max-autotune-no-cudagraphs",
}


def deploy_runner(config: SwinConfig, make: Callable[[], nn.Module], way: TorchWay) -> TorchRunner:
    """Return a runner of the compiled deploy model, named after the way that it runs here.

    Args:
        config: Sizes of the model.
        make: Function that returns the deploy model, in float32, when the runner is opened.
        way: ``torch``, or ``torch-max-autotune``, which tries kernels for minutes a batch.
    """
    gpu = torch.cuda.is_available()
    title = f"{DEPLOY_MODEL} fp16" if gpu else DEPLOY_MODEL
    return TorchRunner(
        f"{title}, {way_text(config, way)}",
        make,
        arithmetic="fp16" if gpu else "fp32",
        compile_mode=MODES[way],
        graph=gpu,
        fused=True,
    )


def way_text(config: SwinConfig, way: TorchWay) -> str:
    """Return the way that this machine runs the deploy model, such as ``compiled, CUDA graph``."""
    tuned = {"torch": "", "torch-max-autotune": " max-autotune"}[way]
    graph = ["CUDA graph"] if torch.cuda.is_available() else []
    fused = ["fused attention"] if not why_not_fused() and _has_kernel(config) else []
    return ", ".join((f"compiled{tuned}", *graph, *fused))


def _has_kernel(config: SwinConfig) -> bool:
    return any(stage.dim // stage.num_heads in HEAD_DIMS for stage in config.stages)
