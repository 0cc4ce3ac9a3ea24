"""The sizes of a model from the shapes of its tensors, and from its other facts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.dialect import CheckpointHints, EncoderTensors
from swin_deploy.checkpoints.nearest_names import missing_keys
from swin_deploy.checkpoints.positions import POSITIONS, positions_map
from swin_deploy.checkpoints.resize import BIAS_TABLE
from swin_deploy.config import Family, Size, hidden_channels

COORDS_TABLE = "attn.relative_coords_table"
SCALE = ".logit_scale"  # of V2's attention; a model of pictures and texts has one at its top
MOST_BLOCKS = 100  # most blocks that are looked for in a stage


def infer_sizes(named: EncoderTensors, facts: CheckpointHints) -> dict[str, Any]:
    """Infer the fields of ``SwinConfig`` that the weights show.

    Args:
        named: The encoder's tensors in their dialect.
        facts: Facts that do not come from the weights, which must not contradict them.

    Returns:
        Name of the field to its value.

    Raises:
        CheckpointError: If tensors that show them are missing or of other shapes, or if ``facts``
            say otherwise.
    """
    embed_dim, channels, patch_size, columns = _shape(named, "patch_embed.proj.weight", 4)
    if patch_size != columns:
        raise CheckpointError(f"patches of {patch_size} x {columns} pixels are no squares")
    family: Family = "swinv2" if any(n.endswith(SCALE) for n in named.tensors) else "swin"
    depths = _depths(named)
    head = named.find("head.weight")
    head = named.find("head.fc2.weight") if head is None else head
    normed = [stage + 1 for stage in range(len(depths)) if named.has(f"norm{stage}.weight")]
    sizes: dict[str, Any] = {
        "family": family,
        "embed_dim": embed_dim,
        "in_channels": channels,
        "patch_size": patch_size,
        "depths": depths,
        "num_heads": tuple(
            _num_heads(named, family, stage, depth) for stage, depth in enumerate(depths)
        ),
        "patch_norm": not named.dialect.bare_patches
        or any(named.has(f"patch_embed.norm.{leaf}") for leaf in ("weight", "bias")),
        "absolute_positions": named.has(POSITIONS),
        "mlp_ratio": _mlp_ratio(named, embed_dim, depths, facts),
        "num_classes": 0 if head is None else len(head),
        "stage_norms": bool(normed),
        # Backbones of detectors give the maps that they have norms for.
        "out_stages": facts.out_stages or _some(normed, depths),
        "final_norm": _has_final_norm(named),
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
) -> float | tuple[float, ...]:
    """Return the ratio of hidden channels, whose number every library rounds down.

    Several ratios give the same channels: the one in the facts is taken, else the smallest; or one
    for each stage, where no number gives the channels of all.
    """
    rows = [_shape(named, f"layers.{i}.blocks.0.mlp.fc1.weight", 2)[0] for i in range(len(depths))]
    dims = [embed_dim << stage for stage in range(len(depths))]
    own = tuple(hidden / dim for hidden, dim in zip(rows, dims, strict=True))
    for ratio in (facts.sizes.get("mlp_ratio"), max(own)):
        each = ratio if isinstance(ratio, tuple) else (ratio or 0.0,) * len(dims)
        if [hidden_channels(dim, one) for dim, one in zip(dims, each, strict=False)] == rows:
            return ratio if isinstance(ratio, tuple) else float(ratio or 0.0)
    return own


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
        raise _missing(named, name)
    if tensor.ndim != ndim:
        raise CheckpointError(
            f"wrong shapes: {name} is {list(tensor.shape)}, not of {ndim} dimensions"
        )
    return tuple(tensor.shape)


def _missing(named: EncoderTensors, name: str) -> CheckpointError:
    keys = missing_keys([name], [named.full(one) for one in named.tensors])
    return CheckpointError(f"the checkpoint does not fit its model; {keys}")


def _num_heads(named: EncoderTensors, family: Family, stage: int, depth: int) -> int:
    part, axis = ("attn.logit_scale", 0) if family == "swinv2" else (BIAS_TABLE, 1)
    found = first_of_stage(named, stage, depth, part)
    if found is None:
        name = named.full(named.names(f"layers.{stage}.blocks.0.{part}")[0])
        raise _missing(named, name)
    name, tensor = found
    if tensor.ndim <= axis:
        raise CheckpointError(f"wrong shapes: {name} is {list(tensor.shape)}")
    return tensor.shape[axis]


def shown_pretrained(
    named: EncoderTensors, sizes: dict[str, Any], windows: tuple[Size, ...]
) -> tuple[int | Size, ...] | None:
    """Read the pretraining windows that V2's saved coordinates are scaled to.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig``; ``depths`` is read.
        windows: Window of each stage.

    Returns:
        Window of each stage, 0 for the stage's own; empty if all are their own; None if
        coordinates are not saved.
    """
    found: list[int | Size] = []
    for stage, window in enumerate(windows):
        table = first_of_stage(named, stage, sizes["depths"][stage], COORDS_TABLE)
        if table is None:
            return None
        farthest = table[1].float().reshape(-1, table[1].shape[-1]).amax(0).tolist()  # [..., 2]
        sides = (_scaled_to(*both) for both in zip(window, farthest, strict=False))
        pretrained = Size(*sides) if len(farthest) == 2 else window
        found.append(0 if pretrained == window else pretrained.plain)
    return tuple(found) if any(found) else ()


def _scaled_to(side: int, farthest: float) -> int:
    """Return the side that coordinates are scaled to.

    Args:
        side: Side of the window, in tokens.
        farthest: The farthest offset, (side - 1) / (pretrained - 1), saved as log8(1 + 8 * offset).
    """
    offset = (8.0**farthest - 1) / 8
    return 1 + round((side - 1) / offset) if offset > 0 else side


def shown_img_size(
    named: EncoderTensors, sizes: dict[str, Any], windows: tuple[Size, ...] | None
) -> int | tuple[int, int] | None:
    """Read the image size from embeddings of places, or from a saved attention mask.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig``; ``depths`` and ``patch_size`` are read.
        windows: Window of each stage, or None.

    Returns:
        Image side, or rows and columns, in pixels; None if neither is saved.

    Raises:
        CheckpointError: If the mask is not that of a grid of windows.
    """
    positions = positions_map(*named.saved(POSITIONS))
    if positions is not None:
        rows, columns = (side * sizes["patch_size"] for side in positions.shape[2:])
        return rows, columns
    for stage, window in enumerate(windows or ()):
        found = first_of_stage(named, stage, sizes["depths"][stage], "attn_mask")
        if found is None or found[1].ndim != 3 or found[1].shape[1:] != (window.area,) * 2:
            continue
        if window.columns == 1:  # without a seam between columns, which are then not counted
            continue
        name, mask = found
        columns = _grid_columns(mask, window)
        if len(mask) % columns:
            raise CheckpointError(
                f"{name} is made for {len(mask)} windows, of which {columns} are in a row, which "
                "is no grid"
            )
        pixels = int(sizes["patch_size"]) << stage
        rows = len(mask) // columns * window.rows * pixels
        return Size(rows, columns * window.columns * pixels).plain
    return None


def _grid_columns(mask: Tensor, window: Size) -> int:
    """Count the windows in a row of a shifted map: the first mask with a seam between columns.

    Args:
        mask: Additive mask, [num_windows, n, n].
        window: Window size, in tokens.
    """
    across = mask[:, 0, window.columns - 1]  # the first and the last token of a window's first row
    # A window that covers the columns is not shifted along them, and is the only one in its row.
    return int((across != 0).int().argmax()) + 1 if across.any() else 1
