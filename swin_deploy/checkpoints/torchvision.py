"""Checkpoints of torchvision: one flat ``features`` of stem, stages and merges, in turn."""

from __future__ import annotations

import re

from torch import Tensor

from swin_deploy.checkpoints.dialect import BLOCK_NAME, MERGE_NAME, Dialect

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
QKV_BIAS = re.compile(r"(features\.\d+\.\d+\.attn\.)qkv\.bias")


def _foreign(ours: str) -> tuple[str, ...]:
    block = BLOCK_NAME.fullmatch(ours)
    if block:
        return (f"features.{2 * int(block[1]) + 1}.{block[2]}.{_respelt(block[3], IN_BLOCK)}",)
    merge = MERGE_NAME.fullmatch(ours)
    if merge:
        return (f"features.{2 * int(merge[1]) + 2}.{merge[2]}",)
    return (_respelt(ours, RENAMED),)


def _respelt(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


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


DIALECT = Dialect(
    "torchvision",
    "features.1.0.attn.",
    _foreign,
    pads=(True, True),
    prepare=_prepare,
    zeroed=("attn.qkv.bias[k]",),
)
