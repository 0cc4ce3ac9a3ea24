"""Folders and Parquet files, listed and cut into parts; no image is opened."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from exporters.errors import FileError
from exporters.text_files import shortened
from swin_deploy.bulk.columns import ImageFile, read_image_file
from swin_deploy.bulk.parts import Part, parts_of_file, parts_of_folder
from swin_deploy.images.arrays import ARRAY_SUFFIX
from swin_deploy.images.decode import IMAGE_SUFFIXES
from swin_deploy.images.labelled import is_folder
from swin_deploy.images.listing import walk_files

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
KINDS = (IMAGE_SUFFIXES, (ARRAY_SUFFIX,), PARQUET_SUFFIXES)  # the first that a folder has
ALL_SUFFIXES = tuple(itertools.chain(*KINDS))


@dataclass(frozen=True)
class Sources:
    """What a command line names: folders of images, and Parquet files.

    Attributes:
        named: The paths, as they were named.
        folders: Folders of images, each with the endings of the files that count.
        files: Parquet files, those of folders too.
        column: Name of the column of images that was asked for; None to find it.
        passed_over: Number of files by ending that ``parts`` came across in the folders and left
            out, though they would count in a folder of their own.
    """

    named: tuple[Path, ...]
    folders: tuple[tuple[Path, tuple[str, ...]], ...]
    files: tuple[ImageFile, ...]
    column: str | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> list[str]:
        """Remarks on where the images are taken from, which no option said."""
        found: dict[tuple[str, str], list[int]] = {}
        for one in self.files:
            found.setdefault((one.column, one.form), []).append(one.rows)
        return [
            f"{len(rows):,} Parquet files with {sum(rows):,} rows: images from column "
            f"{shortened(column)}, {form}"
            for (column, form), rows in found.items()
        ]

    def parts(self, *, size: int, key: Mapping[str, Any]) -> Iterator[Part]:
        """Cut the images into parts.

        Args:
            size: Number of images a part at most; see ``parts_of_folder``.
            key: Conditions of the answers, as JSON values.

        Raises:
            FileError: If a folder cannot be read.
        """
        conditions = json.dumps(key, sort_keys=True)
        for folder, endings in self.folders:
            names = walk_files(folder, partial(self._counts, endings=endings))
            yield from parts_of_folder(folder, names, size=size, conditions=conditions)
        for one in self.files:
            yield from parts_of_file(
                one.path, one.rows, size=size, column=one.column, conditions=conditions
            )

    def _counts(self, name: str, *, endings: tuple[str, ...]) -> bool:
        """Tell whether a file of a folder counts; one of another kind is noted."""
        if _ends_in(name, endings=endings):
            return True
        ending = os.path.splitext(name)[1].lower()
        if ending in ALL_SUFFIXES and _ends_in(name, endings=(ending,)):
            self.passed_over[ending] += 1
        return False


def find_sources(arguments: Sequence[str], *, column: str | None = None) -> Sources:
    """Find out what each path is: a folder of images, one of Parquet files, or such a file.

    A folder is one of images if it has any, else one of `.npy` arrays, else of Parquet files.

    Args:
        arguments: Paths of folders and Parquet files.
        column: Name of the column of images in Parquet files; see ``read_image_file``.

    Raises:
        FileError: If a path is missing, is named twice, holds nothing of this kind, or is a
            Parquet file that cannot be read.
    """
    paths = tuple(map(Path, arguments))
    _require_apart(paths)
    folders: list[tuple[Path, tuple[str, ...]]] = []
    files: list[Path] = []
    for path in paths:
        if not is_folder(path):
            files.append(_required_file(path))
            continue
        endings = _endings(path)
        if endings == PARQUET_SUFFIXES:
            files += [path / one for one in walk_files(path, partial(_ends_in, endings=endings))]
        else:
            folders.append((path, endings))
    found = tuple(read_image_file(one, column) for one in files)
    return Sources(paths, tuple(folders), found, column)


def _endings(folder: Path) -> tuple[str, ...]:
    """Return the endings of the files that count in a folder; raises ``FileError`` if none is."""
    for kind in KINDS:
        if next(walk_files(folder, partial(_ends_in, endings=kind)), None) is not None:
            return kind
    raise FileError(
        f"{folder} holds neither images nor Parquet files; expected files ending in "
        f"{', '.join(ALL_SUFFIXES)}"
    )


def _ends_in(name: str, *, endings: tuple[str, ...]) -> bool:
    """Tell whether a file counts; Parquet files of other programs' notes start with _."""
    return name.lower().endswith(endings) and not (
        endings[0] in PARQUET_SUFFIXES and name.startswith("_")
    )


def _required_file(path: Path) -> Path:
    if not os.path.lexists(path):
        raise FileError(f"{path} does not exist; give folders of images, or Parquet files")
    if not os.path.isfile(path):
        raise FileError(f"{path} is not a file; give folders of images, or Parquet files")
    if path.suffix.lower() in (*IMAGE_SUFFIXES, ARRAY_SUFFIX):
        raise FileError(f"{path} is one image; --parquet takes folders of images and Parquet files")
    return path


def _require_apart(paths: Sequence[Path]) -> None:
    """Refuse a path that is named twice, or that is in another one: no image counts twice."""
    places: dict[Path, Path] = {}
    for path in paths:
        real = Path(os.path.realpath(path))
        if real in places:
            raise FileError(f"{places[real]} and {path} are the same; name each once")
        places[real] = path
    for real, path in places.items():
        above = next((places[one] for one in real.parents if one in places), None)
        if above is not None:
            raise FileError(f"{path} is in {above}, which is named too; name one of them")
