"""Pictures in any of their forms, and those that a command line names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from PIL import Image

from exporters.errors import FileError
from swin_deploy.images.labelled import find_images, is_folder

STANDARD_INPUT = "-"
MOST_INPUT = 512 << 20  # bytes of one picture


Picture = str | Path | bytes | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class NamedPicture:
    """A picture with its name in the answers.

    Attributes:
        name: The name.
        picture: A path, the bytes of an image or `.npy` file, a Pillow image, or an array
            [height, width, channels]: pixels of 0 to 255, uint8, or as in a `.npy` file; or the
            reason why there is none.
    """

    name: str
    picture: Picture | FileError

    @property
    def short_name(self) -> str:
        """The name as it follows the word "image" in a message."""
        return self.name.removeprefix("image ")


def named_picture(place: int, picture: Picture | NamedPicture) -> NamedPicture:
    """Name a picture by its path, else by its place in the order; keep a name that it has."""
    if isinstance(picture, NamedPicture):
        return picture
    name = str(picture) if isinstance(picture, str | Path) else f"image {place}"
    return NamedPicture(name, picture)


@dataclass(frozen=True)
class Pictures:
    """Pictures in the order in which they were named; those of a folder are sorted.

    Attributes:
        names: Path of each picture, or ``-`` for standard input.
        data: Bytes from standard input; empty if ``-`` is not among the names.
    """

    names: tuple[str, ...]
    data: bytes = b""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[NamedPicture]:
        for name in self.names:
            yield NamedPicture(name, self.data if name == STANDARD_INPUT else Path(name))


def find_pictures(arguments: Sequence[str], standard_input: BinaryIO) -> Pictures:
    """List pictures, without decoding them.

    Args:
        arguments: Paths of image files and of folders, which are searched with their subfolders;
            ``-`` for one picture on standard input.
        standard_input: Stream that ``-`` stands for; it is read only then.

    Raises:
        FileError: If a path is missing, a folder holds no image, ``-`` is given twice, or standard
            input is empty or above 512 MiB.
    """
    names: list[str] = []
    for argument in arguments:
        if argument == STANDARD_INPUT or os.path.isfile(argument):
            names.append(argument)
        elif is_folder(Path(argument)):
            names += [os.path.join(argument, path) for path in find_images(Path(argument))]
        else:
            raise FileError(f"image {argument} does not exist; name image files or folders")
    if STANDARD_INPUT not in names:
        return Pictures(tuple(names))
    if names.count(STANDARD_INPUT) > 1:
        raise FileError("standard input holds one picture; give - once")
    data = standard_input.read(MOST_INPUT + 1)
    if not data or len(data) > MOST_INPUT:
        problem = f"more than {MOST_INPUT:,} bytes" if data else "nothing"
        raise FileError(f"standard input holds {problem}; send one image file there")
    return Pictures(tuple(names), data)
