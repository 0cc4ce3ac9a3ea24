"""The tags of a tagger, from its CSV file: one a row, in the order of the logits.

The columns of WD taggers' ``selected_tags.csv`` are ``tag_id,name,category,count``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from exporters.errors import FileError
from exporters.text_files import read_text

TAGS_FILE = "selected_tags.csv"
NAME_COLUMN = "name"


def read_tags(path: Path) -> tuple[str, ...]:
    """Read the names of the tags, in the order of the rows.

    Args:
        path: Path of the CSV file.

    Raises:
        FileError: If it cannot be read, has no column ``name``, or a row without a name.
    """
    text = read_text(path)
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row] or [[]]
    except csv.Error as err:
        raise FileError(f"class file {path} is no CSV file ({err}); save it as one") from err
    columns = [title.strip().lower() for title in header]
    if NAME_COLUMN not in columns:
        raise FileError(
            f"class file {path} has no column {NAME_COLUMN} in its first line; give a CSV such as "
            f"{TAGS_FILE}, or one name a line in a .txt file"
        )
    place = columns.index(NAME_COLUMN)
    names = tuple(row[place].strip() if place < len(row) else "" for row in rows)
    if "" in names:
        raise FileError(f"class file {path} has no name in row {names.index('') + 2}; mend the row")
    return names
