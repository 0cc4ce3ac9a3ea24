"""Faults to inject into a deploy model or its ONNX file, one at a time: parity must reject each.

A fault changes one thing of a fresh model in place, or says that the model has no such part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from exporters.spec import Precision
from swin_deploy.config import SwinConfig
from swin_deploy.fold.pieces import block_order
from swin_deploy.model import (
    CosineNormalize,
    DeployModel,
    PatchMerge,
    PositionBias,
    Reorder,
    SwinBlock,
    WindowMask,
)
from swin_deploy.windows import reorder_index


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


FAULTS: list[Fault] = []


def fault(name: str, *, target: str = "module", precision: Precision = "fp32"):
    """Register a function ``(model, config)``, or ``(graph)``, as a fault."""

    def register(inject: Callable[..., None]) -> Callable[..., None]:
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


def biased(model: DeployModel) -> PositionBias:
    """The last block's position bias."""
    found = [m for b in blocks(model) for m in b.attention.modules() if type(m) is PositionBias]
    if not found:
        raise AbsentPartError("no position bias is a constant")
    return found[-1]


def qkv_rows(block: SwinBlock) -> tuple[Tensor, ...]:
    """Views of the qkv weights [3, heads, d, C] and, where there are any, biases [3, heads, d]."""
    layer, head_dim = block.attention.qkv, block.attention.heads.by_place[-1]
    weight = layer.weight.data.view(3, -1, head_dim, layer.in_features)
    if layer.bias is None:
        return (weight,)
    return weight, layer.bias.data.view(3, -1, head_dim)


def qkv_bias(block: SwinBlock) -> Tensor:
    """View of the biases of q, k and v, [3, heads * d]; a column of the weights may hold them."""
    layer = block.attention.qkv
    if layer.bias is not None:
        return layer.bias.data.view(3, -1)
    channel = int((block.norm_before_attention.weight == 0).nonzero())
    return layer.weight.data[:, channel].view(3, -1)


def proj_by_head(block: SwinBlock) -> Tensor:
    """View of the projection's weights, [C, heads, d]."""
    weight = block.attention.proj.weight.data
    return weight.view(len(weight), -1, block.attention.heads.by_place[-1])


def swap(values: Tensor, one: int, other: int) -> None:
    """Exchange two entries of the first axis."""
    values[[one, other]] = values[[other, one]].clone()


def norms(model: DeployModel, part: nn.Module | None = None) -> list[nn.LayerNorm]:
    return [m for m in (part or model).modules() if isinstance(m, nn.LayerNorm)]


# --- token orders: every gather is made again, with one change


def rewire(
    model: DeployModel, config: SwinConfig, change: Callable[[int, str, Tensor], Tensor]
) -> None:
    """Change the orders that layers want; the rest of the stream stays consistent with them.

    Args:
        model: Changed in place.
        config: Of the model.
        change: From (layer, ``order``, ``displace`` or ``leave``, wanted order) to another order.
    """
    old = new = block_order(config.stages[0])
    for index, layer in enumerate(model.layers):
        for part in ("order", "displace", "leave"):
            module = getattr(layer, part, None)
            if not isinstance(module, Reorder):
                continue
            wanted = old[module.index]
            changed = change(index, part, wanted)
            setattr(layer, part, type(module)(reorder_index(new, changed)))
            if part != "displace":
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
        for part in ("displace", "order", "leave")
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
    order = model.layers[at].order
    return (order if isinstance(order, Reorder) else model.layers[at - 1].leave).index


@fault("shift off by one")
def _(model, config):
    rewire_shifted(model, config, lambda order: moved(order, 1, 1), undone=True)


@fault("shift off by one, rows only")
def _(model, config):
    rewire_shifted(model, config, lambda order: moved(order, 1, 0), undone=True)


@fault("shift the other way")
def _(model, config):
    back = -2 * (config.stages[0].window_size // 2)
    rewire_shifted(model, config, lambda order: moved(order, back, back), undone=True)


@fault("shift missing, mask left")
def _(model, config):
    rewire_shifted(model, config, lambda _: block_order(config.stages[0]), undone=True)


def by_window(model: DeployModel, config: SwinConfig, change: Callable[[Tensor], None]) -> None:
    """Change the slots [n, num_windows] that enter the first shifted block, in place."""

    def changed(slots: Tensor) -> Tensor:
        slots = slots.clone()
        change(slots.view(config.stages[0].window_area, -1))
        return slots

    rewire_shifted(model, config, changed, undone=False)


@fault("two windows swapped in one block")
def _(model, config):
    by_window(model, config, lambda slots: swap(slots.T, 0, 1))


@fault("two tokens of a window swapped in one block")
def _(model, config):
    by_window(model, config, lambda slots: swap(slots[:, 0], 0, 1))


@fault("rows and columns exchanged in one window")
def _(model, config):
    side = config.stages[0].window_size

    def transposed(slots: Tensor) -> None:
        slots[:, 0] = slots[:, 0].view(side, side).T.reshape(-1)

    by_window(model, config, transposed)


@fault("merge order row by row")
def _(model, config):
    index = merge_index(model)
    index.copy_(index.view(-1, 4)[:, [0, 2, 1, 3]].reshape(-1))


@fault("merge order, one group only")
def _(model, config):
    swap(merge_index(model), 5, 6)


@fault("two merged tokens swapped")
def _(model, config):
    swap(merge_index(model).view(-1, 4), 0, 1)


# --- masks


@fault("mask missing")
def _(model, config):
    masks(shifted(model))[0].mask.zero_()


@fault("mask missing on rows only")
def _(model, config):
    mask = masks(shifted(model))[0].mask
    side = round(mask.shape[-1] ** 0.5)
    column = torch.arange(side * side) % side
    # A pair in the same column is kept apart by its rows alone.
    mask.masked_fill_(column[:, None] == column[None], 0.0)


@fault("mask of one window missing")
def _(model, config):
    mask = masks(shifted(model))[0].mask
    mask[-1].zero_()


@fault("mask lets one pair through")
def _(model, config):
    mask = masks(shifted(model))[0].mask
    place = (mask < 0).nonzero()[0]
    mask[tuple(place)] = 0.0


@fault("mask too weak: -2 for minus infinity")
def _(model, config):
    mask = masks(shifted(model))[0].mask
    mask.copy_(mask.clamp(min=-2.0))


@fault("mask forbids one pair too many")
def _(model, config):
    mask = masks(shifted(model))[0].mask
    place = (mask == 0.0).nonzero()[-2]
    mask[tuple(place)] = mask.min()


# --- position bias


@fault("bias table transposed")
def _(model, config):
    bias = biased(model).bias
    bias.copy_(bias.transpose(-1, -2).clone())


@fault("one head's bias dropped")
def _(model, config):
    biased(model).bias[:, 0].zero_()


@fault("bias of one pair nudged")
def _(model, config):
    biased(model).bias[0, -1, 1, 2] += 0.1


@fault("bias off by one key")
def _(model, config):
    bias = biased(model).bias
    bias.copy_(bias.roll(1, -1))


@fault("bias missing in one block")
def _(model, config):
    biased(model).bias.zero_()


# --- queries, keys, values


@fault("queries and keys swapped")
def _(model, config):
    for values in qkv_rows(blocks(model)[-1]):
        swap(values, 0, 1)


@fault("keys and values swapped")
def _(model, config):
    for values in qkv_rows(blocks(model)[-1]):
        swap(values, 1, 2)


@fault("qkv interleaved")
def _(model, config):
    layer = blocks(model)[0].attention.qkv
    for values in layer.parameters():
        apart = values.data.view(3, -1, *values.shape[1:])
        values.data = apart.transpose(0, 1).reshape(values.shape)


@fault("two heads of the queries swapped")
def _(model, config):
    for values in qkv_rows(blocks(model)[-1]):
        if values.shape[1] < 2:
            raise AbsentPartError("one head")
        swap(values[0], 0, 1)


@fault("scale twice")
def _(model, config):
    if config.family == "swinv2":
        raise AbsentPartError("lengths do not matter to cosine attention")
    for values in qkv_rows(blocks(model)[-1]):
        values[0] *= values.shape[2] ** -0.5


@fault("scale of the whole width for that of a head")
def _(model, config):
    if config.family == "swinv2":
        raise AbsentPartError("lengths do not matter to cosine attention")
    for values in qkv_rows(blocks(model)[-1]):
        if values.shape[1] < 2:
            raise AbsentPartError("one head")
        values[0] *= values.shape[1] ** -0.5


@fault("temperature of one head 1 % off")
def _(model, config):
    found = [m for m in model.modules() if isinstance(m, CosineNormalize)]
    if not found:
        raise AbsentPartError("no cosine attention")
    found[-1].scale[0] *= 1.01


@fault("lengths of the keys not one")
def _(model, config):
    found = [m for m in model.modules() if isinstance(m, CosineNormalize)]
    if not found:
        raise AbsentPartError("no cosine attention")
    found[-1].scale[-1] *= 1.01


@fault("query bias missing")
def _(model, config):
    qkv_bias(blocks(model)[0])[0].zero_()


@fault("value bias missing")
def _(model, config):
    qkv_bias(blocks(model)[0])[2].zero_()


# --- projection, norms, MLP


@fault("projection takes heads in another order")
def _(model, config):
    weight = proj_by_head(blocks(model)[-1])
    if weight.shape[1] < 2:
        raise AbsentPartError("one head")
    weight.copy_(weight.roll(1, 1))


@fault("projection bias missing")
def _(model, config):
    blocks(model)[0].attention.proj.bias.data.zero_()


@fault("norm eps 1e-3 for 1e-5")
def _(model, config):
    norms(model, blocks(model)[-1])[0].eps = 1e-3


@fault("norm eps 1e-6 for 1e-5, everywhere")
def _(model, config):
    for norm in norms(model):
        norm.eps = 1e-6


@fault("norm of the MLP branch missing")
def _(model, config):
    block = blocks(model)[-1]
    name = "norm_after_mlp" if config.family == "swinv2" else "norm_before_mlp"
    setattr(block, name, nn.Identity())


@fault("gain of one norm channel dropped")
def _(model, config):
    norms(model, blocks(model)[-1])[-1].weight.data[3] = 1.0


@fault("tanh GELU for exact")
def _(model, config):
    for block in blocks(model):
        block.mlp[1] = nn.GELU(approximate="tanh")


@fault("tanh GELU for exact in one block")
def _(model, config):
    blocks(model)[-1].mlp[1] = nn.GELU(approximate="tanh")


@fault("ReLU for GELU in one block")
def _(model, config):
    blocks(model)[0].mlp[1] = nn.ReLU()


@fault("MLP bias missing")
def _(model, config):
    blocks(model)[-1].mlp[2].bias.data.zero_()


@fault("MLP branch twice")
def _(model, config):
    for values in blocks(model)[0].mlp[2].parameters():
        values.data *= 2


@fault("one weight bit-flipped in the exponent")
def _(model, config):
    weight = blocks(model)[0].mlp[0].weight.data
    weight.view(torch.int32)[3, 5] ^= 1 << 24


@fault("one weight with the sign flipped")
def _(model, config):
    blocks(model)[-1].mlp[2].weight.data[1, 2] *= -1


@fault("weights of one layer rounded to bfloat16")
def _(model, config):
    weight = blocks(model)[-1].mlp[0].weight.data
    weight.copy_(weight.bfloat16().float())


@fault("weights of one layer rounded to float16")
def _(model, config):
    weight = blocks(model)[0].attention.qkv.weight.data
    weight.copy_(weight.half().float())


# --- embedding and head


def embed_weight(model: DeployModel) -> Tensor:
    """View of the patch embedding's weights, [C, 3, rows, columns]."""
    weight = model.embed[0].linear.weight.data
    side = round((weight.shape[1] // 3) ** 0.5)
    return weight.view(len(weight), 3, side, side)


@fault("wrong image normalisation")
def _(model, config):
    layer, weight = model.embed[0].linear, embed_weight(model)
    ratio = torch.tensor([0.229, 0.224, 0.225])[:, None, None] / 0.25
    layer.bias.data += (weight * 0.05).sum((1, 2, 3))
    weight *= ratio


@fault("colours in the order BGR")
def _(model, config):
    embed_weight(model).copy_(embed_weight(model).flip(1))


@fault("patches transposed")
def _(model, config):
    embed_weight(model).copy_(embed_weight(model).transpose(2, 3).clone())


@fault("norm behind the embedding missing")
def _(model, config):
    if not isinstance(model.embed[1], nn.LayerNorm):
        raise AbsentPartError("no norm there")
    model.embed[1] = nn.Identity()


@fault("two classes swapped")
def _(model, config):
    head = list(model.taps.values())[-1][2]
    swap(head.weight.data, 0, 1)
    swap(head.bias.data, 0, 1)


@fault("mean over the tokens leaves one out")
def _(model, config):
    tail = list(model.taps.values())[-1]

    class Shorter(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens[1:].mean(dim=0)

    tail[1] = Shorter()


# --- what only some batches or some inputs show


class Disturbed(nn.Module):
    """A module, and what happens to its input first."""

    def __init__(self, module: nn.Module, disturb: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.disturb = disturb

    def forward(self, values: Tensor) -> Tensor:
        return self.module(self.disturb(values))


def disturb(model: DeployModel, change: Callable[[Tensor], Tensor]) -> None:
    model.embed[0] = Disturbed(model.embed[0], change)


@fault("the last row of larger batches is off")
def _(model, config):
    def change(images: Tensor) -> Tensor:
        if len(images) < 3:
            return images
        return torch.cat((images[:-1], images[-1:] * 1.001))

    disturb(model, change)


@fault("rows depend on the batch's mean")
def _(model, config):
    disturb(model, lambda images: images + 1e-3 * images.mean(dim=0, keepdim=True))


@fault("rows of a batch exchanged")
def _(model, config):
    disturb(model, lambda images: images.flip(0) if len(images) == 3 else images)


@fault("the first row of a batch for all of them, where they are alike")
def _(model, config):
    def change(images: Tensor) -> Tensor:
        near = (images - images[:1]).abs().amax((1, 2, 3), keepdim=True) < 5.0
        return torch.where(near, images[:1], images)

    disturb(model, change)


@fault("NaN for an image that is zero everywhere")
def _(model, config):
    def change(images: Tensor) -> Tensor:
        size = images.abs().amax((1, 2, 3), keepdim=True)
        return images * (size / size)

    disturb(model, change)


@fault("bright pixels clipped")
def _(model, config):
    white = min((1 - m) / s for m, s in zip(*_levels(config), strict=True))
    disturb(model, lambda images: images.clamp(max=0.98 * white))


@fault("dark pixels clipped")
def _(model, config):
    black = max(-m / s for m, s in zip(*_levels(config), strict=True))
    disturb(model, lambda images: images.clamp(min=0.98 * black))


def _levels(config: SwinConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return config.preprocessing.mean, config.preprocessing.std


@fault("one pixel of the image ignored")
def _(model, config):
    def change(images: Tensor) -> Tensor:
        images = images.clone()
        images[:, 0, images.shape[2] // 2, images.shape[3] // 2] = 0.0
        return images

    disturb(model, change)


# --- half precision


@fault("overflow in one block", precision="fp16")
def _(model, config):
    scale_values(blocks(model)[-1], 2.0**17)


@fault("underflow in one block", precision="fp16")
def _(model, config):
    scale_values(blocks(model)[-1], 2.0**-22)


def scale_values(block: SwinBlock, factor: float) -> None:
    """Values times a power of two, the projection divided by it: the same in float32."""
    for rows in qkv_rows(block):
        rows[2] *= factor
    block.attention.proj.weight.data /= factor


@fault("weights of every MLP in eight bits", precision="fp16")
def _(model, config):
    for block in blocks(model):
        for layer in (block.mlp[0], block.mlp[2]):
            step = layer.weight.data.abs().max() / 127
            layer.weight.data = (layer.weight.data / step).round() * step


@fault("mask missing, float16", precision="fp16")
def _(model, config):
    masks(shifted(model))[0].mask.zero_()


@fault("bias table transposed, float16", precision="fp16")
def _(model, config):
    bias = biased(model).bias
    bias.copy_(bias.transpose(-1, -2).clone())


# --- the ONNX file


def nodes(graph: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    found = [node for node in graph.graph.node if node.op_type == operator]
    if not found:
        raise AbsentPartError(f"no {operator}")
    return found


def change_constant(
    graph: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    tensor = next(entry for entry in graph.graph.initializer if entry.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def constants(graph: onnx.ModelProto, ending: str) -> list[str]:
    found = [entry.name for entry in graph.graph.initializer if entry.name.endswith(ending)]
    if not found:
        raise AbsentPartError(f"no constant {ending}")
    return found


@fault("softmax over the queries", target="graph")
def _(graph):
    nodes(graph, "Softmax")[-1].attribute[0].i = -2


@fault("LayerNorm epsilon", target="graph")
def _(graph):
    for attribute in nodes(graph, "LayerNormalization")[0].attribute:
        if attribute.name == "epsilon":
            attribute.f = 1e-3


@fault("Tanh for Erf in one block", target="graph")
def _(graph):
    nodes(graph, "Erf")[-1].op_type = "Tanh"


@fault("two entries of a gather swapped", target="graph")
def _(graph):
    name = nodes(graph, "Gather")[0].input[1]

    def swapped(index: np.ndarray) -> np.ndarray:
        index[[0, 9]] = index[[9, 0]]
        return index

    change_constant(graph, name, swapped)


@fault("a residual lost", target="graph")
def _(graph):
    """The last sum of two activations of one block gets the branch twice."""
    known = {entry.name for entry in graph.graph.initializer}
    sums = [
        node
        for node in nodes(graph, "Add")
        if not set(node.input) & known and node.name.count("/") <= 2
    ]
    sums[-1].input[0] = sums[-1].input[1]


@fault("one weight bit-flipped in the file", target="graph")
def _(graph):
    def flipped(values: np.ndarray) -> np.ndarray:
        values.view(np.int32).reshape(-1)[7] ^= 1 << 23
        return values

    largest = max(
        (entry for entry in graph.graph.initializer if entry.data_type == 1),
        key=lambda entry: np.prod(entry.dims),
    )
    change_constant(graph, largest.name, flipped)


@fault("mask missing in the file", target="graph")
def _(graph):
    change_constant(graph, constants(graph, ".mask")[0], np.zeros_like)
