"""PyTorch as someone without this project would run the model: the bars to clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from swin_deploy.bench import Kind, Mode
from swin_deploy.bench.contenders import Contender
from swin_deploy.runners.compiling import GRAPH_MODES, CompileMode
from swin_deploy.runners.pytorch import Arithmetic, TorchRunner

# On a CPU the rest is pointless: TF32 and CUDA graphs do not exist, float16 is slower than float32.
GPU_ARITHMETIC: tuple[Arithmetic, ...] = ("fp32", "tf32", "fp16", "autocast")


def eager(
    name: str, make: Callable[[], nn.Module], kind: Kind, *, kinds: Sequence[Arithmetic]
) -> list[Contender]:
    """A model as it is, in each arithmetic."""
    return [_contender(name, make, kind, arithmetic=one) for one in kinds]


def compiled(
    name: str, make: Callable[[], nn.Module], kind: Kind, *, modes: Sequence[CompileMode]
) -> list[Contender]:
    """A model compiled: in float16 on a GPU, in float32 on a CPU.

    On a GPU each comes as a captured CUDA graph, too, but for modes with graphs of their own: small
    batches of a compiled model would else measure how fast Python starts kernels.
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
    """A model in float16 as one CUDA graph; nothing on a CPU."""
    if not torch.cuda.is_available():
        return []
    return [_contender(name, make, kind, arithmetic="fp16", graph=True)]


def best_arithmetic() -> Arithmetic:
    """The fastest that keeps the results: float16 on a GPU, float32 on a CPU."""
    return "fp16" if torch.cuda.is_available() else "fp32"


def arithmetics() -> tuple[Arithmetic, ...]:
    """Those that make sense here."""
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
