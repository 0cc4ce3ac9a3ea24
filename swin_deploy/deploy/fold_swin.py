"""The fold of the Swin Transformers of the papers, V1 and V2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.deploy.fold_parts import (
    bias_in_norm,
    block_order,
    copy_linear,
    copy_norm,
    linear,
    merge_gather,
    mlp,
    patch_embed,
    pooled,
    raster_tokens,
    reorder,
    score_bias,
    split_heads,
    stage_map,
)
from swin_deploy.deploy.model import (
    AbsolutePositions,
    DeployModel,
    PatchMerge,
    SwinBlock,
    WindowAttention,
)
from swin_deploy.reference import swin, swin_v2
from swin_deploy.reference.alias import alias


def fold_swin(reference: swin.SwinTransformer) -> DeployModel:
    """Return the deploy model of a V1 or V2 reference, in float32, on the CPU.

    Args:
        reference: The model of the paper, on the CPU; it is not changed.
    """
    stages = reference.config.stages
    order = block_order(stages[0])
    embed = _fold_embed(reference, order)
    layers: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    shown = reference.config.shown_stages if reference.config.output_name == "stages" else ()
    for index, (blocks, merge) in enumerate(reference.parts()):
        stage, tapped = stages[index], index in shown
        orders = [block_order(stage, block.shift_size) for block in blocks]
        moves = [reorder(now, wanted) for now, wanted in pairwise([order, *orders])]
        order = orders[-1]
        join = merge_gather(order, stage, stages[index + 1]) if merge is not None else nn.Identity()
        enter, reorder_after = moves, list[nn.Module](nn.Identity() for _ in blocks)
        if isinstance(blocks[0], swin_v2.SwinBlockV2):
            enter, reorder_after = (
                [moves[0], *reorder_after[1:]],
                [*moves[1:], reorder_after[0] if tapped else join],
            )
        for block, *reorders in zip(blocks, enter, reorder_after, strict=True):
            layers.append(_fold_block(block, stage, reorders))
        if tapped:
            norm = getattr(reference, f"norm{index}", nn.Identity())
            heads[len(layers)] = stage_map(norm, order, stage)
        if index == max(shown, default=-1):
            break  # no output comes from the later stages
        if merge is not None:
            joined = nn.Identity() if reorder_after[-1] is join else join
            layers.append(_fold_merge(merge, joined, len(order)))
            order = block_order(stages[index + 1])
    if not heads:
        heads[len(layers)] = _fold_tail(reference, order)
    return DeployModel(embed, layers, heads)


def _fold_embed(reference: swin.SwinTransformer, order: Tensor) -> nn.Sequential:
    stage, embed = reference.config.stages[0], reference.patch_embed
    parts = [patch_embed(embed.proj, stage), copy_norm(embed.norm)]
    places = reference.absolute_pos_embed
    if places is not None:  # [1, N, C] in raster order -> [N, 1, C] in window order
        parts.append(AbsolutePositions(places.transpose(0, 1)[order].float().contiguous()))
    return nn.Sequential(*parts)


def _fold_tail(reference: swin.SwinTransformer, order: Tensor) -> nn.Module:
    output = reference.config.output_name
    if output == "tokens":
        return raster_tokens(reference.norm, order, reference.config.stages[-1])
    head = reference.head if output == "logits" else nn.Identity()
    return pooled(reference.norm, head, reference.config.pool)


def _fold_block(
    block: swin.SwinBlock, stage: StageSpec, reorders: Sequence[nn.Module]
) -> SwinBlock:
    norms = (copy_norm(block.norm1), copy_norm(block.norm2))
    attention = _fold_attention(block.attn, block.attn_mask, stage)
    none = nn.Identity()
    behind = isinstance(block, swin_v2.SwinBlockV2)
    if not behind:
        norms = (bias_in_norm(block.norm1, attention), norms[1])
    return SwinBlock(
        reorder_before=reorders[0],
        reorder_after=reorders[1],
        reorder_branch=none,
        attention=attention,
        mlp=mlp(block.mlp.fc1, block.mlp.act, block.mlp.fc2),
        norms=(none, norms[0], none, norms[1]) if behind else (norms[0], none, norms[1], none),
    )


def _fold_attention(attention: nn.Module, mask: Tensor | None, stage: StageSpec) -> WindowAttention:
    wide = alias(attention).double()
    heads = split_heads(stage)
    if isinstance(wide, swin_v2.WindowAttentionV2):
        weight, bias = wide.qkv.weight, wide.qkv_bias()
        heads = split_heads(stage, wide.temperature())
    elif isinstance(wide, swin.WindowAttention):
        scale = torch.ones(3, 1, dtype=torch.float64)
        scale[0] = wide.scale
        scale = scale.expand(3, stage.dim).reshape(-1)  # [3, 1] -> [3, C] -> [3C]
        weight, bias = wide.qkv.weight * scale[:, None], wide.qkv.bias * scale
    else:
        raise TypeError(f"cannot fold attention of type {type(attention).__name__}")
    return WindowAttention(
        qkv=linear(weight, bias),
        proj=copy_linear(wide.proj),
        bias=score_bias(wide.position_bias(), mask, stage),
        heads=heads,
        num_tokens=stage.resolution.area,
    )


def _fold_merge(merging: swin.PatchMerging, order: nn.Module, num_tokens: int) -> PatchMerge:
    behind = isinstance(merging, swin_v2.PatchMergingV2)
    norm, none = copy_norm(merging.norm), nn.Identity()
    return PatchMerge(
        reorder_before=order,
        linear=copy_linear(merging.reduction),
        norms=(none, norm) if behind else (norm, none),
        num_tokens=num_tokens // 4,
    )
