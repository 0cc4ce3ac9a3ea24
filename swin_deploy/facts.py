"""Facts about a model that travel with every artefact made from it, in manifests and metadata."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import onnx

from exporters.errors import ComparisonError, ExportError
from exporters.precision import FLOAT32_ASKED, FLOAT32_MODULES, float32_modules
from exporters.spec import Precision
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
JSON_FACTS = ("config", "preprocessing", "assumptions")


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
    if json.dumps(facts["config"]) != json.dumps(ours["config"]):
        raise ComparisonError(
            f"{path} was made with the settings {json.dumps(facts['config'])}, the reference has "
            f"{json.dumps(ours['config'])}; use the same --model and --image-size"
        )


def graph_facts(graph: onnx.ModelProto) -> dict[str, Any]:
    """The model facts in an ONNX file of ours; empty for a file of another tool."""
    props: dict[str, Any] = {entry.key: entry.value for entry in graph.metadata_props}
    facts = select_facts(props)
    try:
        return facts | {key: json.loads(facts[key]) for key in JSON_FACTS if facts}
    except ValueError as err:
        raise ExportError(f"the ONNX file's metadata is damaged ({err}); export it again") from err


def select_facts(values: dict[str, Any]) -> dict[str, Any]:
    """The model facts among ``values``; empty unless all are there."""
    facts = {key: values[key] for key in MODEL_FACTS if key in values}
    return facts if len(facts) == len(MODEL_FACTS) else {}


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
