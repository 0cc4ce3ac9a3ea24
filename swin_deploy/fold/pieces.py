"""What the folds of all families share: layers that own float32 weights, orders, biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.model import (
    Features,
    PatchEmbed,
    Reorder,
    StageMap,
)
from swin_deploy.windows import MASKED, raster_order, reorder_index

# Stands for minus infinity: exp() of it is 0 in every precision, and float16 can hold it.
MASKED_FINITE = -3e4


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A float32 linear layer that owns its weights: [out, in] and [out], zeros without a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device="cpu")
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return layer


def copy_linear(layer: nn.Module) -> nn.Linear:
    """A copy of a linear layer that owns its weights."""
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"expected a linear layer, not {type(layer).__name__}")
    return linear(layer.weight, layer.bias)


def copy_norm(layer: nn.Module) -> nn.Module:
    """A copy of a LayerNorm that owns its weights; the identity stays what it is."""
    if not isinstance(layer, nn.LayerNorm):
        return nn.Identity()
    norm = nn.LayerNorm(layer.normalized_shape, eps=layer.eps)
    norm.load_state_dict(layer.state_dict())
    return norm


def patch_embed(convolution: nn.Conv2d, stage: StageSpec) -> PatchEmbed:
    """The patch convolution as a linear layer, its tokens in the stage's window order."""
    return PatchEmbed(
        linear(convolution.weight.flatten(1), convolution.bias),
        resolution=stage.resolution,
        window_size=stage.window_size,
        patch_size=convolution.kernel_size[0],
    )


def reorder(current: Tensor, wanted: Tensor) -> nn.Module:
    """A gather from one token order to another, or the identity where they are the same."""
    if torch.equal(current, wanted):
        return nn.Identity()
    return Reorder(reorder_index(current, wanted))


def attention_bias(table: Tensor, mask: Tensor | None, num_windows: int) -> Tensor:
    """Position bias and mask as one constant, tiled over the windows only where it must be.

    Args:
        table: Position bias, [1, num_heads, n, n].
        mask: Additive mask, [num_windows, n, n], or None for an unshifted block.
        num_windows: Windows of an image.

    Returns:
        [1, num_heads, n, n], or [1, num_windows * num_heads, n, n] window by window, float32.
    """
    if mask is not None:
        tiled = table + mask[:, None]
        table = tiled.masked_fill(tiled == MASKED, MASKED_FINITE)
    elif table.shape[1] == 1:
        # TensorRT-RTX 1.7.1 does not fuse attention over a single head when the batch is dynamic;
        # over windows times heads it does. Remove when a plan with one head is fused without.
        table = table.expand(num_windows, -1, -1, -1)
    return table.reshape(1, -1, *table.shape[-2:]).float().contiguous()


def stage_map(norm: nn.Module, order: Tensor, stage: StageSpec) -> nn.Module:
    """Tokens of a stage to its feature map [B, C, H, W]."""
    side = stage.resolution
    return nn.Sequential(
        copy_norm(norm), reorder(order, raster_order(side)), StageMap(stage.dim, side)
    )


def pooled(norm: nn.Module, head: nn.Module) -> nn.Module:
    """Tokens to their normalised mean, through a head where there is one."""
    parts = [copy_norm(norm), Features()]
    if isinstance(head, nn.Linear):
        parts.append(copy_linear(head))
    return nn.Sequential(*parts)
