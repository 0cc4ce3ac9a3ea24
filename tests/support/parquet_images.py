"""Parquet files of images in the forms that people have them, and the rows of part files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bulk_libraries


def write_parquet(path: Path, /, *, group: int = 5, **columns: Any) -> Path:  # noqa: ANN401
    """Write a Parquet file with columns of values, or of Arrow arrays, in small row groups."""
    arrow = bulk_libraries.import_pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    arrow.parquet.write_table(arrow.table(columns), path, row_group_size=group)
    return path


def structs(pictures: Sequence[Path]) -> list[dict[str, Any]]:
    """Images as Hugging Face's data sets have them."""
    return [{"bytes": one.read_bytes(), "path": one.name} for one in pictures]


def answers(folder: Path) -> list[dict[str, Any]]:
    """The rows of all part files."""
    arrow = bulk_libraries.import_pyarrow()
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")):
        rows += arrow.parquet.read_table(path).to_pylist()
    return rows


def by_image(folder: Path) -> dict[tuple[str, int | None, str], dict[str, Any]]:
    """The rows by what says which image they are of; each image must have one."""
    rows = answers(folder)
    found = {(row["source"], row["row"], row["image"]): row for row in rows}
    assert len(found) == len(rows)
    return found
