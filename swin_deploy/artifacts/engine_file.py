"""Engines: built from an ONNX file, their precision proved, written; and their kernel plans."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import onnx

from exporters.artifact import NewArtifact, artifact_outputs, write_artifacts
from exporters.engine.to_engine import build_engine, fixed_batch
from exporters.errors import BuildError
from exporters.half_precision import FLOAT32_ASKED, float32_modules, precision_of, to_half
from exporters.outputs import claim
from exporters.plan import KernelPlan, count_attention
from exporters.precisions import FP8_FORMS, PRECISIONS, carrier_of
from exporters.progress import Progress, Tell, silent
from exporters.quantisation import calibration_of, quantised_scales
from exporters.spec import DEFAULT_BATCH_OPT, BatchProfile, EngineOptions
from exporters.text_files import listed, naming
from swin_deploy.artifacts.facts import facts_in_manifest
from swin_deploy.artifacts.onnx_file import (
    OnnxFile,
    new_graph,
    read_onnx,
    require_for_tensorrt,
)
from swin_deploy.config import SwinConfig
from swin_deploy.runners.engine_manifest import (
    EngineManifest,
    engine_manifest,
    read_engine_manifest,
)

LOOK = "Look at the graph with swin-deploy plan"
FP8_ADVICE = (
    "Give another --batch, for which the builder may take other kernels, or build the float32 file "
    "with --fp16"
)


@dataclass(frozen=True)
class Listener:
    """The functions that are told of a build.

    Attributes:
        progress: Function that is told of each step, in one line.
        warn: Function that is told, in one line, what the build goes on without, such as its cache.
    """

    progress: Progress = silent
    warn: Tell = silent


@dataclass(frozen=True)
class RefusedEngine:
    """An engine that was built and not written: its plan lacks the precision of its graph.

    Attributes:
        plan: Kernel plan of the engine.
        reasons: Reasons why the plan lacks the precision, at least one, of ``missing_precision``.
        advice: Sentence about what the user may do.
    """

    plan: KernelPlan
    reasons: tuple[str, ...]
    advice: str

    @property
    def text(self) -> str:
        """The reasons and what to do, in one line."""
        return (
            f"{'; '.join(self.reasons)}: not the precision that was asked for, so no engine was "
            f"written. {self.advice}"
        )


def write_engine(
    source: OnnxFile,
    path: Path,
    *,
    profile: BatchProfile | None,
    options: EngineOptions,
    listener: Listener = Listener(),
    force: bool = False,
) -> EngineManifest | RefusedEngine:
    """Build an engine in the precision of its ONNX graph, prove that precision, and write it.

    Args:
        source: The graph; one that was converted is written with the engine, not without it.
        path: Path of the engine.
        profile: Batches it accepts; by default 1 to 32, tuned for 8, or the graph's fixed batch.
        options: Flavour and builder settings.
        listener: Functions that are told of steps and warnings.
        force: True to replace files that this program did not make.

    Returns:
        The manifest that was written; or the refused engine, if the graph is in half precision and
        the plan does not deliver it: nothing is written then.

    Raises:
        BuildError: If it cannot be built.
        ExportError: If the ONNX file cannot be read.
        FileError: If a file cannot be written, or one is there that must stay.
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there.
    """
    new = source.source is not None
    claim(artifact_outputs(path), inputs=[] if new else [source.path], force=force)
    if new:
        claim(artifact_outputs(source.path), force=force)
    built = new_engine(source, path, profile=profile, options=options, listener=listener)
    if isinstance(built, RefusedEngine):
        return built
    before = [new_graph(source)] if new else []
    digest = before[0].sha256 if before else source.sha256
    engine = built_from(built, source.path, digest)
    return engine_manifest(path, write_artifacts([*before, engine], force=force)[-1])


def new_engine(
    source: OnnxFile,
    path: Path,
    *,
    profile: BatchProfile | None,
    options: EngineOptions,
    listener: Listener = Listener(),
) -> NewArtifact | RefusedEngine:
    """Build an engine and prove its precision; nothing is written yet.

    Args:
        source: The graph.
        path: Path that the engine is to have.
        profile: Batches it accepts, as in ``write_engine``.
        options: Flavour and builder settings.
        listener: Functions that are told of steps and warnings.

    Returns:
        The engine to write, of which ``built_from`` says the source; or the refused engine.

    Raises:
        BuildError: If it cannot be built.
        ExportError: If the ONNX file cannot be read.
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there.
    """
    graph = source.whole_graph()
    profile = profile or default_profile(graph)
    with naming(source.path):
        model = source.model_values  # they may be damaged: better known before the build
        built = build_engine(
            graph, profile, options=options, progress=listener.progress, warn=listener.warn
        )
    reasons = () if source.precision == "fp32" else missing_precision(built.plan, graph)
    if reasons:
        stored = source.precision in FP8_FORMS
        return RefusedEngine(built.plan, reasons, FP8_ADVICE if stored else LOOK)
    record = calibration_of(source.graph)
    facts = {
        "kind": "engine",
        **model,
        "precision": source.precision,
        **({"calibration": record} if record else {}),
        "flavor": built.flavor,
        "version": built.version,
        "targets": built.targets.to_dict(),
        "profile": dataclasses.asdict(profile),
        **source.edges,
        "build_s": round(built.build_s, 3),
        "plan": built.plan.to_dict(),
    }
    return NewArtifact(path, built.data, facts)


def built_from(engine: NewArtifact, source: Path, sha256: str) -> NewArtifact:
    """Return an engine to write whose manifest names the ONNX file that it was built from.

    Args:
        engine: The engine.
        source: Path of the ONNX file.
        sha256: SHA-256 of the ONNX file.
    """
    named = {"source": {"file": source.name, "sha256": sha256}}
    return dataclasses.replace(engine, facts=engine.facts | named)


def missing_precision(plan: KernelPlan, graph: onnx.ModelProto) -> tuple[str, ...]:
    """List the reasons why an engine's plan is not in the precision that its graph asks for.

    Attention that is not fused is a reason if the caller kept modules in float32, or the graph
    stores values in FP8, which may have split it.

    Args:
        plan: Kernel plan of the engine.
        graph: The half-precision graph that it was built from.

    Returns:
        Reasons, in words; empty if the plan has the precision.
    """
    precision = precision_of(graph)
    wide, lost, other = plan.float32_compute, plan.lost_float32, plan.wrong_products(precision)
    found = []
    if wide:
        found.append(
            f"{len(wide)} attention or matrix product kernels would run in float32 ({listed(wide)})"
        )
    if other:
        found.append(
            f"{len(other)} attention or matrix product kernels would not run in "
            f"{PRECISIONS[carrier_of(precision)].dtype} ({listed(other)})"
        )
    if plan.lost_fp8:
        found.append(
            f"{len(plan.lost_fp8)} products that read FP8 in the graph would not in the engine "
            f"({listed(plan.lost_fp8)})"
        )
    if lost:
        found.append(f"{listed(lost[:3])} would not run in float32, which the graph asks for")
    splits = float32_modules(graph, FLOAT32_ASKED) or quantised_scales(graph)
    if splits and plan.fused_attention < plan.attention_blocks:
        fused = f"{plan.fused_attention} of {plan.attention_blocks}"
        found.append(f"attention would be fused in {fused} blocks only")
    return tuple(found)


def default_profile(graph: onnx.ModelProto) -> BatchProfile:
    """Return the batches of an engine by default: the graph's fixed one, or 1 to 32 tuned for 8."""
    fixed = fixed_batch(graph)
    return BatchProfile(fixed, fixed, fixed) if fixed else BatchProfile(1, DEFAULT_BATCH_OPT, 32)


def read_or_build_plan(
    path: Path,
    *,
    batch: int | None,
    options: EngineOptions,
    half: bool = False,
    warn: Tell = silent,
) -> KernelPlan:
    """Read the plan of an engine from its manifest, or build that of an ONNX file in memory.

    Args:
        path: Path of an engine with its manifest, or of an ONNX file.
        batch: Batch to plan an ONNX file for; by default its fixed batch, or 8.
        options: Flavour and builder settings, for an ONNX file.
        half: True to plan the float16 form of a float32 ONNX file.
        warn: Function that is told, in one line, what the build goes on without, such as its cache.

    Raises:
        BuildError: If it cannot be built, has no attention, or is an engine of another batch than
            ``batch``.
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


def planned_config(path: Path) -> SwinConfig | None:
    """Return the config of the model in an engine's manifest or an ONNX file.

    Args:
        path: Path of the engine or the ONNX file.

    Returns:
        The config; None for a file of another tool.

    Raises:
        ExportError: If the ONNX file cannot be read.
        FileError: If the engine's manifest is missing or describes another file.
    """
    if path.suffix == ".onnx":
        facts = read_onnx(path).facts
    else:
        facts = facts_in_manifest(read_engine_manifest(path).values, path)
    return facts.config if facts else None


def _plan_onnx(
    path: Path, *, batch: int | None, options: EngineOptions, half: bool, warn: Tell
) -> KernelPlan:
    file = read_onnx(path)
    require_for_tensorrt(file)
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
