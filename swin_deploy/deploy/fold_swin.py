"""The fold of the Swin Transformers of the papers, V1 and V2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.config.windows import PAD, raster_order
from swin_deploy.deploy.cosine_attention import Stream, with_length_factors
from swin_deploy.deploy.fold_parts import (
    bias_in_norm,
    block_order,
    chain,
    copy_linear,
    copy_norm,
    keep_tokens,
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
    stream_order,
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

# V2's scores lie between minus the temperature and the temperature plus 16. Beyond this one a pair
# that the mask of -100 keeps apart may have a share of attention, as it has in every library.
STEEP = 33.0


def fold_swin(reference: swin.SwinTransformer) -> DeployModel:
    """Return the deploy model of a V1 or V2 reference, in float32, on the CPU.

    Args:
        reference: The model of the paper, on the CPU; it is not changed.
    """
    stages = reference.config.stages
    post_norm = isinstance(reference, swin_v2.SwinTransformerV2)
    order = stream_order(stages[0])
    embed = _fold_embed(reference, order)
    stream = _embedded(reference)
    layers: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    shown = reference.config.shown_stages if reference.config.output_name == "stages" else ()
    for index, (blocks, merge) in enumerate(reference.parts()):
        stage, tapped = stages[index], index in shown
        following = stream_order(stages[index + 1]) if merge is not None else None
        orders = [order, *(stream_order(stage, block.shift_size) for block in blocks)]
        order = orders[-1]
        gathers: tuple[nn.Module, nn.Module] = (nn.Identity(), nn.Identity())
        if following is not None:
            gathers = merge_gather(order, stage, following)
        inside = post_norm and not tapped  # the last block gathers for the merge
        rest = gathers if inside else (nn.Identity(), nn.Identity())
        for block, moves in zip(blocks, _moves(orders, rest, post_norm=post_norm), strict=True):
            layers.append(_fold_block(block, stage, moves, stream))
            stream = stream.plus(block.norm1, block.norm2)
        if tapped:
            norm = getattr(reference, f"norm{index}", nn.Identity())
            heads[len(layers)] = stage_map(norm, order, stage)
        if index == max(shown, default=-1):
            break  # no output comes from the later stages
        if merge is not None and following is not None:
            joined = (nn.Identity(), nn.Identity()) if inside else gathers
            layers.append(_fold_merge(merge, joined, following, post_norm=post_norm))
            order, stream = following, Stream().plus(merge.norm)
    if not heads:
        heads[len(layers)] = _fold_tail(reference, order)
    return DeployModel(embed, layers, heads)


@dataclass(frozen=True)
class _Moves:
    """The gathers before and after a block, and the zeroing of pads in its output."""

    before: nn.Module
    after: nn.Module
    mask: nn.Module


def _moves(
    orders: list[Tensor], rest: tuple[nn.Module, nn.Module], *, post_norm: bool
) -> Iterator[_Moves]:
    """Yield the moves of each block of a stage.

    Args:
        orders: Order of the tokens before the stage, and in each block.
        rest: Gather for the merge that follows the last block, and zeroing after it.
        post_norm: Whether blocks gather for the next one, where they come to its order.
    """
    gathers = [reorder(now, wanted) for now, wanted in pairwise(orders)]
    if not post_norm:
        yield from (_Moves(gather, nn.Identity(), nn.Identity()) for gather in gathers)
        return
    before = [gathers[0], *(nn.Identity() for _ in gathers[1:])]
    after = [*gathers[1:], rest[0]]
    masks = [*map(keep_tokens, orders[2:]), rest[1]]
    yield from map(_Moves, before, after, masks)


def _fold_embed(reference: swin.SwinTransformer, order: Tensor) -> nn.Sequential:
    stage, embed = reference.config.stages[0], reference.patch_embed
    patches = patch_embed(embed.proj, stage, image=reference.config.image, order=order)
    parts = [patches, copy_norm(embed.norm)]
    places = reference.absolute_pos_embed
    if places is not None:  # [1, N, C] in raster order -> [N, 1, C] in the stream's
        values = places.transpose(0, 1)[order.clamp(min=0)]
        parts.append(AbsolutePositions(values.float().contiguous()))
    if isinstance(reference, swin_v2.SwinTransformerV2) and (order == PAD).any():
        parts.append(keep_tokens(order))
    return nn.Sequential(*parts)


def _embedded(reference: swin.SwinTransformer) -> Stream:
    """Return the stream before the first block."""
    places = reference.absolute_pos_embed
    constants = () if places is None else (places,)
    return Stream(constants=constants).plus(reference.patch_embed.norm)


def _fold_tail(reference: swin.SwinTransformer, order: Tensor) -> nn.Module:
    output = reference.config.output_name
    if output == "tokens":
        return raster_tokens(reference.norm, order, reference.config.stages[-1])
    head = reference.head if output == "logits" else nn.Identity()
    return pooled(reference.norm, head, order, reference.config.pool)


def _fold_block(
    block: swin.SwinBlock, stage: StageSpec, moves: _Moves, stream: Stream
) -> SwinBlock:
    attention = _fold_attention(block.attn, block.attn_mask, stage)
    windows = block_order(stage, block.shift_size)
    put_in: nn.Module = nn.Identity()
    take_out: nn.Module = nn.Identity()
    if not stage.carries_pads:
        raster = raster_order(stage.resolution)
        put_in, take_out = reorder(raster, windows), reorder(windows, raster)
    none, second = nn.Identity(), copy_norm(block.norm2)
    if isinstance(block, swin_v2.SwinBlockV2):
        norms: tuple[nn.Module, nn.Module, nn.Module, nn.Module] = (
            none,
            chain(take_out, copy_norm(block.norm1)),
            none,
            second,
        )
        put_in = put_in if stage.carries_pads else chain(put_in, keep_tokens(windows))
        attention = with_length_factors(attention, stream)
    else:
        first = bias_in_norm(block.norm1, attention, has_pads=stage.has_pads)
        norms = (chain(first, keep_tokens(windows)), take_out, second, none)
    return SwinBlock(
        reorder_before=moves.before,
        reorder_after=moves.after,
        reorder_branch=put_in,
        attention=attention,
        mlp=mlp(block.mlp.fc1, block.mlp.act, block.mlp.fc2),
        norms=norms,
        mask_pads=moves.mask,
    )


def _fold_attention(attention: nn.Module, mask: Tensor | None, stage: StageSpec) -> WindowAttention:
    wide = alias(attention).double()
    heads, exact = split_heads(stage), False
    if isinstance(wide, swin_v2.WindowAttentionV2):
        weight, bias = wide.qkv.weight, wide.qkv_bias()
        heads = split_heads(stage, wide.temperature())
        exact = bool(wide.temperature().max() > STEEP)
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
        bias=score_bias(wide.position_bias(), mask, stage, exact=exact),
        heads=heads,
        num_tokens=stage.padded.area,
    )


def _fold_merge(
    merging: swin.PatchMerging,
    joined: tuple[nn.Module, nn.Module],
    following: Tensor,
    *,
    post_norm: bool,
) -> PatchMerge:
    """Fold a merge.

    Args:
        merging: The reference's merge.
        joined: Gather of the four tokens of each, and zeroing after it; each may be the identity.
        following: Order of the merged tokens, [M].
        post_norm: Whether the norm comes after the linear layer.
    """
    norm, none = copy_norm(merging.norm), nn.Identity()
    if post_norm:
        norm = chain(norm, keep_tokens(following))
    return PatchMerge(
        reorder_before=joined[0],
        mask_pads=joined[1],
        linear=copy_linear(merging.reduction),
        norms=(none, norm) if post_norm else (norm, none),
        num_tokens=len(following),
    )
