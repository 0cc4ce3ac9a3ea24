"""Pictures as arrays: `.npy` files and NumPy arrays, of any number of channels."""

from __future__ import annotations

import io
import math
import tokenize
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from exporters.text_files import shortened
from swin_deploy.config import channels_text

ARRAY_SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"
MOST_VALUES = 360_000_000  # as many as the largest picture has in three channels
LEVELS = 255 / 65535  # levels of 0 to 255 in one of 16 bits
TYPES = "uint8 (0 to 255), uint16 (0 to 65535) or floating point (scaled already)"
HEADER_DAMAGE = (  # errors of NumPy's readers of headers
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class UnfitError(Exception):
    """A picture that a model cannot take; the text follows the picture's name."""


def is_npy(picture: object) -> TypeGuard[Path | bytes]:
    """Return whether a picture is the path of a `.npy` file, or the bytes of one."""
    if isinstance(picture, Path):
        return picture.suffix.lower() == ARRAY_SUFFIX
    return isinstance(picture, bytes) and picture.startswith(MAGIC)


def read_array(picture: Path | bytes | NDArray[Any], *, channels: int) -> NDArray[Any]:
    """Read a picture that is an array.

    Nothing is unpickled, and nothing is read before the header says that it fits.

    Args:
        picture: Path of a `.npy` file, the bytes of one, or the array itself; it is not changed.
        channels: Number of channels that the model takes.

    Returns:
        The array, [rows, columns, channels], uint8, uint16 or float32, finite.

    Raises:
        OSError: If the file cannot be read.
        UnfitError: If it is damaged, or of another shape, type or size.
    """
    if isinstance(picture, np.ndarray):
        _check_type(picture.dtype)
        _check_shape(picture.shape, channels)
        array = picture
    elif isinstance(picture, bytes):
        array = _read(io.BytesIO(picture), channels)
    else:
        with picture.open("rb") as stream:
            array = _read(stream, channels)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UnfitError("has values that are not finite in float32; replace them")
    return _channels_last(array.astype(array.dtype.newbyteorder("="), copy=False), channels)


def _read(stream: BinaryIO, channels: int) -> NDArray[Any]:
    """Read the array of a `.npy` file after its header was checked."""
    try:
        shape, by_columns, dtype = READERS[npy.read_magic(stream)](stream)
    except HEADER_DAMAGE as err:
        reason = shortened(" ".join(str(err).split()) or type(err).__name__)
        raise UnfitError(f"is not a .npy file that can be read ({reason}); save it again") from err
    _check_type(dtype)
    _check_shape(shape, channels)
    wanted = math.prod(shape) * dtype.itemsize
    start = stream.tell()
    left = stream.seek(0, io.SEEK_END) - start
    if left < wanted:  # found out before memory for what is wanted is taken
        raise UnfitError(f"ends after {left:,} of {wanted:,} bytes; save it again")
    stream.seek(start)
    array = np.frombuffer(stream.read(wanted), dtype)
    return array.reshape(shape, order="F" if by_columns else "C")


def _check_type(dtype: np.dtype[Any]) -> None:
    if (dtype.kind, dtype.itemsize) not in (("u", 1), ("u", 2), ("f", 2), ("f", 4), ("f", 8)):
        raise UnfitError(f"is an array of {shortened(dtype)}; give {TYPES}")


def _check_shape(shape: tuple[int, ...], channels: int) -> None:
    """Refuse an array whose channels are not the model's, or cannot be told from its sides."""
    ends = [axis for axis in (0, -1) if len(shape) == 3 and shape[axis] == channels]
    flat = len(shape) == 2 and channels == 1
    text = shortened(list(shape))
    if not (flat or ends) or not all(side > 0 for side in shape):
        raise UnfitError(
            f"is an array of shape {text}, and the model takes {channels_text(channels)}: give "
            f"[height, width, {channels}] or [{channels}, height, width]"
        )
    if len(ends) == 2:
        raise UnfitError(
            f"is an array of shape {text}, whose channels may be first or last; "
            "make its height or width another one"
        )
    if math.prod(shape) > MOST_VALUES:
        raise UnfitError(
            f"is an array of shape {text}, more than the {MOST_VALUES:,} values that are read; "
            "make it smaller"
        )


def _channels_last(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """Bring an array of a shape that was checked to [rows, columns, channels]."""
    if array.ndim == 2:
        return array[..., None]  # [H, W] -> [H, W, 1]
    return array if array.shape[-1] == channels else np.moveaxis(array, 0, -1)
