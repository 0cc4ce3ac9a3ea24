"""The kind of a model file: checkpoint, ONNX file, engine or manifest of sizes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from exporters.artifact import manifest_path
from exporters.errors import FileError
from swin_deploy.artifacts.outputs import is_sizes
from swin_deploy.config.names import find_variant, proposals

Form = Literal["checkpoint", "onnx", "engine", "sizes"]
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


def form_of(artifact: Path) -> Form:
    """Tell the kind of a model file by its suffix, else by a manifest next to it.

    Args:
        artifact: Path of the file, or the name of a model, which counts as a checkpoint.

    Raises:
        FileError: If there is neither a file nor a model of that name.
    """
    if not os.path.lexists(artifact):
        if find_variant(str(artifact)):
            return "checkpoint"
        near = proposals(str(artifact))
        meant = f"; did you mean the model {near}? Else" if near else ";"
        raise FileError(
            f"{artifact} does not exist{meant} give an ONNX file, an engine or a checkpoint, or "
            "the name of a model that 'swin-deploy models' lists"
        )
    if artifact.suffix.lower() == ".onnx":
        return "onnx"
    if artifact.suffix.lower() in ENGINE_SUFFIXES:
        return "engine"
    if is_sizes(artifact):
        return "sizes"
    described = artifact.is_file() and manifest_path(artifact).is_file()  # "." has no name
    return "engine" if described else "checkpoint"
