"""The JSON file of results: read to resume, written while a part runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

import exporters
import swin_deploy
from exporters.artifact import write_atomic
from exporters.errors import FileError
from exporters.locks import take_lock
from exporters.outputs import Output, claim, ensure_writable
from exporters.text_files import read_json, typed
from swin_deploy.bench.conditions import package_versions
from swin_deploy.bench.gpu import device_name

SCHEMA = 2
DRY_RUN = "dry run: no figures"
REAL_RUN = "gpu suite"
PAGE_TITLES = ("# Dry run: no figures", "# GPU suite: ")
CUT_SHORT = "the command was ended while it ran"

Document = dict[str, Any]
Conditions = dict[str, str]
Status = Literal["done", "not run", "failed", "cut short"]


class Outcome(TypedDict):
    """The end of a part.

    Attributes:
        status: Status of the part.
        reason: Reason why it is not done; empty if it is.
        data: Results as JSON values, those so far if it did not finish; None without any.
    """

    status: Status
    reason: str
    data: dict[str, Any] | None


class Part(Outcome):
    """The outcome of a part, with its conditions.

    Attributes:
        conditions: Conditions under which it ran.
        seconds: Time that it took, in seconds.
    """

    conditions: Conditions
    seconds: float


class _Partial(Part):
    part: str


class _Document(TypedDict):
    schema: Literal[2]
    title: Literal["dry run: no figures", "gpu suite"]
    parts: dict[str, Part]


def conditions(*, dry: bool) -> Conditions:
    """Return the conditions under which a part's result is valid: device, versions, code, sizes.

    Args:
        dry: True for a dry run.
    """
    return {
        "device": device_name(),
        "code": _code_digest(),
        "sizes": DRY_RUN if dry else "full",
        **package_versions(),
        "torch": torch.__version__,  # with its build, such as +cu130
    }


def open_document(path: Path, *, dry: bool) -> Document:
    """Read the document to resume, or make a new one.

    Parts of other conditions stay until they are done again.

    Args:
        path: Path of the document.
        dry: True for a dry run.

    Raises:
        FileError: If there is a file that is not such a document, or one of the other kind of run.
    """
    title = DRY_RUN if dry else REAL_RUN
    if not path.exists():
        return {"schema": SCHEMA, "title": title, "parts": {}}
    try:
        document: Document = read_json(path)
        typed(document, _Document, where=path.name)
    except FileError as err:
        raise FileError(f"cannot go on with {path} ({err}); choose another --output") from err
    if document["title"] != title:
        there, asked = ("a real run", "a dry run") if dry else ("a dry run", "a real run")
        raise FileError(f"{path} holds {there}, this is {asked}; choose another --output")
    return document


def claim_places(output: Path, copy_to: Path | None, *, artifacts: Path, dry: bool) -> None:
    """Fail before the first part if a file cannot be written, or must not be replaced.

    Args:
        output: Path of the document; its page is next to it.
        copy_to: Folder that both are copied to; None for none.
        artifacts: Folder of ONNX files and engines.
        dry: True for a dry run.

    Raises:
        FileError: If a place cannot be written, two are the same file, or one holds something
            that this suite did not make.
    """
    if copy_to is not None and copy_to.resolve() == output.parent.resolve():
        raise FileError(f"{copy_to} is the folder of {output.name} itself; copy to another, or not")
    documents = [output] if copy_to is None else [output, copy_to / output.name]
    pages = [document.with_suffix(".md") for document in documents]
    claim([Output(path, lambda _: True) for path in (*documents, *pages)])
    ensure_writable(artifacts / "one")
    for document in documents:
        open_document(document, dry=dry)
    partial = partial_path(output)
    if partial.exists() and read_outcome(partial) is None:
        raise FileError(f"{partial} is not of this suite; move it away, or choose another --output")
    for page in pages:
        if page.exists() and not page.read_bytes().startswith(
            tuple(title.encode() for title in PAGE_TITLES)
        ):
            raise FileError(f"{page} is not a page of this suite; choose another --output")


def same_conditions(document: Document, now: Conditions) -> dict[str, Any]:
    """Return the parts that were done under these conditions, by name."""
    return {name: part for name, part in document["parts"].items() if part["conditions"] == now}


def of_this_device(document: Document) -> Document:
    """Return the document without the parts that ran on another device than the last command."""
    device = document.get("conditions", {}).get("device")
    parts = document["parts"].items()
    here = {n: part for n, part in parts if device in (None, part["conditions"].get("device"))}
    return document | {"parts": here}


def other_conditions(document: Document, part: str) -> list[str]:
    """Return the names of the conditions in which a part differs from the last command."""
    now: Conditions = document.get("conditions", {})
    then: Conditions = document["parts"][part]["conditions"]
    return sorted(name for name in now if then.get(name) != now[name])


def is_done(document: Document, part: str, now: Conditions) -> bool:
    """Return True if a part has been done under these conditions."""
    found = same_conditions(document, now).get(part)
    return found is not None and found["status"] == "done"


def partial_path(output: Path) -> Path:
    """Return the path, next to the document, at which a running part keeps its results so far."""
    return output.with_suffix(".partial.json")


def merge_partial(document: Document, output: Path) -> str:
    """Add the results that a part had when the last command was killed, and delete their file.

    Args:
        document: The document, changed in place.
        output: Path of the document.

    Returns:
        Name of the part; empty if there was none.
    """
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
    """Read the outcome that a part has written; None if there is no complete one."""
    try:
        found: dict[str, Any] = read_json(path)
        typed(found, _Partial, where=path.name)
    except FileError:
        return None
    return found


@contextlib.contextmanager
def keep_to_itself(output: Path) -> Iterator[None]:
    """Hold an exclusive lock on the results; the system releases it however the process ends.

    Two commands at once would mix up their results, and slow each other down.

    Args:
        output: Path of the document.

    Raises:
        FileError: If another command has the lock, or nothing can be written there.
    """
    lock = output.with_suffix(".lock")
    for path in (output, output.with_suffix(".md"), partial_path(output), lock):
        ensure_writable(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as stream:
        if take_lock(stream.fileno()) is False or not _is_at(lock, stream.fileno()):
            raise FileError(f"another command is at work on {output}; end it, or choose another")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _is_at(path: Path, file: int) -> bool:
    """Return True if an open file still has its name; a command deletes its lock as it ends."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file))


def save(document: Document, path: Path) -> None:
    """Write the whole document, or leave the earlier one unchanged."""
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


def _code_digest() -> str:
    """Return a digest of the source files that take part."""
    digest = hashlib.sha256()
    folders = [Path(str(package.__file__)).parent for package in (exporters, swin_deploy)]
    for folder in (*folders, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
