"""A picture in any of its forms, opened but not decoded, with each failure in one line."""

from __future__ import annotations

import contextlib
import io
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import FileError
from exporters.text_files import shortened
from swin_deploy.config import Size
from swin_deploy.images.arrays import UnfitError, is_npy, read_array

if TYPE_CHECKING:
    from PIL import Image

    Source = Path | bytes | Image.Image | NDArray[Any]

POSTSCRIPT = "EPS"  # Pillow's name of the format
ORIENTATION = 0x0112  # EXIF's tag
AN_OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-fA-F]+>")  # says nothing, and changes
ON_ITS_SIDE = range(5, 9)  # values of it that exchange rows and columns
# Errors that Pillow's decoders raise on damaged files.
DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


@contextlib.contextmanager
def reading(picture: Source, name: str) -> Iterator[str]:
    """Turn the failures of a block that reads a picture into one line that names the picture.

    Args:
        picture: Path of a file, its bytes, a Pillow picture, or an array.
        name: Name of the picture for messages; an empty text for its path.

    Yields:
        The name, shortened.

    Raises:
        FileError: If the picture is missing, not a regular file, cannot be read, or is unfit.
    """
    from PIL import Image

    name = shortened(name or picture)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MOST_PIXELS
    try:
        if isinstance(picture, Path):
            _require_file(picture, name)
        yield name
    except (*DAMAGE, Image.DecompressionBombError) as err:
        raise FileError(
            f"image {name} cannot be read ({_one_line(err)}); replace or remove the file"
        ) from err
    except UnfitError as err:
        raise FileError(f"image {name} {err}") from err


def size_of_picture(picture: Source, *, channels: int, turn: bool, name: str = "") -> Size:
    """Return rows and columns of a picture, before any preprocessing.

    Args:
        picture: Path of a file, its bytes, a Pillow picture, or an array; it is not changed.
        channels: Number of channels that the model takes, by which an array's sides are told.
        turn: Whether the picture is turned as its EXIF orientation says.
        name: Name of the picture for messages; by default its path.

    Raises:
        FileError: If it cannot be read, or is an array of other channels.
    """
    with reading(picture, name):
        if isinstance(picture, np.ndarray) or is_npy(picture):
            return Size(*read_array(picture, channels=channels).shape[:2])
        with opened(picture) as image:
            size = Size(image.height, image.width)
            return Size(*reversed(size)) if turn and _orientation(image) in ON_ITS_SIDE else size


def opened(
    picture: Path | bytes | Image.Image,
) -> contextlib.AbstractContextManager[Image.Image]:
    """Return a picture opened by Pillow, closed on exit; the caller's own stays open.

    Raises:
        UnfitError: If it is PostScript, a program, which Pillow would run in Ghostscript.
    """
    from PIL import Image

    if isinstance(picture, Image.Image):
        return contextlib.nullcontext(picture)
    image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    if image.format == POSTSCRIPT:
        image.close()
        raise UnfitError("is PostScript, a program to be run; give it as PNG or JPEG")
    return image


def is_turned(image: Image.Image) -> bool:
    """Tell whether EXIF says that the picture is to be turned; False for a damaged EXIF."""
    return _orientation(image) != 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DAMAGE:
        return 1


def _require_file(path: Path, name: str) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        what = "a folder" if path.is_dir() else "not a file"
        raise FileError(f"image {name} is {what}; give image files")


def _one_line(err: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(err, UnidentifiedImageError):  # its text has a path, or a place in the memory
        return "it has no format of pictures that Pillow knows"
    if isinstance(err, OSError) and err.strerror:  # the whole text has the path once more
        return err.strerror
    text = AN_OBJECT.sub("", " ".join(str(err).split()))
    return shortened(text) if text and not isinstance(err, MemoryError) else type(err).__name__
