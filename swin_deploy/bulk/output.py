"""The folder of part files: whose it is, and which parts are whole.

``_predictions.json`` names the model and the images that the parts are of. A part file takes its
name when it is whole, and its name says which images it is of, so that any number of processes that
are killed, or make the same part, leave each answer once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from exporters.errors import FileError
from exporters.staging import (
    cannot_write,
    made_folder,
    name_locks,
    remove_left_over,
    replace_files,
    undisturbed,
)
from exporters.text_files import as_utf8, read_json
from swin_deploy.bulk.answers import ERROR
from swin_deploy.bulk.columns import opened_parquet
from swin_deploy.bulk.parts import DIGITS, Part
from swin_deploy.bulk.sources import Sources
from swin_deploy.predict.conditions import Described

SCHEMA = 1
KIND = "bulk predictions"
MANIFEST = "_predictions.json"  # readers of Parquet folders pass over names with this start
PART = re.compile(rf"part-[0-9a-f]{{{DIGITS}}}\.parquet")


def key_of(model: Described, sources: Sources, *, size: int) -> dict[str, Any]:
    """Return what the answers of a run depend on, as JSON values.

    Args:
        model: The model.
        sources: The images.
        size: Number of images a part file at most.
    """
    return {
        **model.conditions,
        "top": model.top,
        # Other words for the same folder would be other names in the rows.
        "images": {as_utf8(str(one)): as_utf8(os.path.abspath(one)) for one in sources.named},
        "image_column": sources.column,
        "part_size": size,
    }


class AnswerFolder:
    """A folder of part files that one run at a time writes; open it with ``with``.

    Args:
        path: The folder; it is made if it is not there.
        key: Conditions of the answers, see ``key_of``. A folder of the same key is gone on with.
        force: True to remove the parts of another key.

    Attributes:
        path: The folder.

    Raises:
        FileError: If the folder holds something else, cannot be written, or another process writes
            it for long.
    """

    def __init__(self, path: Path, key: dict[str, Any], *, force: bool) -> None:
        self.path = path
        self._force = force
        # The form that a reader of the file gets: lists, no tuples.
        self._manifest = json.loads(json.dumps({"schema": SCHEMA, "kind": KIND, **key}))

    def __enter__(self) -> Self:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(made_folder(self.path))
                # A name of its own: whoever writes a file takes that of the file.
                stack.enter_context(name_locks([self.path / "parts"]))
                remove_left_over(self.path)
                self._take_over()
                self._stack = stack.pop_all()
        except OSError as err:
            raise cannot_write(self.path, err) from err
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def missing(self, parts: Iterable[Part]) -> tuple[list[Part], int]:
        """Remove part files of images that are gone or changed, and damaged ones.

        They go before anything is made, so that a reader never finds an image twice.

        Args:
            parts: All parts of the images.

        Returns:
            The parts that have no file, and the number of files that were removed.

        Raises:
            FileError: If a file cannot be removed.
        """
        wanted = {part.file: part for part in parts}
        stale = 0
        for name in self._files():
            part = wanted.get(name)
            if part is not None and _is_whole(self.path / name, part.rows):
                del wanted[name]
            else:
                self._remove(name)
                stale += 1
        return list(wanted.values()), stale

    def count(self) -> tuple[int, int, int]:
        """Count the part files, their rows, and the rows without an answer, from their footers.

        Raises:
            FileError: If a part file cannot be read.
        """
        found = [_counted(self.path / name) for name in self._files()]
        return len(found), sum(rows for rows, _ in found), sum(failed for _, failed in found)

    def _files(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if PART.fullmatch(name))

    def _take_over(self) -> None:
        """Go on with a folder of the same key, or begin a new one."""
        place = self.path / MANIFEST
        visible = [name for name in os.listdir(self.path) if not name.startswith(".")]
        if visible and not place.is_file():
            raise FileError(
                f"{self.path} holds other files ({visible[0]}) and no {MANIFEST}; name a new or "
                "empty folder"
            )
        found = read_json(place) if visible else {}
        found = found if isinstance(found, dict) else {}
        if visible and found.get("kind") != KIND:
            raise FileError(f"{place} was not written by predict; name a new or empty folder")
        names = [name for name, value in self._manifest.items() if found.get(name) != value]
        if not names:
            return
        if visible and not self._force:
            raise FileError(
                f"{self.path} has predictions of another run (not the same: {', '.join(names)}); "
                "name another folder, or start anew with --force"
            )
        for name in self._files():  # first, so that no part has the other run's manifest
            self._remove(name)
        replace_files({place: (json.dumps(self._manifest, indent=2) + "\n").encode()})

    def _remove(self, name: str) -> None:
        try:
            with undisturbed():
                (self.path / name).unlink(missing_ok=True)
        except OSError as err:
            raise cannot_write(self.path / name, err) from err


def _is_whole(path: Path, rows: int) -> bool:
    """Tell whether a part file can be read and has some number of rows."""
    try:
        return _counted(path)[0] == rows
    except FileError:
        return False


def _counted(path: Path) -> tuple[int, int]:
    """Return the number of rows in a part file, and of those without an answer."""
    with opened_parquet(path) as file:
        metadata, last = file.metadata, file.schema_arrow.names[-1:]
        groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    found = [one.column(one.num_columns - 1).statistics for one in groups if last == [ERROR]]
    if last != [ERROR] or not all(one and one.has_null_count for one in found):
        raise FileError(f"{path} is not as predict wrote it; remove it, and run again")
    return metadata.num_rows, metadata.num_rows - sum(one.null_count for one in found)
