"""Predictions as a CSV file that grows row by row, so that a later run can continue it.

The manifest next to it, ``x.csv.json``, names the model that gave the rows. An incomplete last row
of a killed process is cut off. One process at a time writes a table.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from typing import IO, Any, Self

from exporters.artifact import manifest_path
from exporters.errors import FileError
from exporters.staging import made_folder, name_locks, real_path, staged_together, undisturbed
from exporters.text_files import read_json
from swin_deploy.artifacts.outputs import PREDICTIONS
from swin_deploy.predict.pictures import STANDARD_INPUT
from swin_deploy.predict.predictor import Prediction

SCHEMA = 1


class PredictionTable:
    """The answers of one model, a row a picture; open it with ``with``.

    Args:
        path: The CSV file; a link is followed. A file of an earlier run with the same key is
            continued.
        key: Conditions of the rows, as JSON values: the model, its runner, its options.
        top: Number of classes a row.
        score: Name of a class's score in the first row.
        sized: True for a column with the size that each picture was prepared for.
        force: True to start anew if the file holds something else.

    Attributes:
        path: The CSV file.
        done: Names of the pictures that have a row.
        dropped: Number of rows of an earlier run that are to be made again: those of pictures that
            could not be read, were changed after the table, or came from standard input.

    Raises:
        FileError: If the path holds something else, cannot be written, or another process writes
            it for long.
    """

    def __init__(
        self,
        path: Path,
        key: dict[str, Any],
        *,
        top: int,
        score: str = "probability",
        sized: bool = False,
        force: bool = False,
    ) -> None:
        self.path = path
        self.done: set[str] = set()
        self.dropped = 0
        self._place = real_path(path)
        self._force = force
        # The form that a reader of the file gets: lists, no tuples.
        self._manifest = json.loads(json.dumps({"schema": SCHEMA, "kind": PREDICTIONS, **key}))
        numbered = (
            f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "index", score)
        )
        self._sized = sized
        self._header = ["image", *["image_size"] * sized, *numbered, "error"]
        self._top = top

    def __enter__(self) -> Self:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(made_folder(self._place.parent))
                stack.enter_context(name_locks([self._place]))
                whole = self._take_over()
                self._stream: IO[bytes] = self._place.open("r+b")
                stack.callback(self._close)
                self._stream.seek(whole)
                self._stream.truncate()
                if not whole:
                    self._write(_line(self._header))
                self._stack = stack.pop_all()
        except OSError as err:
            raise self._failure(err) from err
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # a failed write is reported already
            self._stream.close()

    def add(self, answer: Prediction) -> None:
        """Append the answer to one picture.

        Raises:
            FileError: If it cannot be written.
        """
        try:
            self._write(_line(self._row(answer)))
        except OSError as err:
            raise self._failure(err) from err

    def _row(self, answer: Prediction) -> list[str]:
        cells = [
            cell
            for scored in answer.top[: self._top]
            for cell in (scored.name, str(scored.index), f"{scored.probability:.6g}")
        ]
        cells += [""] * (3 * self._top - len(cells))
        sizes = [str(answer.size or "")] * self._sized
        return [answer.image, *sizes, *cells, answer.error]

    def _write(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()

    def _take_over(self) -> int:
        """Prepare the file to be continued, and return the number of its bytes that stay."""
        if not self._place.exists() or not self._is_same():
            return self._start_anew()
        whole = _whole_rows(self._place.read_bytes())
        header, *rows = _parsed(whole) or [[]]
        if header != self._header:
            self._require_force("its first row is not " + ",".join(self._header), size=len(whole))
            return self._start_anew()
        written = self._place.stat().st_mtime_ns
        kept = [row for row in rows if self._holds(row, written)]
        self.done = {row[0] for row in kept}
        self.dropped = len(rows) - len(kept)
        if self.dropped:
            whole = b"".join(map(_line, [header, *kept]))
            self._replace({self._place: whole})
        return len(whole)

    def _holds(self, row: list[str], written: int) -> bool:
        """Tell whether a row is complete and its picture unchanged since the table was written.

        The row of a picture that no longer exists stays.
        """
        if len(row) != len(self._header) or row[-1] or row[0] == STANDARD_INPUT:
            return False
        try:
            found = os.stat(row[0])
        except (OSError, ValueError):  # ValueError: a NUL in a damaged name
            return True
        return max(found.st_mtime_ns, found.st_ctime_ns) < written

    def _is_same(self) -> bool:
        """Tell whether a run with the same key wrote the file; False if it is to be replaced."""
        beside = manifest_path(self._place)
        found = read_json(beside) if beside.is_file() else {}
        found = found if isinstance(found, dict) else {}
        names = [name for name, value in self._manifest.items() if found.get(name) != value]
        if names:
            why = f"not the same: {', '.join(names)}"
            self._require_force(why, size=self._place.stat().st_size)
        return not names

    def _require_force(self, why: str, *, size: int) -> None:
        if size and not self._force:
            raise FileError(
                f"{self.path} has predictions of another run ({why}); name another file, or start "
                "anew with --force"
            )

    def _start_anew(self) -> int:
        # The empty file comes first, so that after a kill no row has the other run's manifest.
        manifest = json.dumps(self._manifest, indent=2) + "\n"
        self._replace({self._place: b"", manifest_path(self._place): manifest.encode()})
        return 0

    def _replace(self, files: dict[Path, bytes]) -> None:
        with staged_together(files) as staged, undisturbed():
            for place, temporary in staged.items():
                os.replace(temporary, place)

    def _failure(self, err: OSError) -> FileError:
        return FileError(
            f"cannot keep predictions in {self.path}: {err.strerror or err}; name another file, or "
            "free some space and run again to go on"
        )


def _line(row: list[str]) -> bytes:
    """Encode a row as in the file; names may have line breaks of any kind, and not be UTF-8."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(row)  # \r and \n in a name get quotes
    line = text.getvalue().removesuffix("\r\n") + "\n"
    return line.encode("utf-8", "surrogateescape")


def _whole_rows(data: bytes) -> bytes:
    """Return the complete rows of a file, without one that a killed process began."""
    end, quotes = data.rfind(b"\n"), data.count(b'"')
    quotes -= data.count(b'"', end + 1)
    while end >= 0 and quotes % 2:  # a line break in a file's name
        before = data.rfind(b"\n", 0, end)
        quotes -= data.count(b'"', before + 1, end)
        end = before
    return data[: end + 1]


def _parsed(data: bytes) -> list[list[str]]:
    """Return the rows of a table; an empty list if the data are not CSV."""
    text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
    try:
        return [row for row in csv.reader(text) if row]
    except csv.Error:
        return []
