"""Places that files may go to: not onto what is read, not over what somebody else made.

The same check is made before a long computation, which it saves, and again when the file is
written.
"""

from __future__ import annotations

import glob
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.errors import FileError
from exporters.staging import cannot_write, real_path

SIGNATURE = "<!-- made by swin-deploy: {} -->\n"  # a comment in HTML, Markdown and SVG alike


@dataclass(frozen=True)
class Output:
    """A file that is to be written.

    Attributes:
        path: Path of the file, as it was named.
        is_ours: Function that tells whether the file at a path, links followed, was made by this
            program. An empty file may always be replaced.
    """

    path: Path
    is_ours: Callable[[Path], bool]


def claim(outputs: Sequence[Output], *, inputs: Sequence[Path] = (), force: bool = False) -> None:
    """Fail if a file cannot be written, or would replace one that must stay; change nothing.

    Args:
        outputs: All files that are to be written.
        inputs: Files and folders that are read; neither they nor their contents are replaced.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If an output cannot be written, is an input or part of one, is named twice, or,
            without ``force``, was made by somebody else.
    """
    places: dict[Path, Path] = {}
    for output in outputs:
        ensure_writable(output.path)
        place = real_path(output.path)
        if place in places:
            raise FileError(
                f"{places[place]} and {output.path} are the same file; name another output"
            )
        places[place] = output.path
        ours = _may_replace(output, place)
        if _is_input(place, inputs, deep=force and not ours):
            raise FileError(f"{output.path} is the file to read; name another output")
        if not (ours or force):
            raise FileError(
                f"{output.path} is there and was not made by swin-deploy, or was changed since; "
                "name another output, or replace it with --force"
            )


def ensure_writable(path: Path) -> None:
    """Fail before a long computation rather than after it; nothing is made or changed.

    Raises:
        FileError: If ``path`` is not a regular file, the file that is there cannot be replaced,
            or none can be made.
    """
    place = real_path(path)
    try:
        _require_replaceable(place)
    except OSError as err:
        raise cannot_write(path, err) from err
    try:
        _require_room(place)
    except OSError as err:
        raise FileError(
            f"cannot write in {path.parent}: {err.strerror or err}; choose another place"
        ) from err


def _require_replaceable(place: Path) -> None:
    """Fail if the file at ``place`` cannot be replaced.

    Opening it tests permissions, the connection and whether the file is immutable.

    Raises:
        OSError: If it cannot be replaced.
    """
    if not place.exists():
        return
    os.close(os.open(place, os.O_WRONLY))
    folder, user = place.parent.stat(), getattr(os, "geteuid", lambda: 0)()
    if folder.st_mode & stat.S_ISVTX and user not in (0, folder.st_uid, place.stat().st_uid):
        raise PermissionError(0, "the file is another user's, in a folder where each keeps theirs")


def _require_room(place: Path) -> None:
    """Fail if no file can be made in the folder, or in the nearest one above it that exists.

    Raises:
        OSError: If none can be made.
    """
    folder, names = place.parent, [place.name]
    while not folder.exists():
        names.append(folder.name)
        folder = folder.parent
    for name in names:
        try:
            (folder / name).lstat()  # each name alone: the system stops at the first that is absent
        except FileNotFoundError:
            continue
    with tempfile.TemporaryFile(dir=folder):
        pass


def _may_replace(output: Output, place: Path) -> bool:
    """Tell whether no file, an empty one or one of ours is there; False if it cannot be read."""
    try:
        return not place.exists() or place.stat().st_size == 0 or output.is_ours(place)
    except OSError:
        return False


def _is_input(place: Path, inputs: Sequence[Path], *, deep: bool) -> bool:
    """Tell whether a file is one of the inputs; ``deep`` also looks into folders, which is slow."""
    if not place.exists():
        return False
    found = place.stat()
    files = (file for source in inputs for file in _files_of(source, deep=deep))
    return any(os.path.samestat(found, os.stat(file)) for file in files if os.path.isfile(file))


def _files_of(source: Path, *, deep: bool) -> Iterator[str]:
    """Yield a file, its manifest and, if ``deep``, the files in its folder or next to an index."""
    yield from (str(source), f"{source}.json")
    if deep and os.path.isdir(source):
        for folder, _, names in os.walk(source):
            yield from (os.path.join(folder, name) for name in names)
    elif deep and source.name.endswith(".index.json"):
        yield from glob.iglob(f"{glob.escape(str(source.parent))}/*")


def sign(text: str, kind: str) -> bytes:
    """Return a text file's bytes, with a last line by which ``is_signed`` knows it again.

    Args:
        text: HTML, Markdown or SVG text.
        kind: The kind of the file; only files of the same kind replace each other.
    """
    return f"{text}{SIGNATURE.format(kind)}".encode()


def is_signed(path: Path, kind: str) -> bool:
    """Tell whether a file ends with the signature of ``sign``; False if text was added after it.

    Raises:
        OSError: If the file cannot be read.
    """
    line = SIGNATURE.format(kind).encode()
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(line)))
        return stream.read() == line
