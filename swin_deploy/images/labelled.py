"""Labelled images: a tree of class folders, or a CSV file of paths and labels."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.errors import FileError
from exporters.text_files import read_text, shortened
from swin_deploy.images.arrays import ARRAY_SUFFIX
from swin_deploy.images.class_names import (
    ClassNames,
    ClassOrder,
    number_indices,
    order_classes,
)
from swin_deploy.images.decode import IMAGE_SUFFIXES
from swin_deploy.images.listing import unreadable, walk_files

PATH_HEADERS = ("path", "file", "filename", "image")
SAMPLE_SEED = 0


@dataclass(frozen=True)
class LabelledImages:
    """Images on disk and their classes.

    Attributes:
        root: Folder that the paths start from.
        paths: Paths of the images from ``root``, in the order they are run.
        labels: Index in the model of each image's class.
        description: Number and source of the images, for reports.
        order: Index of each class name, and the rule it was found by.
        fingerprint: SHA-256 of the files' paths, sizes and modification times, without labels.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    description: str
    order: ClassOrder
    fingerprint: str


def read_images(
    data: Path,
    *,
    num_classes: int,
    known: ClassNames | None = None,
    limit: int | None = None,
    skip_unreadable: bool = False,
) -> LabelledImages:
    """List labelled images; none is opened yet.

    Args:
        data: Path of a folder of class folders, searched as torchvision's ``ImageFolder`` does
            except for hidden ones; or of a CSV file of ``path,label`` rows, with or without a
            header. Its paths start from its own folder; its labels are indices or names.
        num_classes: Number of classes of the model.
        known: The model's class names, or None; see ``order_classes``.
        limit: Number of images at most, evenly spread over the classes and drawn with a fixed
            seed; None takes all.
        skip_unreadable: Whether missing files are allowed here, and skipped by the run.

    Raises:
        FileError: If the data cannot be read, have no image or are neither form.
        ConfigError: If the index of a class is not known.
    """
    if is_folder(data):
        root, pairs = data, _folder_images(data)
        order = folder_order(data, num_classes=num_classes, known=known)
    elif os.path.isfile(data):
        root, pairs = data.parent, _csv_images(data)
        order = _csv_order(pairs, num_classes=num_classes, known=known, data=data)
    else:
        raise FileError(
            f"{data} does not exist; give --data a folder of class folders, or a CSV file"
        )
    labels = [order.indices[name] for _, name in pairs]
    count = len(pairs) if limit is None else min(limit, len(pairs))
    chosen = range(len(pairs)) if count == len(pairs) else _spread(labels, count)
    paths = tuple(pairs[index][0] for index in chosen)
    return LabelledImages(
        root=root,
        paths=paths,
        labels=tuple(labels[index] for index in chosen),
        description=_description(data, count, len(pairs)),
        order=order,
        fingerprint=_fingerprint(root, paths, skip_unreadable=skip_unreadable),
    )


def _description(data: Path, count: int, total: int) -> str:
    if count == total:
        return f"all {total} images of {data}"
    return f"{count} of {total} images of {data}, spread over the classes, seed {SAMPLE_SEED}"


def find_images(folder: Path) -> list[str]:
    """List the image files of a folder and of its subfolders, links followed, hidden ones not.

    A folder without any image file is one of arrays.

    Args:
        folder: Folder to search for the suffixes in ``IMAGE_SUFFIXES``, in any case; if there is
            none, for `.npy` files.

    Returns:
        Paths below ``folder``, sorted; at least one.

    Raises:
        FileError: If the folder is missing, is a file, cannot be read or has no image.
    """
    if not is_folder(folder):
        problem = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise FileError(
            f"image folder {shortened(folder)} {problem}; give the folder that holds the images"
        )
    both = list(walk_files(folder, is_image))
    found = [path for path in both if path.lower().endswith(IMAGE_SUFFIXES)] or both
    if not found:
        raise FileError(
            f"image folder {folder} holds no images; expected files ending in "
            f"{', '.join((*IMAGE_SUFFIXES, ARRAY_SUFFIX))}"
        )
    return found


def list_images(place: Path) -> tuple[Path, list[str]]:
    """List images, whether they have labels or not; none is opened.

    Args:
        place: Folder, searched as by ``find_images``; or a CSV file, as of ``read_images``.

    Returns:
        Folder that the paths start from, and the paths.

    Raises:
        FileError: If the place cannot be read, has no image or is neither form.
    """
    if os.path.isfile(place):
        return place.parent, [path for path, _ in _csv_images(place)]
    return place, find_images(place)


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; False for a name that no file can have."""
    return os.path.isdir(path)


def class_of(path: str) -> str | None:
    """Return the name of the class folder that a relative path is in, or None without one."""
    return path.partition("/")[0] if "/" in path else None


def class_folders(folder: Path) -> list[str]:
    """List the names of the class folders, sorted, without hidden ones.

    Raises:
        FileError: If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as err:
        raise unreadable(folder, err) from err


def folder_order(folder: Path, *, num_classes: int, known: ClassNames | None) -> ClassOrder:
    """Find the index of each class folder.

    Args:
        folder: Folder of the class folders.
        num_classes: Number of classes of the model.
        known: The model's class names, or None; see ``order_classes``.

    Raises:
        FileError: If the folder cannot be read.
        ConfigError: If the indices are not known, or one is beyond the model's classes.
    """
    names = class_folders(folder)
    return order_classes(names, num_classes=num_classes, known=known, place=f"folder {folder}")


def _folder_images(folder: Path) -> list[tuple[str, str]]:
    """Return the path and class folder of each image, sorted by path."""
    found = [(path, class_of(path)) for path in find_images(folder)]
    loose = next((path for path, name in found if name is None), None)
    if loose is not None:
        raise FileError(
            f"image {folder / loose} lies in no class folder; sort the images into class "
            "folders, or give --data a CSV file of path,label"
        )
    return [(path, name) for path, name in found if name is not None]


def is_image(name: str) -> bool:
    """Tell from a file's name whether it is an image or an array, and not hidden."""
    return name.lower().endswith((*IMAGE_SUFFIXES, ARRAY_SUFFIX)) and not name.startswith(".")


def _csv_images(data: Path) -> list[tuple[str, str]]:
    """Return the path and label of each row."""
    try:
        reader = csv.reader(io.StringIO(read_text(data), newline=""))
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as err:
        raise unreadable(data, err) from err
    if rows and rows[0][1][0].lower() in PATH_HEADERS:
        rows = rows[1:]
    if not rows:
        raise FileError(f"{data} has no rows; write one path,label row for each image")
    seen: dict[str, int] = {}
    for line, row in rows:
        if len(row) != 2 or not all(row):
            raise FileError(f"{data}, line {line}: expected path,label, found {','.join(row)!r}")
        if row[0] in seen:
            raise FileError(f"{data}, line {line}: {row[0]} is there since line {seen[row[0]]}")
        seen[row[0]] = line
    return [(row[0], row[1]) for _, row in rows]


def _csv_order(
    pairs: Sequence[tuple[str, str]], *, num_classes: int, known: ClassNames | None, data: Path
) -> ClassOrder:
    """Find the index of each label: a number is the index, names are ordered as folders are."""
    names = sorted({name for _, name in pairs})
    if all(name.isdecimal() for name in names):
        indices = number_indices(names, num_classes=num_classes, place=str(data))
        return ClassOrder(indices, "labels are the model's indices")
    return order_classes(names, num_classes=num_classes, known=known, place=str(data))


def _spread(labels: Sequence[int], count: int) -> list[int]:
    """Return the places of ``count`` images, spread evenly over the classes, ascending."""
    shuffled = np.random.default_rng(SAMPLE_SEED).permutation(len(labels))
    rounds: list[tuple[int, int]] = []  # an image's turn is its rank within its class
    taken: dict[int, int] = {}
    for place in shuffled.tolist():
        turn = taken.get(labels[place], 0)
        taken[labels[place]] = turn + 1
        rounds.append((turn, place))
    first = sorted(rounds, key=lambda entry: entry[0])[:count]  # stable: shuffled within a turn
    return sorted(place for _, place in first)


def _fingerprint(root: Path, paths: Sequence[str], *, skip_unreadable: bool) -> str:
    """Hash paths, sizes and times; to read 50,000 images would take as long as to run them."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            facts = (root / path).stat()
            size, changed = facts.st_size, facts.st_mtime_ns
        except (OSError, ValueError) as err:
            if not skip_unreadable:
                raise unreadable(root / path, err) from err
            size = changed = 0
        digest.update(f"{path}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
