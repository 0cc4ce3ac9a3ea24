"""Artefacts on disk: atomic writes, hashes, and the JSON manifest beside each file.

A file appears under its final name only when it is whole. The manifest of ``x.engine`` is
``x.engine.json``; it says what the file was built from and with, and has the file's SHA-256.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from exporters.errors import FileError
from exporters.text_files import read_json, shortened, typed

MANIFEST_SCHEMA = 1
MANIFEST_KEYS = {"schema": int, "file": str, "bytes": int, "sha256": str}  # in every manifest


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, which holds either what it held before or all of ``data``.

    Folders above ``path`` are made as needed.

    Raises:
        FileError: If ``path`` is something else than a file, the folder cannot be written, or the
            disk is full.
    """
    write_together({path: data})


def write_together(files: dict[Path, bytes]) -> None:
    """Write files that belong together: none takes its name before all are on the disk.

    Killed between two names, the files are still whole, but the later ones are the old ones.

    Raises:
        FileError: As ``write_atomic``; all files are as before then.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in files.items():
            _require_file_name(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # The suffix is no artefact's: what a killed process leaves is never taken for one.
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            with temporary.open("xb") as stream:
                staged[path] = temporary
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except OSError as err:
        reason = err.strerror or str(err)
        raise FileError(
            f"cannot write {path}: {reason}; choose another place, or free some space"
        ) from err
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def ensure_writable(path: Path) -> None:
    """Fail before a long computation rather than after it.

    Raises:
        FileError: If ``path`` is something else than a file, or a file cannot be made beside it.
    """
    try:
        _require_file_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as err:
        raise FileError(
            f"cannot write in {path.parent}: {err.strerror or err}; choose another place"
        ) from err


def _require_file_name(path: Path) -> None:
    """Writing replaces what bears the name, which must not be a folder or a device."""
    if path.is_dir():
        raise FileError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is a device or a pipe; name a file")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        FileError: If the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise FileError(f"cannot read {path}: {err.strerror or err}") from err


def manifest_path(path: Path) -> Path:
    """Where the manifest of the artefact ``path`` is."""
    return path.with_name(path.name + ".json")


def write_artifact(path: Path, data: bytes, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write an artefact and its manifest together, and return the manifest written.

    The manifest gets the file's name, size, SHA-256 and the time on top of what is given.

    Raises:
        FileError: If a file cannot be written.
    """
    full = {
        "schema": MANIFEST_SCHEMA,
        "file": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **manifest,
    }
    text = json.dumps(full, indent=2) + "\n"
    write_together({path: data, manifest_path(path): text.encode()})
    return full


def _parse_manifest(beside: Path) -> dict[str, Any]:
    """The manifest in a file; what every manifest has is of its type.

    Raises:
        FileError: If it cannot be read, or is something else.
    """
    try:
        manifest = typed(read_json(beside), dict[str, Any], where=beside.name)
        for key, kind in MANIFEST_KEYS.items():
            typed(manifest.get(key), kind, where=key)
    except FileError as err:
        artefact = beside.name.removesuffix(".json")
        raise FileError(f"{beside} is not a manifest ({err}); build {artefact} again") from err
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the artefact ``path``, checked against the file.

    Raises:
        FileError: If the file or its manifest is missing or unreadable, or the file is not the
            one that the manifest describes.
    """
    if not os.path.isfile(path):
        raise FileError(f"{shortened(path)} does not exist, or is not a file")
    beside = manifest_path(path)
    if not os.path.lexists(beside):
        raise FileError(
            f"{path} has no manifest {beside.name} beside it; build it again with swin-deploy"
        )
    manifest = _parse_manifest(beside)
    if manifest["sha256"] != sha256_of(path):
        raise FileError(
            f"{path} is not the file that {beside.name} describes (SHA-256 differs); build it again"
        )
    return manifest
