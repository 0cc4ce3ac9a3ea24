"""What the folds of all families share: layers that own float32 weights, orders, biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.config import Size, StageSpec
from swin_deploy.config.sizes import NONE
from swin_deploy.config.windows import (
    MASKED,
    merge_order,
    offsets,
    raster_order,
    relative_position_index,
    reorder_index,
    window_order,
)
from swin_deploy.deploy.model import (
    BatchFirst,
    Features,
    GatheredPositionBias,
    MergeGather,
    PatchEmbed,
    PositionBias,
    Reorder,
    SplitCosineHeads,
    SplitHeads,
    StageMap,
    WindowAttention,
    WindowMask,
)

# Tokens in a window whose position bias is a constant: 64 x 64 values a head, 18 x its table.
LARGEST_EXPANDED_AREA = 64
# Stands for minus infinity: exp() of it is 0 in every precision, and float16 can hold it.
MASKED_FINITE = -3e4


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A float32 linear layer that owns its weights: [out, in] and [out]."""
    outputs, inputs = weight.shape
    empty = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer = empty.to_empty(device="cpu")
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
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


def bias_in_norm(norm: nn.LayerNorm, attention: WindowAttention) -> nn.LayerNorm:
    """Take the bias out of ``attention.qkv``, and give the LayerNorm that makes up for it.

    Normalised channels sum to zero, so one of them follows from the others. It becomes the
    constant 1, and its column the bias; the column with the smallest weights, for the others
    must stand in for it.

    Args:
        norm: The norm before the attention; it is not changed.
        attention: Its ``qkv`` is replaced.
    """
    weight = attention.qkv.weight.double()
    bias = attention.qkv.bias.double() + weight @ norm.bias.double()
    scaled = weight * norm.weight.double()
    channel = int(scaled.norm(dim=0).argmin())
    scaled = scaled - scaled[:, channel, None]
    scaled[:, channel] = bias
    plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    plain.weight[channel], plain.bias[channel] = 0.0, 1.0
    attention.qkv = linear(scaled, None)
    return plain


def block_order(stage: StageSpec, shift: Size = NONE) -> Tensor:
    """The order of a stage's tokens in the stream, for windows shifted by ``shift`` tokens."""
    return _by_place(window_order(stage.resolution, stage.window_size, shift), stage)


def merge_gather(order: Tensor, stage: StageSpec, following: StageSpec) -> MergeGather:
    """What brings the tokens of a stage next to those that one of the following is merged from."""
    wanted = _by_place(merge_order(stage.resolution, following.window_size), following)
    return MergeGather(reorder_index(order, wanted))


def _by_place(windows: Tensor, stage: StageSpec) -> Tensor:
    """The first place of every window, then the second, from places window by window."""
    places = windows.reshape(stage.num_windows, stage.window_area, -1)
    return places.transpose(0, 1).reshape(-1)


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
        return PositionBias((finite + bias)[:, None].float().contiguous())
    masking = WindowMask(finite[:, None, None].float().contiguous(), stage.num_heads)
    return nn.Sequential(_position_bias(bias, stage), masking)


def split_heads(stage: StageSpec, temperature: Tensor | None = None) -> SplitHeads:
    """What takes q, k and v apart, in the form that ``score_bias`` needs.

    Args:
        stage: Its windows and heads.
        temperature: V2's, [num_heads, 1, 1].
    """
    windows = stage.num_windows, stage.window_area
    if temperature is None:
        return SplitHeads(stage.num_heads, stage.dim // stage.num_heads, windows=windows)
    return SplitCosineHeads(temperature, stage.dim // stage.num_heads, windows=windows)


def _position_bias(bias: Tensor, stage: StageSpec) -> nn.Module:
    """Small windows add the bias as it is; larger ones gather it, where a table gives it back."""
    values = bias[None].float().contiguous().clone()  # which may still be the reference's own
    index = relative_position_index(stage.window_size).reshape(-1)
    table = torch.empty(len(bias), offsets(stage.window_size).area)
    table[:, index] = values.flatten(2)[0]
    given_back = torch.equal(table[:, index], values.flatten(2)[0])
    if stage.window_area <= LARGEST_EXPANDED_AREA or not given_back:
        return PositionBias(values)
    return GatheredPositionBias(table, index)


def stage_map(norm: nn.Module, order: Tensor, stage: StageSpec) -> nn.Module:
    """Tokens of a stage to its feature map [B, C, H, W]."""
    return nn.Sequential(
        copy_norm(norm),
        reorder(order, raster_order(stage.resolution)),
        StageMap(stage.dim, stage.resolution),
    )


def raster_tokens(norm: nn.Module, order: Tensor, stage: StageSpec) -> nn.Module:
    """Tokens of a stage, normalised, to [B, N, C] row by row."""
    return nn.Sequential(
        copy_norm(norm), reorder(order, raster_order(stage.resolution)), BatchFirst()
    )


def pooled(norm: nn.Module, head: nn.Module) -> nn.Module:
    """Tokens to their normalised mean, through a head where there is one."""
    parts = [copy_norm(norm), Features()]
    if isinstance(head, nn.Linear):
        parts.append(copy_linear(head))
    return nn.Sequential(*parts)
