"""The column of a Parquet file that holds the images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.errors import FileError
from exporters.text_files import listed, shortened
from swin_deploy.bulk.libraries import load_pyarrow
from swin_deploy.images.labelled import PATH_HEADERS

if TYPE_CHECKING:
    import pyarrow

BYTES, PATHS, BOTH = "bytes", "paths", "bytes or paths"
FORMS = "bytes, paths or a struct of bytes and path"


@dataclass(frozen=True)
class ImageFile:
    """A Parquet file of images.

    Attributes:
        path: Path of the file.
        column: Name of the column that holds the images.
        form: ``BYTES``, ``PATHS`` or ``BOTH``.
        rows: Number of rows.
    """

    path: Path
    column: str
    form: str
    rows: int


def read_image_file(path: Path, column: str | None) -> ImageFile:
    """Read a Parquet file's footer and find its column of images.

    Args:
        path: Path of the file.
        column: Name of the column; None for the one called ``image``, else the only one of bytes,
            else the only one whose name says that it holds paths.

    Raises:
        FileError: If the file is missing or damaged, has no such column, or several.
    """
    with opened_parquet(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    forms = {field.name: _form(field.type) for field in schema}
    fields = [f"{field.name} ({shortened(field.type, 40)})" for field in schema]
    has = f"{path} has columns {listed(fields)}" if fields else f"{path} has no columns"
    if column is not None and not forms.get(column):
        what = "no column" if column not in forms else "no images in column"
        raise FileError(f"{has}, and {what} {shortened(column)}; --image-column takes {FORMS}")
    if len(set(schema.names)) < len(schema.names):
        raise FileError(f"{has}, two of one name; give each its own")
    names = [column] if column is not None else _likely(forms)
    if len(names) != 1:
        raise FileError(f"{has}; {_next_step(names, forms)}")
    return ImageFile(path, names[0], forms[names[0]], rows)


def _next_step(names: list[str], forms: dict[str, str]) -> str:
    """Return what to do where several columns, or none, may hold the images."""
    if names:
        return f"{listed(names)} may hold the images: name one with --image-column"
    if any(forms.values()):
        return "none is called image or as paths are: name one with --image-column"
    return f"none is of {FORMS}: give a file that has one"


def opened_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file to be read in pieces; raises ``FileError`` if that fails."""
    arrow = load_pyarrow()
    try:
        file = arrow.OSFile(os.fsencode(path))  # a path would have to be UTF-8
        return arrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, arrow.ArrowException, ValueError) as err:
        if isinstance(err, OSError) and err.errno:
            raise FileError(
                f"{path} cannot be read ({reason_of(err)}); check the file and its permissions"
            ) from err
        raise FileError(
            f"{path} is not a Parquet file that can be read ({reason_of(err)}); replace it, or "
            "leave it out"
        ) from err


def reason_of(err: BaseException) -> str:
    """Return an error of pyarrow in one short line."""
    if isinstance(err, OSError) and err.errno:  # its text has the path, and the reason twice
        return os.strerror(err.errno)
    return shortened(" ".join(str(err).split()) or type(err).__name__)


def _likely(forms: dict[str, str]) -> list[str]:
    """Return the columns that may hold the images."""
    if forms.get("image"):
        return ["image"]
    of_bytes = [name for name, form in forms.items() if form in (BYTES, BOTH)]
    return of_bytes or [name for name, form in forms.items() if form and _says_path(name)]


def _says_path(name: str) -> bool:
    return name.lower() in (*PATH_HEADERS, "file_name", "image_path", "filepath", "file_path")


def _form(kind: pyarrow.DataType) -> str:
    """Return the form of images in a column of a type; empty for another type."""
    types = load_pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        inner = {field.name: _form(field.type) for field in kind}
        has = [
            name for name, form in (("bytes", BYTES), ("path", PATHS)) if inner.get(name) == form
        ]
        return BOTH if has else ""
    if _is_one_of(kind, ("binary", "large_binary", "binary_view", "fixed_size_binary")):
        return BYTES
    return PATHS if _is_one_of(kind, ("string", "large_string", "string_view")) else ""


def _is_one_of(kind: pyarrow.DataType, names: tuple[str, ...]) -> bool:
    types = load_pyarrow().types
    return any(getattr(types, f"is_{name}", lambda _: False)(kind) for name in names)
