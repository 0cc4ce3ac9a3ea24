"""Faults in the layers of a deploy model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fault_parts import (
    AbsentPartError,
    biased,
    blocks,
    fault,
    mask_of,
    mask_parts,
    merge_index,
    mlp_layers,
    moved,
    norms,
    proj_by_head,
    qkv_bias,
    qkv_rows,
    rewire_shifted,
    swap,
)
from torch import Tensor, nn

from swin_deploy.config import SwinConfig
from swin_deploy.deploy.cosine_attention import CosineAttention
from swin_deploy.deploy.fold_parts import block_order
from swin_deploy.deploy.model import DeployModel, PatchEmbed


@fault("shift off by one")
def _(model: DeployModel, config: SwinConfig) -> None:
    rewire_shifted(model, config, lambda order: moved(order, 1, 1), undone=True)


@fault("shift off by one, rows only")
def _(model: DeployModel, config: SwinConfig) -> None:
    rewire_shifted(model, config, lambda order: moved(order, 1, 0), undone=True)


@fault("shift the other way")
def _(model: DeployModel, config: SwinConfig) -> None:
    back = -2 * config.stages[0].shift_size.rows
    rewire_shifted(model, config, lambda order: moved(order, back, back), undone=True)


@fault("shift missing, mask left")
def _(model: DeployModel, config: SwinConfig) -> None:
    rewire_shifted(model, config, lambda _: block_order(config.stages[0]), undone=True)


def by_window(model: DeployModel, config: SwinConfig, change: Callable[[Tensor], None]) -> None:
    """Change the slots [n, num_windows] that enter the first shifted block, in place."""

    def changed(slots: Tensor) -> Tensor:
        slots = slots.clone()
        change(slots.view(config.stages[0].window_area, -1))
        return slots

    rewire_shifted(model, config, changed, undone=False)


@fault("two windows swapped in one block")
def _(model: DeployModel, config: SwinConfig) -> None:
    by_window(model, config, lambda slots: swap(slots.T, 0, 1))


@fault("two tokens of a window swapped in one block")
def _(model: DeployModel, config: SwinConfig) -> None:
    by_window(model, config, lambda slots: swap(slots[:, 0], 0, 1))


@fault("rows and columns exchanged in one window")
def _(model: DeployModel, config: SwinConfig) -> None:
    window = config.stages[0].window_size

    def transposed(slots: Tensor) -> None:
        slots[:, 0] = slots[:, 0].view(window).T.reshape(-1)

    by_window(model, config, transposed)


@fault("merge order row by row")
def _(model: DeployModel, config: SwinConfig) -> None:
    index = merge_index(model)
    index.copy_(index.view(-1, 4)[:, [0, 2, 1, 3]].reshape(-1))


@fault("merge order, one group only")
def _(model: DeployModel, config: SwinConfig) -> None:
    swap(merge_index(model), 5, 6)


@fault("two merged tokens swapped")
def _(model: DeployModel, config: SwinConfig) -> None:
    swap(merge_index(model).view(-1, 4), 0, 1)


# --- masks


@fault("mask missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    for mask in mask_parts(model):
        mask.zero_()


@fault("mask missing on rows only")
def _(model: DeployModel, config: SwinConfig) -> None:
    mask_of(model, "rows").zero_()


@fault("mask missing on columns only")
def _(model: DeployModel, config: SwinConfig) -> None:
    mask_of(model, "columns").zero_()


@fault("mask of the last row of windows missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    mask_of(model, "rows")[-1].zero_()


@fault("mask lets one pair through")
def _(model: DeployModel, config: SwinConfig) -> None:
    mask = mask_of(model, "rows")
    place = (mask < 0).nonzero()[0]
    mask[tuple(place)] = 0.0


@fault("mask too weak: -2 for minus infinity")
def _(model: DeployModel, config: SwinConfig) -> None:
    for mask in mask_parts(model):
        mask.copy_(mask.clamp(min=-2.0))


@fault("mask forbids one pair too many")
def _(model: DeployModel, config: SwinConfig) -> None:
    mask = mask_of(model, "rows")
    place = (mask == 0.0).nonzero()[-2]
    mask[tuple(place)] = mask.min()


# --- position bias


@fault("bias table transposed")
def _(model: DeployModel, config: SwinConfig) -> None:
    bias = biased(model).bias
    bias.copy_(bias.transpose(-1, -2).clone())


@fault("one head's bias dropped")
def _(model: DeployModel, config: SwinConfig) -> None:
    biased(model).bias[:, 0].zero_()


@fault("bias of one pair nudged")
def _(model: DeployModel, config: SwinConfig) -> None:
    biased(model).bias[0, -1, 1, 2] += 0.1


@fault("bias off by one key")
def _(model: DeployModel, config: SwinConfig) -> None:
    bias = biased(model).bias
    bias.copy_(bias.roll(1, -1))


@fault("bias missing in one block")
def _(model: DeployModel, config: SwinConfig) -> None:
    biased(model).bias.zero_()


# --- queries, keys, values


@fault("queries and keys swapped")
def _(model: DeployModel, config: SwinConfig) -> None:
    for values in qkv_rows(blocks(model)[-1]):
        swap(values, 0, 1)


@fault("keys and values swapped")
def _(model: DeployModel, config: SwinConfig) -> None:
    for values in qkv_rows(blocks(model)[-1]):
        swap(values, 1, 2)


@fault("qkv interleaved")
def _(model: DeployModel, config: SwinConfig) -> None:
    layer = blocks(model)[0].attention.qkv
    for values in layer.parameters():
        apart = values.data.view(3, -1, *values.shape[1:])
        values.data = apart.transpose(0, 1).reshape(values.shape)


@fault("two heads of the queries swapped")
def _(model: DeployModel, config: SwinConfig) -> None:
    for values in qkv_rows(blocks(model)[-1]):
        if values.shape[1] < 2:
            raise AbsentPartError("one head")
        swap(values[0], 0, 1)


@fault("scale twice")
def _(model: DeployModel, config: SwinConfig) -> None:
    if config.family == "swinv2":
        raise AbsentPartError("lengths do not matter to cosine attention")
    for values in qkv_rows(blocks(model)[-1]):
        values[0] *= values.shape[2] ** -0.5


@fault("scale of the whole width for that of a head")
def _(model: DeployModel, config: SwinConfig) -> None:
    if config.family == "swinv2":
        raise AbsentPartError("lengths do not matter to cosine attention")
    for values in qkv_rows(blocks(model)[-1]):
        if values.shape[1] < 2:
            raise AbsentPartError("one head")
        values[0] *= values.shape[1] ** -0.5


@fault("temperature of one head 1 % off")
def _(model: DeployModel, config: SwinConfig) -> None:
    found = [m for m in model.modules() if isinstance(m, CosineAttention)]
    if not found:
        raise AbsentPartError("no cosine attention")
    found[-1].query_factor.scale[0] *= 1.01


@fault("lengths of the keys not one")
def _(model: DeployModel, config: SwinConfig) -> None:
    found = [m for m in model.modules() if isinstance(m, CosineAttention)]
    if not found:
        raise AbsentPartError("no cosine attention")
    found[-1].key_factor.scale[-1] *= 1.01


@fault("query bias missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    attention = blocks(model)[0].attention
    if isinstance(attention, CosineAttention):
        attention.query_bias.zero_()
    else:
        qkv_bias(blocks(model)[0])[0].zero_()


@fault("value bias missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    if isinstance(blocks(model)[0].attention, CosineAttention):
        raise AbsentPartError("the projection's bias has it")
    qkv_bias(blocks(model)[0])[2].zero_()


# --- projection, norms, MLP


@fault("projection takes heads in another order")
def _(model: DeployModel, config: SwinConfig) -> None:
    weight = proj_by_head(blocks(model)[-1])
    if weight.shape[1] < 2:
        raise AbsentPartError("one head")
    weight.copy_(weight.roll(1, 1))


@fault("projection bias missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    blocks(model)[0].attention.proj.bias.data.zero_()


@fault("norm eps 1e-3 for 1e-5")
def _(model: DeployModel, config: SwinConfig) -> None:
    norms(model, blocks(model)[-1])[0].eps = 1e-3


@fault("norm eps 1e-6 for 1e-5, everywhere")
def _(model: DeployModel, config: SwinConfig) -> None:
    for norm in norms(model):
        norm.eps = 1e-6


@fault("norm of the MLP branch missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    block = blocks(model)[-1]
    name = "norm_after_mlp" if config.family == "swinv2" else "norm_before_mlp"
    setattr(block, name, nn.Identity())


@fault("gain of one norm channel dropped")
def _(model: DeployModel, config: SwinConfig) -> None:
    norms(model, blocks(model)[-1])[-1].weight.data[3] = 1.0


@fault("tanh GELU for exact")
def _(model: DeployModel, config: SwinConfig) -> None:
    for block in blocks(model):
        block.mlp[1] = nn.GELU(approximate="tanh")


@fault("tanh GELU for exact in one block")
def _(model: DeployModel, config: SwinConfig) -> None:
    blocks(model)[-1].mlp[1] = nn.GELU(approximate="tanh")


@fault("ReLU for GELU in one block")
def _(model: DeployModel, config: SwinConfig) -> None:
    blocks(model)[0].mlp[1] = nn.ReLU()


@fault("MLP bias missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    mlp_layers(blocks(model)[-1])[1].bias.data.zero_()


@fault("MLP branch twice")
def _(model: DeployModel, config: SwinConfig) -> None:
    for values in mlp_layers(blocks(model)[0])[1].parameters():
        values.data *= 2


@fault("one weight bit-flipped in the exponent")
def _(model: DeployModel, config: SwinConfig) -> None:
    weight = mlp_layers(blocks(model)[0])[0].weight.data
    weight.view(torch.int32)[3, 5] ^= 1 << 24


@fault("one weight with the sign flipped")
def _(model: DeployModel, config: SwinConfig) -> None:
    mlp_layers(blocks(model)[-1])[1].weight.data[1, 2] *= -1


@fault("weights of one layer rounded to bfloat16")
def _(model: DeployModel, config: SwinConfig) -> None:
    weight = mlp_layers(blocks(model)[-1])[0].weight.data
    weight.copy_(weight.bfloat16().float())


@fault("weights of one layer rounded to float16")
def _(model: DeployModel, config: SwinConfig) -> None:
    weight = blocks(model)[0].attention.qkv.weight.data
    weight.copy_(weight.half().float())


# --- embedding and head


def embed_linear(model: DeployModel) -> nn.Linear:
    assert isinstance(model.embed[0], PatchEmbed)
    return model.embed[0].linear


def embed_weight(model: DeployModel) -> Tensor:
    """View of the patch embedding's weights, [C, 3, rows, columns]."""
    weight = embed_linear(model).weight.data
    side = round((weight.shape[1] // 3) ** 0.5)
    return weight.view(len(weight), 3, side, side)


@fault("wrong image normalisation")
def _(model: DeployModel, config: SwinConfig) -> None:
    layer, weight = embed_linear(model), embed_weight(model)
    ratio = torch.tensor([0.229, 0.224, 0.225])[:, None, None] / 0.25
    layer.bias.data += (weight * 0.05).sum((1, 2, 3))
    weight *= ratio


@fault("colours in the order BGR")
def _(model: DeployModel, config: SwinConfig) -> None:
    embed_weight(model).copy_(embed_weight(model).flip(1))


@fault("patches transposed")
def _(model: DeployModel, config: SwinConfig) -> None:
    embed_weight(model).copy_(embed_weight(model).transpose(2, 3).clone())


@fault("norm behind the embedding missing")
def _(model: DeployModel, config: SwinConfig) -> None:
    if not isinstance(model.embed[1], nn.LayerNorm):
        raise AbsentPartError("no norm there")
    model.embed[1] = nn.Identity()


def last_head(model: DeployModel) -> nn.Sequential:
    head = list(model.heads.values())[-1]
    assert isinstance(head, nn.Sequential)
    return head


@fault("two classes swapped")
def _(model: DeployModel, config: SwinConfig) -> None:
    head = last_head(model)[2]
    assert isinstance(head, nn.Linear)
    swap(head.weight.data, 0, 1)
    swap(head.bias.data, 0, 1)


@fault("mean over the tokens leaves one out")
def _(model: DeployModel, config: SwinConfig) -> None:
    tail = last_head(model)

    class Shorter(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens[1:].mean(dim=0)

    tail[1] = Shorter()
