"""The JSON file of results: read to resume, written while a part runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

import exporters
import swin_deploy
from exporters.artifact import write_atomic
from exporters.errors import FileError
from swin_deploy.bench.conditions import package_versions
from swin_deploy.bench.gpu import device_name

SCHEMA = 2
DRY_RUN = "dry run: no figures"
CUT_SHORT = "the command was ended while it ran"

Document = dict[str, Any]
Conditions = dict[str, str]
Status = Literal["done", "not run", "failed", "cut short"]


class Outcome(TypedDict):
    """How a part ended, and what it found by then."""

    status: Status
    reason: str
    data: dict[str, Any] | None


def conditions(*, dry: bool) -> Conditions:
    """What must be the same for a part's result to be kept: device, versions, code, sizes."""
    return {
        "device": device_name(),
        "code": _code_digest(),
        "sizes": DRY_RUN if dry else "full",
        **package_versions(),
        "torch": torch.__version__,  # with its build, such as +cu130
    }


def open_document(path: Path, *, dry: bool) -> Document:
    """The document to go on with; parts of other conditions stay until they are done again.

    Raises:
        FileError: If there is a file that is no such document, or one of the other kind of run.
    """
    if not path.exists():
        return {"schema": SCHEMA, "title": DRY_RUN if dry else "gpu suite", "parts": {}}
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or not isinstance(document["parts"], dict):
            raise FileError(f"{path} is not a document of this suite; choose another --output")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise FileError(f"cannot read {path} ({err}); choose another --output") from err
    if (document["title"] == DRY_RUN) != dry:
        raise FileError(f"{path} is of a {document['title']}; choose another --output")
    return document


def same_conditions(document: Document, now: Conditions) -> dict[str, Any]:
    """The parts that were found under these conditions; others say nothing of this machine."""
    return {name: part for name, part in document["parts"].items() if part["conditions"] == now}


def is_done(document: Document, part: str, now: Conditions) -> bool:
    """Whether a part has been done under the same conditions."""
    found = same_conditions(document, now).get(part)
    return found is not None and found["status"] == "done"


def partial_path(output: Path) -> Path:
    """Where a part that runs keeps what it has found so far: beside the document."""
    return output.with_suffix(".partial.json")


def merge_partial(document: Document, output: Path) -> str:
    """Take over what a part had found when the command was killed; its name, or an empty text."""
    path = partial_path(output)
    left = read_outcome(path)
    if left is None:
        return ""
    name: str = left.pop("part")
    if left["status"] != "done":
        left["status"] = "cut short"
        left["reason"] = left["reason"] or CUT_SHORT
    document["parts"][name] = left
    path.unlink(missing_ok=True)
    return name


def read_outcome(path: Path) -> dict[str, Any] | None:
    """What a part has written of itself; None where there is nothing whole."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def save(document: Document, path: Path) -> None:
    """Write the document whole, or leave the one there."""
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


def _code_digest() -> str:
    """Of the sources that take part."""
    digest = hashlib.sha256()
    folders = [Path(str(package.__file__)).parent for package in (exporters, swin_deploy)]
    for folder in (*folders, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
