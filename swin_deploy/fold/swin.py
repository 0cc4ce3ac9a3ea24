"""Fold the Swin Transformers of the papers, V1 and V2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.fold.pieces import (
    copy_linear,
    copy_norm,
    linear,
    patch_embed,
    pooled,
    reorder,
    score_bias,
    split_heads,
    stage_map,
)
from swin_deploy.model import (
    DeployModel,
    PatchMerge,
    SplitCosineHeads,
    SplitHeads,
    SwinBlock,
    WindowAttention,
)
from swin_deploy.reference import swin, swin_v2
from swin_deploy.windows import merge_order, raster_order, window_order


def fold_swin(reference: swin.SwinTransformer) -> DeployModel:
    """The deploy model of a V1 or V2 reference, on the same device, in float32."""
    stages = reference.config.stages
    embed = nn.Sequential(
        patch_embed(reference.patch_embed.proj, stages[0]), copy_norm(reference.patch_embed.norm)
    )
    layers: list[nn.Module] = []
    taps: dict[int, nn.Module] = {}
    order = window_order(stages[0].resolution, stages[0].window_size)
    for index, (blocks, merge) in enumerate(reference.parts()):
        stage = stages[index]
        for block in blocks:
            shifted = window_order(stage.resolution, stage.window_size, block.shift_size)
            layers.append(_fold_block(block, stage, reorder(order, shifted)))
            order = shifted
        if reference.config.output_name == "stages":
            norm = getattr(reference, f"norm{index}", nn.Identity())
            taps[len(layers)] = stage_map(norm, order, stage)
        if merge is not None:
            following = stages[index + 1]
            neighbours = merge_order(stage.resolution, following.window_size)
            layers.append(_fold_merge(merge, reorder(order, neighbours), len(order)))
            order = window_order(following.resolution, following.window_size)
    if not taps:
        taps[len(layers)] = _fold_tail(reference, order)
    return DeployModel(embed, layers, taps)


def _fold_tail(reference: swin.SwinTransformer, order: Tensor) -> nn.Module:
    output = reference.config.output_name
    if output == "tokens":
        raster = raster_order(reference.config.stages[-1].resolution)
        return nn.Sequential(copy_norm(reference.norm), reorder(order, raster))
    return pooled(reference.norm, reference.head if output == "logits" else nn.Identity())


def _fold_block(block: swin.SwinBlock, stage: StageSpec, order: nn.Module) -> SwinBlock:
    norms = (copy_norm(block.norm1), copy_norm(block.norm2))
    none = nn.Identity()
    behind = isinstance(block, swin_v2.SwinBlockV2)
    return SwinBlock(
        order=order,
        displace=none,
        attention=_fold_attention(block.attn, block.attn_mask, stage),
        mlp=nn.Sequential(copy_linear(block.mlp.fc1), nn.GELU(), copy_linear(block.mlp.fc2)),
        norms=(none, norms[0], none, norms[1]) if behind else (norms[0], none, norms[1], none),
    )


def _fold_attention(attention: nn.Module, mask: Tensor | None, stage: StageSpec) -> WindowAttention:
    wide = attention.double()
    split = SplitHeads(stage.num_heads)
    if isinstance(wide, swin_v2.WindowAttentionV2):
        weight, bias = wide.qkv.weight, wide.qkv_bias()
        split = SplitCosineHeads(wide.temperature())
    elif isinstance(wide, swin.WindowAttention):
        scale = torch.ones(3, 1, dtype=torch.float64)
        scale[0] = wide.scale
        scale = scale.expand(3, stage.dim).reshape(-1)
        weight, bias = wide.qkv.weight * scale[:, None], wide.qkv.bias * scale
    else:
        raise TypeError(f"cannot fold attention of type {type(attention).__name__}")
    return WindowAttention(
        qkv=linear(weight, bias),
        proj=copy_linear(wide.proj),
        bias=score_bias(wide.position_bias(), mask, stage),
        heads=split_heads(split, stage),
        window_area=stage.window_area,
        num_tokens=stage.resolution**2,
    )


def _fold_merge(merging: swin.PatchMerging, order: nn.Module, num_tokens: int) -> PatchMerge:
    behind = isinstance(merging, swin_v2.PatchMergingV2)
    norm, none = copy_norm(merging.norm), nn.Identity()
    return PatchMerge(
        order=order,
        linear=copy_linear(merging.reduction),
        norms=(none, norm) if behind else (norm, none),
        num_tokens=num_tokens // 4,
    )
