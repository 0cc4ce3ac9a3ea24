"""Files to serve, and a stand-in of a TensorRT engine whose bytes are an ONNX file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from report_samples import make_plan

from exporters.artifact import read_manifest, write_artifact

NOT_OF_ENGINES = {"schema", "file", "bytes", "sha256", "created", "kind"}


def write_engine_of(onnx: Path, path: Path, **changes: Any) -> Path:  # noqa: ANN401 - JSON values
    """Write an ONNX file as an engine of TensorRT, as the stand-in of its backend reads it.

    Args:
        onnx: The ONNX file, with its manifest.
        path: Path of the engine.
        changes: Values of its manifest.
    """
    facts = {k: v for k, v in read_manifest(onnx).items() if k not in NOT_OF_ENGINES}
    plan = dataclasses.replace(make_plan(), flavor="tensorrt", version="10.16.1.11")
    values = {
        **facts,
        "kind": "engine",
        "flavor": "tensorrt",
        "version": "10.16.1.11",
        "targets": {
            "built_on": "NVIDIA H100",
            "capabilities": ["9.0"],
            "minimum": "",
            "version_compatible": False,
        },
        "profile": {"min": 1, "opt": 4, "max": 16},
        "plan": plan.to_dict(),
        "source": {"file": onnx.name, "sha256": read_manifest(onnx)["sha256"]},
        **changes,
    }
    write_artifact(path, onnx.read_bytes(), values)
    return path
