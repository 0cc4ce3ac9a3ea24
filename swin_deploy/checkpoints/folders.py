"""A checkpoint file or folder: its tensors, and the JSON files beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from exporters.artifact import sha256_of
from exporters.errors import CheckpointError, FileError
from exporters.text_files import listed, read_json, shortened, typed
from swin_deploy.checkpoints.files import read_tensors

# Names that libraries give to the weights in a folder, the first there is; an index lists parts.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True)
class Content:
    """What is in a file or folder.

    Attributes:
        tensors: Name to float32 tensor.
        metadata: Of a safetensors file.
        config_json: The ``config.json`` beside it, or an empty dict.
        preprocessor: The ``preprocessor_config.json`` or ``processor_config.json`` beside it, or
            an empty dict.
        sha256: Of the weights file; of several parts, of their digests.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config_json: dict[str, Any]
    preprocessor: dict[str, Any]
    sha256: str


def read_content(path: Path) -> Content:
    """Read a weights file, or a folder as libraries save it.

    Raises:
        CheckpointError: If there are no weights, or they or the JSON cannot be read.
    """
    weights = _weights_in(path) if path.is_dir() else path
    # A lone file may lie in a folder of strangers; these names say that it does not.
    beside = weights.parent if weights.name in WEIGHTS else None
    if weights.name.endswith(INDEX_SUFFIX):
        tensors, metadata, sha256 = *_read_parts(weights), _digest_of_parts(weights)
    else:
        tensors, metadata = read_tensors(weights)
        sha256 = sha256_of(weights)
    return Content(
        tensors,
        metadata,
        _read_json(beside / "config.json") if beside else {},
        _preprocessor(beside) if beside else {},
        sha256,
    )


def _preprocessor(folder: Path) -> dict[str, Any]:
    alone = _read_json(folder / "preprocessor_config.json")
    return alone or _read_json(folder / "processor_config.json")


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds none of {', '.join(WEIGHTS)}; give a checkpoint file")


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name to the name of the part that has it; parts lie in the folder of the index."""
    names = _read_json(index).get("weight_map")
    if not names:
        raise CheckpointError(f"{index} names no weights: it has no weight_map")
    parts = typed(names, dict[str, str], where=f"{index}, weight_map")
    outside = [
        name
        for name in parts.values()
        if name in (".", "..") or "\0" in name or Path(name).name != name
    ]
    if outside:
        raise CheckpointError(
            f"{index} names the part {shortened(repr(outside[0]))}, which is no file of its folder"
        )
    return parts


def _parts(index: Path) -> list[Path]:
    return [index.parent / name for name in dict.fromkeys(sorted(_weight_map(index).values()))]


def _read_parts(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    for part in _parts(index):
        tensors |= read_tensors(part)[0]
    absent = [name for name in _weight_map(index) if name not in tensors]
    if absent:
        raise CheckpointError(f"{index} names tensors that its parts lack: {listed(absent)}")
    return tensors, {}


def _digest_of_parts(index: Path) -> str:
    digests = "".join(sha256_of(part) for part in _parts(index))
    return hashlib.sha256(digests.encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise FileError(f"{path} is not a JSON object; take it from where the weights come from")
    return values
