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
from swin_deploy.checkpoints.plain_names import COUNTERS, PLAIN_WRAPPER, WRAPPERS

# Buffers that every library computes from the sizes, and what only training uses.
COMPILED = "_orig_mod."
DERIVED = ("relative_position_index", "relative_coords_table", "attn_mask", "mask_token", "k_bias")


def read_state(path: Path, key: str) -> dict[str, Tensor]:
    """Read the tensors under a key of a weights file.

    Args:
        path: Path of a file that was loaded before.
        key: Keys that lead to the tensors, joined by dots; empty for the file itself.

    Returns:
        Tensors by name, without counters and the names of wrappers; pruned weights are multiplied
        by their masks.

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
    return unwrapped(tensors)


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the names of wrappers, and pruned weights times their masks."""
    bare = {_bare(name): value for name, value in state.items()}
    return _multiplied(bare if len(bare) == len(state) else state)


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in {*WRAPPERS, PLAIN_WRAPPER})


def _multiplied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which each ``*_orig`` and ``*_mask`` is their product."""
    for name in [name for name in state if name.endswith("_orig")]:
        start = name.removesuffix("_orig")
        if f"{start}_mask" in state:
            state[start] = state.pop(name) * state.pop(f"{start}_mask")
    return state


def _under(values: Any, key: str) -> object:  # noqa: ANN401 - whatever a file holds
    """Return the value under keys joined by dots; keys may contain dots, too. None if absent."""
    if not key:
        return values
    items = enumerate(values) if isinstance(values, list | tuple) else ()
    for name, value in values.items() if isinstance(values, dict) else items:
        if key == str(name):
            return value
        if key.startswith(f"{name}."):
            found = _under(value, key.removeprefix(f"{name}."))
            if found is not None:
                return found
    return None


def under_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, by name without it and wrappers."""
    prefix = prefix if any(name.startswith(prefix) for name in state) else _bare(prefix)
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
