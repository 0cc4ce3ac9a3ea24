"""Results as files to write, and checks that a file is one of ours.

JSON documents are known from their members, tables from the manifest next to them. Text files end
in a signature; those of versions without one are known from the report.json next to them, or from
their first bytes.
"""

from __future__ import annotations

import re
import zipfile
from functools import partial
from pathlib import Path

from exporters.artifact import manifest_path
from exporters.errors import FileError
from exporters.outputs import SIGNATURE, Output, is_signed
from exporters.staging import real_path
from exporters.text_files import MOST_BYTES, read_json

REPORT, EVALUATION, PLAN = "report", "evaluation", "plan"  # kinds of signed text
REPORT_FILES = ("report.json", "report.md", "report.html")
EVALUATION_FILES = ("evaluation.json", "evaluation.md")
REPORT_MEMBERS = {"schema", "verdict", "model", "artifacts"}
EVALUATION_MEMBERS = {"schema", "model", "reference", "candidates"}
PREDICTIONS = "predictions"  # kind of the manifest of a table
SIZES = "sizes"  # kind of the manifest of a model's sizes
FEATURE_MEMBERS = {"images.npy", "errors.npy"}
# Endings by what a file is to be.
ONNX_ENDINGS = ("an ONNX file", (".onnx",))
ENGINE_ENDINGS = ("an engine", (".engine", ".plan", ".trt"))
PICTURE_ENDINGS = ("a picture", (".svg",))
SIZES_ENDINGS = ("a manifest of sizes", (".json",))
SIGNED = SIGNATURE.partition("{")[0].encode()
# Texts of versions that did not sign.
COMMENT = re.compile(rb"## .*<details><summary>(Conditions|The reports)</summary>", re.S)
PICTURE = re.compile(rb'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 .*"track"', re.S)


def report_outputs(folder: Path) -> tuple[Output, ...]:
    """Return the files of a report; ``report.json`` tells whether the folder is ours."""
    return _documents(folder, REPORT_FILES, REPORT, REPORT_MEMBERS)


def evaluation_outputs(folder: Path) -> tuple[Output, ...]:
    """Return the files of an evaluation; ``evaluation.json`` tells whether the folder is ours."""
    return _documents(folder, EVALUATION_FILES, EVALUATION, EVALUATION_MEMBERS)


def comment_output(path: Path) -> Output:
    """Return Markdown for a comment, as a file to write."""
    return Output(path, partial(_is_text, kind=REPORT, older=COMMENT))


def picture_output(path: Path) -> Output:
    """Return the picture of a plan, as a file to write."""
    return Output(path, partial(_is_text, kind=PLAN, older=PICTURE))


def table_outputs(path: Path) -> tuple[Output, ...]:
    """Return a table of predictions and its manifest, which tells whether the table is ours.

    The manifest is next to the file that a link leads to.
    """
    beside = manifest_path(real_path(path))

    def is_table(_: Path) -> bool:
        return read_kind(beside) == PREDICTIONS

    return Output(path, is_table), Output(beside, is_table)


def features_output(path: Path) -> Output:
    """Return a file of features, as a file to write."""
    return Output(path, _holds_features)


def sizes_output(path: Path) -> Output:
    """Return a manifest of sizes, as a file to write."""
    return Output(path, is_sizes)


def is_sizes(path: Path) -> bool:
    """Tell whether a file is a manifest of one model's sizes."""
    return path.suffix == ".json" and path.is_file() and read_kind(path) == SIZES


def ending_problem(path: Path, kind: tuple[str, tuple[str, ...]]) -> str:
    """Say why the next command would take a file for another kind, because of its name.

    Args:
        path: Path of the file to write.
        kind: Kind of the file, in words, and the endings of such files.

    Returns:
        One line with a better name; empty if the name is good.
    """
    what, endings = kind
    if path.name.endswith(endings):
        return ""
    return (
        f"{path} is to be {what}: end its name in {' or '.join(endings)}, such as "
        f"{path.parent / (path.stem or 'model')}{endings[0]}"
    )


def read_kind(path: Path) -> str:
    """Return the ``kind`` in a JSON object; empty if there is none or the file is not JSON."""
    try:
        values = read_json(path)
    except FileError:
        return ""
    return str(values.get("kind", "")) if isinstance(values, dict) else ""


def _holds_features(place: Path) -> bool:
    try:
        with zipfile.ZipFile(place) as archive:
            return set(archive.namelist()) >= FEATURE_MEMBERS
    except (OSError, zipfile.BadZipFile):
        return False


def _documents(
    folder: Path, names: tuple[str, ...], kind: str, members: set[str]
) -> tuple[Output, ...]:
    document = folder / names[0]

    def is_document(place: Path) -> bool:
        return members <= _members(place)

    def is_text(place: Path) -> bool:
        return is_signed(place, kind) or (_is_unsigned(place) and is_document(document))

    return Output(document, is_document), *(Output(folder / name, is_text) for name in names[1:])


def _is_text(place: Path, *, kind: str, older: re.Pattern[bytes]) -> bool:
    return is_signed(place, kind) or (
        _is_unsigned(place) and older.match(_content(place)) is not None
    )


def _is_unsigned(place: Path) -> bool:
    """Tell whether a file has no signature anywhere, not even before added text."""
    return SIGNED not in _content(place)


def _members(path: Path) -> set[str]:
    """Return the names of a JSON object's members; none for anything else."""
    try:
        values = read_json(path)
    except FileError:
        return set()
    return set(values) if isinstance(values, dict) else set()


def _content(path: Path) -> bytes:
    """Read a file's content; empty without a file, or if it has more than ``MOST_BYTES``."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return b""
    return path.read_bytes()
