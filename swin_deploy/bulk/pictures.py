"""The pictures of a part, as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporters.errors import FileError
from exporters.text_files import shortened
from swin_deploy.bulk.columns import opened_parquet, reason_of
from swin_deploy.bulk.libraries import load_pyarrow
from swin_deploy.bulk.parts import Part
from swin_deploy.predict.pictures import NamedPicture

ROWS = 32  # of a Parquet file that are in memory at a time


def pictures_of(part: Part) -> Iterator[NamedPicture]:
    """Yield the pictures of a part, in order.

    Yields:
        One picture for each of the part's rows; a ``FileError`` in its place for a row without
        one, and for rows that cannot be read.
    """
    if part.start is None:
        for name in part.names:
            path = Path(part.source, name)
            yield NamedPicture(str(path), path)
        return
    read = 0
    try:
        for value in _values(part, part.start):
            yield _picture(value, part, part.start + read)
            read += 1
    except FileError as err:
        for row in range(read, part.rows):
            name = f"{part.source}#{part.start + row}"
            yield NamedPicture(name, FileError(f"image {shortened(name)}: {err}"))


def _values(part: Part, start: int) -> Iterator[object]:
    """Yield the values of a part's rows; raises ``FileError`` where the file is damaged."""
    arrow = load_pyarrow()
    left = part.rows
    with opened_parquet(Path(part.source)) as file:
        groups, skipped = _groups(file.metadata, start, part.rows)
        batches = file.iter_batches(
            ROWS, row_groups=groups, columns=[part.column], use_threads=False
        )
        try:
            for batch in batches:
                # By name: pyarrow gives column a with its field b, too, where one is called a.b.
                values = batch.column(part.column)
                first = min(skipped, len(values))
                skipped -= first
                kept = values.slice(first, left)
                left -= len(kept)
                yield from kept.to_pylist()
                if not left:
                    return
        except (OSError, arrow.ArrowException, ValueError) as err:
            raise FileError(
                f"{part.source} cannot be read there ({reason_of(err)}); replace the file"
            ) from err
    raise FileError(f"{part.source} has fewer rows than it says; replace the file")


def _groups(metadata: Any, start: int, rows: int) -> tuple[list[int], int]:  # noqa: ANN401
    """Return the row groups that hold some rows, and the number of rows in them before those."""
    found: list[int] = []
    skipped = first = 0
    for place in range(metadata.num_row_groups):
        after = first + metadata.row_group(place).num_rows
        if after > start and first < start + rows:
            if not found:
                skipped = start - first
            found.append(place)
        first = after
    return found, skipped


def _picture(value: object, part: Part, row: int) -> NamedPicture:
    """Return the picture in a value of an image column, under its path or its row."""
    place = f"{part.source}#{row}"
    path = value.get("path") if isinstance(value, dict) else value
    data = value.get("bytes") if isinstance(value, dict) else value
    name = path if isinstance(path, str) and path else place
    if isinstance(data, bytes):
        return NamedPicture(name, data)
    if isinstance(path, str) and path:
        return NamedPicture(name, Path(part.source).parent / path)
    what = f"image {shortened(place)} is null or an empty text; fill the row, or leave it out"
    return NamedPicture(name, FileError(what))
