"""A state dict from the user's file, as a library's users take it out by hand.

This code is on purpose not that of ``checkpoints``: a fault there must not be here, too. Only files
that PyTorch's safe reader refuses, for the objects in them, are read as there.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from exporters.errors import ComparisonError
from exporters.text_files import listed
from swin_deploy.checkpoints.files import pytorch_reads, read_values
from swin_deploy.checkpoints.weights import COUNTERS, DATA_PARALLEL_PREFIX

# Buffers that every library computes from the sizes, and what only training uses.
COMPILED = "_orig_mod."
DERIVED = ("relative_position_index", "relative_coords_table", "attn_mask", "mask_token", "k_bias")


def read_state(path: Path, key: str) -> dict[str, Tensor]:
    """Read the tensors under a key of a weights file.

    Args:
        path: Path of a file that was loaded before.
        key: Keys that lead to the tensors, joined by dots; empty for the file itself.

    Returns:
        Tensors by name, without counters and the prefix of ``DataParallel``.

    Raises:
        ComparisonError: If there is no dict under the key.
    """
    if path.suffix == ".safetensors":
        values: object = safetensors.torch.load_file(path)
    elif pytorch_reads(path):
        with torch.serialization.safe_globals([argparse.Namespace]):
            values = torch.load(path, map_location="cpu", weights_only=True)
    else:
        values = read_values(path)
    found = _under(values, key)
    if not isinstance(found, dict):
        raise ComparisonError(f"{path.name} has no state dict {key}")
    tensors = {
        name: value
        for name, value in found.items()
        if isinstance(value, Tensor) and not (name in COUNTERS and value.numel() == 1)
    }
    if all(name.startswith(DATA_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(DATA_PARALLEL_PREFIX): one for name, one in tensors.items()}
    return tensors


def _under(values: Any, key: str) -> object:  # noqa: ANN401 - whatever a file holds
    """Return the value under keys joined by dots; keys may contain dots, too. None if absent."""
    if not key:
        return values
    for name in values if isinstance(values, dict) else ():
        if key == name:
            return values[name]
        if isinstance(name, str) and key.startswith(f"{name}."):
            found = _under(values[name], key.removeprefix(f"{name}."))
            if found is not None:
                return found
    return None


def under_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, by name without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def library_state(state: dict[str, Tensor], beside: Collection[str]) -> dict[str, Tensor]:
    """Return a state dict without the tensors that the library's own model does not have.

    Args:
        state: Tensors by name; timm removes the prefix of ``torch.compile`` from the names.
        beside: Full names in the file of a classifier of another form.
    """
    names = {name.removeprefix(COMPILED) for name in beside} | set(beside)
    return {name: value for name, value in state.items() if name not in names}


def load_strictly(model: nn.Module, state: dict[str, Tensor], library: str) -> None:
    """Give a library's model a state dict; nothing may be missing or left over.

    Raises:
        ComparisonError: If something is missing or left over, other than derived buffers.
    """
    result = model.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith(DERIVED)]
    known = (*DERIVED, *COUNTERS)
    strange = [name for name in result.unexpected_keys if not name.endswith(known)]
    if missing or strange:
        parts = [f"misses {listed(missing)}"] if missing else []
        parts += [f"does not know {listed(strange)}"] if strange else []
        raise ComparisonError(f"{library}'s model {' and '.join(parts)}")
