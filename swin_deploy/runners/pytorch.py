"""A module in PyTorch: eager, compiled, captured as a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.arrays import plain_array
from exporters.errors import MissingBackendError
from exporters.precisions import PRECISIONS
from exporters.spec import Precision
from swin_deploy.reference.alias import alias
from swin_deploy.runners.base import Outputs, Runner, plain_images
from swin_deploy.runners.compiling import GRAPH_MODES, CompileMode, compiling, require_compiler
from swin_deploy.runners.fused import fuse, fused_blocks, load_kernel, why_not_fused

Arithmetic = Precision | Literal["tf32", "autocast"]
GRAPH_WARMUP = 3


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return PyTorch's type of a precision."""
    return getattr(torch, PRECISIONS[precision].dtype)


class TorchRunner(Runner):
    """A module in PyTorch, on the GPU if there is one that PyTorch can use, else on the CPU.

    Float32 means float32: TF32 and every other reduced form of float32 arithmetic is off during a
    call, and restored afterwards. Compiling and capturing happen for each batch, in its first
    call or before; the images of a batch are then always read from the same memory.

    Args:
        name: Short name for reports.
        model: Model to run, or function that returns it when the runner is opened; it is never
            changed.
        arithmetic: ``fp16`` and ``bf16`` run half weights and activations, ``autocast`` float32
            weights that PyTorch casts to float16, ``tf32`` and ``fp32`` float32 ones.
        compile_mode: Mode of ``torch.compile``; None does not compile.
        graph: True to capture a call as a CUDA graph, and replay it.
        fused: True to run window attention of a deploy model as one kernel, if there are Triton
            and a GPU; ``backend`` says whether it does.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module | Callable[[], nn.Module],
        *,
        arithmetic: Arithmetic = "fp32",
        compile_mode: CompileMode | None = None,
        graph: bool = False,
        fused: bool = False,
    ) -> None:
        self.name = name
        self.precision: Precision = (
            "fp32" if arithmetic == "tf32" or arithmetic == "autocast" else arithmetic
        )
        self._model, self._arithmetic, self._mode = model, arithmetic, compile_mode
        self._graphed, self._fused = graph, fused
        self._dtype = torch_dtype(self.precision)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        self.backend = f"PyTorch {torch.__version__}, {place}"
        self.stream: Any = None
        self._call: Callable[[Tensor], Any] = _not_open
        self._forget()

    def __enter__(self) -> Self:
        on_gpu = self._device.type == "cuda"
        if self._graphed and not on_gpu:
            raise MissingBackendError(f"{self.name}: a CUDA graph needs an NVIDIA GPU")
        if self._mode is not None:
            require_compiler(self._device.type)
        model = self._model if isinstance(self._model, nn.Module) else self._model()
        module = alias(model).eval()
        attention = ""
        if self._fused:
            module, attention = _with_kernel(module)
        module = module.to(self._device, self._dtype)
        how = self._how() + attention
        self.backend = self.backend.removesuffix(how) + how  # it may be opened again
        self._call = module
        if self._mode is not None:
            # Each batch gets kernels of its own, as a deployment at that batch would.
            self._call = torch.compile(module, mode=self._mode, dynamic=False)
        if on_gpu:
            self.stream = torch.cuda.current_stream()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._call, self.stream = _not_open, None
        self._forget()

    def _forget(self) -> None:
        """Release images, outputs and the captured graph."""
        self._images = self._arrived = self._host = torch.empty(0)
        self._given: NDArray[np.float32] | None = None
        self._output: Any = ()
        self._host_outputs: tuple[Tensor, ...] = ()
        self._graph: Any = None
        self._fresh = False

    def _how(self) -> str:
        """Describe the way that the module runs; empty for an eager module."""
        if self._mode is None and not self._graphed:
            return ""
        own = self._mode in GRAPH_MODES and self._device.type == "cuda"
        graph = "CUDA graph" if self._graphed else "torch.compile's CUDA graphs" if own else ""
        compiled = f"compiled ({self._mode})" if self._mode else "not compiled"
        return f", {compiled}, {graph or 'no CUDA graph'}"

    def full_batch(self, count: int) -> int:
        """Return ``count``, rounded up to a power of two if batches are compiled or captured."""
        if self._mode is None and not self._graphed:
            return count
        return 1 << (count - 1).bit_length()

    def prepare(self, images: NDArray[np.float32]) -> None:
        plain = plain_images(images, self.name)
        ready = torch.tensor(plain, dtype=self._dtype, device=self._device)
        if ready.shape == self._images.shape:
            self._images.copy_(ready)
        else:
            self._forget()
            self._images, self._fresh = ready, self._mode is not None
            if self._graphed:
                self._capture_or_forget()
        self._given = plain

    def execute(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._output = self._first() if self._fresh else self._run()

    def execute_with_copies(self) -> None:
        """Start a call with its copies: images from the host, outputs back to it.

        Host memory is pinned if there is a GPU. The images come as float32 whatever the model
        takes, as an engine's do: the cast is part of the call.
        """
        if not len(self._host):
            self._host = _host_like(self._images, torch.float32)
            self._arrived = self._images
            if self._dtype != torch.float32:
                self._arrived = torch.empty_like(self._images, dtype=torch.float32)
        if self._given is not None:
            self._host.copy_(torch.from_numpy(self._given))
            self._given = None
        self._arrived.copy_(self._host, non_blocking=True)
        if self._arrived is not self._images:
            self._images.copy_(self._arrived)
        self.execute()
        outputs = _tensors(self._output)
        if not self._host_outputs:
            self._host_outputs = tuple(_host_like(one, one.dtype) for one in outputs)
        for host, output in zip(self._host_outputs, outputs, strict=True):
            host.copy_(output, non_blocking=True)

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def fetch(self) -> Outputs:
        outputs = _tensors(self._output)
        return tuple(plain_array(one.float().cpu().numpy(), np.float32) for one in outputs)

    def _first(self) -> Any:  # noqa: ANN401 - whatever the module gives
        """Make the first call of a batch, which compiles."""
        with compiling(self.name):
            output = self._run()
        self._fresh = False
        return output

    def _run(self) -> Any:  # noqa: ANN401 - whatever the module gives
        casts = torch.autocast(
            self._device.type, torch.float16, enabled=self._arithmetic == "autocast"
        )
        products = float32_products("tf32" if self._arithmetic == "tf32" else "ieee")
        with torch.inference_mode(), products, casts:
            if self._mode in GRAPH_MODES:
                mark: Any = torch.compiler.cudagraph_mark_step_begin
                mark()  # the last output may be overwritten
            return self._call(self._images)

    def _capture_or_forget(self) -> None:
        """Capture a call; after a failure the next images are captured again, not run without."""
        try:
            self._capture()
        except BaseException:
            self._forget()
            raise

    def _capture(self) -> None:
        """Record one call, after a warm-up on a separate stream, which PyTorch requires."""
        if self._fresh:
            self._first()
        side: Any = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARMUP):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other libraries' threads may allocate meanwhile: that is not part of the graph.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._output = self._run()
        self._graph = graph


def _not_open(_: Tensor) -> Any:  # noqa: ANN401 - never returns
    raise RuntimeError("the runner is not open")


def _with_kernel(module: nn.Module) -> tuple[nn.Module, str]:
    """Replace window attention by one kernel if it can run here; return words for the backend.

    Returns:
        The module, as it is or an alias with the kernel, and the words.
    """
    reason = why_not_fused()
    if reason:
        return module, f", window attention: PyTorch's own ({reason})"
    module = fuse(module)
    fused, blocks = fused_blocks(module)
    return module, f", window attention: Triton {load_kernel()} in {fused} of {blocks} blocks"


def _host_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Allocate host memory for copies of a tensor, pinned if the tensor is on a GPU."""
    return torch.empty(tensor.shape, dtype=dtype, pin_memory=tensor.is_cuda)


def _tensors(output: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - whatever a library gives
    """Return a model's outputs as a tuple: of tensors, or of the ``logits`` of transformers."""
    if isinstance(output, Tensor):
        return (output,)
    return tuple(output) if isinstance(output, tuple) else (output.logits,)


@contextlib.contextmanager
def float32_products(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Compute float32 products in float32, or on a GPU in TF32.

    This is PyTorch's older interface, which sets the newer one too. torch.compile of PyTorch 2.11
    still reads the older one, and fails where only the newer was set
    (https://github.com/pytorch/pytorch/issues/166387). For convolutions the older one leaves the
    newer open, or does not know it, so both are set.
    """
    parts: Any = torch.backends  # PyTorch's annotations lack some of them
    places = (parts.cudnn.conv, parts.mkldnn.conv)
    before = torch.get_float32_matmul_precision(), parts.cudnn.allow_tf32
    convolutions = [place.fp32_precision for place in places]
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        parts.cudnn.allow_tf32 = precision == "tf32"
        for place in places:
            place.fp32_precision = "ieee" if place is parts.mkldnn.conv else precision
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        parts.cudnn.allow_tf32 = before[1]
        for place, value in zip(places, convolutions, strict=True):
            place.fp32_precision = value
