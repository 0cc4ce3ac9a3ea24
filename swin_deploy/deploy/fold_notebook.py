"""The fold of the notebook's model: its interleaved qkv, its displaced branch, its shared norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.config import Size, StageSpec
from swin_deploy.config.windows import boundary_mask
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
    DeployModel,
    PatchMerge,
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


def fold_notebook(reference: NotebookSwin) -> DeployModel:
    """Return the deploy model of a notebook reference, in float32, on the CPU.

    Args:
        reference: The notebook's model, on the CPU; it is not changed.
    """
    stages = reference.config.stages
    embed = nn.Sequential(
        patch_embed(
            reference.Embedding.linear_embedding,
            stages[0],
            image=reference.config.image,
            order=block_order(stages[0]),
        ),
        copy_norm(reference.Embedding.layer_norm),
        nn.ReLU(),
    )
    layers: list[nn.Module] = []
    heads: dict[int, nn.Module] = {}
    shown = reference.config.shown_stages if reference.config.output_name == "stages" else ()
    order = block_order(stages[0])
    index = 0
    for entry in reference.stages:
        if isinstance(entry, PatchMerging):
            following = block_order(stages[index + 1])
            joined, _ = merge_gather(order, stages[index], following)
            layers.append(_fold_merge(entry, joined, len(following)))
            order = following
            index += 1
        elif isinstance(entry, AlternatingEncoderBlock):
            for block in (entry.WSA, entry.SWSA):
                folded, order = _fold_block(block, stages[index], order)
                layers.append(folded)
            if index in shown and reference.ends_stage(entry):
                heads[len(layers)] = stage_map(nn.Identity(), order, stages[index])
    if not heads:
        heads[len(layers)] = _fold_tail(reference, order)
    return DeployModel(embed, layers, heads)


def _fold_tail(reference: NotebookSwin, order: Tensor) -> nn.Module:
    output = reference.config.output_name
    none = nn.Identity()
    if output == "tokens":
        return raster_tokens(none, order, reference.config.stages[-1])
    return pooled(none, reference.head if output == "logits" and reference.head else none, order)


def _fold_block(
    block: SwinEncoderBlock, stage: StageSpec, order: Tensor
) -> tuple[SwinBlock, Tensor]:
    """Return the folded block, and the token order [N] after it."""
    window = block.WMSA.window_size if block.WMSA.mask else 0
    forth, back = Size.square(-(-window // 2)), Size.square(window // 2)
    residual, branch = block_order(stage, back), block_order(stage, forth)
    attention = _fold_attention(block.WMSA, stage)
    before = bias_in_norm(block.layer_norm, attention)
    folded = SwinBlock(
        reorder_before=reorder(order, residual),
        reorder_after=nn.Identity(),
        reorder_branch=reorder(residual, branch),
        attention=attention,
        mlp=mlp(block.MLP[0], block.MLP[1], block.MLP[3]),
        norms=(before, nn.Identity(), copy_norm(block.layer_norm), nn.Identity()),
    )
    return folded, residual


def _fold_attention(attention: ShiftedWindowMSA, stage: StageSpec) -> WindowAttention:
    # Interleaved output channels, c * 3 + K, become three blocks of rows: [3C, C] -> [3, C, C].
    weight = attention.proj1.weight.double().reshape(stage.dim, 3, stage.dim).transpose(0, 1)
    bias = attention.proj1.bias.double().reshape(stage.dim, 3).T  # [3C] -> [3, C]
    scale = torch.tensor([attention.scale, 1.0, 1.0], dtype=torch.float64)
    mask = None
    if attention.mask:
        mask = boundary_mask(stage.resolution, stage.window_size, stage.shift_size)
    return WindowAttention(
        qkv=linear(  # [3, C, C] -> [3C, C], [3, C] -> [3C]
            (weight * scale[:, None, None]).flatten(0, 1), (bias * scale[:, None]).flatten()
        ),
        proj=copy_linear(attention.proj2),
        bias=score_bias(attention.embeddings.embeddings[None], mask, stage),
        heads=split_heads(stage),
        num_tokens=stage.resolution.area,
    )


def _fold_merge(merging: PatchMerging, order: nn.Module, num_tokens: int) -> PatchMerge:
    return PatchMerge(
        reorder_before=order,
        linear=copy_linear(merging.linear_layer),
        norms=(nn.Identity(), copy_norm(merging.layer_norm)),
        num_tokens=num_tokens,
    )
