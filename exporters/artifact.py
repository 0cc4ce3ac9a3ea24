"""Artefacts on disk: atomic writes, hashes, and the JSON manifest next to each file.

A file appears under its final name only when it is whole. The manifest of ``x.engine`` is
``x.engine.json``; it says what the file was built from and with, and has the file's SHA-256. While
the two are replaced, the new manifest carries the one before it: whenever the process is killed,
one of them describes the file that is there.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import FileError
from exporters.outputs import Output, claim, ensure_writable
from exporters.staging import (
    Content,
    name_locks,
    pieces,
    real_path,
    replace_files,
    staged_file,
    staged_together,
    undisturbed,
)
from exporters.text_files import read_json, shortened, typed

__all__ = [
    "NewArtifact",
    "artifact_outputs",
    "ensure_writable",
    "manifest_path",
    "read_manifest",
    "sha256_of",
    "write_artifact",
    "write_artifacts",
    "write_atomic",
    "write_together",
]

MANIFEST_SCHEMA = 1
MANIFEST_KEYS = {"schema": int, "file": str, "bytes": int, "sha256": str}  # in every manifest
PREVIOUS = "previous"  # in a manifest whose file may not be there yet: the manifest before it
READS = 20  # at most, of a pair that another process replaces meanwhile


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, which holds either its old content or all of ``data``.

    Folders above ``path`` are made as needed; a link is followed.

    Raises:
        FileError: If ``path`` is not a regular file, the folder cannot be written, or the disk is
            full.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, Content]) -> None:
    """Write files that belong together: none takes its name before all are on the disk.

    An interrupt waits until all have their names. If the process is killed between two renames,
    every file is whole, but the later ones still have their old content.

    Args:
        files: Content by path; links are followed.

    Raises:
        FileError: If a file cannot be written, as in ``write_atomic``; no file has changed then.
    """
    for path in files:
        ensure_writable(path)
    replace_files(files)


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits.

    Raises:
        FileError: If the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise FileError(f"cannot read {path}: {err.strerror or err}") from err


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of the artefact ``path``: its name with ``.json`` added."""
    return path.parent / f"{path.name}.json"  # also of a path without a name, such as "/"


def artifact_outputs(path: Path) -> tuple[Output, Output]:
    """Return an artefact and its manifest, as files to write.

    They count as ours if the manifest describes the file, or if there is a manifest without its
    file. The manifest is next to the file that a link leads to.
    """
    place = real_path(path)
    beside = manifest_path(place if path.is_symlink() else path)
    return Output(path, _is_described), Output(beside, _is_manifest)


def _is_described(place: Path) -> bool:
    return _description(place) is not None


def _description(place: Path) -> dict[str, Any] | None:
    """Return the manifest that describes a file, or None without one."""
    try:
        return read_manifest(place)
    except FileError:
        return None


def _is_manifest(place: Path) -> bool:
    try:
        return bool(_read_manifests(place))
    except FileError:
        return False


@dataclass(frozen=True)
class NewArtifact:
    """An artefact to write.

    Attributes:
        path: Path of the file; a link is followed, and the manifest is next to its target.
        data: The file's content.
        facts: The rest of its manifest, as JSON values.
    """

    path: Path
    data: Content
    facts: dict[str, Any]

    @functools.cached_property
    def size(self) -> int:
        """Number of bytes of the content."""
        return sum(map(len, pieces(self.data)))

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, in hexadecimal digits."""
        digest = hashlib.sha256()
        for piece in pieces(self.data):
            digest.update(piece)
        return digest.hexdigest()


def write_artifact(
    path: Path, data: Content, manifest: dict[str, Any], *, force: bool = False
) -> dict[str, Any]:
    """Write an artefact and its manifest together, and return the manifest written.

    Args:
        path: Path of the file; a link is followed.
        data: Content of the file.
        manifest: Values of the manifest; the schema, the file's name, size and SHA-256, and the
            time are added.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If a file cannot be written, or one is there that is not ours.
    """
    return write_artifacts([NewArtifact(path, data, manifest)], force=force)[0]


def write_artifacts(
    new: Sequence[NewArtifact], *, last: tuple[Output, Content] | None = None, force: bool = False
) -> list[dict[str, Any]]:
    """Write artefacts and their manifests, all or none, and return the manifests written.

    Whenever the process is killed, ``read_manifest`` finds the pair that was there before, or the
    new one.

    Args:
        new: The artefacts, in the order in which they get their names.
        last: A file that describes them, and its content; it gets its name after them.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If a file cannot be written, or one is there that is not ours.
    """
    outputs = [artifact_outputs(one.path) for one in new]
    claimed = [output for pair in outputs for output in pair] + ([last[0]] if last else [])
    claim(claimed, force=force)
    manifests = [_full_manifest(one) for one in new]
    contents: dict[Path, Content] = {}
    for one, manifest, (file, beside) in zip(new, manifests, outputs, strict=True):
        contents |= {file.path: one.data, beside.path: _text(manifest)}
    if last:
        contents[last[0].path] = last[1]
    places = [(real_path(file.path), real_path(beside.path)) for file, beside in outputs]
    with staged_together(contents) as staged, name_locks([place for place, _ in places]):
        # From here on nobody else changes what is there.
        before = [_description(place) for place, _ in places]
        if None in before:
            claim(claimed, force=force)
        with undisturbed():
            for pair, known, manifest in zip(places, before, manifests, strict=True):
                _take_names(staged, pair, before=known, full=manifest)
            if last:
                place = real_path(last[0].path)
                os.replace(staged[place], place)
    return manifests


def _full_manifest(new: NewArtifact) -> dict[str, Any]:
    return {
        "schema": MANIFEST_SCHEMA,
        "file": real_path(new.path).name,
        "bytes": new.size,
        "sha256": new.sha256,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **new.facts,
    }


def _take_names(
    staged: dict[Path, Path],
    pair: tuple[Path, Path],
    *,
    before: dict[str, Any] | None,
    full: dict[str, Any],
) -> None:
    """Give an artefact and its manifest their names, so that only the old or new pair is there.

    1. Over a pair of ours: the new manifest comes first and carries the one before it.
    2. Over a file without a manifest: no manifest is there until the new file is.
    3. Without a file: the manifest comes first; alone it describes nothing.
    """
    place, beside = pair
    order = (place, beside)
    if before is not None:
        with staged_file(beside, _text(full | {PREVIOUS: before})) as both:
            os.replace(both, beside)
    elif place.exists():
        beside.unlink(missing_ok=True)
    else:
        order = (beside, place)
    for name in order:
        os.replace(staged[name], name)


def _text(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2) + "\n").encode()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of the artefact ``path`` and check the file's SHA-256 against it.

    The manifest is next to ``path`` or, if that is a link, next to the file that it leads to.

    Raises:
        FileError: If the file or its manifest is missing or unreadable, or the file is not the
            one that the manifest describes.
    """
    if not os.path.isfile(path):
        raise FileError(f"{shortened(path)} does not exist, or is not a file")
    places = dict.fromkeys((manifest_path(path), manifest_path(Path(os.path.realpath(path)))))
    for _ in range(READS):
        before = _identities((path, *places))
        found = sha256_of(path)
        there = [place for place in places if os.path.lexists(place)]
        for manifest in (one for place in there for one in _read_manifests(place)):
            if manifest["sha256"] == found:
                return manifest
        if before == _identities((path, *places)):
            break
    name = manifest_path(path).name
    if not there:
        raise FileError(f"{path} has no manifest {name} beside it; build it again with swin-deploy")
    raise FileError(
        f"{path} is not the file that {there[0].name} describes (SHA-256 differs); build it again"
    )


def _identities(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Return inode and modification time, in ns, of each file: both change when it is replaced."""
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            one = path.stat()
            found.append((one.st_ino, one.st_mtime_ns))
    return found


def _read_manifests(beside: Path) -> list[dict[str, Any]]:
    """Read the manifest in a file and, while its artefact is replaced, the one before it."""
    try:
        newest = typed(read_json(beside), dict[str, Any], where=beside.name)
        found = [newest]
        if PREVIOUS in newest:
            found.append(typed(newest.pop(PREVIOUS), dict[str, Any], where=PREVIOUS))
        for manifest in found:
            for key, kind in MANIFEST_KEYS.items():
                typed(manifest.get(key), kind, where=key)
    except FileError as err:
        artefact = beside.name.removesuffix(".json")
        raise FileError(f"{beside} is not a manifest ({err}); build {artefact} again") from err
    return found
