"""The modules of the activations that ``config.activations`` names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from swin_deploy.config.activations import Activation

QUICK_SCALE = 1.702  # of quick GELU's sigmoid: github.com/hendrycks/GELUs


class QuickGelu(nn.Module):
    """The product of a tensor and the sigmoid of its ``QUICK_SCALE`` multiple."""

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(QUICK_SCALE * values)


MODULES: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "quick_gelu": QuickGelu,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hard_swish": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def activation(name: Activation) -> nn.Module:
    """Return a new module of an activation."""
    return MODULES[name]()
