"""A float32 model whose linear layers round to 8-bit integers, each tensor by its own range.

This is what integers cost at best, apart from the scales of any file: the noise floor of int8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from exporters.int8 import LARGEST_WEIGHT, LEVELS

FLOAT32 = {"embed", "head", "heads", "cpb_mlp"}  # float32 in int8 files, or constants


class RoundedLinears(nn.Module):
    """A model whose linear layers inside the stages read and hold 8-bit integers.

    Args:
        module: The module to run, in float32: a reference, a deploy model, or one with it inside.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.weights = {
            id(one.weight)
            for path, one in module.named_modules()
            if isinstance(one, nn.Linear) and not FLOAT32 & set(path.split("."))
        }

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        with _Rounding(self.weights):
            return self.module(images)


class _Rounding(TorchFunctionMode):
    """A mode in which linear layers of some weights round what they read, and the weights."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - whatever PyTorch calls
        types: Any,  # noqa: ANN401 - as above
        args: Any = (),  # noqa: ANN401 - as above
        kwargs: Any = None,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        if func is F.linear and id(args[1]) in self.weights:
            data, weight, *rest = args
            args = (rounded_data(data), rounded_weight(weight), *rest)
        return func(*args, **(kwargs or {}))


def rounded_data(values: Tensor) -> Tensor:
    """Return values rounded to unsigned 8-bit integers over their own range."""
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    scale = ((high - low) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-low / scale).round()
    return ((values / scale).round() + zero).clamp(0, LEVELS).sub(zero) * scale


def rounded_weight(weight: Tensor) -> Tensor:
    """Return weights [out, in] rounded to signed 8-bit integers, each output by its largest."""
    scale = weight.abs().amax(dim=1, keepdim=True) / LARGEST_WEIGHT
    scale = torch.where(scale > 0, scale, 1.0)
    return (weight / scale).round() * scale
