"""The stages of the line, each from values and files to a file; the commands string them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import onnx
from torch import nn

from exporters.artifact import (
    NewArtifact,
    artifact_outputs,
    read_manifest,
    sha256_of,
    write_artifacts,
)
from exporters.engine.to_engine import BuiltEngine, build_engine, fixed_batch
from exporters.errors import BuildError, ExportError
from exporters.half_precision import (
    FLOAT32_ASKED,
    TITLES,
    float32_modules,
    precision_of,
    to_half,
)
from exporters.outputs import claim
from exporters.plan import KernelPlan, count_attention
from exporters.progress import Progress, Tell, silent
from exporters.spec import (
    DEFAULT_BATCH_OPT,
    BatchProfile,
    EngineOptions,
    ExportSpec,
    Precision,
)
from exporters.text_files import listed, naming
from exporters.to_onnx import export_onnx, load_onnx
from exporters.weights import check_graph, serialized
from swin_deploy.artifacts.facts import (
    ModelFacts,
    facts_in_graph,
    facts_of,
    float32_text,
    texts,
    versions,
)
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_pixels import taking_pixels

PIXELS_NAME = "pixels"  # name of the input of a graph that takes them


@dataclass(frozen=True)
class Artifact:
    """A file that a stage made.

    Attributes:
        path: Its place.
        manifest: The content of the JSON file beside it: what it was made from and with.
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Converted:
    """A graph in half precision, made from an ONNX file and not written yet.

    Attributes:
        path: Its place, once it is written.
        graph: The graph.
        facts: What is known of it, for its manifest.
    """

    path: Path
    graph: onnx.ModelProto
    facts: dict[str, Any]


@dataclass(frozen=True)
class Listener:
    """Who follows a build.

    Attributes:
        progress: Called with a line at each step.
        warn: Called with a line where the build goes on without something, such as its cache.
    """

    progress: Progress = silent
    warn: Tell = silent


def onnx_name(model: str, precision: Precision, opset: int, *, pixels: bool = False) -> str:
    """The file name of an export; ``pixels`` for one that takes pixels."""
    taken = "-pixels" if pixels else ""
    return f"{model}{taken}-{precision}-opset{opset}.onnx"


def export_spec(
    loaded: LoadedModel,
    *,
    pixels: bool = False,
    **choices: Any,  # noqa: ANN401 - fields of ExportSpec
) -> ExportSpec:
    """Say what to export of a model.

    Args:
        loaded: The model.
        pixels: Take pixels [B, H, W, 3] of 0 to 255, normalised inside, not images [B, 3, H, W].
        choices: Other fields of ``ExportSpec``.
    """
    (rows, columns), names = loaded.config.image, loaded.config.output_names
    if pixels:
        return ExportSpec(
            (rows, columns, 3), names, input_type="uint8", input_name=PIXELS_NAME, **choices
        )
    return ExportSpec((3, rows, columns), names, **choices)


def write_onnx(
    loaded: LoadedModel, spec: ExportSpec, path: Path, *, force: bool = False
) -> Artifact:
    """Fold, export and check a model, and write it with its manifest.

    Args:
        loaded: The model.
        spec: What to export of it.
        path: Where the file goes.
        force: Replace files that this program did not make.

    Raises:
        ConfigError: If pixels are to be taken, and the model's way to normalise them is not known.
        ExportError: If the export fails or is not what was asked for.
        FileError: If the file cannot be written, or one is there that must stay.
    """
    _claim(path, source=loaded.checkpoint, force=force)
    facts = facts_of(loaded)
    # Only the exporter holds the deploy model, which lets go of it: its weights are the graph's.
    graph = export_onnx(_deployed(loaded, spec), spec, metadata=texts(facts, spec.precision))
    return _write([_new_graph(graph, path, facts=facts.to_dict())], force=force)[0]


def _deployed(loaded: LoadedModel, spec: ExportSpec) -> nn.Module:
    """The deploy model, with the input that an export is to have."""
    model = fold(loaded.reference)
    return taking_pixels(model, loaded.preprocessing) if spec.input_type == "uint8" else model


def converted_path(source: Path, precision: Precision, *, folder: Path) -> Path:
    """Name the half-precision form of an ONNX file after the file."""
    stem = source.stem
    stem = stem.replace("fp32", precision) if "fp32" in stem else f"{stem}-{precision}"
    return folder / f"{stem}.onnx"


def write_converted(converted: Converted, *, force: bool = False) -> Artifact:
    """Write a graph in half precision with its manifest.

    Raises:
        FileError: If the file cannot be written, or one is there that is not ours.
    """
    new = _new_graph(converted.graph, converted.path, facts=converted.facts)
    return _write([new], force=force)[0]


def convert(
    source: Path, precision: Precision, *, folder: Path, keep: Sequence[str] = ()
) -> Converted:
    """Make the half-precision form of a float32 ONNX file; its input and output stay float32.

    Args:
        source: A float32 file; the new one is named after it.
        precision: To bring it to, ``fp16`` or ``bf16``.
        folder: Where the new file is to go; nothing is written yet.
        keep: Paths of modules that stay float32.

    Raises:
        ExportError: If the file is not float32, the precision cannot hold a weight, or the graph
            is of mixed precision.
    """
    graph = load_onnx(source)
    has = precision_of(graph)
    if has != "fp32":
        raise ExportError(
            f"{source} is {TITLES[has]}, what it lost cannot come back; "
            f"export it with --precision {precision}"
        )
    with naming(source):
        half = to_half(graph, io_precision="fp32", precision=precision, keep=keep)
        facts = facts_in_graph(graph, source)
    if facts:
        onnx.helper.set_model_props(half, texts(facts, precision) | float32_text(half))
    try:
        check_graph(half, full=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(
            f"{source} cannot be written in {TITLES[precision]} "
            f"({' '.join(str(err).split())[:200]}); "
            "export it in half precision where it came from"
        ) from err
    path = converted_path(source, precision, folder=folder)
    return Converted(path, half, _values(facts) | _origin(source, sha256=sha256_of(source)))


def write_engine(
    source: Path | Converted,
    path: Path,
    *,
    profile: BatchProfile | None,
    options: EngineOptions,
    listener: Listener = Listener(),
    force: bool = False,
) -> tuple[Artifact | None, KernelPlan]:
    """Build an engine in the precision of its ONNX graph, prove that precision, and write it.

    Args:
        source: The graph: a file, or one that was converted and is written with the engine, not
            without it.
        path: Where the engine goes.
        profile: Batches it accepts; by default 1 to 32, tuned for 8, or the graph's fixed batch.
        options: Flavour and builder settings.
        listener: Who follows the build.
        force: Replace files that this program did not make.

    Returns:
        The engine and its plan. There is no engine, and no file, where the graph is in half
        precision but the plan does not deliver it (``missing_precision``).

    Raises:
        BuildError: If it cannot be built.
        ExportError: If the ONNX file cannot be read.
        FileError: If a file cannot be written, or one is there that must stay.
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there.
    """
    _claim(path, source=source if isinstance(source, Path) else None, force=force)
    if isinstance(source, Converted):
        _claim(source.path, source=None, force=force)
    graph = graph_of(source)
    precision = precision_of(graph)
    profile = profile or default_profile(graph)
    read = source.path if isinstance(source, Converted) else source
    with naming(read):
        facts = facts_in_graph(graph, read)  # they may be damaged: better known before the build
        built = build_engine(
            graph, profile, options=options, progress=listener.progress, warn=listener.warn
        )
    if precision != "fp32" and missing_precision(built.plan, graph):
        return None, built.plan
    before = []
    if isinstance(source, Converted):
        before = [_new_graph(graph, source.path, facts=source.facts)]
        origin = _origin(source.path, sha256=before[0].sha256)
    else:
        origin = _origin(source, sha256=sha256_of(source))
    manifest = {
        "kind": "engine",
        **_values(facts),
        **_build_facts(built, graph, precision=precision, profile=profile),
        **origin,
    }
    written = _write([*before, NewArtifact(path, built.data, manifest)], force=force)
    return written[-1], built.plan


def graph_of(source: Path | Converted) -> onnx.ModelProto:
    """Return the graph of a file, or the converted one.

    Raises:
        ExportError: If the ONNX file cannot be read.
    """
    return source.graph if isinstance(source, Converted) else load_onnx(source)


def missing_precision(plan: KernelPlan, graph: onnx.ModelProto) -> tuple[str, ...]:
    """What a half-precision graph asks for and its plan does not show; empty when nothing.

    Attention that is not fused counts where modules were kept in float32: they may have cut it.
    """
    wide, lost = plan.float32_compute, plan.lost_float32
    found = []
    if wide:
        found.append(
            f"{len(wide)} attention or matrix product kernels would run in float32 "
            f"({listed(wide[:3])}, ...)"
        )
    if lost:
        found.append(f"{listed(lost[:3])} would not run in float32, which the graph asks for")
    if float32_modules(graph, FLOAT32_ASKED) and plan.fused_attention < plan.attention_blocks:
        fused = f"{plan.fused_attention} of {plan.attention_blocks}"
        found.append(f"attention would be fused in {fused} blocks only")
    return tuple(found)


def default_profile(graph: onnx.ModelProto) -> BatchProfile:
    """The graph's fixed batch, or 1 to 32 tuned for 8."""
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
    plan = KernelPlan.from_dict(read_engine_manifest(path)["plan"])
    if batch not in (None, plan.batch):
        raise BuildError(
            f"the plan of {path.name} is for batch {plan.batch}; give its ONNX file to plan another"
        )
    return plan


def _plan_onnx(
    path: Path, *, batch: int | None, options: EngineOptions, half: bool, warn: Tell
) -> KernelPlan:
    graph = load_onnx(path)
    if not count_attention(graph):
        raise BuildError(
            f"{path} has no attention, a softmax between two matrix products, so it is no Swin "
            "Transformer; give the ONNX file of one"
        )
    with naming(path):
        if half and precision_of(graph) == "fp32":
            graph = to_half(graph, io_precision="fp32")
        at = batch or default_profile(graph).opt
        return build_engine(graph, BatchProfile(at, at, at), options=options, warn=warn).plan


def read_engine_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an engine, its precision and plan checked.

    Raises:
        BuildError: If ``path`` is something else than an engine of ours.
        FileError: If the manifest is missing or describes another file.
    """
    manifest = read_manifest(path)
    known = manifest.get("kind") == "engine" and manifest.get("precision") in get_args(Precision)
    if not known or "plan" not in manifest:
        raise BuildError(f"{path} is no engine of swin-deploy; build one with build-trt")
    with naming(path):
        KernelPlan.from_dict(manifest["plan"])
    return manifest


def _claim(path: Path, *, source: Path | None, force: bool) -> None:
    """Fail early where an artefact cannot be written, or would replace what must stay."""
    claim(artifact_outputs(path), inputs=[] if source is None else [source], force=force)


def _origin(source: Path, *, sha256: str) -> dict[str, Any]:
    """What a file was made from, for its manifest."""
    return {"source": {"file": source.name, "sha256": sha256}}


def _build_facts(
    built: BuiltEngine, graph: onnx.ModelProto, *, precision: Precision, profile: BatchProfile
) -> dict[str, Any]:
    return {
        "precision": precision,
        "flavor": built.flavor,
        "version": built.version,
        "targets": built.targets.to_dict(),
        "profile": dataclasses.asdict(profile),
        **_input(graph),
        "outputs": [value.name for value in graph.graph.output],
        "build_s": round(built.build_s, 3),
        "plan": built.plan.to_dict(),
    }


def _values(facts: ModelFacts | None) -> dict[str, Any]:
    """Facts for a manifest; none for a file of another tool."""
    return {} if facts is None else facts.to_dict()


def _input(graph: onnx.ModelProto) -> dict[str, str]:
    taken = graph.graph.input[0]
    kind = onnx.helper.tensor_dtype_to_np_dtype(taken.type.tensor_type.elem_type)
    return {"input": taken.name, "input_type": kind.name}


def _new_graph(graph: onnx.ModelProto, path: Path, *, facts: dict[str, Any]) -> NewArtifact:
    body = graph.graph
    manifest = {
        "kind": "onnx",
        **facts,
        "precision": precision_of(graph),
        "float32_modules": list(float32_modules(graph)),
        "opset": graph.opset_import[0].version,
        "batch": fixed_batch(graph) or "dynamic",
        "nodes": len(body.node),
        "attention_blocks": count_attention(graph),
        **_input(graph),
        "outputs": [value.name for value in body.output],
        "versions": versions(),
    }
    return NewArtifact(path, functools.partial(serialized, graph), manifest)


def _write(new: Sequence[NewArtifact], *, force: bool) -> list[Artifact]:
    manifests = write_artifacts(new, force=force)
    return [Artifact(one.path, manifest) for one, manifest in zip(new, manifests, strict=True)]
