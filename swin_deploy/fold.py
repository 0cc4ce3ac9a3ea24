"""Fold a reference model's weights into the constants of the deploy model.

What a reference computes at run time but does not depend on the image is computed here once, in
float64: the score scale goes into the query weights, position tables and masks into one additive
constant, rolls and window partitions into gather indices.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from swin_deploy.config import StageSpec
from swin_deploy.model import (
    DeployModel,
    MeanPool,
    PatchEmbed,
    PatchMerge,
    Reorder,
    SwinBlock,
    WindowAttention,
)
from swin_deploy.reference.notebook import (
    AlternatingEncoderBlock,
    NotebookSwin,
    PatchMerging,
    ShiftedWindowMSA,
    SwinEncoderBlock,
)
from swin_deploy.windows import (
    MASKED,
    boundary_mask,
    merge_order,
    raster_order,
    reorder_index,
    window_order,
)

# Stands for minus infinity: exp() of it is 0 in every precision, and float16 can hold it.
MASKED_FINITE = -3e4


@torch.no_grad()
def fold(reference: NotebookSwin) -> DeployModel:
    """The deploy model that computes what ``reference`` computes in evaluation mode.

    Args:
        reference: A model of ``swin_deploy.reference``; it is not changed.

    Returns:
        A float32 model in evaluation mode that owns its weights, on the CPU.
    """
    reference = copy.deepcopy(reference).cpu()
    config = reference.config
    stages = config.stages
    convolution = reference.Embedding.linear_embedding
    embed = nn.Sequential(
        PatchEmbed(
            _linear(convolution.weight.flatten(1), convolution.bias),
            resolution=stages[0].resolution,
            window_size=stages[0].window_size,
            patch_size=config.patch_size,
        ),
        _norm(reference.Embedding.layer_norm),
        nn.ReLU(),
    )
    layers: list[nn.Module] = []
    order = window_order(stages[0].resolution, stages[0].window_size)
    stage_index = 0
    for entry in reference.stages:
        stage = stages[stage_index]
        if isinstance(entry, PatchMerging):
            stage_index += 1
            following = stages[stage_index]
            neighbours = merge_order(stage.resolution, following.window_size)
            layers.append(_fold_merge(entry, order, neighbours))
            order = window_order(following.resolution, following.window_size)
        elif isinstance(entry, AlternatingEncoderBlock):
            for block in (entry.WSA, entry.SWSA):
                folded, order = _fold_block(block, stage, order)
                layers.append(folded)
    tail = _fold_tail(reference, order)
    return DeployModel(embed, layers, tail).eval().requires_grad_(requires_grad=False)


def _fold_block(
    block: SwinEncoderBlock, stage: StageSpec, order: Tensor
) -> tuple[SwinBlock, Tensor]:
    """The folded block and the order it leaves the stream in."""
    forth = -(-stage.window_size // 2) if block.WMSA.mask else 0
    back = stage.window_size // 2 if block.WMSA.mask else 0
    residual = window_order(stage.resolution, stage.window_size, back)
    branch = window_order(stage.resolution, stage.window_size, forth)
    folded = SwinBlock(
        order=_reorder(order, residual),
        displace=_reorder(residual, branch),
        attention=_fold_attention(block.WMSA, stage),
        mlp=nn.Sequential(_copy(block.MLP[0]), nn.GELU(), _copy(block.MLP[3])),
        norms=(_norm(block.layer_norm), nn.Identity(), _norm(block.layer_norm), nn.Identity()),
    )
    return folded, residual


def _fold_attention(attention: ShiftedWindowMSA, stage: StageSpec) -> WindowAttention:
    heads, area = stage.num_heads, stage.window_area
    # Interleaved output channels, c * 3 + K, become three blocks of rows.
    weight = attention.proj1.weight.double().reshape(stage.dim, 3, stage.dim).transpose(0, 1)
    bias = attention.proj1.bias.double().reshape(stage.dim, 3).T
    scale = torch.tensor([attention.scale, 1.0, 1.0], dtype=torch.float64)
    bias_table = attention.embeddings.embeddings.double().expand(1, heads, area, area)
    mask = None
    if attention.mask:
        grid = stage.resolution // stage.window_size
        mask = boundary_mask(stage.window_size, grid, stage.window_size // 2)
    return WindowAttention(
        qkv=_linear(
            (weight * scale[:, None, None]).flatten(0, 1), (bias * scale[:, None]).flatten()
        ),
        proj=_copy(attention.proj2),
        bias=_attention_bias(bias_table, mask, stage.num_windows),
        num_heads=heads,
        num_tokens=stage.resolution**2,
    )


def _attention_bias(table: Tensor, mask: Tensor | None, num_windows: int) -> Tensor:
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


def _fold_merge(merging: PatchMerging, order: Tensor, neighbours: Tensor) -> PatchMerge:
    return PatchMerge(
        order=_reorder(order, neighbours),
        linear=_copy(merging.linear_layer),
        norms=(nn.Identity(), _norm(merging.layer_norm)),
        num_tokens=len(order) // 4,
    )


def _fold_tail(reference: NotebookSwin, order: Tensor) -> nn.Module:
    if isinstance(reference.head, nn.Linear):
        return nn.Sequential(MeanPool(), _copy(reference.head))
    return _reorder(order, raster_order(reference.config.stages[-1].resolution))


def _reorder(current: Tensor, wanted: Tensor) -> nn.Module:
    if torch.equal(current, wanted):
        return nn.Identity()
    return Reorder(reorder_index(current, wanted))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A float32 linear layer that owns its weights: [out, in] and [out], zeros without a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device="cpu")
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return layer


def _copy(layer: nn.Module) -> nn.Linear:
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"expected a linear layer, not {type(layer).__name__}")
    return _linear(layer.weight, layer.bias)


def _norm(layer: nn.LayerNorm) -> nn.LayerNorm:
    norm = nn.LayerNorm(layer.normalized_shape, eps=layer.eps)
    norm.load_state_dict(layer.state_dict())
    return norm
