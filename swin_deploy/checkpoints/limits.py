"""The limits of a weights file, checked before it is read and before its tensors are used."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from exporters.text_files import listed
from swin_deploy.checkpoints.pickles import Look, TooLargeError, look_at

MOST_PICKLE = 8 << 20  # bytes; the weights of the largest Swin take 52,000
MOST_HEADER = 16 << 20  # bytes of a safetensors header, and of a zip file's directory
MOST_GROWTH = 8  # bytes in float32 for a byte in the file; float16 takes two
SPARE = 64 << 20  # bytes that any file may ask for
MOST_DIMENSIONS = 8
MOST_PLACES = 1 << 40
LEGACY_PICKLES = 5  # magic number, version, machine, values, and keys of storages
DTYPES = frozenset({
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
})  # fmt: skip
# Imports that PyTorch's reader allows by itself, except bytearray, which may be of any length. All
# other imports of a pickle may run code.
HARMLESS = frozenset({
    "_codecs.encode", "collections.Counter", "collections.OrderedDict",
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in ("complex", "set")),
})  # fmt: skip


class ObjectsError(ValueError):
    """A pickle that imports something that a dict of tensors does not need and may run code."""


def look_into(path: Path) -> Look:
    """Look at the pickles of a ``torch.save`` file, zip or legacy, without reading its tensors.

    Returns:
        The highest protocol, and the imports and storages of all its pickles together.

    Raises:
        ObjectsError: If it imports something else than PyTorch's reader allows by itself.
        TooLargeError: If it asks for more than weights need.
        OSError, ValueError, LookupError, zipfile.BadZipFile, ...: If it is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
        stream.seek(0)
        start = io.BytesIO(_data_pickle(path, size) if zipped else stream.read(MOST_PICKLE))
    looks = [_harmless(look_at(start)) for _ in range(1 if zipped else LEGACY_PICKLES)]
    items = sum(look.storage_items for look in looks)
    if items > size:
        raise TooLargeError(f"{items:,} values, more than it has bytes")
    return Look(
        protocol=max(look.protocol for look in looks),
        names=tuple(dict.fromkeys(name for look in looks for name in look.names)),
        storage_items=items,
    )


def _harmless(look: Look) -> Look:
    known = HARMLESS | {f"{kind.__module__}.{kind.__qualname__}" for kind in _allowed_classes()}
    objects = [n for n in look.names if not n.startswith("torch.") and n not in known]
    if objects:
        raise ObjectsError(listed(objects))
    return look


def _allowed_classes() -> list[type]:
    """Return the classes that this process allows PyTorch's reader besides its own."""
    return [kind for kind in torch.serialization.get_safe_globals() if isinstance(kind, type)]


def _data_pickle(path: Path, size: int) -> bytes:
    """Read the pickle in a zip file; refuse a directory that weights do not have."""
    _check_directory_size(path, size)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename.casefold() for entry in entries]  # PyTorch's reader looks so
        if len(set(names)) < len(names):
            raise ValueError("two of its entries bear one name")
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > 4 * size + SPARE:
            raise TooLargeError(f"{unpacked:,} bytes when it is unpacked, and it has {size:,}")
        data = archive.getinfo(f"{entries[0].filename.partition('/')[0]}/data.pkl")
        if data.file_size > MOST_PICKLE:
            raise TooLargeError(f"a pickle of {data.file_size:,} bytes")
        return archive.read(data)


def _check_directory_size(path: Path, size: int) -> None:
    """Refuse a directory that would take gigabytes to list."""
    with path.open("rb") as stream:
        stream.seek(max(0, size - (1 << 16) - 98))  # the longest comment, and the two records
        tail = stream.read()
    for sign, form, at in ((b"PK\5\6", "<I", 12), (b"PK\6\6", "<Q", 40)):
        found = tail.rfind(sign)
        record = tail[found + at : found + at + struct.calcsize(form)] if found >= 0 else b""
        if len(record) == struct.calcsize(form) and struct.unpack(form, record)[0] > MOST_HEADER:
            raise TooLargeError(f"a directory of more than {MOST_HEADER:,} bytes")


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header is larger than that of any weights.

    Raises:
        TooLargeError: If the header has more than ``MOST_HEADER`` bytes.
        OSError, struct.error: If the file cannot be read.
    """
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
    if MOST_HEADER < length <= path.stat().st_size:
        raise TooLargeError(f"a header of {length:,} bytes")


def unusable(tensors: dict[str, Tensor]) -> list[str]:
    """List the tensors that are not dense arrays of real numbers, each with the reason."""
    return [f"{name} ({odd})" for name, tensor in tensors.items() if (odd := _odd(tensor))]


def _odd(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta:
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"{kind}, {tensor.layout}, {tensor.device}"
    if tensor.dtype not in DTYPES:
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.ndim > MOST_DIMENSIONS:
        return f"{tensor.ndim} dimensions"
    places = math.prod(max(1, size) for size in tensor.shape)  # strides are counted so
    return f"shape {list(tensor.shape)}" if places > MOST_PLACES else ""


def excess(tensors: dict[str, Tensor]) -> str:
    """Compare the memory that tensors need as float32 with what the file stores.

    An expanded tensor has one value for billions of places, and any number of tensors may share
    their values; copied to float32 they may need more memory than there is.

    Returns:
        Both numbers of bytes, in words; empty if the tensors need no more than is usual.
    """
    storages = [tensor.untyped_storage() for tensor in tensors.values()]
    have = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    need = sum(t.numel() * max(4, t.element_size()) for t in tensors.values())
    if need <= MOST_GROWTH * have + SPARE:
        return ""
    return f"{need:,} bytes of tensors, of which it stores {have:,}"
