"""The pickle and the storages of a PyTorch file: zip, legacy form, or a pickle alone."""

from __future__ import annotations

import dataclasses
import functools
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from swin_deploy.checkpoints.limits import check_zip
from swin_deploy.checkpoints.not_weights import zip_kind
from swin_deploy.checkpoints.pickles import Inert, Pickle, Stored, TooLargeError, read_pickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # of torch.save's form before zip files
BLOCK = 1 << 16  # bytes; longer reads are held against what there is
STORAGE_TYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip

Fetch = Callable[[Stored], Tensor]


class NotTorchError(ValueError):
    """A zip file that PyTorch did not write: what it is and what to do."""


@dataclass(frozen=True)
class TorchFile:
    """The content of a PyTorch file.

    Attributes:
        pickled: The pickle of its values.
        fetch: Function that gives the values of a storage, [n] in its own type; it raises
            ``ValueError`` or ``LookupError`` for a persistent id of another form.
        size: Number of bytes of the file.
    """

    pickled: Pickle
    fetch: Fetch
    size: int = 0


@dataclass(frozen=True)
class _Place:
    """A storage as a persistent id names it."""

    key: str
    dtype: torch.dtype
    items: int
    view: tuple[int, int] | None = None  # offset and items of a part of it


def read_torch_file(path: Path) -> TorchFile:
    """Read a file that ``torch.save``, ``torch.jit.save`` or ``pickle.dump`` wrote.

    Raises:
        NotTorchError: If it is a zip file of another kind.
        TooLargeError: If it asks for more than weights need.
        OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile, ...: If it is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        return _read_zip(path, size)
    with _Bounded(path, size) as stream:
        return dataclasses.replace(read_stream(stream), size=size)


class _Bounded(io.BufferedReader):
    """A file that does not make room for more bytes than it has."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path.open("rb", buffering=0), BLOCK)
        self.size = size

    def read(self, count: int | None = -1, /) -> bytes:
        if count is not None and count > BLOCK:
            count = min(count, max(0, self.size - self.tell()))
        return super().read(count)


def _read_zip(path: Path, size: int) -> TorchFile:
    names = check_zip(path, size)
    root = names[0].partition("/")[0] if names else ""
    if f"{root}/data.pkl" not in names:
        raise NotTorchError(zip_kind(path, names))
    archive = zipfile.ZipFile(path)  # closed with the function that fetches
    order = archive.read(f"{root}/byteorder") if f"{root}/byteorder" in names else b"little"
    pickled = read_pickle(io.BytesIO(archive.read(f"{root}/data.pkl")))

    @functools.cache
    def data(key: str) -> Tensor:
        return _bytes_tensor(archive.read(f"{root}/data/{key}"))

    def fetch(stored: Stored) -> Tensor:
        place = _place(stored)
        found = _typed(data(place.key), place)
        return _swapped(found) if order == b"big" else found

    return TorchFile(pickled, fetch, size)


def read_stream(stream: IO[bytes]) -> TorchFile:
    """Read the legacy form of ``torch.save``, or a pickle alone; raise as ``read_torch_file``."""
    first = read_pickle(stream)
    if first.value != MAGIC_NUMBER:
        return TorchFile(first, _fetch_nothing)
    for _ in ("version", "machine"):
        read_pickle(stream)
    pickled = read_pickle(stream)
    places = {place.key: place for place in map(_place, pickled.stored)}
    keys = read_pickle(stream).value
    held = {key: _read_storage(stream, places[key]) for key in keys}

    def fetch(stored: Stored) -> Tensor:
        place = _place(stored)
        return _typed(held[place.key], place)

    return TorchFile(pickled, fetch)


def _fetch_nothing(stored: Stored) -> Tensor:
    raise ValueError("a storage in a pickle that has none")


def _read_storage(stream: IO[bytes], place: _Place) -> Tensor:
    items = int.from_bytes(stream.read(8), "little")
    if items != place.items:
        raise ValueError(f"a storage of {items} values, not {place.items}")
    return _bytes_tensor(stream.read(items * place.dtype.itemsize))


def _bytes_tensor(data: bytes) -> Tensor:
    """Return bytes as a tensor [n] of memory of its own."""
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _place(stored: Stored) -> _Place:
    """Read a persistent id: ``("storage", type, key, device, items)``, and a view in old files."""
    kind, storage_type, key, _, items, *more = stored.pid
    home, _, name = (
        storage_type.name.rpartition(".") if isinstance(storage_type, Inert) else [""] * 3
    )
    name = name if home in ("torch", "torch.cuda", "torch.storage") else ""
    whole = isinstance(items, int) and items >= 0
    if kind not in ("storage", b"storage") or name not in STORAGE_TYPES or not whole:
        raise ValueError("a storage of an unknown form")
    view = None
    if more and more[0] is not None:
        _, offset, length = more[0]
        view = (offset, length)
    return _Place(str(key) if isinstance(key, int) else key, STORAGE_TYPES[name], items, view)


def _typed(data: Tensor, place: _Place) -> Tensor:
    """Return the values of a storage, [items], from its bytes, [n].

    Raises:
        TooLargeError: If there are fewer bytes.
    """
    needed = place.items * place.dtype.itemsize
    if needed > len(data):
        raise TooLargeError(f"a storage of {needed:,} bytes, of which it has {len(data):,}")
    values = data[:needed].view(place.dtype)
    if place.view is None:
        return values
    offset, length = place.view
    if not 0 <= offset <= offset + length <= len(values):
        raise ValueError("a view beyond its storage")
    return values[offset : offset + length]


def _swapped(values: Tensor) -> Tensor:
    """Return values with the bytes of each in the other order."""
    size = values.element_size()
    return values.view(torch.uint8).reshape(-1, size).flip(1).reshape(-1).view(values.dtype)


def nested_storage(data: bytes) -> Tensor:
    """Read a storage that a pickle of tensors holds as the bytes of a ``torch.save`` file.

    Raises:
        ValueError, LookupError, TypeError, ...: If it is damaged, or holds no storage.
    """
    inner = read_stream(io.BytesIO(data))
    if not isinstance(inner.pickled.value, Stored):
        raise ValueError("bytes without a storage")  # noqa: TRY004 - damage
    return inner.fetch(inner.pickled.value)


def storage_of(value: Any, fetch: Fetch) -> Tensor:  # noqa: ANN401 - whatever a file holds
    """Return the values of a storage in a call that rebuilds a tensor, [n].

    Args:
        value: Stand-in of the storage.
        fetch: Function of the file that gives them.

    Raises:
        ValueError: If it is no storage.
    """
    if isinstance(value, Stored):
        return fetch(value)
    if isinstance(value, Inert) and value.made and value.name == "torch.storage._load_from_bytes":
        (data,) = value.args
        if not isinstance(value.state, Tensor):  # several tensors may share it
            value.state = nested_storage(as_bytes(data))
        return value.state
    raise ValueError("a tensor without a storage")


def as_bytes(value: Any) -> bytes:  # noqa: ANN401 - whatever a file holds
    """Return bytes in any of the spellings of pickle's protocols.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, Inert) and value.made:
        last = value.name.rpartition(".")[2]
        if value.name == "_codecs.encode" and len(value.args) == 2:
            return as_bytes(value.args[0] if isinstance(value.args[0], str) else None)
        if value.name in BYTES and last in ("bytes", "bytearray"):
            return as_bytes(value.args[0]) if value.args else b""
    raise ValueError("bytes of an unknown form")


BYTES = {
    f"{home}.{kind}" for home in ("builtins", "__builtin__") for kind in ("bytes", "bytearray")
}
