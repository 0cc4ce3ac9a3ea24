"""PyTorch as someone without this project would run the model: the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from swin_deploy.bench import Kind, Mode
from swin_deploy.bench.contenders import Contender
from swin_deploy.runners.compiling import GRAPH_MODES, CompileMode
from swin_deploy.runners.pytorch import Arithmetic, TorchRunner

# A CPU runs float32 alone: it has no TF32 or CUDA graphs, and its float16 is slower than float32.
GPU_ARITHMETIC: tuple[Arithmetic, ...] = ("fp32", "tf32", "fp16", "autocast")


def eager(
    name: str, make: Callable[[], nn.Module], kind: Kind, *, kinds: Sequence[Arithmetic]
) -> list[Contender]:
    """Make contenders of a model as it is, one for each arithmetic.

    Args:
        name: Name of the model.
        make: Function that gives the model.
        kind: Kind of the model.
        kinds: Arithmetics.
    """
    return [_contender(name, make, kind, arithmetic=one) for one in kinds]


def compiled(
    name: str, make: Callable[[], nn.Module], kind: Kind, *, modes: Sequence[CompileMode]
) -> list[Contender]:
    """Make contenders of a compiled model: in float16 on a GPU, in float32 on a CPU.

    Each is added as a captured CUDA graph, too, on a GPU and for modes without graphs of their own:
    small batches of a compiled model would else measure how fast Python starts kernels.

    Args:
        name: Name of the model.
        make: Function that gives the model.
        kind: Kind of the model.
        modes: Modes of torch.compile.
    """
    found = []
    for mode in modes:
        captured = torch.cuda.is_available() and mode not in GRAPH_MODES
        found += [
            _contender(
                name, make, kind, arithmetic=best_arithmetic(), compile_mode=mode, graph=graph
            )
            for graph in ((False, True) if captured else (False,))
        ]
    return found


def graphed(name: str, make: Callable[[], nn.Module], kind: Kind) -> list[Contender]:
    """Make a contender of a model in float16 as one CUDA graph; none on a CPU."""
    if not torch.cuda.is_available():
        return []
    return [_contender(name, make, kind, arithmetic="fp16", graph=True)]


def best_arithmetic() -> Arithmetic:
    """Return the fastest arithmetic that keeps the results: float16 on a GPU, float32 on a CPU."""
    return "fp16" if torch.cuda.is_available() else "fp32"


def arithmetics() -> tuple[Arithmetic, ...]:
    """Return the arithmetics to time on this machine."""
    return GPU_ARITHMETIC if torch.cuda.is_available() else ("fp32",)


def _contender(
    name: str,
    make: Callable[[], nn.Module],
    kind: Kind,
    *,
    arithmetic: Arithmetic,
    compile_mode: CompileMode | None = None,
    graph: bool = False,
) -> Contender:
    mode: Mode = "compile" if compile_mode else "graph" if graph else "eager"
    compiled_as = f"compiled {compile_mode}".removesuffix(" default") if compile_mode else ""
    way = ", ".join(filter(None, (compiled_as, "CUDA graph" if graph else "")))
    title = ", ".join(filter(None, (name, way)))
    runner = TorchRunner(title, make, arithmetic=arithmetic, compile_mode=compile_mode, graph=graph)
    shares_code = graph and compile_mode is not None
    return Contender(runner, arithmetic, kind, mode, shares_code=shares_code, model=name, way=way)
