"""The JSON file of results: read to resume, written after each part."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import exporters
import swin_deploy
from exporters.artifact import write_atomic
from exporters.errors import FileError
from swin_deploy.bench.gpu import device_name

SCHEMA = 1
DRY_RUN = "dry run: no figures"
BACKENDS = (
    "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13",
    "timm", "torchvision", "triton", "onnx", "onnxscript",
)  # fmt: skip

Document = dict[str, Any]


def conditions(*, dry: bool) -> dict[str, str]:
    """What must be the same for a part's result to be kept: device, versions, code, sizes."""
    found = {
        "device": device_name(),
        "torch": torch.__version__,
        "code": _code_digest(),
        "sizes": DRY_RUN if dry else "full",
    }
    for name in BACKENDS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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


def is_done(document: Document, part: str, now: dict[str, str]) -> bool:
    """Whether a part has been done under the same conditions."""
    found = document["parts"].get(part)
    return found is not None and found["status"] == "done" and found["conditions"] == now


def save(document: Document, path: Path) -> None:
    """Write the document whole, or leave the one there."""
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


def _code_digest() -> str:
    """Of the sources of both packages."""
    digest = hashlib.sha256()
    for package in (exporters, swin_deploy):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
