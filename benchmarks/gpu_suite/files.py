"""Weights to ONNX files and engines, or those that were made on another machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.gpu_suite.models import Setup, suite_model
from exporters.artifact import read_manifest
from exporters.backends import load_tensorrt
from exporters.errors import BuildError, ComparisonError, FileError, MissingBackendError
from exporters.spec import DEFAULT_OPSET, BatchProfile, EngineOptions, Flavor, Precision
from swin_deploy.artifacts import onnx_file
from swin_deploy.artifacts.engine_file import RefusedEngine, write_engine
from swin_deploy.artifacts.facts import check_origin, facts_in_manifest
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.runners.engine_manifest import read_engine_manifest

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
# Targets to build an engine for, tried one after the other until the GPU accepts one.
TARGETS: dict[Flavor, tuple[tuple[str, ...], ...]] = {
    "tensorrt": ((),),
    "tensorrt-rtx": ((), ("current",)),
}


def onnx_path(name: str, precision: Precision, setup: Setup) -> Path:
    """Where the ONNX file of a model is."""
    return setup.artifacts / onnx_file.onnx_name(name, precision, DEFAULT_OPSET)


def engine_path(name: str, flavor: Flavor, setup: Setup, targets: tuple[str, ...] = ()) -> Path:
    """Return the path of the float16 engine of a model, built for some targets."""
    return setup.artifacts / f"{'-'.join((name, 'fp16', flavor, *targets))}.engine"


def export(name: str, setup: Setup) -> dict[str, Any]:
    """Export the float32 and the float16 ONNX file, unless both exist with these weights.

    Args:
        name: Name of the model.
        setup: Settings of the suite.

    Returns:
        Facts about each file, and whether it was made here.

    Raises:
        MissingBackendError: If they do not exist, and onnxscript is not installed.
    """
    loaded = suite_model(name, setup)
    full = onnx_path(name, "fp32", setup)
    taken = all(_fits(onnx_path(name, precision, setup), loaded) for precision in PRECISIONS)
    if not taken:
        if importlib.util.find_spec("onnxscript") is None:
            raise MissingBackendError("exporting needs onnxscript; give --artifacts made elsewhere")
        made = onnx_file.write_onnx(loaded, onnx_file.export_spec(loaded), full)
        half = onnx_file.convert(made, "fp16", path=onnx_path(name, "fp16", setup))
        onnx_file.write_graph(half)
    files = {}
    for precision in PRECISIONS:
        manifest = read_manifest(onnx_path(name, precision, setup))
        files[precision] = {key: manifest[key] for key in ("file", "bytes", "nodes", "sha256")}
    return {"files": files, "made": "taken from the folder" if taken else "here"}


def build(
    loaded: LoadedModel, flavor: Flavor, setup: Setup, targets: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Build the float16 engine for batches up to the largest, tuned for the largest.

    An engine of the same weights and version that is in the folder is taken instead.

    Args:
        loaded: The model.
        flavor: TensorRT flavour.
        setup: Settings of the suite.
        targets: Compute capabilities to build for; empty for the flavour's default.

    Returns:
        Facts about the engine and its kernel plan, and whether it was made here.

    Raises:
        BuildError: If the engine cannot be built, or is not in half precision.
        MissingBackendError: If the flavour or the ONNX file is missing.
    """
    path = engine_path(loaded.name, flavor, setup, targets)
    version = load_tensorrt(flavor).__version__
    taken = _fits(path, loaded) and read_manifest(path)["version"] == version
    if not taken:
        source = usable_onnx(loaded, "fp16", setup)
        profile = BatchProfile(1, setup.max_batch, setup.max_batch)
        options = EngineOptions(flavor=flavor, compute_capabilities=targets)
        built = write_engine(onnx_file.read_onnx(source), path, profile=profile, options=options)
        if isinstance(built, RefusedEngine):
            raise BuildError(f"{flavor}: {built.text}")
    engine = read_engine_manifest(path)
    keys = ("file", "bytes", "version", "profile", "build_s", "sha256")
    plan = engine.plan
    return {
        **{key: engine.values[key] for key in keys},
        "kernels": plan.kernel_count,
        "fused attention": f"{plan.fused_attention} of {plan.attention_blocks}",
        "made": "taken from the folder" if taken else "here",
    }


def usable_onnx(loaded: LoadedModel, precision: Precision, setup: Setup) -> Path:
    """Return the path of the ONNX file of a model.

    Raises:
        MissingBackendError: If there is no such file of these weights.
    """
    path = onnx_path(loaded.name, precision, setup)
    if not _fits(path, loaded):
        raise MissingBackendError(f"there is no {path.name} of these weights: part export")
    return path


def usable_engine(loaded: LoadedModel, file: str, setup: Setup) -> Path:
    """Return the path of an engine of a model.

    Raises:
        MissingBackendError: If there is no such engine of these weights.
    """
    path = setup.artifacts / file
    if not _fits(path, loaded):
        raise MissingBackendError(f"there is no {path.name} of these weights: part engine")
    return path


def _fits(path: Path, loaded: LoadedModel) -> bool:
    """Return True if a file is complete, and made from this model and these weights."""
    try:
        manifest = read_manifest(path)
        facts = facts_in_manifest(manifest, path)
        check_origin(path, facts, loaded)
    except (FileError, ComparisonError):
        return False
    return facts is not None
