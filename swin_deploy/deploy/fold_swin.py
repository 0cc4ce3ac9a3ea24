"""The fold of the Swin Transformers of the papers, V1 and V2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.config.windows import raster_order
from swin_deploy.deploy.fold_parts import (
    bias_in_norm,
    block_order,
    carries_pads,
    chain,
    copy_linear,
    copy_norm,
    keep_tokens,
    linear,
    merge_gather,
    patch_embed,
    pooled,
    raster_tokens,
    reorder,
    score_bias,
    split_heads,
    stage_map,
    stream_order,
)
from swin_deploy.deploy.model import (
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
    post_norm = isinstance(reference, swin_v2.SwinTransformerV2)
    order = stream_order(stages[0])
    embed = nn.Sequential(
        patch_embed(
            reference.patch_embed.proj, stages[0], image=reference.config.image, order=order
        ),
        copy_norm(reference.patch_embed.norm),
        keep_tokens(order) if post_norm else nn.Identity(),
    )
    layers: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    shown = reference.config.shown_stages if reference.config.output_name == "stages" else ()
    for index, (blocks, merge) in enumerate(reference.parts()):
        stage, tapped = stages[index], index in shown
        orders = [stream_order(stage, block.shift_size) for block in blocks]
        moves = [reorder(now, wanted) for now, wanted in pairwise([order, *orders])]
        order = orders[-1]
        join, odd = nn.Identity(), nn.Identity()
        if merge is not None:
            following = stream_order(stages[index + 1])
            join, odd = merge_gather(order, stage, following)
        enter, leave = moves, list[nn.Module](nn.Identity() for _ in blocks)
        keep = list(leave)
        if post_norm:
            enter, leave = [moves[0], *leave[1:]], [*moves[1:], leave[0] if tapped else join]
            keep = [*map(keep_tokens, orders[1:]), keep[0] if tapped else odd]
        for block, *parts in zip(blocks, enter, leave, keep, strict=True):
            layers.append(_fold_block(block, stage, parts))
        if tapped:
            norm = getattr(reference, f"norm{index}", nn.Identity())
            heads[len(layers)] = stage_map(norm, order, stage)
        if index == max(shown, default=-1):
            break  # no output comes from the later stages
        if merge is not None:
            joined = [] if leave[-1] is join else [join, odd]
            layers.append(_fold_merge(merge, chain(*joined), following, post_norm))
            order = following
    if not heads:
        heads[len(layers)] = _fold_tail(reference, order)
    return DeployModel(embed, layers, heads)


def _fold_tail(reference: swin.SwinTransformer, order: Tensor) -> nn.Module:
    output = reference.config.output_name
    if output == "tokens":
        return raster_tokens(reference.norm, order, reference.config.stages[-1])
    return pooled(reference.norm, reference.head if output == "logits" else nn.Identity(), order)


def _fold_block(block: swin.SwinBlock, stage: StageSpec, parts: Sequence[nn.Module]) -> SwinBlock:
    """Fold a block.

    Args:
        block: The reference's block.
        stage: The stage, with its token map and windows.
        parts: Gathers before and after the block, and the zeroing of pads in its output.
    """
    norms = (copy_norm(block.norm1), copy_norm(block.norm2))
    attention = _fold_attention(block.attn, block.attn_mask, stage)
    none = nn.Identity()
    post_norm = isinstance(block, swin_v2.SwinBlockV2)
    windows = block_order(stage, block.shift_size)
    zero_pads = keep_tokens(windows)
    put_in, take_out = none, none
    if not carries_pads(stage):
        stream = raster_order(stage.resolution)
        put_in, take_out = reorder(stream, windows), reorder(windows, stream)
    if post_norm:
        norms = (none, chain(take_out, norms[0]), none, norms[1])
        put_in = put_in if carries_pads(stage) else chain(put_in, zero_pads)
    else:
        before = bias_in_norm(block.norm1, attention, has_pads=stage.has_pads)
        norms = (chain(before, zero_pads), take_out, norms[1], none)
    return SwinBlock(
        reorder_before=parts[0],
        reorder_after=parts[1],
        reorder_branch=put_in,
        attention=attention,
        mlp=nn.Sequential(copy_linear(block.mlp.fc1), nn.GELU(), copy_linear(block.mlp.fc2)),
        norms=norms,
        mask_pads=parts[2],
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
        num_tokens=stage.padded.area,
    )


def _fold_merge(
    merging: swin.PatchMerging, joined: nn.Module, following: Tensor, post_norm: bool
) -> PatchMerge:
    """Fold a merge.

    Args:
        merging: The reference's merge.
        joined: Gather of the four tokens of each, or the identity.
        following: Order of the merged tokens, [M].
        post_norm: Whether the norm comes after the linear layer.
    """
    norm, none = copy_norm(merging.norm), nn.Identity()
    if post_norm:
        norm = chain(norm, keep_tokens(following))
    return PatchMerge(
        reorder_before=joined,
        linear=copy_linear(merging.reduction),
        norms=(none, norm) if post_norm else (norm, none),
        num_tokens=len(following),
    )
