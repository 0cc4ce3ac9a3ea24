"""Checkpoints of the notebook's model: its parameter names, and the sizes they imply."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch
from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.config import SwinConfig, notebook_config
from swin_deploy.reference.notebook import NotebookSwin

EMBEDDING = "Embedding.linear_embedding.weight"
FIRST_TABLE = "stages.0.WSA.WMSA.embeddings.embeddings"
FIRST_MLP = "stages.0.WSA.MLP.0.weight"
CONFIG_KEY = "swin_deploy_config"  # metadata in which our own tools save the config


def infer_config(
    tensors: dict[str, Tensor], metadata: dict[str, str], *, img_size: int | None
) -> SwinConfig:
    """The sizes of the model that a notebook checkpoint holds.

    Args:
        tensors: Name to tensor.
        metadata: Of the file; a config in it also tells the image size and the preprocessing.
        img_size: Image side to use instead of the file's, or of 224.

    Raises:
        CheckpointError: If the names or shapes are not those of a notebook checkpoint.
        ConfigError: If windows cannot tile the image size.
    """
    missing = [key for key in (EMBEDDING, FIRST_TABLE, FIRST_MLP) if key not in tensors]
    if missing:
        raise CheckpointError(
            f"not a notebook checkpoint: it lacks {', '.join(missing)}; "
            f"it has {len(tensors)} tensors, such as {', '.join(sorted(tensors)[:3])}"
        )
    embed_dim, _, patch_size, _ = _shape(tensors, EMBEDDING, 4)
    sizes: dict[str, Any] = {
        "embed_dim": embed_dim,
        "patch_size": patch_size,
        "depths": _depths(tensors),
        "window_size": math.isqrt(_shape(tensors, FIRST_TABLE, 2)[0]),
        "mlp_ratio": _shape(tensors, FIRST_MLP, 2)[0] / embed_dim,
        "num_classes": _shape(tensors, "head.weight", 2)[0] if "head.weight" in tensors else 0,
    }
    saved = _saved_config(metadata)
    if saved is not None:
        sizes |= {"preprocessing": saved.preprocessing, "img_size": saved.img_size}
    if img_size is not None:
        sizes["img_size"] = img_size
    return notebook_config(**sizes)


def check_state(tensors: dict[str, Tensor], config: SwinConfig) -> None:
    """Compare names and shapes with the model's.

    Raises:
        CheckpointError: If a name is missing or unknown, or a shape differs; all are named.
    """
    with torch.device("meta"):
        wanted = NotebookSwin(config).state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - wanted.keys())
    shapes = [
        f"{key} is {list(tensors[key].shape)}, not {list(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tensors[key].shape != wanted[key].shape
    ]
    problems = [
        f"{kind}: {', '.join(names)}"
        for kind, names in (
            ("missing keys", missing),
            ("unknown keys", unknown),
            ("wrong shapes", shapes),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"the checkpoint does not fit its model; {'; '.join(problems)}")


def _depths(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    """Blocks of each stage: entries of ``stages`` are pairs of blocks, or merges between stages."""
    entries = {int(m[1]): m[2] for key in tensors if (m := re.match(r"stages\.(\d+)\.(\w+)", key))}
    depths = [0]
    for index in range(max(entries, default=-1) + 1):
        if entries.get(index) in ("WSA", "SWSA"):
            depths[-1] += 2
        else:
            depths.append(0)
    return tuple(depths)


def _shape(tensors: dict[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    shape = tuple(tensors[key].shape)
    if len(shape) != ndim:
        raise CheckpointError(f"wrong shapes: {key} is {list(shape)}, not of {ndim} dimensions")
    return shape


def _saved_config(metadata: dict[str, str]) -> SwinConfig | None:
    if CONFIG_KEY not in metadata:
        return None
    try:
        return SwinConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except ValueError as err:
        raise CheckpointError(f"the metadata {CONFIG_KEY} is not JSON: {err}") from err
