"""A checkpoint file or folder: its tensors, and the JSON files next to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from exporters.artifact import sha256_of
from exporters.errors import CheckpointError, FileError
from exporters.text_files import listed, read_json, shortened, typed
from swin_deploy.checkpoints.dialect import SideFiles
from swin_deploy.checkpoints.files import read_parts, read_weights
from swin_deploy.checkpoints.plain_names import without_wrappers
from swin_deploy.checkpoints.weights import Chosen
from swin_deploy.checkpoints.weights_file import INDEX_SUFFIX, WEIGHTS, weights_in
from swin_deploy.images.tag_list import TAGS_FILE


@dataclass(frozen=True)
class CheckpointFiles:
    """The content of a checkpoint file or folder.

    Attributes:
        chosen: The chosen weights.
        beside: The metadata of the weights file, and the JSON files next to it.
        sha256: SHA-256 of the weights file; for several parts, SHA-256 of their joined digests.
        weights_path: Path of the weights file, or of the index of its parts.
    """

    chosen: Chosen
    beside: SideFiles
    sha256: str
    weights_path: Path

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, including those outside the encoder."""
        return self.chosen.tensors


def read_content(
    path: Path, *, wanted: str | None = None, encoder: str | None = None
) -> CheckpointFiles:
    """Read a weights file, or a folder as libraries save it.

    Args:
        path: Path of the file or folder.
        wanted: The weights to take out of several; see ``choose_weights``.
        encoder: The encoder to take out of several; see ``choose_weights``.

    Raises:
        CheckpointError: If there are no weights, or they or the JSON cannot be read.
        FileError: If a JSON file does not hold JSON, or is too large.
    """
    weights, took = weights_in(path) if path.is_dir() else (path, [])
    # A lone file may be in a folder of unrelated files; these names show that it is not, and so
    # does a folder that is given as one.
    beside = weights.parent if path.is_dir() or weights.name in WEIGHTS else None
    training: dict[str, Any] = {}
    if weights.name.endswith(INDEX_SUFFIX):
        chosen = read_parts(weights, _parts(weights), wanted=wanted, encoder=encoder)
        _check_parts(weights, chosen.tensors)
        metadata, sha256 = {}, _digest_of_parts(weights)
    else:
        found = read_weights(weights, wanted=wanted, encoder=encoder)
        chosen, metadata, sha256 = found.chosen, found.metadata, sha256_of(weights)
        training = found.beside
    config = beside / "config.json" if beside else None
    files = SideFiles(
        metadata,
        _read_json(config) if config else {},
        config if config and config.is_file() else None,
        _preprocessor(beside) if beside else {},
        training,
        str(shortened(weights.name)),
        beside / TAGS_FILE if beside and (beside / TAGS_FILE).is_file() else None,
    )
    chosen = replace(chosen, notes=(*took, *chosen.notes))
    return CheckpointFiles(chosen, files, sha256, weights)


def _preprocessor(folder: Path) -> dict[str, Any]:
    alone = _read_json(folder / "preprocessor_config.json")
    return alone or _read_json(folder / "processor_config.json")


class _Index(msgspec.Struct):
    """An index of parts: the file of each tensor."""

    weight_map: dict[str, str] = msgspec.field(default_factory=dict)


def _weight_map(index: Path) -> dict[str, str]:
    names = typed(_read_json(index), _Index, where=str(shortened(index))).weight_map
    if not names:
        raise CheckpointError(f"{index} names no weights: it has no weight_map")
    outside = [
        name
        for name in names.values()
        if name in (".", "..") or "\0" in name or Path(name).name != name
    ]
    if outside:
        raise CheckpointError(f"{index} names files outside its folder: {listed(outside)}")
    return names


def _parts(index: Path) -> list[Path]:
    return [index.parent / name for name in dict.fromkeys(sorted(_weight_map(index).values()))]


def _check_parts(index: Path, tensors: dict[str, Tensor]) -> None:
    bare = without_wrappers(_weight_map(index))
    absent = [name for name in bare if name not in tensors and bare[name] not in tensors]
    if absent:
        raise CheckpointError(f"{index} names tensors that its parts lack: {listed(absent)}")


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
