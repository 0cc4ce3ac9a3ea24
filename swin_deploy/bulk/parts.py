"""The images of one part file, and the name of that file, which follows from them.

A part file's name is a digest of the run's conditions and of the part's images: their names, sizes
and times of change. A part that is there need not be made again, and one of other images is never
taken for it.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "\0"  # in no path
DIGITS = 16  # of a digest in a name: a chance of 1 in 10**13 that two of a million parts meet


@dataclass(frozen=True)
class Part:
    """Images whose answers make one file.

    Attributes:
        digest: Digest of the images and the run's conditions, ``DIGITS`` hexadecimal digits.
        source: Folder or Parquet file that the images come from, as it was named.
        rows: Number of images.
        start: Row of the first image in a Parquet file; None for a folder.
        column: Column of a Parquet file that holds the images; empty for a folder.
        packed: Paths below a folder, compressed; empty for a Parquet file.
    """

    digest: str
    source: str
    rows: int
    start: int | None = None
    column: str = ""
    packed: bytes = b""

    @property
    def file(self) -> str:
        """Name of the part's file."""
        return f"part-{self.digest}.parquet"

    @property
    def text(self) -> str:
        """The images in a few words."""
        if self.start is not None:
            return f"{self.source}: rows {self.start} to {self.start + self.rows - 1}"
        return f"{self.source}: {self.names[0]} to {self.names[-1]}"

    @property
    def names(self) -> list[str]:
        """Paths of the images below the folder; empty for a Parquet file."""
        text = zlib.decompress(self.packed).decode("utf-8", "surrogateescape")
        return text.split(SEPARATOR)


def parts_of_folder(
    source: Path, names: Iterable[str], *, size: int, conditions: str
) -> Iterator[Part]:
    """Cut the images of a folder into parts.

    A part ends after a name whose checksum says so, or at ``size`` images: where one image more
    or less is in the folder, the parts before and after it stay the same.

    Args:
        source: The folder, as it was named.
        names: Paths of images below it, in an order that depends on them only.
        size: Number of images a part at most; about three quarters of it are in one.
        conditions: Text that says what else the answers depend on.
    """
    least = max(size // 2, 1)
    held: list[str] = []
    for name in names:
        held.append(name)
        chosen = len(held) >= least and zlib.crc32(os.fsencode(name)) % least == 0
        if chosen or len(held) >= size:
            yield _folder_part(source, held, conditions)
            held = []
    if held:
        yield _folder_part(source, held, conditions)


def _folder_part(source: Path, names: list[str], conditions: str) -> Part:
    digest = hashlib.sha256(f"{conditions}\n{source}\n".encode("utf-8", "surrogateescape"))
    for name in names:
        digest.update(os.fsencode(f"{name}{SEPARATOR}{_times(source / name)}\n"))
    packed = zlib.compress(os.fsencode(SEPARATOR.join(names)), 1)
    return Part(digest.hexdigest()[:DIGITS], str(source), len(names), packed=packed)


def parts_of_file(
    source: Path, rows: int, *, size: int, column: str, conditions: str
) -> Iterator[Part]:
    """Cut the rows of a Parquet file into parts; arguments are those of ``parts_of_folder``."""
    times = _times(source)
    for start in range(0, rows, size):
        count = min(size, rows - start)
        text = f"{conditions}\n{source}{SEPARATOR}{times} {column} {start} {count}\n"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        yield Part(digest[:DIGITS], str(source), count, start=start, column=column)


def _times(path: Path) -> str:
    """Return a file's size and time of change; a text of its own for a file that is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns}"
