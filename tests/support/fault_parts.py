"""What faults are, and the parts of a deploy model that they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from exporters.spec import Precision
from swin_deploy.config import SwinConfig
from swin_deploy.config.windows import reorder_index
from swin_deploy.deploy.fold_parts import block_order
from swin_deploy.deploy.model import (
    DeployModel,
    PatchMerge,
    PositionBias,
    Reorder,
    SwinBlock,
    WindowMask,
)


class AbsentPartError(Exception):
    """The model has no part that the fault could be injected into."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What is wrong, in words.
        inject: Changes a deploy model, or a graph exported from it, in place.
        target: ``module`` or ``graph``.
        precision: That the faulty model is judged in.
    """

    name: str
    inject: Callable[..., None]
    target: str = "module"
    precision: Precision = "fp32"


Inject = TypeVar("Inject", bound=Callable[..., None])
FAULTS: list[Fault] = []


def fault(
    name: str, *, target: str = "module", precision: Precision = "fp32"
) -> Callable[[Inject], Inject]:
    """Register a function ``(model, config)``, or ``(graph)``, as a fault."""

    def register(inject: Inject) -> Inject:
        FAULTS.append(Fault(name, inject, target, precision))
        return inject

    return register


# --- parts


def blocks(model: DeployModel) -> list[SwinBlock]:
    return [layer for layer in model.layers if isinstance(layer, SwinBlock)]


def shifted(model: DeployModel) -> SwinBlock:
    """The first block with a mask of its own."""
    for block in blocks(model):
        if masks(block):
            return block
    raise AbsentPartError("no block has a mask of its own")


def masks(block: SwinBlock) -> list[WindowMask]:
    return [part for part in block.attention.bias.modules() if isinstance(part, WindowMask)]


def mask_parts(model: DeployModel) -> list[Tensor]:
    """The masks by rows and by columns of the first shifted block."""
    mask = masks(shifted(model))[0]
    return [part for part in (mask.rows, mask.columns) if part is not None]


def mask_of(model: DeployModel, axis: Literal["rows", "columns"]) -> Tensor:
    """The mask by rows or by columns of the first shifted block."""
    mask = masks(shifted(model))[0]
    part = mask.rows if axis == "rows" else mask.columns
    if part is None:
        raise AbsentPartError(f"no mask by {axis}")
    return part


def biased(model: DeployModel) -> PositionBias:
    """The last block's position bias."""
    found = [m for b in blocks(model) for m in b.attention.modules() if type(m) is PositionBias]
    if not found:
        raise AbsentPartError("no position bias is a constant")
    return found[-1]


def qkv_rows(block: SwinBlock) -> tuple[Tensor, ...]:
    """Views of the qkv weights [3, heads, d, C] and, where there are any, biases [3, heads, d]."""
    layer, head_dim = block.attention.qkv, block.attention.heads.qkv_shape[-1]
    weight = layer.weight.data.view(3, -1, head_dim, layer.in_features)
    if layer.bias is None:
        return (weight,)
    return weight, layer.bias.data.view(3, -1, head_dim)


def qkv_bias(block: SwinBlock) -> Tensor:
    """View of the biases of q, k and v, [3, heads * d]; a column of the weights may hold them."""
    layer = block.attention.qkv
    if layer.bias is not None:
        return layer.bias.data.view(3, -1)
    channel = int((norms(block.norm_before_attention)[0].weight == 0).nonzero())
    return layer.weight.data[:, channel].view(3, -1)


def proj_by_head(block: SwinBlock) -> Tensor:
    """View of the projection's weights, [C, heads, d]."""
    weight = block.attention.proj.weight.data
    return weight.view(len(weight), -1, block.attention.heads.qkv_shape[-1])


def mlp_layers(block: SwinBlock) -> list[nn.Linear]:
    """The widening layer and the narrowing one."""
    return [layer for layer in block.mlp if isinstance(layer, nn.Linear)]


def swap(values: Tensor, one: int, other: int) -> None:
    """Exchange two entries of the first axis."""
    values[[one, other]] = values[[other, one]].clone()


def norms(model: nn.Module, part: nn.Module | None = None) -> list[nn.LayerNorm]:
    return [m for m in (part or model).modules() if isinstance(m, nn.LayerNorm)]


# --- token orders: every gather is made again, with one change


def rewire(
    model: DeployModel, config: SwinConfig, change: Callable[[int, str, Tensor], Tensor]
) -> None:
    """Change the orders that layers want; the rest of the stream stays consistent with them.

    Args:
        model: Changed in place.
        config: Of the model.
        change: Function of (layer, name of a reorder, wanted order) to another order.
    """
    old = new = block_order(config.stages[0])
    for index, layer in enumerate(model.layers):
        for part in ("reorder_before", "reorder_branch", "reorder_after"):
            module = getattr(layer, part, None)
            if not isinstance(module, Reorder):
                continue
            wanted = old[module.index]
            changed = change(index, part, wanted)
            setattr(layer, part, type(module)(reorder_index(new, changed)))
            if part != "reorder_branch":
                old, new = wanted, changed
        if isinstance(layer, PatchMerge):
            side = round(len(old) ** 0.5)
            old, new = (
                order[::4] // side // 2 * (side // 2) + order[::4] % side // 2
                for order in (old, new)
            )


def moved(order: Tensor, rows: int, columns: int) -> Tensor:
    """The order of a map that is rolled further."""
    side = round(len(order) ** 0.5)
    return (order // side + rows) % side * side + (order % side + columns) % side


def rewire_shifted(
    model: DeployModel, config: SwinConfig, change: Callable[[Tensor], Tensor], *, undone: bool
) -> None:
    """Change the order of the first shifted block, in and, where ``undone``, out."""
    at, part = next(
        (index, part)
        for index, layer in enumerate(model.layers)
        for part in ("reorder_branch", "reorder_before", "reorder_after")
        if isinstance(getattr(layer, part, None), Reorder)
    )
    if undone:
        rewire(
            model, config, lambda i, p, wanted: change(wanted) if (i, p) == (at, part) else wanted
        )
        return
    module = getattr(model.layers[at], part)
    slots = torch.arange(len(module.index))
    module.index.copy_(module.index[change(slots)])


def merge_index(model: DeployModel) -> Tensor:
    """The gather that puts merged tokens next to each other: the merge's, or the block's before."""
    at = next(i for i, layer in enumerate(model.layers) if isinstance(layer, PatchMerge))
    order = model.layers[at].reorder_before
    if not isinstance(order, Reorder):
        order = model.layers[at - 1].reorder_after
    assert isinstance(order, Reorder)
    return order.index
