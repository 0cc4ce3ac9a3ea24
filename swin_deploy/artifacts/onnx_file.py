"""ONNX files: read, exported from a model, or brought to half precision, each graph made once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from exporters.artifact import (
    NewArtifact,
    artifact_outputs,
    read_manifest,
    sha256_of,
    write_artifact,
)
from exporters.engine.to_engine import fixed_batch
from exporters.errors import ConfigError, ExportError, FileError
from exporters.half_precision import float32_modules, precision_of, to_half
from exporters.norm_folding import is_factor, norms_before_mlps
from exporters.outputs import claim
from exporters.plan import count_attention
from exporters.precisions import CALIBRATED, INT8_ON_CPUS, carrier_of, kind_of
from exporters.progress import Progress, silent
from exporters.quantisation import calibration_of, require_opset
from exporters.spec import ExportSpec, Precision, Runtime
from exporters.text_files import naming
from exporters.to_onnx import check_onnx, export_onnx, load_onnx
from exporters.weights import check_graph, serialized, without_weights
from swin_deploy.artifacts.facts import (
    ModelFacts,
    facts_of,
    float32_text,
    texts,
    versions,
)
from swin_deploy.artifacts.int8_file import calibration_values, int8_graph
from swin_deploy.calibration.fp8 import CalibrationRun, store_in_fp8
from swin_deploy.calibration.pictures import CalibrationImages
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config.pads import stage_layouts
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_pixels import taking_pixels

FOR = "for"  # in metadata and manifests: the runtimes that a graph is laid out for
PIXELS_NAME = "pixels"  # name of the input of a graph that takes them
NO_IMAGES = (
    "{} needs images to calibrate on, 32 at least such as the model is for; give --images a folder"
)
BF16_OPSET = 22  # from which convolutions and pools may be in bfloat16


@dataclass(frozen=True)
class Calibrated:
    """The images that FP8 and int8 are calibrated on, and who is told of it.

    Attributes:
        images: The images; None if there are none, which both refuse.
        progress: Function that is told what is run.
    """

    images: CalibrationImages | None = None
    progress: Progress = silent


NOT_CALIBRATED = Calibrated()


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """An ONNX file and its graph, which is parsed and checked once.

    Attributes:
        path: Path of the file.
        graph: The graph; ``without_weights`` leaves its structure only.
        has_weights: True if the graph has the values of its weights.
        written: Manifest that was written with the file; None for a file that was read.
        source: Name and SHA-256 of the float32 file that the graph was converted from, if the
            converted one is not written yet; else None.
    """

    path: Path
    graph: onnx.ModelProto = field(repr=False)
    has_weights: bool = True
    written: dict[str, Any] | None = field(default=None, repr=False)
    source: dict[str, str] | None = None

    @functools.cached_property
    def precision(self) -> Precision:
        """The precision of most weights, see ``precision_of``."""
        return precision_of(self.graph)

    @property
    def runtime(self) -> Runtime:
        """The runtimes that the graph is laid out for."""
        is_cpu = any((one.key, one.value) == (FOR, "cpu") for one in self.graph.metadata_props)
        return "cpu" if is_cpu else "tensorrt"

    @functools.cached_property
    def facts(self) -> ModelFacts | None:
        """Facts about the model in the graph; raises as ``ModelFacts.from_metadata``."""
        values = {entry.key: entry.value for entry in self.graph.metadata_props}
        return ModelFacts.from_metadata(values, where=str(self.path))

    @functools.cached_property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest next to the file, checked against it; None without one."""
        if self.written is not None:
            return self.written
        try:
            return read_manifest(self.path)
        except FileError:
            return None

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the file; raises ``FileError`` if it cannot be read."""
        return sha256_of(self.path) if self.manifest is None else str(self.manifest["sha256"])

    @property
    def input_type(self) -> str:
        """NumPy's name of the type of the input; ``uint8`` for pixels of 0 to 255."""
        kind = self.graph.graph.input[0].type.tensor_type.elem_type
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind).name)

    @property
    def edges(self) -> dict[str, Any]:
        """The input and the outputs, for a manifest."""
        body = self.graph.graph
        outputs = [value.name for value in body.output]
        return {"input": body.input[0].name, "input_type": self.input_type, "outputs": outputs}

    @property
    def model_values(self) -> dict[str, Any]:
        """The facts and the layout of each stage, for a manifest; none for another tool's file."""
        if self.facts is None:
            return {}
        stages = [layout.to_dict() for layout in stage_layouts(self.facts.config)]
        return self.facts.to_dict() | {"stages": stages}

    def whole_graph(self) -> onnx.ModelProto:
        """Return the graph with its weights, read again if they were released.

        Raises:
            ExportError: If the file cannot be read any more.
        """
        return self.graph if self.has_weights else load_onnx(self.path)

    def without_weights(self) -> OnnxFile:
        """Return the written file with the structure of its graph alone."""
        if not self.has_weights:
            return self
        graph = without_weights(self.graph)
        return dataclasses.replace(self, graph=graph, has_weights=False, source=None)


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file; raises as ``load_onnx``."""
    return OnnxFile(path, load_onnx(path))


def onnx_name(
    model: str,
    precision: Precision,
    opset: int,
    *,
    pixels: bool = False,
    runtime: Runtime = "tensorrt",
) -> str:
    """Return the file name of an export.

    Args:
        model: Name of the model.
        precision: Precision of the file.
        opset: Opset of the file.
        pixels: True for an export that takes pixels, False for one that takes normalised images.
        runtime: Runtimes that the file is laid out for.
    """
    taken = "-pixels" if pixels else ""
    laid_out = f"-{runtime}" if runtime == "cpu" else ""
    return f"{model}{taken}-{precision}-opset{opset}{laid_out}.onnx"


def export_spec(
    loaded: LoadedModel,
    *,
    pixels: bool = False,
    **choices: Any,  # noqa: ANN401 - fields of ExportSpec
) -> ExportSpec:
    """Return the specification of an export of a model.

    Args:
        loaded: The model.
        pixels: True to take pixels [B, H, W, in_channels] of 0 to 255, normalised inside the graph;
            False to take normalised images [B, in_channels, H, W].
        choices: Values of other fields of ``ExportSpec``, by name.
    """
    (rows, columns), names = loaded.config.image, loaded.config.output_names
    channels = loaded.config.in_channels
    if pixels:
        return ExportSpec(
            (rows, columns, channels), names, input_type="uint8", input_name=PIXELS_NAME, **choices
        )
    return ExportSpec((channels, rows, columns), names, **choices)


def write_onnx(
    loaded: LoadedModel,
    spec: ExportSpec,
    path: Path,
    *,
    told: Calibrated = NOT_CALIBRATED,
    force: bool = False,
) -> OnnxFile:
    """Fold, export and check a model, and write it with its manifest.

    Args:
        loaded: The model.
        spec: Input, opset, batch and precision of the export.
        path: Path of the file.
        told: Images that FP8 and int8 are calibrated on.
        force: True to replace files that this program did not make.

    Raises:
        ConfigError: Reasons as in ``export_graph``.
        ExportError: If the export fails or is not what was asked for.
        FileError: If the file cannot be written, or one is there that must stay.
    """
    inputs = [] if loaded.checkpoint is None else [loaded.checkpoint]
    claim(artifact_outputs(path), inputs=inputs, force=force)
    return write_graph(export_graph(loaded, spec, path, told=told), force=force)


def export_graph(
    loaded: LoadedModel, spec: ExportSpec, path: Path, *, told: Calibrated = NOT_CALIBRATED
) -> OnnxFile:
    """Fold, export and check a model; nothing is written yet.

    Args:
        loaded: The model.
        spec: Input, opset, batch and precision of the export.
        path: Path that the file is to have.
        told: Images that FP8 is calibrated on.

    Raises:
        ConfigError: If the export takes pixels, and the model's normalisation is not known; or it
            is in FP8 or int8, and there are no images.
        ExportError: If the export fails or is not what was asked for.
    """
    if spec.precision in CALIBRATED:
        return _calibrated(loaded, spec, path, told)
    metadata = texts(facts_of(loaded), spec.precision) | {FOR: spec.runtime}
    # Only the exporter holds the deploy model, and releases it: its weights are the graph's.
    return OnnxFile(path, export_onnx(_deployed(loaded, spec), spec, metadata=metadata))


def _calibrated(loaded: LoadedModel, spec: ExportSpec, path: Path, told: Calibrated) -> OnnxFile:
    """Export a model in float32, calibrate it, and bring parts of it to FP8 or to integers."""
    if told.images is None:
        raise ConfigError(NO_IMAGES.format(spec.precision))
    if spec.precision == "int8":
        graph = int8_graph(loaded, spec, told.images, progress=told.progress)
        props = {entry.key: entry.value for entry in graph.metadata_props}
        onnx.helper.set_model_props(graph, props | {FOR: spec.runtime})
        return OnnxFile(path, graph)
    plain = dataclasses.replace(spec, precision="fp32", io_precision="fp32", keep=())
    full = export_graph(loaded, plain, path)
    edges = carrier_of(spec.precision) if spec.io_precision != "fp32" else "fp32"
    graph = _converted(full, spec.precision, told, keep=spec.keep, edges=edges)
    return OnnxFile(path, check_onnx(graph, spec))


def _deployed(loaded: LoadedModel, spec: ExportSpec) -> nn.Module:
    """Make the deploy model, with the type of input that an export has."""
    model = fold(loaded.reference, spec.runtime)
    return taking_pixels(model, loaded.preprocessing) if spec.input_type == "uint8" else model


def converted_path(source: Path, precision: Precision, *, folder: Path) -> Path:
    """Return the path of a converted ONNX file, named after the file that it is made from.

    Args:
        source: Path of the float32 file.
        precision: Precision of the new file; it replaces ``fp32`` in the name, or is added to it.
        folder: Folder of the new file.
    """
    words = source.stem.split("-")
    named = [precision if word == "fp32" else word for word in words]
    return folder / f"{'-'.join(named if named != words else [*words, precision])}.onnx"


def convert(
    source: OnnxFile,
    precision: Precision,
    *,
    path: Path,
    keep: Sequence[str] = (),
    told: Calibrated = NOT_CALIBRATED,
) -> OnnxFile:
    """Make the half-precision form of a float32 ONNX file; its input and output stay float32.

    Args:
        source: A float32 file.
        precision: Precision to bring it to, one of ``REDUCED``.
        path: Path of the new file; nothing is written yet.
        keep: Paths of modules that stay float32.
        told: Images that FP8 is calibrated on.

    Raises:
        ConfigError: If the precision is FP8, and there are no images.
        ExportError: If the file is not float32, the precision cannot hold a weight, or the graph
            is of mixed precision.
    """
    if source.precision != "fp32":
        raise ExportError(
            f"{source.path} is {kind_of(source.precision)}, what it lost cannot come "
            f"back; export it with --precision {precision}"
        )
    with naming(source.path):
        half = _converted(source, precision, told, keep=keep)
    try:
        check_graph(half, full=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(
            f"{source.path} cannot be written in {kind_of(precision)} "
            f"({' '.join(str(err).split())[:200]}); {_instead(half, precision)}"
        ) from err
    return OnnxFile(path, half, source={"file": source.path.name, "sha256": source.sha256})


def _converted(
    source: OnnxFile,
    precision: Precision,
    told: Calibrated,
    *,
    keep: Sequence[str],
    edges: Precision = "fp32",
) -> onnx.ModelProto:
    """Return the graph of a float32 file in another precision, with the facts of the file."""
    carrier, facts = carrier_of(precision), source.facts
    if carrier != precision:
        _require_calibration(precision, facts, told)
        require_opset(source.graph)
    full = source.whole_graph()
    half = to_half(full, io_precision=edges, precision=carrier, keep=keep)
    if facts:
        ours = texts(facts, precision) | {FOR: source.runtime}
        onnx.helper.set_model_props(half, ours | float32_text(half))
    if carrier != precision and facts and told.images:
        store_in_fp8(
            half,
            full,
            CalibrationRun(told.images, facts.config, facts.preprocessing, told.progress),
            precision=precision,
            kept=float32_modules(half),
        )
    return half


def _require_calibration(precision: Precision, facts: ModelFacts | None, told: Calibrated) -> None:
    if told.images is None:
        raise ConfigError(NO_IMAGES.format(precision))
    if facts is None:
        raise ExportError(
            "another tool made it, and only files of swin-deploy say how their images are prepared "
            f"and which layers {precision} may store; export it with swin-deploy"
        )


def _instead(graph: onnx.ModelProto, precision: Precision) -> str:
    """Return what to do where ONNX does not have a graph in a precision."""
    opset = max(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx"))
    if precision == "bf16" and opset < BF16_OPSET:
        return f"use --fp16, or export it at opset {BF16_OPSET} or later, not {opset}"
    return "export it in half precision where it came from"


def require_for_tensorrt(file: OnnxFile) -> None:
    """Refuse a file that is laid out for other runtimes; raises ``ExportError``.

    Args:
        file: The file that an engine or a plan is to be made from.
    """
    if file.precision == "int8":
        raise ExportError(f"{file.path}: {INT8_ON_CPUS}; export it with --precision fp16")
    if file.runtime == "cpu":
        raise ExportError(
            f"{file.path} is laid out for CPUs, not for TensorRT; export the model again without "
            f"--for {file.runtime}"
        )


def write_graph(file: OnnxFile, *, force: bool = False) -> OnnxFile:
    """Write a graph with its manifest, and return the written file.

    Args:
        file: The graph and its path; its weights must be there.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If the file cannot be written, or one is there that is not ours.
    """
    new = new_graph(file)
    manifest = write_artifact(file.path, new.data, new.facts, force=force)
    return dataclasses.replace(file, written=manifest, source=None)


def new_graph(file: OnnxFile) -> NewArtifact:
    """Return a graph and its manifest as an artefact to write."""
    graph = file.graph
    folded, apart = norms_before_mlps(graph)
    record = calibration_of(graph)
    manifest = {
        "kind": "onnx",
        FOR: file.runtime,
        **file.model_values,
        **({"source": file.source} if file.source else {}),
        "precision": file.precision,
        **calibration_values(graph),
        "float32_modules": [one for one in float32_modules(graph) if not is_factor(one)],
        "folded_norms": list(folded),
        "norms_apart": list(apart),
        **({"calibration": record} if record else {}),
        "opset": graph.opset_import[0].version,
        "batch": fixed_batch(graph) or "dynamic",
        "nodes": len(graph.graph.node),
        "attention_blocks": count_attention(graph),
        **file.edges,
        "versions": versions(),
    }
    return NewArtifact(file.path, functools.partial(serialized, graph), manifest)
