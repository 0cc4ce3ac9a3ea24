"""The tensors of a weights file, whatever wraps them, read without running what is in it."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporters.errors import CheckpointError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints.limits import (
    ObjectsError,
    check_header,
    excess,
    look_into,
    unusable,
)
from swin_deploy.checkpoints.pickles import TooLargeError
from swin_deploy.checkpoints.weights import SAVE_WEIGHTS, Chosen, choose_weights

# Errors that PyTorch's reader raises on damaged files, found by changing bytes at random.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
SAFE_PROTOCOL = 2  # the latest pickle protocol that PyTorch's safe reader knows
# Words of PyTorch's errors about files that make it import and call something.
OBJECTS = ("Unsupported global", "Unsupported class", "TorchScript")


@dataclass(frozen=True)
class Weights:
    """The chosen weights of a file.

    Attributes:
        chosen: The weights and their place; floating point tensors are float32 and finite.
        metadata: Texts by name in a safetensors file; empty for other files.
    """

    chosen: Chosen
    metadata: dict[str, str]


def read_weights(path: Path, *, wanted: str | None = None, encoder: str | None = None) -> Weights:
    """Read the weights of a checkpoint file.

    Args:
        path: Path of a ``torch.save`` file (.pt, .pth), read with ``weights_only=True``, or of a
            safetensors file. Wrapping dicts and the names of wrappers are removed.
        wanted: The weights to take out of several; see ``choose_weights``.
        encoder: The encoder to take out of several; see ``choose_weights``.

    Returns:
        Tensors on the CPU; index and mask tensors keep their type.

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, holds objects that
            would run code, lacks the weights that are wanted, or holds values that are not finite.
    """
    values, metadata = _read(path)
    chosen = choose_weights(values, shortened(path), wanted=wanted, encoder=encoder)
    return Weights(_usable(chosen, path), metadata)


def read_parts(
    index: Path,
    parts: Sequence[Path],
    *,
    wanted: str | None = None,
    encoder: str | None = None,
) -> Chosen:
    """Read weights that are split over several files; raise the errors of ``read_weights``.

    Args:
        index: Path of the file that lists the parts, for messages.
        parts: Paths of the parts, each a dict of tensors.
        wanted: The weights to take out of several; see ``choose_weights``.
        encoder: The encoder to take out of several; see ``choose_weights``.
    """
    values: dict[Any, Any] = {}
    for part in parts:
        found, _ = _read(part)
        values |= found if isinstance(found, dict) else {}
    chosen = choose_weights(values, shortened(index), wanted=wanted, encoder=encoder)
    return _usable(chosen, index)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file; raise the errors of ``read_weights``."""
    weights = read_weights(path)
    return weights.chosen.tensors, weights.metadata


def _read(path: Path) -> tuple[object, dict[str, str]]:
    head = _head(path)
    # Safetensors first: its leading length can be spelt with the bytes of a pickle or a zip file.
    if head[8:9] == b"{":
        return _load_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _load_torch(path), {}
    what = "it is empty" if not head else "neither a torch.save file nor safetensors"
    raise CheckpointError(f"{shortened(path)} is not a checkpoint: {what}")


def _usable(chosen: Chosen, path: Path) -> Chosen:
    """Convert the weights to float32; refuse NaN and infinity."""
    where = f"{shortened(path)}, {shortened(chosen.name)}," if chosen.name else shortened(path)
    found = _plain(chosen.tensors, where)
    bad = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{where} holds NaN or infinity in {listed(bad)}; "
            "take a checkpoint from before the training diverged"
        )
    return replace(chosen, tensors=found)


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"{shortened(path)} is a folder; give a checkpoint file in it")
        if path.exists() and not path.is_file():
            raise CheckpointError(
                f"{shortened(path)} is a device or a pipe; give a checkpoint file"
            )
        with path.open("rb") as stream:
            return stream.read(16)
    except FileNotFoundError as err:
        raise CheckpointError(f"{shortened(path)} does not exist; give a checkpoint file") from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        reason = getattr(err, "strerror", None) or err
        raise CheckpointError(f"cannot read {shortened(path)}: {reason}") from err


def _load_torch(path: Path) -> object:
    protocol = SAFE_PROTOCOL
    try:
        protocol = look_into(path).protocol
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in the error
            return torch.load(path, map_location="cpu", weights_only=True)
    except ObjectsError as err:
        raise _runs_code(path, f" ({err})") from err
    except TooLargeError as err:
        raise _too_large(path, str(err)) from err
    except (pickle.UnpicklingError, *DAMAGE) as err:
        if any(sign in str(err) for sign in OBJECTS):
            raise _runs_code(path, "") from err
        if protocol > SAFE_PROTOCOL:
            raise CheckpointError(
                f"{shortened(path)} is a pickle of protocol {protocol}, which PyTorch does not "
                "read without running code; save the weights with torch.save as it is"
            ) from err
        raise _damaged(path, err) from err


def _runs_code(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{shortened(path)} holds Python objects{what}, which could run code, and was not loaded; "
        f"{SAVE_WEIGHTS}"
    )


def _too_large(where: object, what: str) -> CheckpointError:
    return CheckpointError(
        f"{shortened(where)} asks for {what}, which no weights need, and was not loaded; "
        f"{SAVE_WEIGHTS}"
    )


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        check_header(path)
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
            return tensors, stream.metadata() or {}
    except TooLargeError as err:
        raise _too_large(path, str(err)) from err
    except (SafetensorError, *DAMAGE) as err:
        raise _damaged(path, err) from err


def _damaged(path: Path, err: Exception) -> CheckpointError:
    text = str(err).rpartition("WeightsUnpickler error:")[2]  # the rest is advice to developers
    reason = " ".join([type(err).__name__, *text[:1000].split()])[:120]
    return CheckpointError(
        f"{shortened(path)} is truncated or damaged, or no checkpoint ({reason}); "
        "copy or save it again"
    )


def _plain(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Convert floating point tensors to float32; refuse tensors that are not dense real arrays."""
    odd = unusable(tensors)
    if odd:
        raise CheckpointError(
            f"{where} holds tensors that are not dense real arrays: {listed(odd)}; "
            "save dense float tensors"
        )
    more = excess(tensors)
    if more:
        raise _too_large(where, more)
    return {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
