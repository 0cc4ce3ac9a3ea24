"""A module in PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.arrays import plain_array
from exporters.spec import Precision
from swin_deploy.reference.alias import alias
from swin_deploy.runners.base import Outputs, Runner, plain_images

TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class TorchRunner(Runner):
    """A module in PyTorch, on the GPU if there is one that PyTorch can use, else on the CPU.

    Float32 means float32: TF32 and every other short cut of float32 arithmetic is off during
    ``execute``, and as before afterwards.

    Args:
        name: Short name for reports.
        module: Model to run, in evaluation mode; it is never changed.
        precision: ``fp16`` or ``bf16`` runs a copy with half weights and activations.
    """

    def __init__(self, name: str, module: nn.Module, precision: Precision = "fp32") -> None:
        self.name = name
        self.precision = precision
        self._dtype = TORCH_DTYPES[precision]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        self.backend = f"PyTorch {torch.__version__}, {place}"
        self._source = module
        self._images = torch.empty(0)
        self._output: Tensor | tuple[Tensor, ...] = ()

    def __enter__(self) -> Self:
        self._module = alias(self._source).eval().to(self._device, self._dtype)
        return self

    def __exit__(self, *exc_info: object) -> None:
        del self._module
        self._images, self._output = torch.empty(0), ()

    def prepare(self, images: NDArray[np.float32]) -> None:
        ready = plain_images(images, self.name)
        self._images = torch.tensor(ready, dtype=self._dtype, device=self._device)

    def execute(self) -> None:
        with torch.inference_mode(), _strict_float32():
            self._output = self._module(self._images)

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def fetch(self) -> Outputs:
        outputs = self._output if isinstance(self._output, tuple) else (self._output,)
        return tuple(plain_array(one.float().cpu().numpy(), np.float32) for one in outputs)


@contextlib.contextmanager
def _strict_float32() -> Iterator[None]:
    """Compute float32 products in float32, on the GPU and on the CPU."""
    parts: Any = torch.backends  # PyTorch's annotations lack some of them
    places = (parts.cuda.matmul, parts.cudnn.conv, parts.mkldnn.matmul, parts.mkldnn.conv)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
