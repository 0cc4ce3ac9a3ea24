"""Scale moved from the weights of qkv into the norm before it, for products in 8-bit integers.

The bias of ``qkv`` lies in one column of its weights (``bias_in_norm``), which reads a constant.
A weight has one int8 scale for each output, so a large bias makes the steps of all other weights
of its row coarse. Channels whose weights are large therefore give a part of their size to the norm:
its gain and shift are multiplied, and the column of weights is divided. All factors are powers of
two, so the model computes the same float32 values to the bit.

Source: SmoothQuant, arXiv 2211.10438, equation 4; here the sizes of activations are those that the
norm's own gain and shift give, so that no image is needed and none is favoured.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.deploy.model import DeployModel, SwinBlock
from swin_deploy.reference.alias import alias

STRENGTH = 0.5  # 0 leaves all scale in the weights, 1 leaves none
DEVIATIONS = 4.0  # of normalised channels, that a channel reaches over some images
MOST = 6  # the power of two of the largest factor


@torch.no_grad()
def migrate_scales(model: DeployModel) -> DeployModel:
    """Return the model with scale moved from ``qkv`` to the norm before it, in every block.

    Args:
        model: The deploy model in float32; it is not changed.

    Returns:
        A model that computes the same values to the bit, and shares all other weights. Blocks
        without a norm before attention (V2) stay as they are.
    """
    moved = alias(model)
    for block in moved.layers:
        if isinstance(block, SwinBlock):
            norm = next(
                (one for one in block.norm_before_attention.modules() if _is_norm(one)), None
            )
            if isinstance(norm, nn.LayerNorm):
                _move(norm, block.attention.qkv)
    return moved


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm)


def _move(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """Give both new weights; the old ones are shared with the model that they come from."""
    factors = migration_factors(norm, linear)
    norm.weight, norm.bias = _constant(norm.weight * factors), _constant(norm.bias * factors)
    linear.weight = _constant(linear.weight / factors)  # [3C, C] / [C]


def migration_factors(norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """Return the factor of each channel between a norm and the linear layer after it, [C].

    Args:
        norm: The norm, with a gain and a shift.
        linear: The linear layer.

    Returns:
        Powers of two, with a geometric mean near 1; 1 for a channel that is 0 on one side.
    """
    values = norm.weight.double().abs() * DEVIATIONS + norm.bias.double().abs()
    weights = linear.weight.double().abs().amax(dim=0)
    used = (values > 0) & (weights > 0) & values.isfinite() & weights.isfinite()
    powers = torch.zeros_like(values)
    powers[used] = (1 - STRENGTH) * weights[used].log2() - STRENGTH * values[used].log2()
    powers[used] -= powers[used].mean() if used.any() else 0.0
    return torch.exp2(powers.round().clamp(-MOST, MOST)).float()


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
