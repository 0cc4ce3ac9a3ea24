"""The limits of a weights file, checked before it is read and before its tensors are used."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from swin_deploy.checkpoints.pickles import TooLargeError

MOST_HEADER = 16 << 20  # bytes of a safetensors header, and of a zip file's directory
MOST_GROWTH = 8  # bytes in float32 for a byte in the file; float16 takes two
SPARE = 64 << 20  # bytes that any file may ask for
MOST_DIMENSIONS = 8
MOST_PLACES = 1 << 40
DTYPES = frozenset({
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
})  # fmt: skip
ODD_KIND = "odd_kind"  # attribute of a tensor that stands for one of a form that is not read


def check_zip(path: Path, size: int) -> list[str]:
    """Check the directory of a zip file, and what it takes when it is unpacked.

    Args:
        path: Path of the file.
        size: Number of its bytes.

    Returns:
        Names of its entries, in order.

    Raises:
        TooLargeError: If it asks for more than weights need.
        OSError, ValueError, zipfile.BadZipFile: If it is damaged.
    """
    _check_directory_size(path, size)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename.casefold() for entry in entries]  # PyTorch's reader looks so
    if len(set(names)) < len(names):
        raise ValueError("two of its entries bear one name")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > 4 * size + SPARE:
        raise TooLargeError(f"{unpacked:,} bytes when it is unpacked, and it has {size:,}")
    return [entry.filename for entry in entries]


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
    if hasattr(tensor, ODD_KIND):
        return str(getattr(tensor, ODD_KIND))
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
