"""Checkpoints of torchvision: one flat ``features`` of stem, stages and merges, in turn.

Source of the steps: torchvision 0.28, ``transforms/_presets.py`` and the weights of
``models/swin_transformer.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from swin_deploy.checkpoints.dialect import BLOCK_NAME, MERGE_NAME, Dialect, respelt
from swin_deploy.config import SwinConfig
from swin_deploy.images.preprocessing import (
    Preprocessing,
)
from swin_deploy.images.rules import Rule, centre_crop_rule

if TYPE_CHECKING:
    from torch import Tensor

RENAMED = {
    "patch_embed.proj.": "features.0.0.",
    "patch_embed.norm.": "features.0.2.",
}
IN_BLOCK = {
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
    "attn.q_bias": "attn.qkv.bias[q]",
    "attn.k_bias": "attn.qkv.bias[k]",
    "attn.v_bias": "attn.qkv.bias[v]",
}
# Sides that torchvision resizes to before the crop, by family, width and blocks of stage 3.
RESIZED = {
    ("swin", 96, 6): 232,
    ("swin", 96, 18): 246,
    ("swin", 128, 18): 238,
    ("swinv2", 96, 6): 260,
    ("swinv2", 96, 18): 260,
    ("swinv2", 128, 18): 272,
}
NATIVE_SIZES = {"swin": 224, "swinv2": 256}
QKV_BIAS = re.compile(r"(features\.\d+\.\d+\.attn\.)qkv\.bias")


def _source_keys(ours: str) -> tuple[str, ...]:
    block = BLOCK_NAME.fullmatch(ours)
    if block:
        return (f"features.{2 * int(block[1]) + 1}.{block[2]}.{respelt(block[3], IN_BLOCK)}",)
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"features.{2 * int(merge[1]) + 2}.{merge[2]}",)
    return (respelt(ours, RENAMED),)


def _prepare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split V2's bias of q, k and v; the library sets k's to zero when it runs."""
    prepared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = QKV_BIAS.fullmatch(name)
        if found and f"{found[1]}logit_scale" in tensors and len(tensor) % 3 == 0:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            prepared |= {f"{name}[{letter}]": part for letter, part in parts}
        else:
            prepared[name] = tensor
    return prepared


def _usual_weights(key: str, averaged: bool) -> str:
    return "as torchvision's train.py evaluates them" if averaged else ""


def _library_rule(config: SwinConfig, name: str) -> Rule:
    """Return the transforms of torchvision's weights, or its general ones for other sizes."""
    blocks = config.depths[2] if len(config.depths) > 2 else 0
    resized = RESIZED.get((config.family, config.embed_dim, blocks))
    native = NATIVE_SIZES.get(config.family, 224)
    if resized is None:
        guess = "torchvision's ImageClassification preset: it has no weights of these sizes"
        origin = "torchvision's ImageClassification"
        return centre_crop_rule(224 / 256, guess=guess, interpolation="bilinear", origin=origin)

    def at(side: int) -> Preprocessing:
        to = resized if side == native else round(resized * side / native)
        return Preprocessing(crop=side, resize=to, origin="torchvision's weights of these sizes")

    return Rule(at)


DIALECT = Dialect(
    "torchvision",
    "features.1.0.attn.",
    _source_keys,
    _library_rule,
    summary="swin_t, swin_s, swin_b, swin_v2_t, swin_v2_s, swin_v2_b",
    usual_weights=_usual_weights,
    window_rules=("torchvision", "torchvision"),
    pads=("pad-then-roll", "pad-then-roll"),
    remainder="crop",
    library="torchvision",
    prepare=_prepare,
    zeroed=("attn.qkv.bias[k]",),
)
