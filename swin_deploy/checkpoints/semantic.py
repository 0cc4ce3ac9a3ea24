"""SOLIDER's semantic embedding: a scale and a shift after each merge, folded into the merge.

Source: tinyvision/SOLIDER, ``swin_transformer.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from exporters.errors import CheckpointError
from exporters.text_files import listed

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = re.compile(r"(.*?)semantic_embed_[wb]\.\d+\.(?:weight|bias)")


def refuse_semantic(names: Iterable[str]) -> None:
    """Refuse an encoder with a semantic embedding, whose weight its file does not say.

    Raises:
        CheckpointError: If a name is of the embedding.
    """
    found = [name for name in names if EMBEDDING.fullmatch(name)]
    if found:
        raise CheckpointError(
            f"SOLIDER's semantic embedding ({listed(found)}) scales every merge by a semantic "
            "weight that the file does not say; give it with --semantic-weight "
            "(MODEL.SEMANTIC_WEIGHT of the task, such as 0.2)"
        )


def with_semantic_weight(tensors: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Fold SOLIDER's semantic embedding into the merges, for one semantic weight.

    The model multiplies what a merge gives by ``softplus(w)`` and adds ``b``, two linear functions
    of the weight. The scale goes into the rows of the merge's linear layer. That has no bias, so
    the shift goes into the bias of the norm before it, as the shortest vector that the scaled layer
    turns into the shift.

    Args:
        tensors: The model's tensors by name, whatever stands before the encoder's names.
        weight: Semantic weight, from 0 to 1 (``MODEL.SEMANTIC_WEIGHT`` of SOLIDER's tasks).

    Returns:
        The tensors of the same model without the embedding.

    Raises:
        CheckpointError: If there is no such embedding, or a tensor of it or of a merge is missing.
    """
    import torch

    starts = {found[1] for name in tensors if (found := EMBEDDING.fullmatch(name))}
    if not starts:
        raise CheckpointError("the weights have no semantic embedding (semantic_embed_w)")
    folded = {name: one for name, one in tensors.items() if not EMBEDDING.fullmatch(name)}
    given = torch.tensor([weight, 1.0 - weight], dtype=torch.float64)
    try:
        for start in starts:
            stage = 0
            while f"{start}stages.{stage}.downsample.reduction.weight" in tensors:
                _fold(folded, tensors, start=start, stage=stage, given=given)
                stage += 1
    except KeyError as err:
        raise CheckpointError(f"the weights lack {err.args[0]}") from err
    return folded


def _fold(
    folded: dict[str, Tensor],
    tensors: dict[str, Tensor],
    *,
    start: str,
    stage: int,
    given: Tensor,
) -> None:
    """Fold the embedding of one stage into its merge, in ``folded``."""
    import torch

    def embedded(kind: str) -> Tensor:
        name = f"{start}semantic_embed_{kind}.{stage}."
        weight, bias = tensors[f"{name}weight"], tensors[f"{name}bias"]
        return weight.double() @ given + bias.double()  # [2C]

    reduction = f"{start}stages.{stage}.downsample.reduction.weight"
    norm_bias = f"{start}stages.{stage}.downsample.norm.bias"
    scale = torch.nn.functional.softplus(embedded("w"))
    scaled = scale[:, None] * tensors[reduction].double()  # [2C, 4C]
    shift = torch.linalg.lstsq(scaled, embedded("b"), driver="gelsd").solution  # [4C]
    folded[reduction] = scaled.float()
    folded[norm_bias] = (tensors[norm_bias].double() + shift).float()
