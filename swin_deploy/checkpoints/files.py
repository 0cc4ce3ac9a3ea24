"""The tensors of a weights file, whatever wraps them, read without running what is in it."""

from __future__ import annotations

import struct
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
from swin_deploy.checkpoints.limits import check_header, excess, unusable
from swin_deploy.checkpoints.not_weights import SEEN, foreign_kind, text_kind
from swin_deploy.checkpoints.objects import SCRIPTED, Held, foreign_names, plain_values
from swin_deploy.checkpoints.pickles import TooLargeError
from swin_deploy.checkpoints.torch_files import NotTorchError, read_torch_file
from swin_deploy.checkpoints.training_fields import kept_beside
from swin_deploy.checkpoints.weights import SAVE_WEIGHTS, Chosen, choose_weights

# Errors that damaged files raise, found by changing bytes at random.
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
PYTORCH = frozenset({
    "argparse.Namespace", "collections.OrderedDict", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
})  # fmt: skip
PYTORCH_PROTOCOL = 2  # the only pickle protocol that PyTorch's safe reader knows


@dataclass(frozen=True)
class Weights:
    """The chosen weights of a file.

    Attributes:
        chosen: The weights and their place; floating point tensors are float32 and finite.
        metadata: Texts by name in a safetensors file; empty for other files.
        beside: Numbers, texts, lists and dicts that stand next to the weights, by name.
    """

    chosen: Chosen
    metadata: dict[str, str]
    beside: dict[str, Any]


@dataclass(frozen=True)
class _Content:
    """The values of a file, its metadata, and the classes of its objects, none imported."""

    values: object
    metadata: dict[str, str]
    objects: tuple[str, ...] = ()


def read_weights(path: Path, *, wanted: str | None = None, encoder: str | None = None) -> Weights:
    """Read the weights of a checkpoint file.

    Args:
        path: Path of a ``torch.save`` file (.pt, .pth), of a pickle of tensors or arrays (.pkl),
            of a TorchScript archive, or of a safetensors file. Wrapping dicts and the names of
            wrappers are removed; objects are read without importing their classes.
        wanted: The weights to take out of several; see ``choose_weights``.
        encoder: The encoder to take out of several; see ``choose_weights``.

    Returns:
        Tensors on the CPU; index and mask tensors keep their type.

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, lacks the weights
            that are wanted, or holds values that are not finite.
    """
    content = _read(path)
    chosen = choose_weights(content.values, shortened(path), wanted=wanted, encoder=encoder)
    if content.objects:
        chosen = replace(chosen, notes=(*chosen.notes, _objects_note(content.objects)))
    return Weights(_usable(chosen, path), content.metadata, kept_beside(content.values))


def _objects_note(names: tuple[str, ...]) -> str:
    if any(name.startswith(("torch.nn.", "TorchScript")) for name in names):
        return f"read a module as a state dict, its classes not imported: {listed(names)}"
    return f"left aside objects of {listed(names)}: not imported"


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
        found = _read(part).values
        values |= found if isinstance(found, dict) else {}
    chosen = choose_weights(values, shortened(index), wanted=wanted, encoder=encoder)
    return _usable(chosen, index)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file; raise the errors of ``read_weights``."""
    weights = read_weights(path)
    return weights.chosen.tensors, weights.metadata


def read_values(path: Path) -> object:
    """Read everything in a file, as ``plain_values`` gives it; raise as ``read_weights``."""
    return _read(path).values


def pytorch_reads(path: Path) -> bool:
    """Tell whether ``torch.load`` may read a file with ``weights_only=True``.

    It may if it holds tensors, dicts, lists, numbers, texts and ``argparse.Namespace`` alone: then
    PyTorch's reader makes nothing that is large or takes long.

    Args:
        path: Path of a file that this module has read.
    """
    try:
        found = read_torch_file(path).pickled
    except DAMAGE:
        return False
    names = [name for name in found.names if not name.endswith("Storage")]
    return PYTORCH.issuperset(names) and found.protocol == PYTORCH_PROTOCOL and not found.odd_keys


def _read(path: Path) -> _Content:
    start = _start(path)
    if not start:
        raise CheckpointError(
            f"{shortened(path)} is not a checkpoint: it is empty; copy or download it again"
        )
    # Safetensors first: its leading length can be spelt with the bytes of a pickle or a zip file,
    # but not with those of a text.
    if start[8:9] == b"{" and b"\0" in start[:8]:
        return _Content(*_load_safetensors(path))
    known = start[:2] == b"PK" or start[:1] == b"\x80"
    kind = "" if known else foreign_kind(path, start)
    try:
        if not kind:
            return _load_torch(path)
    except _DamagedError:
        if known:
            raise
        # A pickle may be a text, too: only now it is known that this is none.
        kind = text_kind(start) or "neither a torch.save file nor safetensors; copy it again"
    raise CheckpointError(f"{shortened(path)} is not a checkpoint: it is {kind}")


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


def _start(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"{shortened(path)} is a folder; give a checkpoint file in it")
        if path.exists() and not path.is_file():
            raise CheckpointError(
                f"{shortened(path)} is a device or a pipe; give a checkpoint file"
            )
        with path.open("rb") as stream:
            return stream.read(SEEN)
    except FileNotFoundError as err:
        raise CheckpointError(f"{shortened(path)} does not exist; give a checkpoint file") from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        reason = getattr(err, "strerror", None) or err
        raise CheckpointError(f"cannot read {shortened(path)}: {reason}") from err


def _load_torch(path: Path) -> _Content:
    try:
        file = read_torch_file(path)
        values = plain_values(file)
    except NotTorchError as err:
        raise CheckpointError(f"{shortened(path)} is not a checkpoint: it is {err}") from err
    except TooLargeError as err:
        raise _too_large(path, str(err)) from err
    except DAMAGE as err:
        raise _damaged(path, err) from err
    _check_kind(path, values)
    return _Content(values, {}, tuple(foreign_names(file.pickled.names)))


def _check_kind(path: Path, values: object) -> None:
    """Refuse an object that has no weights by name."""
    if isinstance(values, Held) and not values and values.kind.startswith(SCRIPTED):
        raise CheckpointError(
            f"{shortened(path)} is a TorchScript archive that was frozen, in which weights have no "
            "names; give the checkpoint that it was made from, or an archive from before "
            "torch.jit.freeze"
        )
    if isinstance(values, Held) and not values:
        raise CheckpointError(
            f"{shortened(path)} holds an object of {shortened(values.kind)} whose weights have no "
            f"names; {SAVE_WEIGHTS}"
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


class _DamagedError(CheckpointError):
    """A file that cannot be read to its end."""


def _damaged(path: Path, err: Exception) -> CheckpointError:
    reason = " ".join([type(err).__name__, *str(err)[:1000].split()])[:120]
    return _DamagedError(
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
