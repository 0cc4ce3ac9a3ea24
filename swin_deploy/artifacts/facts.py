"""Facts in every file made from a model: its sizes, weights, preprocessing and classes.

An ONNX file has them as metadata, an engine in its manifest, so that nothing else is needed to run
the file.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import onnx

from exporters import __version__
from exporters.artifact import manifest_path
from exporters.errors import ComparisonError, FileError
from exporters.half_precision import FLOAT32_ASKED, FLOAT32_MODULES, float32_modules
from exporters.spec import Precision
from exporters.text_files import listed, parse_json, typed
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import SwinConfig
from swin_deploy.config.assumptions import Assumption
from swin_deploy.images.class_names import ClassNames
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.scores import Scores

MARK = "checkpoint_sha256"  # a file with this is one of ours
TEXTS = ("model", "weights", "weights_key", "checkpoint_sha256", "class_names_source")


@dataclass(frozen=True)
class ModelFacts:
    """Facts about the model that a file was made from.

    Attributes:
        model: Name of a variant, or of the checkpoint's file or folder.
        config: Sizes and outputs.
        weights: Origin of the weights, in words.
        weights_key: Place of the weights among others in their file; empty for the file itself.
        checkpoint_sha256: Digest of the checkpoint; empty for random weights.
        preprocessing: Steps from a picture to an input.
        class_names: Name of each class, empty if it has none; no entries if no name is known.
        class_names_source: Name of the place that the class names come from.
        assumptions: Choices made for settings that neither the checkpoint nor the user gave.
        scores: Kind of the classes' scores; softmax in files of earlier versions.
    """

    model: str
    config: SwinConfig
    weights: str
    weights_key: str
    checkpoint_sha256: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    class_names_source: str
    assumptions: tuple[Assumption, ...]
    scores: Scores = "softmax"

    @property
    def labels(self) -> ClassNames | None:
        """The class names, or None if none is known."""
        if not self.class_names:
            return None
        names = tuple((name,) if name else () for name in self.class_names)
        return ClassNames(names, self.class_names_source)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, which ``from_dict`` reads back."""
        return dataclasses.asdict(self)

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as ONNX metadata, which is text; ``from_metadata`` reads them back."""
        values = self.to_dict()
        return {name: values[name] if name in TEXTS else json.dumps(values[name]) for name in NAMES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str) -> ModelFacts | None:
        """Read the facts among other JSON values.

        Args:
            values: The values, of a manifest for example.
            where: Name of the place that they come from, for messages.

        Returns:
            The facts; None if there are none, as in a file of another tool.

        Raises:
            FileError: If a fact is missing or unknown, as in a file of another version, or of
                another type.
        """
        if MARK not in values:
            return None
        config = values.get("config")
        strange = config.keys() - SIZES if isinstance(config, dict) else set()
        missing = [name for name in NAMES if name not in values and name not in LATER]
        if strange or missing:
            problem = f"{min(strange)} in its config" if strange else f"no {missing[0]}"
            raise FileError(
                f"{where} has {problem}: another version of swin-deploy made it; export the model "
                "again"
            )
        return typed(dict(values), cls, where=where)

    @classmethod
    def from_metadata(cls, values: Mapping[str, str], *, where: str) -> ModelFacts | None:
        """Read the facts in an ONNX file's metadata; returns and raises as ``from_dict``."""
        parsed = {
            name: text if name in TEXTS else parse_json(text, where=f"the metadata of {where}")
            for name, text in values.items()
            if name in NAMES
        }
        return cls.from_dict(parsed, where=f"the metadata of {where}")


NAMES = tuple(field.name for field in dataclasses.fields(ModelFacts))
LATER = ("scores",)  # facts that files of earlier versions do not have
SIZES = {field.name for field in dataclasses.fields(SwinConfig)}


def check_origin(path: Path, facts: ModelFacts | None, loaded: LoadedModel) -> None:
    """Refuse to compare a file with a model that it was not made from.

    Args:
        path: Path of the file, for the message.
        facts: Facts in the file; None for a file of another tool, which is not checked.
        loaded: The reference model.

    Raises:
        ComparisonError: If model sizes or weights differ.
    """
    if facts is None:
        return
    ours = facts_of(loaded)
    if facts.checkpoint_sha256 != ours.checkpoint_sha256:
        raise ComparisonError(
            f"{path} was made from {facts.weights}, the reference has {ours.weights}; give the "
            "--checkpoint it was made from"
        )
    if facts.weights_key != ours.weights_key:
        raise ComparisonError(
            f"{path} was made from {facts.weights}, the reference has {ours.weights}; give the "
            "same --weights and --encoder"
        )
    if facts.config != ours.config:
        theirs, wanted = facts.config.to_dict(), ours.config.to_dict()
        other = [
            f"{name} {_said(theirs[name])}, not {_said(size)}"
            for name, size in wanted.items()
            if theirs[name] != size
        ]
        raise ComparisonError(
            f"{path} was made with other settings than the reference: "
            f"{listed(other, between='; ')}; use the same --model, --image-size and other options"
        )


def _said(value: object) -> object:
    """Return a setting in words: an empty one is what follows from the others."""
    return "the default" if value in ("", None, ()) else value


def versions() -> dict[str, str]:
    """Return the versions of the packages that make an artefact, by name, and Python's."""
    found = {"swin-deploy": __version__, "python": platform.python_version()}
    for name in ("torch", "onnx", "onnxscript"):
        found[name] = packages.version(name)
    return found


def texts(facts: ModelFacts, precision: Precision) -> dict[str, str]:
    """Return the metadata of an ONNX file: facts, precision and versions of what made it.

    Args:
        facts: Facts about the model.
        precision: Precision of the file.
    """
    return facts.to_metadata() | {"precision": precision, "versions": json.dumps(versions())}


def float32_text(graph: onnx.ModelProto) -> dict[str, str]:
    """Return the modules that a graph keeps in float32, as ONNX metadata; empty without any."""
    kept = {key: float32_modules(graph, key) for key in (FLOAT32_MODULES, FLOAT32_ASKED)}
    return {key: json.dumps(names) for key, names in kept.items() if names}


def facts_of(loaded: LoadedModel) -> ModelFacts:
    """Collect the facts about a model, for the files made from it."""
    names = loaded.class_names
    return ModelFacts(
        model=loaded.name,
        config=loaded.config,
        weights=loaded.weights,
        weights_key=loaded.weights_key,
        checkpoint_sha256=loaded.sha256,
        preprocessing=loaded.preprocessing,
        class_names=() if names is None else names.shown,
        class_names_source="" if names is None else names.source,
        assumptions=loaded.assumptions,
        scores=loaded.scores,
    )


def facts_in_manifest(manifest: Mapping[str, Any], path: Path) -> ModelFacts | None:
    """Read the facts in a manifest; returns and raises as ``ModelFacts.from_dict``.

    Args:
        manifest: The manifest's values.
        path: Path of the file that it describes, for messages.
    """
    return ModelFacts.from_dict(manifest, where=str(manifest_path(path)))
