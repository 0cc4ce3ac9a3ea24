"""Checkpoints of OpenMMLab: MMPretrain, MMDetection, MMSegmentation and what is built on them.

Their merge gathers neighbours with ``nn.Unfold``, channel by channel; the authors' four slices are
put in their order here. A file with one norm, that of the last stage, is of MMPretrain, whose
windows do not shift where one covers the map (``pad_small_map=False``); more norms are a
detector's, whose windows always shift. V2 is MMPretrain's alone, and has its merges first.

Source: mmpretrain 1.2.0, ``models/backbones/swin_transformer.py``, ``swin_transformer_v2.py``,
``models/utils/attention.py`` and ``configs/_base_/datasets/imagenet_bs64_swin_*.py``; mmdet 3.3.0,
``models/backbones/swin.py`` (``swin_converter``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from swin_deploy.checkpoints import timm
from swin_deploy.checkpoints.detectors import detector_rule
from swin_deploy.checkpoints.dialect import BLOCK_NAME, MERGE_NAME, Dialect, respelt
from swin_deploy.checkpoints.semantic import refuse_semantic
from swin_deploy.config import SwinConfig
from swin_deploy.images.preprocessing import (
    Preprocessing,
)
from swin_deploy.images.rules import Rule

if TYPE_CHECKING:
    from torch import Tensor

STEM = {"patch_embed.proj.": "patch_embed.projection.", "head.": "head.fc."}
IN_BLOCK = {
    "attn_mask": "attn.attn_mask",
    "attn.": "attn.w_msa.",
    "mlp.fc1.": "ffn.layers.0.0.",
    "mlp.fc2.": "ffn.layers.1.",
}
ATTENTION = "stages.0.blocks.0.attn.w_msa."
V2_ATTENTION = f"{ATTENTION}logit_scale"  # what V1's attention does not have
WRAPPER = re.compile(r"(?:(?<=\.)|^)backbone\.$")
HEAD = "head.fc."
STAGE = re.compile(r"stages\.(\d{1,4})\.")
STAGE_NORM = re.compile(r"norm(\d{1,4})\.(?:weight|bias)")
MERGE = re.compile(r"stages\.\d+\.downsample\.(?:reduction|norm)\.(?:weight|bias)")
V2_MERGE = re.compile(r"stages\.\d+\.downsample\.reduction\.weight")  # its norm comes after it
NEIGHBOURS = 4
# The authors' slices in the order of the kernel's cells: rows first there, columns first here.
AUTHORS_SLICES = [0, 2, 1, 3]


def _source_keys(ours: str, *, first_merge: int) -> tuple[str, ...]:
    block = BLOCK_NAME.fullmatch(ours)
    if block:
        return (f"stages.{block[1]}.blocks.{block[2]}.{respelt(block[3], IN_BLOCK)}",)
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"stages.{int(merge[1]) + first_merge}.downsample.{merge[2]}",)
    return (respelt(ours, STEM | {"layers.": "stages."}),)


def _v1_keys(ours: str) -> tuple[str, ...]:
    return _source_keys(ours, first_merge=0)


def _v2_keys(ours: str) -> tuple[str, ...]:
    return _source_keys(ours, first_merge=1)


def in_authors_order(tensor: Tensor) -> Tensor:
    """Put the columns of a merge, or the channels of its norm, in the authors' order.

    Args:
        tensor: Values by merged channel along the last axis, [..., 4C]: the four neighbours of
            each channel together, row by row, as ``nn.Unfold`` gives them.

    Returns:
        [..., 4C]: the channels of each neighbour together, column by column.
    """
    channels = tensor.shape[-1] // NEIGHBOURS
    # [..., 4C] -> [..., C, 4] -> [..., 4, C]
    split = tensor.unflatten(-1, (channels, NEIGHBOURS)).transpose(-1, -2)
    return split[..., AUTHORS_SLICES, :].flatten(-2)  # [..., 4, C] -> [..., 4C]


def _prepare(tensors: dict[str, Tensor], *, merge: re.Pattern[str]) -> dict[str, Tensor]:
    """Undo the order of the merges, and name the norm that MMPretrain's classifier reads."""
    refuse_semantic(tensors)
    ordered = {
        name: in_authors_order(tensor)
        if merge.fullmatch(name) and tensor.ndim and tensor.shape[-1] % NEIGHBOURS == 0
        else tensor
        for name, tensor in tensors.items()
    }
    return _with_final_norm(ordered)


def _with_final_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the last stage's norm its name as the final one, if it is the only one or has a head."""
    stages = {int(found[1]) for name in tensors if (found := STAGE.match(name))}
    norms = {int(found[1]) for name in tensors if (found := STAGE_NORM.fullmatch(name))}
    last, head = max(stages, default=0), any(name.startswith(HEAD) for name in tensors)
    only = len(norms) == 1 and min(norms) >= last  # norm3 whatever the stages, in converted files
    if not only and not (head and last in norms):
        return tensors
    start = f"norm{max(norms) if only else last}."
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(start)}
    kept = {name: tensor for name, tensor in tensors.items() if not only or name not in own}
    return kept | {f"norm.{name.removeprefix(start)}": tensor for name, tensor in own.items()}


def _prepare_v1(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return _prepare(tensors, merge=MERGE)


def _prepare_v2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return _prepare(tensors, merge=V2_MERGE)


def _steps(side: int) -> Preprocessing:
    """Return the steps of MMPretrain's test pipelines for an image side, in pixels."""
    origin = "MMPretrain's ImageNet pipelines"
    if side == timm.UNCROPPED:
        return Preprocessing(crop=side, resize=side, resize_mode="squash", turn=True, origin=origin)
    return Preprocessing(crop=side, resize=int(256 / 224 * side), turn=True, origin=origin)


def _library_rule(config: SwinConfig, name: str) -> Rule:
    return detector_rule() if config.stage_norms else Rule(_steps)


def _dialect(*, version: int, head: bool) -> Dialect:
    return Dialect(
        "openmmlab",
        V2_ATTENTION if version == 2 else ATTENTION,
        _v2_keys if version == 2 else _v1_keys,
        _library_rule,
        summary="MMPretrain's classifiers, V1 and V2; backbones of MMDetection, MMSegmentation",
        beside=f"{HEAD}weight" if head else "",
        prepare=_prepare_v2 if version == 2 else _prepare_v1,
        wrapper_pattern=WRAPPER if head else re.compile(r"(?!)"),
        sibling_prefixes=(HEAD,) if head else (),
        # MMPretrain's: backbones of detectors, which always shift, are told by their norms.
        window_rules=("huggingface", "huggingface"),
        pads=("pad-then-roll", "pad-then-roll"),
        remainder="pad",
        no_library="OpenMMLab's packages are not loaded here; the reference is our own model",
    )


DIALECTS = tuple(
    _dialect(version=version, head=head) for version in (2, 1) for head in (True, False)
)
