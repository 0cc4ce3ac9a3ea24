"""The deploy model in the layout of CPU runtimes: the same modules and weights, in other orders.

The deploy model's layout is TensorRT's; see ``swin_deploy.deploy.cpu_model`` for that of CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.config.windows import raster_order
from swin_deploy.deploy.cpu_model import (
    CpuEqualSplitCosineHeads,
    CpuMergeGather,
    CpuQkv,
    CpuSplitCosineHeads,
    CpuSplitHeads,
    CpuWindowAttention,
    CpuWindowBias,
)
from swin_deploy.deploy.model import (
    AbsolutePositions,
    BatchFirst,
    DeployModel,
    Features,
    LargestFeatures,
    MergeGather,
    MixedFeatures,
    PatchEmbed,
    PatchMerge,
    PositionBias,
    Reorder,
    SplitCosineHeads,
    SplitHeads,
    StageMap,
    SwinBlock,
    TokenMask,
    WindowAttention,
    WindowMask,
)
from swin_deploy.reference.alias import alias


def window_slots(stage: StageSpec) -> Tensor:
    """Return the deploy model's slot of each slot in windows that lie one after the other, [slots].

    Args:
        stage: The stage, with its windows.
    """
    slots = torch.arange(stage.padded.area).reshape(stage.window_area, -1)  # [n, nW]
    return slots.transpose(0, 1).reshape(-1)  # [n, nW] -> [nW, n] -> [slots]


def stream_slots(stage: StageSpec) -> Tensor:
    """Return the deploy model's slot of each slot between the blocks of a stage, [slots].

    Args:
        stage: The stage, with its token map and windows.
    """
    return window_slots(stage) if stage.carries_pads else raster_order(stage.resolution)


@torch.no_grad()
def cpu_form(model: DeployModel, stages: Sequence[StageSpec]) -> DeployModel:
    """Return a deploy model in the layout of CPU runtimes, for the same images and outputs.

    Args:
        model: The deploy model, of images or pixels; it is not changed, and its weights are shared
            but for those of qkv.
        stages: The stages of its config.
    """
    form = alias(model)
    raster, now = raster_order(stages[0].resolution), stream_slots(stages[0])
    first, *rest = form.embed
    form.embed = nn.Sequential(
        _moved(first, raster, now), *(_moved(part, now, now) for part in rest)
    )
    number = 0
    for passed, layer in enumerate(form.layers, start=1):
        following = stream_slots(stages[min(number + 1, len(stages) - 1)])
        if isinstance(layer, PatchMerge):
            layer.reorder_before = _moved(layer.reorder_before, now, following)
            layer.mask_pads = _moved(layer.mask_pads, following, following)
            layer.norm_after = _moved(layer.norm_after, following, following)
            layer.merged = (-1, layer.merged[0], layer.merged[2])
            now, number = following, number + 1
        elif isinstance(layer, SwinBlock):
            _move_block(layer, now, window_slots(stages[number]), following)
        if str(passed) in form.heads:
            end = raster_order(stages[number].resolution)
            form.heads[str(passed)] = _moved(form.heads[str(passed)], now, end)
    return form


def _move_block(block: SwinBlock, now: Tensor, windows: Tensor, following: Tensor) -> None:
    """Bring the parts of a block to the layout.

    Args:
        block: The block; it is changed.
        now: Order of the tokens between blocks.
        windows: Order of the tokens in attention.
        following: Order of the tokens after the merge.
    """
    after = following if isinstance(block.reorder_after, MergeGather) else now
    block.reorder_before = _moved(block.reorder_before, now, now)
    block.reorder_branch = _moved(block.reorder_branch, now, windows)
    block.norm_before_attention = _moved(block.norm_before_attention, windows, windows)
    block.attention = _attention(block.attention.plain())
    block.norm_after_attention = _moved(block.norm_after_attention, windows, now)
    block.reorder_after = _moved(block.reorder_after, now, after)
    block.mask_pads = _moved(block.mask_pads, after, after)


def _moved(module: nn.Module, before: Tensor, after: Tensor) -> nn.Module:
    """Return a module for tokens [B, N, C] in other orders.

    Args:
        module: The module, of which a chain has one gather at most.
        before: Order of the tokens before that gather: the deploy model's slot of each, [N].
        after: Order after it.
    """
    if isinstance(module, nn.Sequential):
        parts = []
        for part in module:
            parts.append(_moved(part, before, after))
            if _gathers(part):
                before = after
        return nn.Sequential(*parts)
    for kind, move in MOVES.items():
        if isinstance(module, kind):
            return move(module, before, after)
    return module


def _gathers(module: nn.Module) -> bool:
    """Tell whether a module, or one inside it, changes the order of tokens."""
    return any(isinstance(one, Reorder) for one in module.modules())


def _gather(module: Reorder, before: Tensor, after: Tensor) -> Reorder:
    slot = torch.argsort(before)  # of each of the deploy model's slots
    if isinstance(module, MergeGather):
        four = module.index.reshape(-1, 4)[after]  # [4 * M] -> [M, 4]
        return CpuMergeGather(slot[four].reshape(-1))
    gather = Reorder(slot[module.index[after]])
    gather.axis = 1
    return gather


def _patch_embed(embed: PatchEmbed, *_: Tensor) -> PatchEmbed:
    (rows, columns, *windows), (batch, *pixel) = embed.axes[:4], embed.axes[4:]
    embed.axes = (batch, *windows, rows, columns, *pixel)  # [B, gh, gw, wh, ww, I, p, p]
    embed.patches = (-1, embed.patches[0], embed.patches[2])  # [B, N, I * p * p]
    return embed


def _token_mask(mask: TokenMask, before: Tensor, _: Tensor) -> TokenMask:
    return TokenMask(mask.kept.squeeze(1)[before])  # [N, 1, 1] -> [N, 1]; [M, 1, 4, 1] -> [M, 4, 1]


def _positions(module: AbsolutePositions, before: Tensor, _: Tensor) -> AbsolutePositions:
    return AbsolutePositions(module.positions.squeeze(1)[before])  # [N, 1, C] -> [N, C]


def _stage_map(module: StageMap, *_: Tensor) -> StageMap:
    rows, columns, _batch, dim = module.shape
    module.shape, module.axes = (-1, rows, columns, dim), (0, 3, 1, 2)  # [B, H, W, C]
    return module


def _pool(module: Features, *_: Tensor) -> Features:
    module.axis = 1
    return module


# Modules whose layout is another, each with the function that changes it.
MOVES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    Reorder: _gather,
    PatchEmbed: _patch_embed,
    TokenMask: _token_mask,
    AbsolutePositions: _positions,
    StageMap: _stage_map,
    Features: _pool,
    LargestFeatures: _pool,
    MixedFeatures: _pool,
    BatchFirst: lambda *_: nn.Identity(),
}


def _attention(attention: WindowAttention) -> CpuWindowAttention:
    """Return an attention module in the layout."""
    num_tokens, _, dim = attention.tokens
    heads = attention.heads
    split = CpuSplitHeads(heads)
    if isinstance(heads, SplitCosineHeads):
        equal = heads.num_heads == heads.windows[1]
        split = (CpuEqualSplitCosineHeads if equal else CpuSplitCosineHeads)(heads)
    moved = CpuWindowAttention(
        attention.qkv,
        attention.proj,
        bias=_bias(attention.bias, heads),
        heads=split,
        num_tokens=num_tokens,
    )
    moved.add_module("qkv", CpuQkv(attention.qkv))  # in place of the linear layer
    moved.tokens = (-1, num_tokens, dim)
    return moved


def _bias(bias: nn.Module, heads: SplitHeads) -> nn.Module:
    """Return the module that adds to the scores, for windows that follow one another."""
    if isinstance(bias, nn.Sequential):
        return nn.Sequential(*(_bias(part, heads) for part in bias))
    if isinstance(bias, WindowMask):
        return CpuWindowBias(bias.by_windows(), heads.num_heads)
    if isinstance(bias, PositionBias) and len(bias.bias) > 1:  # of a single head, with its mask
        return CpuWindowBias(bias.bias, heads.num_heads)
    return bias
