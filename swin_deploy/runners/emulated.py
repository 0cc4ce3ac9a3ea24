"""Parts of a module in emulated float16, bfloat16 or FP8, on any machine; a watch on operations.

Each operation in half precision takes inputs and weights rounded to the half type, computes in
float32 and rounds its result, as tensor cores and fused kernels do. Values beyond float16's range
become infinite, as on the device. Norms before MLPs are folded where half-precision files do so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from exporters.precisions import PRECISIONS, carrier_of
from exporters.quantisation import FP8, WeightScales, weight_scales
from exporters.spec import Precision
from swin_deploy.deploy.half_form import half_form
from swin_deploy.runners import Outputs, TorchRunner, torch_dtype

# Operations that change no value, and questions about a tensor.
MOVES = frozenset(
    {"__get__", "dim", "expand", "float", "index_select", "permute", "reshape", "size", "split",
     "to", "transpose", "view"}
)  # fmt: skip

# Function called for every operation that computes, with the module's path, the operation's name,
# its arguments and the call.
Handler = Callable[[str, str, tuple[Any, ...], Callable[..., Any]], Any]


class _Operations(TorchFunctionMode):
    """A mode that gives every operation that computes to a handler, with its module's path."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler
        self.path: list[str] = [""]

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - whatever PyTorch calls
        types: Any,  # noqa: ANN401 - as above
        args: Any = (),  # noqa: ANN401 - as above
        kwargs: Any = None,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        name = str(func.__name__).strip("_")
        if func.__name__ in MOVES:
            return func(*args, **(kwargs or {}))
        return self.handler(
            self.path[-1], name, args, lambda *given: func(*given, **(kwargs or {}))
        )


@contextmanager
def watch_operations(module: nn.Module, handler: Handler) -> Iterator[None]:
    """Pass every operation that ``module`` computes inside the block through ``handler``.

    Args:
        module: The module, left as it is; a submodule at several places takes their paths in turn.
        handler: Function that returns the operation's result.
    """
    mode = _Operations(handler)
    paths: dict[nn.Module, list[str]] = {}
    for path, one in module.named_modules(remove_duplicate=False):
        paths.setdefault(one, []).append(path)
    turns = {one: itertools.cycle(names) for one, names in paths.items()}
    hooks = []
    for one in paths:
        hooks.append(
            one.register_forward_pre_hook(lambda one, _: mode.path.append(next(turns[one])))
        )
        hooks.append(one.register_forward_hook(lambda *_: _pop(mode.path)))
    try:
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _pop(path: list[str]) -> None:
    path.pop()


class Stored(NamedTuple):
    """The rounding to FP8 of a linear layer.

    Attributes:
        scale: The scale of what it reads.
        weight: Scales of its weight: one of the whole, one a channel, or none if it stays half.
    """

    scale: float
    weight: WeightScales = "half"


NOTHING: Mapping[str, Stored] = MappingProxyType({})


def fp8_rounded(units: Tensor) -> Tensor:
    """Round values to FP8 as ONNX's QuantizeLinear does, which saturates; NaN stays NaN."""
    return units.clamp(-FP8.largest, FP8.largest).to(torch_dtype("fp8")).to(units.dtype)


def fp8_weight(weight: Tensor, scales: WeightScales) -> Tensor:
    """Round the weight [out, in] of a linear layer to FP8, as in a file; as it is if it is half."""
    if scales == "half":
        return weight
    spread = torch.from_numpy(
        np.asarray(weight_scales(weight.detach().float().cpu().numpy(), scales, channel=0)[1])
    ).to(weight.device)
    return (fp8_rounded(weight.float() / spread) * spread).to(weight.dtype)


class Emulated(nn.Module):
    """A float32 module of which some submodules compute in emulated half precision.

    Args:
        module: The module, in float32 and evaluation mode.
        precision: One of ``REDUCED``.
        half: Paths of the modules whose own operations are in half; by default all of them.
        keep: Paths of modules that stay float32, besides those with a true ``keep_float32``.
        stored: Rounding to FP8 of linear layers, by path.
    """

    def __init__(
        self,
        module: nn.Module,
        precision: Precision,
        *,
        half: Iterable[str] | None = None,
        keep: Iterable[str] = (),
        stored: Mapping[str, Stored] = NOTHING,
    ) -> None:
        super().__init__()
        carrier = carrier_of(precision)
        self.dtype = torch_dtype(carrier)
        self.stored = dict(stored)  # models are copied, and proxies are not
        self.values = self.beyond = 0  # stored in FP8 so far, and those that it did not hold
        named = dict(module.named_modules(remove_duplicate=False))
        own = {path for path, one in named.items() if getattr(one, "keep_float32", False)}
        self.halved = frozenset(named if half is None else half) - frozenset(keep) - own
        self.module = half_form(module, carrier, self.halved)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        with watch_operations(self.module, self._compute):
            return self.module(images)

    def _compute(
        self, path: str, name: str, args: tuple[Any, ...], call: Callable[..., Any]
    ) -> Any:  # noqa: ANN401 - as PyTorch gives it
        if path not in self.halved:
            return call(*args)
        if name == "linear" and path in self.stored:
            args = (*self._stored(self.stored[path], args[0], args[1]), *args[2:])
        return self._rounded(call(*map(self._rounded, args)))

    def _stored(self, stored: Stored, tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Round what a linear layer reads, and its weight if that is FP8; count the values."""
        units = self._rounded(tokens) / stored.scale
        self.values += units.numel()
        self.beyond += int((units.abs() > FP8.largest).sum())
        return fp8_rounded(units) * stored.scale, fp8_weight(weight, stored.weight)

    def _rounded(self, value: Any) -> Any:  # noqa: ANN401 - a tensor, or anything else
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.to(self.dtype).to(torch.float32)


class EmulatedRunner(TorchRunner):
    """The deploy model in emulated half precision, for machines that cannot run the half type.

    Args:
        name: Short name for reports.
        module: The deploy model, in float32 and evaluation mode.
        precision: One of ``REDUCED``.
        keep: Paths of the modules that stay float32.
        stored: Rounding to FP8 of linear layers, by path.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        precision: Precision,
        *,
        keep: Iterable[str] = (),
        stored: Mapping[str, Stored] = NOTHING,
    ) -> None:
        super().__init__(name, Emulated(module, precision, keep=keep, stored=stored))
        self.precision = precision
        self.backend = f"{self.backend}, {PRECISIONS[precision].dtype} emulated in float32"
        self._told = self.backend

    def fetch(self) -> Outputs:
        ran = self._call  # the copy that the runner opened
        if isinstance(ran, Emulated) and ran.beyond:
            share = 100 * ran.beyond / ran.values
            self.backend = f"{self._told}, {share:.2g} % of the FP8 values saturated"
        return super().fetch()
