"""The kernel plan of an engine, or of an ONNX file that is built for it."""

from __future__ import annotations

from pathlib import Path

from exporters.engine.to_engine import build_engine
from exporters.errors import BuildError
from exporters.half_precision import to_half
from exporters.plan import KernelPlan, count_attention
from exporters.progress import Tell, silent
from exporters.spec import BatchProfile, EngineOptions
from exporters.text_files import naming
from swin_deploy.artifacts.engine_file import default_profile
from swin_deploy.artifacts.onnx_file import read_onnx
from swin_deploy.runners.engine_manifest import read_engine_manifest


def read_or_build_plan(
    path: Path,
    *,
    batch: int | None,
    options: EngineOptions,
    half: bool = False,
    warn: Tell = silent,
) -> KernelPlan:
    """The plan of an engine, from its manifest, or of an ONNX file, built in memory.

    Args:
        path: An engine with its manifest, or an ONNX file.
        batch: To plan an ONNX file for; by default its fixed batch, or 8.
        options: Flavour and builder settings, for an ONNX file.
        half: Plan the float16 form of a float32 ONNX file.
        warn: Called with a line where the build goes on without something, such as its cache.

    Raises:
        BuildError: If it cannot be built, or an engine was asked for otherwise than it is.
        ExportError: If the ONNX file cannot be read, or cannot be written in float16.
        FileError: If the engine's manifest is missing or describes another file.
    """
    if path.suffix == ".onnx":
        return _plan_onnx(path, batch=batch, options=options, half=half, warn=warn)
    if half:
        raise BuildError(f"{path.name} is no ONNX file; give the one to plan in float16")
    plan = read_engine_manifest(path).plan
    if batch not in (None, plan.batch):
        raise BuildError(
            f"the plan of {path.name} is for batch {plan.batch}; give its ONNX file to plan another"
        )
    return plan


def _plan_onnx(
    path: Path, *, batch: int | None, options: EngineOptions, half: bool, warn: Tell
) -> KernelPlan:
    file = read_onnx(path)
    graph = file.graph
    if not count_attention(graph):
        raise BuildError(
            f"{path} has no attention, a softmax between two matrix products, so it is no Swin "
            "Transformer; give the ONNX file of one"
        )
    with naming(path):
        if half and file.precision == "fp32":
            graph = to_half(graph, io_precision="fp32")
        at = batch or default_profile(graph).opt
        return build_engine(graph, BatchProfile(at, at, at), options=options, warn=warn).plan
