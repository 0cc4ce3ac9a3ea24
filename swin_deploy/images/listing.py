"""The files below a folder, one after the other, in an order that depends on their names only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from exporters.errors import FileError


def walk_files(folder: Path, is_wanted: Callable[[str], bool]) -> Iterator[str]:
    """List files below a folder, links followed, hidden files and folders not.

    A folder is searched once, however many links lead to it. Memory grows with the files of one
    folder, not with all of them.

    Args:
        folder: Folder to search.
        is_wanted: Function that tells from a file's name whether it is listed.

    Yields:
        Path of each file below ``folder``, with ``/`` between names; sorted as lists of names.

    Raises:
        FileError: If a folder cannot be read.
    """
    seen: set[str] = set()  # a link to a folder above would never end
    waiting = [("", _entries(os.fspath(folder), is_wanted, seen))]
    while waiting:
        above, (names, folders) = waiting[-1]
        if not names:
            waiting.pop()
        elif (name := names.pop()) in folders:
            inner = os.path.join(folder, above, name)
            waiting.append((f"{above}{name}/", _entries(inner, is_wanted, seen)))
        else:
            yield f"{above}{name}"


def unreadable(path: Path, err: Exception) -> FileError:
    """Return the error for data that cannot be read, with the system's reason in one line."""
    reason = getattr(err, "strerror", None) or " ".join(str(err).split())
    return FileError(f"{path} cannot be read ({reason}); check the data and their permissions")


def _entries(
    place: str, is_wanted: Callable[[str], bool], seen: set[str]
) -> tuple[list[str], set[str]]:
    """Return names in a folder, the first one last, and which of them are folders.

    There are none if it was seen before. An entry of ``os.scandir`` has ten times a name's bytes.
    """
    names: list[str] = []
    folders: set[str] = set()
    real = os.path.realpath(place)
    if real in seen:
        return names, folders
    seen.add(real)
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _holds(entry.is_dir):
                    folders.add(entry.name)
                elif not (is_wanted(entry.name) and _holds(entry.is_file)):
                    continue
                names.append(entry.name)
    except OSError as err:
        raise unreadable(Path(place), err) from err
    names.sort(reverse=True)
    return names, folders


def _holds(question: Callable[[], bool]) -> bool:
    """Ask an entry; False if it cannot be looked up, as a link to itself."""
    with contextlib.suppress(OSError):
        return question()
    return False
