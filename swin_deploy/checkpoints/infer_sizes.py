"""The sizes of a model from the shapes of its tensors, and from its other facts."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from exporters.text_files import listed
from swin_deploy.checkpoints.dialect import CheckpointHints, EncoderTensors
from swin_deploy.checkpoints.resize import BIAS_TABLE
from swin_deploy.config import Family, hidden_channels

COORDS_TABLE = "attn.relative_coords_table"
INDEX = "attn.relative_position_index"
SCALE = ".logit_scale"  # of V2's attention; a model of pictures and texts has one at its top
MOST_BLOCKS = 100  # most blocks that are looked for in a stage
ABSOLUTE = ("absolute_pos_embed", "embeddings.position_embeddings")


def infer_sizes(named: EncoderTensors, facts: CheckpointHints) -> dict[str, Any]:
    """Infer the fields of ``SwinConfig`` that the weights show.

    Args:
        named: The encoder's tensors in their dialect.
        facts: Facts that do not come from the weights, which must not contradict them.

    Returns:
        Name of the field to its value.

    Raises:
        CheckpointError: If tensors that show them are missing or of other shapes, if there are
            absolute position embeddings, or if ``facts`` say otherwise.
    """
    absolute = [named.full(name) for name in ABSOLUTE if name in named.tensors]
    if absolute:
        raise CheckpointError(
            f"absolute position embeddings ({listed(absolute)}) are not supported: "
            "no published Swin has them"
        )
    embed_dim, channels, patch_size, columns = _shape(named, "patch_embed.proj.weight", 4)
    if channels != 3:
        raise CheckpointError(
            f"the weights take images of {channels} channels; supported are 3, RGB images"
        )
    if patch_size != columns:
        raise CheckpointError(f"patches of {patch_size} x {columns} pixels are no squares")
    family: Family = "swinv2" if any(n.endswith(SCALE) for n in named.tensors) else "swin"
    depths = _depths(named)
    head = named.find("head.weight")
    normed = [stage + 1 for stage in range(len(depths)) if named.has(f"norm{stage}.weight")]
    sizes: dict[str, Any] = {
        "family": family,
        "embed_dim": embed_dim,
        "patch_size": patch_size,
        "depths": depths,
        "num_heads": tuple(
            _num_heads(named, family, stage, depth) for stage, depth in enumerate(depths)
        ),
        "mlp_ratio": _mlp_ratio(named, embed_dim, depths, facts),
        "num_classes": 0 if head is None else len(head),
        "stage_norms": bool(normed),
        # Backbones of detectors give the maps that they have norms for.
        "out_stages": facts.out_stages or _some(normed, depths),
        "final_norm": _has_final_norm(named),
        # Backbones of detectors shift also where one window covers the map; V2's do not.
        "always_shift": facts.always_shift or (bool(normed) and family == "swin"),
    }
    found = sizes | {"qkv_bias": _has_qkv_bias(named, depths)}
    for field, said in (facts.sizes | {"qkv_bias": facts.qkv_bias}).items():
        if field in found and said is not None and found[field] != said:
            raise CheckpointError(
                f"{facts.origin} says {field} {said}, the weights have {found[field]}"
            )
    return sizes


def _has_final_norm(named: EncoderTensors) -> bool:
    """Tell whether a norm follows the last stage, as it does before any library's head."""
    headed = named.has("head.bias") and not named.dialect.normless.search(named.prefix)
    return named.has("norm.weight") or named.has("norm.bias") or headed


def _some(normed: list[int], depths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stages with norms; empty if all have one."""
    return tuple(normed) if len(normed) < len(depths) else ()


def _mlp_ratio(
    named: EncoderTensors, embed_dim: int, depths: tuple[int, ...], facts: CheckpointHints
) -> float:
    """Return the ratio of hidden channels, whose number every library rounds down.

    Several ratios give the same channels: the one in the facts is taken, else the smallest.
    """
    rows = [_shape(named, f"layers.{i}.blocks.0.mlp.fc1.weight", 2)[0] for i in range(len(depths))]
    dims = [embed_dim << stage for stage in range(len(depths))]
    said = facts.sizes.get("mlp_ratio")
    if said and [hidden_channels(dim, said) for dim in dims] == rows:
        return float(said)
    return max(hidden / dim for hidden, dim in zip(rows, dims, strict=True))


def _has_qkv_bias(named: EncoderTensors, depths: tuple[int, ...]) -> bool:
    """Tell whether any block has a bias of q, k or v."""
    parts = ("attn.qkv.bias", "attn.q_bias", "attn.v_bias")
    return any(
        first_of_stage(named, stage, depth, part) is not None
        for stage, depth in enumerate(depths)
        for part in parts
    )


def first_of_stage(
    named: EncoderTensors, stage: int, depth: int, part: str
) -> tuple[str, Tensor] | None:
    """Find a part in the first block of a stage that has it.

    Args:
        named: The encoder's tensors in their dialect.
        stage: Number of the stage, from 0.
        depth: Number of its blocks.
        part: Our name of the part, without the block's.

    Returns:
        Its name in the file, and the tensor; None if no block has it.
    """
    for block in range(depth):
        ours = f"layers.{stage}.blocks.{block}.{part}"
        tensor = named.find(ours)
        if tensor is not None:
            return named.full(named.names(ours)[0]), tensor
    return None


def _depths(named: EncoderTensors) -> tuple[int, ...]:
    """Count the blocks of each stage: one more than the number of the last that has a tensor."""
    heads = {
        name[: at + 1] for name in named.tensors for at, letter in enumerate(name) if letter == "."
    }
    depths: list[int] = []
    while True:
        blocks = range(MOST_BLOCKS)
        names = (named.names(f"layers.{len(depths)}.blocks.{block}.")[0] for block in blocks)
        present = [block for block, name in enumerate(names) if name in heads]
        if not present:
            return tuple(depths)
        depths.append(present[-1] + 1)


def _shape(named: EncoderTensors, ours: str, ndim: int) -> tuple[int, ...]:
    tensor = named.find(ours)
    name = named.full(named.names(ours)[0])
    if tensor is None:
        raise CheckpointError(f"the checkpoint does not fit its model; missing keys: {name}")
    if tensor.ndim != ndim:
        raise CheckpointError(
            f"wrong shapes: {name} is {list(tensor.shape)}, not of {ndim} dimensions"
        )
    return tuple(tensor.shape)


def _num_heads(named: EncoderTensors, family: Family, stage: int, depth: int) -> int:
    part, axis = ("attn.logit_scale", 0) if family == "swinv2" else (BIAS_TABLE, 1)
    found = first_of_stage(named, stage, depth, part)
    if found is None:
        name = named.full(named.names(f"layers.{stage}.blocks.0.{part}")[0])
        raise CheckpointError(f"the checkpoint does not fit its model; missing keys: {name}")
    name, tensor = found
    if tensor.ndim <= axis:
        raise CheckpointError(f"wrong shapes: {name} is {list(tensor.shape)}")
    return tensor.shape[axis]


def shown_windows(named: EncoderTensors, sizes: dict[str, Any]) -> tuple[int, ...] | None:
    """Read the window of each stage from tables and buffers.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig``; ``depths`` is read.

    Returns:
        Window side of each stage, in tokens; None if a stage does not show it.

    Raises:
        CheckpointError: If a table is not of a square window.
    """
    parts = {BIAS_TABLE: 1, COORDS_TABLE: 1, INDEX: 0}
    windows: list[int] = []
    for stage, depth in enumerate(sizes["depths"]):
        for part, table in parts.items():
            found = first_of_stage(named, stage, depth, part)
            if found is not None:
                windows.append(_window(*found, table=bool(table)))
                break
    return tuple(windows) if len(windows) == len(sizes["depths"]) else None


def _window(name: str, tensor: Tensor, *, table: bool) -> int:
    """Return the side, in tokens, of the window of a table of offsets or an index of pairs."""
    if table:
        rows = tensor.numel() // tensor.shape[-1] if tensor.ndim else 0
        window = (math.isqrt(rows) + 1) // 2
        fits = (2 * window - 1) ** 2 == rows
    else:
        window = math.isqrt(math.isqrt(tensor.numel()))
        fits = window**4 == tensor.numel()
    if not fits or not window:
        raise CheckpointError(
            f"wrong shapes: {name} is {list(tensor.shape)}, which belongs to no square window"
        )
    return window


def shown_pretrained(
    named: EncoderTensors, sizes: dict[str, Any], windows: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Read the pretraining windows that V2's saved coordinates are scaled to.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig``; ``depths`` is read.
        windows: Window side of each stage, in tokens.

    Returns:
        Window side of each stage, in tokens, 0 for the stage's own; empty if all are their own;
        None if coordinates are not saved.
    """
    found: list[int] = []
    for stage, window in enumerate(windows):
        table = first_of_stage(named, stage, sizes["depths"][stage], COORDS_TABLE)
        if table is None:
            return None
        # The farthest offset, (window - 1) / (pretrained - 1), is saved as log8(1 + 8 * offset).
        farthest = (8.0 ** float(table[1].max()) - 1) / 8
        pretrained = 1 + round((window - 1) / farthest) if farthest > 0 else window
        found.append(0 if pretrained == window else pretrained)
    return tuple(found) if any(found) else ()


def shown_img_size(
    named: EncoderTensors, sizes: dict[str, Any], windows: tuple[int, ...] | None
) -> int | None:
    """Read the image side from a saved attention mask.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig``; ``depths`` and ``patch_size`` are read.
        windows: Window side of each stage, in tokens, or None.

    Returns:
        Image side, in pixels; None if no mask is saved.

    Raises:
        CheckpointError: If the mask is of a rectangular image.
    """
    for stage, window in enumerate(windows or ()):
        found = first_of_stage(named, stage, sizes["depths"][stage], "attn_mask")
        if found is None or found[1].ndim != 3:
            continue
        grid = math.isqrt(len(found[1]))
        if grid**2 != len(found[1]):
            raise CheckpointError(
                f"{found[0]} is made for {len(found[1])} windows, and only square images are "
                "supported"
            )
        return int(grid * window * sizes["patch_size"]) << stage
    return None
