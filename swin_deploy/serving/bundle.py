"""A bundle on disk: its folder, made whole or not at all, and the manifest that tells its files."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters import __version__
from exporters.artifact import sha256_of
from exporters.errors import FileError
from exporters.staging import cannot_write, made_folder, temporary_folder, undisturbed
from exporters.text_files import read_json, shortened, typed
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.scores import Scores
from swin_deploy.serving.golden import FOLDER, OUTPUTS_FILE, Golden, from_npz, to_npz
from swin_deploy.serving.served import Served, Tensor
from swin_deploy.serving.triton import Files

Target = Literal["triton", "kserve", "ovms", "optimum"]
TARGETS: tuple[Target, ...] = ("triton", "kserve", "ovms", "optimum")
MANIFEST = "bundle.json"
DIGEST = "sha256"  # of the manifest itself
SCHEMA = 1
MOST_FILES = 4096


@dataclass(frozen=True)
class Preparation:
    """The model of a server that prepares pictures as ``predict`` does.

    Attributes:
        model: Its name.
        output: The prepared image.
    """

    model: str
    output: Tensor


@dataclass(frozen=True)
class Endpoint:
    """The model that clients call.

    Attributes:
        model: Its name.
        computes: Name of the model that runs the network, whose statistics tell of batches.
        input: Its input.
        outputs: Its outputs.
        takes: ``pictures`` for encoded pictures, ``bytes`` for one as an array of bytes, or
            ``images`` for prepared images.
        max_batch: Largest number of pictures a request.
        labels: Name of each class; none where the server does not name them.
        scores: Way from the logits to scores.
        prepares: Model that prepares the pictures; None where clients do, or another library.
    """

    model: str
    computes: str
    input: Tensor
    outputs: tuple[Tensor, ...]
    takes: Literal["pictures", "bytes", "images"]
    max_batch: int
    labels: tuple[str, ...] = ()
    scores: Scores = "none"
    prepares: Preparation | None = None


@dataclass(frozen=True, eq=False)
class Service:
    """What a bundle is for.

    Attributes:
        target: The server, or the library.
        endpoint: The model that clients call; None if it is for no server.
        golden: Pictures and the outputs that were proved; None if it is for no server.
    """

    target: Target
    endpoint: Endpoint | None = None
    golden: Golden | None = None


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was read.

    Attributes:
        folder: Its folder.
        service: Target, endpoint and golden pictures.
        preprocessing: Steps from a picture to an image.
    """

    folder: Path
    service: Service
    preprocessing: Preprocessing


def write_bundle(
    folder: Path,
    served: Served,
    files: Files,
    service: Service,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Write a bundle; its folder is there whole, or as it was.

    Args:
        folder: Folder of the bundle, which is made; one of ours is replaced.
        served: The file that it serves.
        files: Its files, by path in it.
        service: Target of the bundle; its pictures and outputs are written, too.
        force: True to replace a bundle that was changed since it was made.

    Returns:
        The manifest that was written.

    Raises:
        FileError: If it cannot be written, or something else is there.
    """
    claim_folder(folder, inputs=served.files, force=force)
    golden = service.golden
    if golden is not None:
        files = files | {f"{FOLDER}/{name}": data for name, data in golden.pictures.items()}
        files |= {OUTPUTS_FILE: to_npz(golden.outputs)}
    place = Path(os.path.realpath(folder))
    try:
        with made_folder(place.parent), temporary_folder(place.parent) as staging:
            new = staging / "new"
            digests = {path: _place(new / path, data) for path, data in sorted(files.items())}
            manifest = signed(_manifest(served, service) | {"files": digests})
            _place(new / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
            with undisturbed():
                if place.exists():
                    os.rename(place, staging / "old")
                os.rename(new, place)
    except OSError as err:
        raise cannot_write(folder, err) from err
    return manifest


def claim_folder(folder: Path, *, inputs: tuple[Path, ...], force: bool) -> None:
    """Refuse a folder that holds anything but an unchanged bundle; nothing is changed.

    Args:
        folder: The folder.
        inputs: Files that are read, which must not be in it.
        force: True to allow a bundle that was changed since it was made.

    Raises:
        FileError: If it must stay.
    """
    place = Path(os.path.realpath(folder))
    if any(Path(os.path.realpath(one)).is_relative_to(place) for one in inputs):
        raise FileError(f"{folder} holds the file to read; name another folder")
    if Path(os.path.realpath(os.curdir)).is_relative_to(place):
        raise FileError(
            f"{folder} is the working folder or holds it, and a bundle's folder is replaced as a "
            "whole; name another one, such as --output serve/"
        )
    if not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir())):
        return
    if not place.is_dir():
        raise FileError(f"{folder} is a file; name a folder")
    manifest = _manifest_of(place)
    if manifest is None:
        raise FileError(
            f"{folder} is there and is no bundle of swin-deploy; name another folder, or remove it"
        )
    if not force and _changed(place, manifest):
        raise FileError(
            f"{folder} is a bundle that was changed since it was made; name another folder, or "
            "replace it with --force"
        )


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle, and check that its manifest and golden files are as they were made.

    Raises:
        FileError: If it is none, or a file is missing or was changed.
    """
    values = _manifest_of(folder)
    if values is None:
        raise FileError(
            f"{shortened(folder)} is no bundle of swin-deploy: it has no {MANIFEST} of one; make "
            "one with swin-deploy bundle"
        )
    where = str(folder / MANIFEST)
    if values.get(DIGEST) != signed(values)[DIGEST]:
        raise FileError(f"{where} was changed since the bundle was made; make it again")
    known = typed(values, _Known, where=where)
    golden = _read_golden(folder, known, where) if known.golden is not None else None
    return Bundle(folder, Service(known.target, known.endpoint, golden), known.preprocessing)


@dataclass(frozen=True)
class _KnownGolden:
    pictures: tuple[str, ...]
    reference: str
    atol: float
    rtol: float
    min_cosine: float | None


@dataclass(frozen=True)
class _Known:
    """The parts of a manifest that are read again."""

    target: Target
    endpoint: Endpoint | None
    preprocessing: Preprocessing
    golden: _KnownGolden | None
    files: dict[str, str]


def _read_golden(folder: Path, known: _Known, where: str) -> Golden:
    assert known.golden is not None
    data = {}
    for name in (*(f"{FOLDER}/{one}" for one in known.golden.pictures), OUTPUTS_FILE):
        path = folder / name
        if ".." in Path(name).parts or name not in known.files or not path.is_file():
            raise FileError(f"{where} names {shortened(name)}, which is not there; make it again")
        data[name] = path.read_bytes()
        if hashlib.sha256(data[name]).hexdigest() != known.files[name]:
            raise FileError(f"{path} was changed since the bundle was made; make it again")
    try:
        outputs = from_npz(data.pop(OUTPUTS_FILE))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as err:
        raise FileError(f"{folder / OUTPUTS_FILE} cannot be read; make the bundle again") from err
    pictures = {Path(name).name: content for name, content in data.items()}
    if not pictures or not outputs or any(len(one) != len(pictures) for one in outputs.values()):
        raise FileError(
            f"{folder} has no output of each golden picture to compare with; make it again"
        )
    golden = known.golden
    return Golden(pictures, outputs, golden.reference, golden.atol, golden.rtol, golden.min_cosine)


def signed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own digest, which tells a limit that was edited.

    Args:
        manifest: The values, with a digest or without one.
    """
    values = {name: one for name, one in manifest.items() if name != DIGEST}
    text = json.dumps(values, sort_keys=True)
    return values | {DIGEST: hashlib.sha256(text.encode()).hexdigest()}


def _manifest(served: Served, service: Service) -> dict[str, Any]:
    engine, golden, endpoint = served.engine, service.golden, service.endpoint
    built = {} if engine is None else {"flavor": engine.flavor, "version": engine.version}
    proved = None
    if golden is not None:
        proved = {
            "pictures": list(golden.pictures),
            "reference": golden.reference,
            "atol": golden.atol,
            "rtol": golden.rtol,
            "min_cosine": golden.min_cosine,
        }
    return {
        "schema": SCHEMA,
        "kind": "bundle",
        "target": service.target,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "swin_deploy": __version__,
        "artifact": {
            "file": served.path.name,
            "sha256": served.sha256,
            "precision": served.precision,
            **built,
        },
        "model": served.facts.model,
        "weights": served.facts.weights,
        "scores": served.facts.scores,
        "endpoint": None if endpoint is None else dataclasses.asdict(endpoint),
        "preprocessing": served.facts.preprocessing.to_dict(),
        "golden": proved,
    }


def _manifest_of(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in a folder; None if it has none, or another program's."""
    with contextlib.suppress(FileError):
        values = read_json(folder / MANIFEST)
        if isinstance(values, dict) and values.get("kind") == "bundle":
            return values
    return None


def _changed(place: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether a bundle has other files than its manifest says."""
    digests = manifest.get("files")
    if not isinstance(digests, dict) or manifest.get(DIGEST) != signed(manifest)[DIGEST]:
        return True
    found = {one.relative_to(place).as_posix(): one for one in _files_in(place)}
    found.pop(MANIFEST, None)
    return set(found) != set(digests) or any(
        sha256_of(path) != digests[name] for name, path in found.items()
    )


def _files_in(place: Path) -> Iterator[Path]:
    for number, path in enumerate(place.rglob("*")):
        if number > MOST_FILES:
            raise FileError(f"{place} holds more than {MOST_FILES} files; name another folder")
        if path.is_symlink() or not path.is_dir():
            yield path


def _place(path: Path, data: bytes | Path) -> str:
    """Write a file or copy one, and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, Path):
        shutil.copyfile(data, path)
    else:
        path.write_bytes(data)
    return sha256_of(path)
