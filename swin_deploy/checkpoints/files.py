"""Read the tensors of a weights file, whatever wraps them, without running what is in it."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporters.errors import CheckpointError

# Keys under which training scripts save the state dict among other things.
WRAPPERS = ("state_dict", "model", "model_state_dict")
DATA_PARALLEL_PREFIX = "module."


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint file, and the text metadata it carries.

    Args:
        path: A ``torch.save`` file (.pt, .pth), read with ``weights_only=True``, or safetensors.
            Wrapping dicts and the prefix of ``DataParallel`` are taken off.

    Returns:
        Name to float32 tensor on the CPU, and metadata (empty but for safetensors).

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, holds objects that
            would run code, or holds values that are not finite.
    """
    head = _head(path)
    metadata: dict[str, str] = {}
    if head[:2] == b"PK" or head[:1] == b"\x80":
        values = _load_torch(path)
    elif head[8:9] == b"{":
        values, metadata = _load_safetensors(path)
    else:
        raise CheckpointError(
            f"{path} is not a checkpoint: neither a torch.save file nor safetensors"
        )
    tensors = {name: tensor.float() for name, tensor in _unwrap(values, path).items()}
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinity in {', '.join(bad)}")
    return tensors, metadata


def _head(path: Path) -> bytes:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a checkpoint file")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give a checkpoint file in it")
    try:
        with path.open("rb") as stream:
            return stream.read(16)
    except OSError as err:
        raise CheckpointError(f"cannot read {path}: {err.strerror or err}") from err


def _load_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if "Unsupported" not in str(err) and "weights_only" not in str(err).lower():
            raise CheckpointError(f"{path} is truncated or damaged: {_first_line(err)}") from err
        raise CheckpointError(
            f"{path} holds Python objects, which could run code, and was not loaded; "
            "save the weights alone: torch.save(model.state_dict(), path)"
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as err:
        raise CheckpointError(f"{path} is truncated or damaged: {_first_line(err)}") from err


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
            return tensors, stream.metadata() or {}
    except (SafetensorError, OSError, ValueError) as err:
        raise CheckpointError(f"{path} is truncated or damaged: {_first_line(err)}") from err


def _unwrap(values: object, path: Path) -> dict[str, Tensor]:
    while isinstance(values, dict):
        inner = [values[key] for key in WRAPPERS if isinstance(values.get(key), dict)]
        if not inner:
            break
        values = inner[0]
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"{path} holds {type(values).__name__}, not a dict of tensors")
    others = [str(key) for key, value in values.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path} holds values that are not tensors: {', '.join(others)}; "
            "save the weights alone: torch.save(model.state_dict(), path)"
        )
    if all(key.startswith(DATA_PARALLEL_PREFIX) for key in values):
        values = {key.removeprefix(DATA_PARALLEL_PREFIX): value for key, value in values.items()}
    return values


def _first_line(err: BaseException) -> str:
    text = str(err).strip() or type(err).__name__
    return text.splitlines()[0][:200]
