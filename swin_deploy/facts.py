"""Facts about a model that travel with every artefact made from it, in manifests and metadata."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import onnx

from exporters.errors import ComparisonError, ExportError, FileError
from exporters.precision import FLOAT32_ASKED, FLOAT32_MODULES, float32_modules
from exporters.spec import Precision
from exporters.text_files import listed, parse_json, typed
from swin_deploy import __version__
from swin_deploy.load import LoadedModel

MODEL_FACTS = (
    "model",
    "config",
    "weights",
    "weights_key",
    "checkpoint_sha256",
    "preprocessing",
    "assumptions",
)
JSON_FACTS: dict[str, Any] = {  # with their types; the others are text
    "config": dict[str, Any],
    "preprocessing": dict[str, Any],
    "assumptions": list[dict[str, Any]],
}


def model_facts(loaded: LoadedModel) -> dict[str, Any]:
    """What the model is and where its weights come from, as JSON values."""
    return {
        "model": loaded.name,
        "config": loaded.config.to_dict(),
        "weights": loaded.weights,
        "weights_key": loaded.weights_key,
        "checkpoint_sha256": loaded.sha256,
        "preprocessing": loaded.preprocessing.to_dict(),
        "assumptions": [dataclasses.asdict(one) for one in loaded.assumptions],
    }


def versions() -> dict[str, str]:
    """Versions of what takes part in making an artefact."""
    found = {"swin-deploy": __version__, "python": platform.python_version()}
    for name in ("torch", "onnx", "onnxscript"):
        found[name] = packages.version(name)
    return found


def check_origin(path: Path, facts: dict[str, Any], loaded: LoadedModel) -> None:
    """Refuse to compare a file with a model that it was not made from.

    Args:
        path: The file, for the message.
        facts: Its facts; nothing is checked without any (a file of another tool).
        loaded: The reference.

    Raises:
        ComparisonError: If model sizes or weights differ.
    """
    if not facts:
        return
    ours = model_facts(loaded)
    if facts["checkpoint_sha256"] != ours["checkpoint_sha256"]:
        raise ComparisonError(
            f"{path} was made from {facts['weights']}, the reference has {ours['weights']}; "
            "give the --checkpoint it was made from"
        )
    if facts["weights_key"] != ours["weights_key"]:
        raise ComparisonError(
            f"{path} was made from {facts['weights']}, the reference has {ours['weights']}; "
            "give the same --weights"
        )
    theirs, own = facts["config"], json.loads(json.dumps(ours["config"]))
    if theirs != own:
        other = [
            f"{field} {theirs.get(field)}, not {own.get(field)}"
            for field in sorted({*theirs, *own})
            if theirs.get(field) != own.get(field)
        ]
        raise ComparisonError(
            f"{path} was made with other settings than the reference: "
            f"{listed(other, between='; ')}; use the same --model and --image-size"
        )


def graph_facts(graph: onnx.ModelProto) -> dict[str, Any]:
    """The model facts in an ONNX file of ours; empty for a file of another tool.

    Raises:
        ExportError: If they are damaged.
    """
    props: dict[str, Any] = {entry.key: entry.value for entry in graph.metadata_props}
    try:
        for key in JSON_FACTS.keys() & props.keys() if props.keys() >= set(MODEL_FACTS) else ():
            props[key] = parse_json(props[key], where=f"the metadata {key}")
        return select_facts(props)
    except FileError as err:
        raise ExportError(f"the ONNX file's metadata is damaged ({err}); export it again") from err


def select_facts(values: dict[str, Any]) -> dict[str, Any]:
    """The model facts among ``values``; empty unless all are there.

    Raises:
        FileError: If one is of another type.
    """
    if not values.keys() >= set(MODEL_FACTS):
        return {}
    return {
        key: typed(values[key], JSON_FACTS.get(key, str), where=f"the model facts, {key}")
        for key in MODEL_FACTS
    }


def texts(facts: dict[str, Any], precision: Precision) -> dict[str, str]:
    """Return facts as ONNX metadata, which holds text only."""
    everything = facts | {"precision": precision, "versions": versions()}
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in everything.items()
    }


def float32_text(graph: onnx.ModelProto) -> dict[str, str]:
    """Return the modules kept in float32, as ONNX metadata."""
    kept = {key: float32_modules(graph, key) for key in (FLOAT32_MODULES, FLOAT32_ASKED)}
    return {key: json.dumps(names) for key, names in kept.items() if names}
