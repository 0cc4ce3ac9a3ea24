"""PyTorch as someone without this project would run the model: the bars to clear."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch._dynamo
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.arrays import plain_array
from swin_deploy.bench import Kind, Mode
from swin_deploy.bench.contenders import Contender
from swin_deploy.reference.alias import alias
from swin_deploy.runners import Outputs, Runner
from swin_deploy.runners.base import plain_images

Arithmetic = Literal["fp32", "tf32", "fp16", "autocast"]
Compile = Literal["default", "reduce-overhead", "max-autotune"]
GRAPH_WARMUP = 3
RECOMPILE_LIMIT = 64

# On a CPU the rest is pointless: TF32 and CUDA graphs do not exist, float16 is slower than float32.
GPU_ARITHMETIC: tuple[Arithmetic, ...] = ("fp32", "tf32", "fp16", "autocast")


class PyTorchRunner(Runner):
    """A module in PyTorch: eager, compiled, or captured as one CUDA graph.

    Compiling happens in the first call at each batch, for that batch alone. A compiled model and a
    graph read their images from the same memory in every call.

    Args:
        name: Short name for reports.
        make: Gives the module; called when the runner is opened, and never changed.
        arithmetic: ``fp16`` runs half weights; ``autocast`` float32 weights that PyTorch casts.
        compile_mode: Of ``torch.compile``; None does not compile.
        graph: Capture a call as a CUDA graph, and replay it.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], nn.Module],
        *,
        arithmetic: Arithmetic = "fp32",
        compile_mode: Compile | None = None,
        graph: bool = False,
    ) -> None:
        self.name = name
        self.precision = "fp16" if arithmetic == "fp16" else "fp32"
        self._make, self._arithmetic, self._mode, self._graphed = (
            make,
            arithmetic,
            compile_mode,
            graph,
        )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        self.backend = f"PyTorch {torch.__version__}, {place}"
        self.stream: Any = None
        self._images = self._host = torch.empty(0)
        self._host_outputs: tuple[Tensor, ...] = ()
        self._output: Any = ()
        self._graph: Any = None
        self._fresh = False
        self._call: Callable[[Tensor], Any] = _not_open

    def __enter__(self) -> Self:
        self._dtype = torch.float16 if self._arithmetic == "fp16" else torch.float32
        module = alias(self._make()).eval().to(self._device, self._dtype)
        self._call = module
        if self._mode is not None:
            # Each batch gets kernels of its own, as a deployment at that batch would.
            self._call = torch.compile(module, mode=self._mode, dynamic=False)
        if self._device.type == "cuda":
            self.stream = torch.cuda.current_stream()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._call, self._graph = _not_open, None
        self._images = self._host = torch.empty(0)
        self._output, self._host_outputs, self.stream = (), (), None

    def prepare(self, images: NDArray[np.float32]) -> None:
        plain = plain_images(images, self.name)
        ready = torch.from_numpy(plain).to(self._device, self._dtype)
        if ready.shape == self._images.shape:
            self._images.copy_(ready)
            return
        self._images, self._graph = ready.clone(), None
        self._fresh = self._mode is not None
        self._host = _host_like(self._images)
        self._host.copy_(self._images)
        self._host_outputs = ()
        if self._graphed:
            self._capture()

    def execute_with_copies(self) -> None:
        """Images from pinned host memory, a call, and its outputs back."""
        self._images.copy_(self._host, non_blocking=True)
        self.execute()
        outputs = _tensors(self._output)
        if not self._host_outputs:
            self._host_outputs = tuple(map(_host_like, outputs))
        for host, output in zip(self._host_outputs, outputs, strict=True):
            host.copy_(output, non_blocking=True)

    def execute(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._fresh:
            # A code object compiled more than 8 times runs eager from then on, and only warns.
            limits: Any = torch._dynamo.config.patch(
                recompile_limit=RECOMPILE_LIMIT, fail_on_recompile_limit_hit=True
            )
            with limits:
                self._output = self._run()
            self._fresh = False
        else:
            self._output = self._run()

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def fetch(self) -> Outputs:
        outputs = _tensors(self._output)
        return tuple(plain_array(one.float().cpu().numpy(), np.float32) for one in outputs)

    def _run(self) -> Any:  # noqa: ANN401 - whatever the module gives
        casts = torch.autocast(
            self._device.type, torch.float16, enabled=self._arithmetic == "autocast"
        )
        products = float32_products("tf32" if self._arithmetic == "tf32" else "ieee")
        with torch.inference_mode(), products, casts:
            if self._mode in ("reduce-overhead", "max-autotune"):
                mark: Any = torch.compiler.cudagraph_mark_step_begin
                mark()  # the last output may be written over
            return self._call(self._images)

    def _capture(self) -> None:
        """Record one call; warm-up on a stream of its own, as PyTorch asks for."""
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARMUP):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._run()
        self._graph = graph


def _not_open(_: Tensor) -> Any:  # noqa: ANN401 - never returns
    raise RuntimeError("the runner is not open")


def _host_like(tensor: Tensor) -> Tensor:
    """Host memory for copies of a tensor, pinned where there is a GPU."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _tensors(output: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - whatever a library gives
    """The outputs of our models, timm and torchvision (tensors), transformers (``logits``)."""
    if isinstance(output, Tensor):
        return (output,)
    return tuple(output) if isinstance(output, tuple) else (output.logits,)


@contextlib.contextmanager
def float32_products(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Compute float32 matrix products in float32, or on a GPU in TF32.

    This is PyTorch's older interface, which sets the newer one too. torch.compile of PyTorch 2.11
    still reads the older one, and fails where only the newer was set
    (https://github.com/pytorch/pytorch/issues/166387).
    """
    parts: Any = torch.backends
    before = torch.get_float32_matmul_precision(), parts.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        parts.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        parts.cudnn.allow_tf32 = before[1]


def eager(
    name: str, make: Callable[[], nn.Module], kind: Kind, *, kinds: Sequence[Arithmetic]
) -> list[Contender]:
    """A model as it is, in each arithmetic."""
    return [_contender(name, make, kind, arithmetic=one) for one in kinds]


def compiled(
    name: str, make: Callable[[], nn.Module], kind: Kind, *, modes: Sequence[Compile]
) -> list[Contender]:
    """A model compiled: in float16 on a GPU, in float32 on a CPU."""
    return [
        _contender(name, make, kind, arithmetic=best_arithmetic(), compile_mode=mode)
        for mode in modes
    ]


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
    compile_mode: Compile | None = None,
    graph: bool = False,
) -> Contender:
    mode: Mode = "graph" if graph else "compile" if compile_mode else "eager"
    how = {"eager": "", "graph": ", CUDA graph", "compile": f", compiled {compile_mode}"}[mode]
    how = how.removesuffix(" default")
    runner = PyTorchRunner(
        name + how, make, arithmetic=arithmetic, compile_mode=compile_mode, graph=graph
    )
    return Contender(runner, arithmetic, kind, mode)
