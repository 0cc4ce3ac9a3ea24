"""The stages of the line, each from values and files to a file; the commands string them."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any, get_args

import onnx

from exporters.artifact import (
    ensure_writable,
    manifest_path,
    read_manifest,
    sha256_of,
    write_artifact,
)
from exporters.errors import BuildError, ComparisonError, ExportError, FileError
from exporters.plan import KernelPlan, count_attention
from exporters.precision import (
    FLOAT32_ASKED,
    FLOAT32_MODULES,
    TITLES,
    float32_modules,
    precision_of,
    to_half,
)
from exporters.spec import (
    DEFAULT_BATCH_OPT,
    BatchProfile,
    EngineOptions,
    ExportSpec,
    Precision,
)
from exporters.text_files import listed, naming, parse_json, read_json, typed
from exporters.to_engine import build_engine, fixed_batch
from exporters.to_onnx import export_onnx, load_onnx
from swin_deploy import __version__
from swin_deploy.fold import fold
from swin_deploy.load import LoadedModel

ENGINES = Path("engines")
Progress = Callable[[str], None]
# Facts about the model that travel with every artefact made from it.
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


@dataclass(frozen=True)
class Artifact:
    """A file that a stage made, and its manifest."""

    path: Path
    manifest: dict[str, Any]


def onnx_name(model: str, precision: Precision, opset: int) -> str:
    """The file name of an export."""
    return f"{model}-{precision}-opset{opset}.onnx"


def export_spec(loaded: LoadedModel, **choices: Any) -> ExportSpec:  # noqa: ANN401 - its fields
    """What to export of a model; ``choices`` are the other fields of ``ExportSpec``."""
    size = loaded.config.img_size
    return ExportSpec((3, size, size), loaded.config.output_names, **choices)


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


def write_onnx(loaded: LoadedModel, spec: ExportSpec, path: Path) -> Artifact:
    """Fold, export and check a model, and write it with its manifest.

    Raises:
        ExportError: If the export fails or is not what was asked for.
        FileError: If the file cannot be written.
    """
    _require_output(path, source=loaded.checkpoint)
    facts = model_facts(loaded)
    graph = export_onnx(fold(loaded.reference), spec, metadata=_texts(facts, spec.precision))
    return _write_graph(graph, path, facts=facts)


def in_precision(
    source: Path, precision: Precision, *, folder: Path, keep: Sequence[str] = ()
) -> Path:
    """Write the half-precision form of a float32 ONNX file; its input and output stay float32.

    Args:
        source: A float32 file; the new one is named after it.
        precision: To bring it to, ``fp16`` or ``bf16``.
        folder: Where the new file goes.
        keep: Paths of modules that stay float32.

    Raises:
        ExportError: If the file is not float32, the precision cannot hold a weight, or the graph
            is of mixed precision.
        FileError: If the file cannot be written.
    """
    graph = load_onnx(source)
    has = precision_of(graph)
    if has != "fp32":
        raise ExportError(
            f"{source} is {TITLES[has]}, what it lost cannot come back; "
            f"export it with --precision {precision}"
        )
    stem = source.stem
    stem = stem.replace("fp32", precision) if "fp32" in stem else f"{stem}-{precision}"
    path = folder / f"{stem}.onnx"
    ensure_writable(path)
    with naming(source):
        facts = graph_facts(graph)
        half = to_half(graph, io_precision="fp32", precision=precision, keep=keep)
    origin = _origin(source)
    if facts:
        onnx.helper.set_model_props(half, _texts(facts, precision) | _float32_text(half))
    try:
        onnx.checker.check_model(half, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(
            f"{source} cannot be written in {TITLES[precision]} "
            f"({' '.join(str(err).split())[:200]}); "
            "export it in half precision where it came from"
        ) from err
    return _write_graph(half, path, facts=facts | origin).path


def write_engine(
    onnx_path: Path,
    path: Path,
    *,
    profile: BatchProfile | None,
    options: EngineOptions,
    progress: Progress = lambda _: None,
    warn: Progress = lambda _: None,
) -> tuple[Artifact | None, KernelPlan]:
    """Build an engine in the precision of its ONNX graph, prove that precision, and write it.

    Args:
        onnx_path: The graph.
        path: Where the engine goes.
        profile: Batches it accepts; by default 1 to 32, tuned for 8, or the graph's fixed batch.
        options: Flavour and builder settings.
        progress: Called with a line at each step.
        warn: Called with a line where the build goes on without something, such as its cache.

    Returns:
        The engine and its plan. There is no engine, and no file, where the graph is in half
        precision but the plan does not deliver it (``undelivered``).

    Raises:
        BuildError: If it cannot be built.
        ExportError: If the ONNX file cannot be read.
        FileError: If the engine cannot be written.
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there.
    """
    _require_output(path, source=onnx_path)
    graph = load_onnx(onnx_path)
    precision = precision_of(graph)
    profile = profile or default_profile(graph)
    with naming(onnx_path):
        facts = graph_facts(graph)
        built = build_engine(graph, profile, options=options, progress=progress, warn=warn)
    if precision != "fp32" and undelivered(built.plan, graph):
        return None, built.plan
    manifest = {
        "kind": "engine",
        **facts,
        "precision": precision,
        "flavor": built.flavor,
        "version": built.version,
        "targets": built.targets.to_dict(),
        "profile": dataclasses.asdict(profile),
        "input": graph.graph.input[0].name,
        "outputs": [value.name for value in graph.graph.output],
        **_origin(onnx_path),
        "build_s": round(built.build_s, 3),
        "plan": built.plan.to_dict(),
    }
    return Artifact(path, write_artifact(path, built.data, manifest)), built.plan


def undelivered(plan: KernelPlan, graph: onnx.ModelProto) -> tuple[str, ...]:
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
    warn: Progress = lambda _: None,
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
    path: Path, *, batch: int | None, options: EngineOptions, half: bool, warn: Progress
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


def newest_export(folder: Path = ENGINES) -> Path:
    """The ONNX file exported last to ``folder``; not one made from another ONNX file.

    Raises:
        ExportError: If there is none.
    """
    files = [path for path in folder.glob("*.onnx") if path.is_file() and not _is_derived(path)]
    found = sorted(files, key=lambda path: path.stat().st_mtime)
    if not found:
        raise ExportError(
            f"no exported ONNX file in {folder}; make one with swin-deploy export, or name one"
        )
    return found[-1]


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
        fields = sorted({*theirs, *own})
        other = [
            f"{field} {theirs.get(field)}, not {own.get(field)}"
            for field in fields
            if theirs.get(field) != own.get(field)
        ]
        raise ComparisonError(
            f"{path} was made with other settings than the reference: {listed(other)}; use the "
            "same --model and --image-size"
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


def _require_output(path: Path, *, source: Path | None) -> None:
    """Fail early where ``path`` cannot be written, or would replace what it is made from."""
    ensure_writable(path)
    if source is not None and path.exists() and path.samefile(source):
        raise FileError(f"{path} is the file to read; name another output")


def _origin(source: Path) -> dict[str, Any]:
    """What a file was made from, for its manifest."""
    return {"source": {"file": source.name, "sha256": sha256_of(source)}}


def _is_derived(path: Path) -> bool:
    """Whether the manifest says that ``path`` was made from another file."""
    try:
        manifest = read_json(manifest_path(path))
    except FileError:
        return False
    return isinstance(manifest, dict) and "source" in manifest


def _texts(facts: dict[str, Any], precision: Precision) -> dict[str, str]:
    """Facts as ONNX metadata, which holds text only."""
    everything = facts | {"precision": precision, "versions": versions()}
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in everything.items()
    }


def _float32_text(graph: onnx.ModelProto) -> dict[str, str]:
    """The modules kept in float32, as ONNX metadata."""
    kept = {key: float32_modules(graph, key) for key in (FLOAT32_MODULES, FLOAT32_ASKED)}
    return {key: json.dumps(names) for key, names in kept.items() if names}


def _write_graph(graph: onnx.ModelProto, path: Path, *, facts: dict[str, Any]) -> Artifact:
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
        "input": body.input[0].name,
        "outputs": [value.name for value in body.output],
        "versions": versions(),
    }
    return Artifact(path, write_artifact(path, graph.SerializeToString(), manifest))
