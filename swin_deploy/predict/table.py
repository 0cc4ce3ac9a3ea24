"""Predictions as a CSV file that grows row by row, so that a later run can go on with it.

The manifest beside it, ``x.csv.json``, says which model the rows are of. What a killed process
leaves of its last row is cut off.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Self

from exporters.artifact import manifest_path, write_atomic
from exporters.errors import FileError
from exporters.staging import real_path
from exporters.text_files import read_json
from swin_deploy.outputs import PREDICTIONS
from swin_deploy.predict.predictor import Prediction

SCHEMA = 1


class PredictionTable:
    """The answers of one model, a row a picture; open with ``with``.

    Args:
        path: The CSV file. One that an earlier run with the same key left is gone on with.
        key: What the rows hold for, as JSON values: the model, how it runs, what is asked of it.
        top: Number of classes a row.
        force: Start anew where the file holds something else.

    Attributes:
        path: The file.
        done: Names of the pictures that have a row.

    Raises:
        FileError: If the path holds something else, or cannot be written.
    """

    def __init__(self, path: Path, key: dict[str, Any], *, top: int, force: bool = False) -> None:
        self.path = path
        self._force = force
        self.done: set[str] = set()
        # As a reader of the file gets it: no tuples.
        self._manifest = json.loads(json.dumps({"schema": SCHEMA, "kind": PREDICTIONS, **key}))
        numbered = (
            f"{what}_{rank}"
            for rank in range(1, top + 1)
            for what in ("class", "index", "probability")
        )
        self._header = ["image", *numbered, "error"]
        self._top = top

    def __enter__(self) -> Self:
        try:
            whole = self._take_over() if self.path.exists() else 0
            real_path(self.path).parent.mkdir(parents=True, exist_ok=True)
            if not whole:
                text = json.dumps(self._manifest, indent=2) + "\n"
                write_atomic(manifest_path(self.path), text.encode())
            self._stream: IO[bytes] = self.path.open("r+b" if whole else "wb")
            self._stream.seek(whole)
            self._stream.truncate()
            if not whole:
                self._write([self._header])
        except OSError as err:
            raise self._failure(err) from err
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()

    def add(self, answer: Prediction) -> None:
        """Keep the answer to one picture.

        Raises:
            FileError: If they cannot be written.
        """
        try:
            self._write([self._row(answer)])
        except OSError as err:
            raise self._failure(err) from err

    def _row(self, answer: Prediction) -> list[str]:
        cells = [
            cell
            for scored in answer.top
            for cell in (scored.name, str(scored.index), f"{scored.probability:.6g}")
        ]
        return [answer.image, *cells, *[""] * (3 * self._top - len(cells)), answer.error]

    def _write(self, rows: Iterable[list[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
        self._stream.flush()

    def _take_over(self) -> int:
        """Read what an earlier run left; the size of its whole rows."""
        if not self._is_same():
            return 0
        data = self.path.read_bytes()
        end = data.rfind(b"\n")
        while end >= 0 and data.count(b'"', 0, end) % 2:  # a line break in a file's name
            end = data.rfind(b"\n", 0, end)
        whole = data[: end + 1]
        rows = csv.reader(io.StringIO(whole.decode("utf-8", "surrogateescape"), newline=""))
        if next(rows, None) != self._header:
            return 0
        self.done = {row[0] for row in rows if row}
        return len(whole)

    def _is_same(self) -> bool:
        """Whether an earlier run of the same left the file; false where it is to be replaced."""
        beside = manifest_path(self.path)
        found = read_json(beside) if beside.is_file() else {}
        found = found if isinstance(found, dict) else {}
        names = [name for name, value in self._manifest.items() if found.get(name) != value]
        if names and not self._force and self.path.stat().st_size:
            raise FileError(
                f"{self.path} has predictions of another run (not the same: {', '.join(names)}); "
                "name another file, or start anew with --force"
            )
        return not names

    def _failure(self, err: OSError) -> FileError:
        return FileError(
            f"cannot keep predictions in {self.path}: {err.strerror or err}; name another file, or "
            "free some space and run again to go on"
        )
