"""Wrong readings of pads and of rectangular windows, each as a deploy model that follows it."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import peers
import torch
from fault_parts import AbsentPartError, blocks, qkv_bias
from torch import Tensor, nn

from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import Size, StageSpec, SwinConfig
from swin_deploy.config.windows import PAD, boundary_mask, relative_position_index
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_parts import block_order
from swin_deploy.deploy.model import DeployModel, PatchMerge, TokenMask
from swin_deploy.reference import build_reference, swin

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "depths": (2, 2, 2),
    "num_heads": (2, 4, 8),
    "num_classes": 10,
    "window_size": 4,
    "pads": "pad-then-roll",
    "window_rule": "torchvision",
}
# Sizes of maps; "carried" is a first stage of 23 x 24 tokens in 24 x 24 slots, whose rows are odd.
SUBJECTS: dict[str, dict[str, Any]] = {
    "carried V1": {"img_size": (92, 96)},
    "carried V2": {"img_size": (92, 96), "family": "swinv2"},
    "put in V1": {"img_size": (52, 84)},
    "put in V2": {"img_size": (52, 84), "family": "swinv2"},
    "timm's order": {"img_size": (52, 84), "pads": "roll-then-pad", "window_rule": "timm"},
    "rectangular windows": {"img_size": (52, 116), "window_size": ((4, 6),) * 3},
}


@functools.cache
def padded_model(name: str) -> LoadedModel:
    """A model of ``SUBJECTS`` with values such as training leaves."""
    config = SwinConfig(**({"family": "swin"} | TINY | SUBJECTS[name]))
    reference = peers.trained_like(build_reference(config))
    return LoadedModel(name, config, reference, None, "", library_steps(config))


Wrong = Callable[[LoadedModel], DeployModel]
PAD_FAULTS: dict[str, Wrong] = {}


def pad_fault(name: str) -> Callable[[Wrong], Wrong]:
    """Register a function from a correct model to the deploy model of a wrong reading."""

    def register(wrong: Wrong) -> Wrong:
        PAD_FAULTS[name] = wrong
        return wrong

    return register


def _of_config(loaded: LoadedModel, **changes: Any) -> DeployModel:  # noqa: ANN401 - fields
    config = dataclasses.replace(loaded.config, **changes)
    reference = build_reference(config).eval()
    reference.load_state_dict(loaded.reference.state_dict())
    return fold(reference)


def _of_blocks(loaded: LoadedModel, change: Callable[[swin.SwinBlock], None]) -> DeployModel:
    """The deploy model of a reference whose blocks are changed."""
    reference = copy.deepcopy(loaded.reference)
    for module in reference.modules():
        if isinstance(module, swin.SwinBlock):
            change(module)
    return fold(reference)


def _first_padded(loaded: LoadedModel) -> StageSpec:
    return next(stage for stage in loaded.config.stages if stage.has_pads)


@pad_fault("roll and pad swapped")
def _(loaded: LoadedModel) -> DeployModel:
    rolled = loaded.config.pads == "roll-then-pad"
    return _of_config(loaded, pads="pad-then-roll" if rolled else "roll-then-pad")


@pad_fault("an axis that a window covers is shifted")
def _(loaded: LoadedModel) -> DeployModel:
    if all(all(stage.shift_size) for stage in loaded.config.stages):
        raise AbsentPartError("no window covers a map")
    return _of_config(loaded, window_rule="always")


@pad_fault("seam on the map without its pads")
def _(loaded: LoadedModel) -> DeployModel:
    def move(block: swin.SwinBlock) -> None:
        if block.attn_mask is None:
            return
        stage, shift = block.stage, block.shift_size
        more = (
            whole - side + by if by else 0
            for whole, side, by in zip(stage.padded, stage.resolution, shift, strict=True)
        )
        mask = boundary_mask(stage.padded, stage.window_size, Size(*more))
        block.attn_mask.copy_(torch.zeros_like(mask).masked_fill(mask != 0, swin.MASKED))

    return _of_blocks(loaded, move)


class _WithoutPads(nn.Module):
    """Scores [nW * B, h, n, n] whose keys are tokens only."""

    def __init__(self, bias: nn.Module, order: Tensor, windows: int) -> None:
        super().__init__()
        self.bias = bias
        pads = (order == PAD).reshape(-1, windows).T.float() * -3e4  # [n * nW] -> [nW, n]
        self.register_buffer("pads", pads[:, None, None, None])

    def forward(self, scores: Tensor) -> Tensor:
        scores = self.bias(scores)
        pads = self.get_buffer("pads")
        # [nW * B, h, n, n] -> [nW, B, h, n, n], plus [nW, 1, 1, 1, n], and back
        return (scores.unflatten(0, (len(pads), -1)) + pads).flatten(0, 1)


@pad_fault("pads masked out")
def _(loaded: LoadedModel) -> DeployModel:
    model, stage = fold(loaded.reference), _first_padded(loaded)
    index = loaded.config.stages.index(stage)
    block = blocks(model)[sum(loaded.config.depths[:index])]
    block.attention.bias = _WithoutPads(block.attention.bias, block_order(stage), stage.num_windows)
    return model


def _without_masks(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, TokenMask):
            setattr(module, name, nn.Identity())
        else:
            _without_masks(child)


@pad_fault("pads not zeroed")
def _(loaded: LoadedModel) -> DeployModel:
    model = fold(loaded.reference)
    _without_masks(model)
    return model


def _add_bias(loaded: LoadedModel, change: Callable[[Any, Tensor, Tensor], object]) -> DeployModel:
    """Change each deploy block by the biases of k and v of its reference."""
    model = fold(loaded.reference)
    ours = [m for m in loaded.reference.modules() if isinstance(m, swin.SwinBlock)]
    for block, original in zip(blocks(model), ours, strict=True):
        attention: Any = original.attn
        if original.stage.has_pads and not hasattr(attention, "logit_scale"):
            _, key, value = attention.qkv.bias.detach().chunk(3)
            change(block, key, value)
    return model


@pad_fault("bias of keys kept on tokens")
def _(loaded: LoadedModel) -> DeployModel:
    if loaded.config.family == "swinv2":
        raise AbsentPartError("keys of V2 have no bias")
    return _add_bias(loaded, lambda block, key, _: qkv_bias(block)[1].add_(key))


@pad_fault("bias of values lost on pads")
def _(loaded: LoadedModel) -> DeployModel:
    if loaded.config.family == "swinv2":
        raise AbsentPartError("V2's stands in its layer")

    def move(block: Any, _: Tensor, value: Tensor) -> None:  # noqa: ANN401 - one of ours
        proj = block.attention.proj
        proj.bias.sub_(proj.weight @ value)
        qkv_bias(block)[2].add_(value)  # tokens have it still

    return _add_bias(loaded, move)


@pad_fault("neighbours that a map lacks zeroed before V2's norm")
def _(loaded: LoadedModel) -> DeployModel:
    if loaded.config.family != "swinv2":
        raise AbsentPartError("a norm stands before V1's merge")
    model = fold(loaded.reference)
    found = False
    for layer in model.layers:
        norm = layer.norm_after if isinstance(layer, PatchMerge) else None
        if isinstance(norm, nn.Sequential):
            layer.norm_after, found = nn.Sequential(*reversed(list(norm))), True
    if not found:
        raise AbsentPartError("no merge leads to pads")
    return model


@pad_fault("bias table read with rows and columns exchanged")
def _(loaded: LoadedModel) -> DeployModel:
    if all(window.is_square for window in loaded.config.window_sizes):
        raise AbsentPartError("windows are squares")

    def transpose(block: swin.SwinBlock) -> None:
        attention: Any = block.attn
        rows, columns = block.stage.window_size
        index = relative_position_index(Size(columns, rows))
        attention.relative_position_index.copy_(index)

    return _of_blocks(loaded, transpose)


@pad_fault("rows shifted as far as columns should be")
def _(loaded: LoadedModel) -> DeployModel:
    if all(stage.shift_size.is_square for stage in loaded.config.stages):
        raise AbsentPartError("shifts are alike")

    def exchange(block: swin.SwinBlock) -> None:
        block.shift_size = Size(*reversed(block.shift_size))

    return _of_blocks(loaded, exchange)
