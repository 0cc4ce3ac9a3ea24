"""Read the tensors of a weights file, whatever wraps them, without running what is in it."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

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

# Keys under which training scripts save the state dict among other things.
WRAPPERS = ("state_dict", "model", "model_state_dict")
DATA_PARALLEL_PREFIX = "module."
# What PyTorch's reader raises on damaged files; found by changing bytes at random.
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
SAFE_PROTOCOL = 2  # of pickles: the latest that PyTorch's safe reader knows
# How PyTorch says that it would have to import and call something.
OBJECTS = ("Unsupported global", "Unsupported class", "TorchScript")
SAVE_WEIGHTS = "save the weights alone: torch.save(model.state_dict(), path)"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint file, and the text metadata it carries.

    Args:
        path: A ``torch.save`` file (.pt, .pth), read with ``weights_only=True``, or safetensors.
            Wrapping dicts and the prefix of ``DataParallel`` are taken off.

    Returns:
        Name to tensor on the CPU, and metadata (empty but for safetensors). Floating point
        tensors are float32; index and mask tensors keep their type.

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, holds objects that
            would run code, or holds values that are not finite.
    """
    head = _head(path)
    values: object
    metadata: dict[str, str] = {}
    # Safetensors first: its leading length can be spelt with the bytes of a pickle or a zip file.
    if head[8:9] == b"{":
        values, metadata = _load_safetensors(path)
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        values = _load_torch(path)
    else:
        what = "it is empty" if not head else "neither a torch.save file nor safetensors"
        raise CheckpointError(f"{path} is not a checkpoint: {what}")
    tensors = _plain(_unwrap(values, path), path)
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{shortened(path)} holds NaN or infinity in {listed(bad)}; "
            "take a checkpoint from before the training diverged"
        )
    return tensors, metadata


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


def _too_large(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{shortened(path)} asks for {what}, which no weights need, and was not loaded; "
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


def _unwrap(values: object, path: Path) -> dict[str, Tensor]:
    """The innermost dict, if it holds tensors by name and nothing else."""
    for _ in WRAPPERS:
        if isinstance(values, dict):
            inner = [values[key] for key in WRAPPERS if isinstance(values.get(key), dict)]
            values = inner[0] if inner else values
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{shortened(path)} holds a {type(values).__name__}, not a dict of tensors; "
            f"{SAVE_WEIGHTS}"
        )
    if not values:
        raise CheckpointError(f"{path} holds no tensors; {SAVE_WEIGHTS}")
    others = [
        str(key) if isinstance(key, str | int) else type(key).__name__
        for key, value in values.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(
            f"{path} holds values that are not tensors by name: {listed(others)}; {SAVE_WEIGHTS}"
        )
    if all(key.startswith(DATA_PARALLEL_PREFIX) for key in values):
        values = {key.removeprefix(DATA_PARALLEL_PREFIX): value for key, value in values.items()}
    return values


def _plain(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Floating point tensors in float32; a tensor that no plain array can stand for is refused."""
    odd = unusable(tensors)
    if odd:
        raise CheckpointError(
            f"{shortened(path)} holds tensors that are not dense real arrays: {listed(odd)}; "
            "save dense float tensors"
        )
    more = excess(tensors)
    if more:
        raise _too_large(path, more)
    return {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
