"""Predictions of one model, kept on disk so that an interrupted run can be resumed.

The file has one JSON line for each image, ``{"image": "3/17.png", "top": [3, 8, 5, 9, 1]}``, best
class first, after a line with the key: the conditions of the predictions. An incomplete line, such
as a killed process leaves at the end, is ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from exporters.errors import FileError
from exporters.outputs import ensure_writable
from exporters.staging import made_folder
from exporters.text_files import read_bytes

SCHEMA = 1
TOP = 5
MOST_BYTES = 4 << 30  # fifty million images
Answer = tuple[int, ...]  # classes, best first; empty where an output was not a number


class Predictions:
    """The predictions of one model on one set of images; open with ``with``.

    Each key (images, weights, file, device, versions) has a file of its own, so changing a
    condition and changing it back loses nothing.

    Args:
        folder: Folder of the files.
        name: Name of the model, for the file's name.
        key: Conditions of the predictions, by name.

    Attributes:
        path: Path of the file.
        answers: Answers by image path; those of earlier runs are there once it is open.
        changed: Names in ``key`` whose values differ from the newest other file's; empty if this
            file is resumed, or is the first.
    """

    def __init__(self, folder: Path, name: str, key: dict[str, str]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        stem = re.sub(r"[^\w.-]+", "-", name)
        self.path = folder / f"{stem}-{digest[:12]}.jsonl"
        self.answers: dict[str, Answer] = {}
        self.changed: tuple[str, ...] = ()
        self._key = key
        self._header = {"schema": SCHEMA, "name": name, "key": key}

    def __enter__(self) -> Self:
        ensure_writable(self.path)
        try:
            with made_folder(self.path.parent):
                self._open()
        except OSError as err:
            raise self._failure(err) from err
        return self

    def _open(self) -> None:
        whole = self._read()
        if not whole:
            self.changed = self._differences()
        self._stream = self.path.open("r+b" if whole else "wb")
        self._stream.seek(whole)
        self._stream.truncate()
        if not whole:
            self._write([self._header])

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()

    def add(self, answers: dict[str, Answer]) -> None:
        """Add predictions to the file.

        Args:
            answers: Answers by image path.

        Raises:
            FileError: If they cannot be written.
        """
        try:
            self._write({"image": image, "top": list(top)} for image, top in answers.items())
        except OSError as err:
            raise self._failure(err) from err
        self.answers |= answers

    def _write(self, entries: Iterable[dict[str, Any]]) -> None:
        self._stream.write("".join(f"{json.dumps(entry)}\n" for entry in entries).encode())
        self._stream.flush()

    def _read(self) -> int:
        """Read the answers of an earlier run; return the size of its complete lines, in bytes."""
        if not self.path.exists():
            return 0
        data = read_bytes(self.path, most_bytes=MOST_BYTES)
        whole = data[: data.rfind(b"\n") + 1]
        header, *lines = whole.split(b"\n")
        if _parse(header) != self._header:
            return 0
        for line in lines:
            entry = _parse(line)
            image, top = entry.get("image"), entry.get("top")
            if isinstance(image, str) and isinstance(top, list) and _is_answer(top):
                self.answers[image] = tuple(top)
        return len(whole)

    def _differences(self) -> tuple[str, ...]:
        """Return the names in the key whose values differ from the newest file of this name."""
        stem = self.path.stem.rpartition("-")[0]
        found = self.path.parent.glob("*.jsonl")
        others = [path for path in found if path != self.path and path.is_file()]
        same = [path for path in others if path.stem.rpartition("-")[0] == stem]
        if not same:
            return ()
        newest = max(same, key=lambda path: path.stat().st_mtime_ns)
        before = _parse(read_bytes(newest, most_bytes=MOST_BYTES).partition(b"\n")[0]).get("key")
        if not isinstance(before, dict):
            return ("the earlier file, which is damaged",)
        return tuple(name for name, value in self._key.items() if before.get(name) != value)

    def _failure(self, err: OSError) -> FileError:
        return FileError(
            f"cannot keep predictions in {self.path}: {err.strerror or err}; choose another "
            "--output, or free some space, and run again to go on"
        )


def _parse(line: bytes) -> dict[str, Any]:
    """Parse the JSON object in a line; return an empty one for a damaged line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_answer(top: list[Any]) -> bool:
    return len(top) <= TOP and all(type(one) is int for one in top)
