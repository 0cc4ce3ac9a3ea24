"""What the folds of all families share: layers that own float32 weights, orders, biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.model import (
    Features,
    GatheredPositionBias,
    PatchEmbed,
    PositionBias,
    Reorder,
    SplitHeads,
    SplitSingleHead,
    StageMap,
    WindowMask,
)
from swin_deploy.windows import MASKED, raster_order, relative_position_index, reorder_index

LARGEST_EXPANDED_WINDOW = 8  # position bias as a constant: 64 x 64 values a head, 18 x its table
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


def score_bias(bias: Tensor, mask: Tensor | None, stage: StageSpec) -> nn.Module:
    """The module that adds a position bias and a mask to the scores of a stage.

    Args:
        bias: [num_heads, n, n], or [1, n, n] for all heads.
        mask: Additive mask, [num_windows, n, n], or None for an unshifted block.
        stage: Its windows and heads.
    """
    if mask is None:
        return _position_bias(bias, stage)
    finite = mask.masked_fill(mask == MASKED, MASKED_FINITE)
    if stage.num_heads == 1:
        return PositionBias((finite + bias)[None].float().contiguous())
    masking = WindowMask(finite[None, :, None].float().contiguous(), stage.num_heads)
    return nn.Sequential(_position_bias(bias, stage), masking)


def split_heads(split: SplitHeads, stage: StageSpec) -> SplitHeads:
    """What takes q, k and v apart as ``split`` does, in the form that ``score_bias`` needs."""
    if stage.num_heads > 1:
        return split
    return SplitSingleHead(
        split,
        num_windows=stage.num_windows,
        window_area=stage.window_area,
        head_dim=stage.dim,
    )


def _position_bias(bias: Tensor, stage: StageSpec) -> nn.Module:
    """Small windows add the bias as it is; larger ones gather it, where a table gives it back."""
    values = bias[None].float().contiguous()
    index = relative_position_index(stage.window_size).reshape(-1)
    table = torch.empty(len(bias), (2 * stage.window_size - 1) ** 2)
    table[:, index] = values.flatten(2)[0]
    given_back = torch.equal(table[:, index], values.flatten(2)[0])
    if stage.window_size <= LARGEST_EXPANDED_WINDOW or not given_back:
        return PositionBias(values)
    return GatheredPositionBias(table, index)


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
