"""Files of products in 8-bit integers for CPUs, their scales calibrated over images."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import onnx
from torch import nn

from exporters.errors import ExportError
from exporters.half_precision import FLOAT32_ASKED, FLOAT32_MODULES, float32_modules
from exporters.int8 import LEVELS, Affine, quantise_products
from exporters.progress import Progress, silent
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.facts import facts_of, texts
from swin_deploy.calibration.affine import METHOD, affine_scale
from swin_deploy.calibration.collect import collect_magnitudes
from swin_deploy.calibration.pictures import CalibrationImages
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_pixels import taking_pixels
from swin_deploy.deploy.model import DeployModel

CALIBRATION = "calibration"  # in manifests: what the scales come from, and the scales
RECORD = "int8_calibration"  # in metadata: the same


def int8_graph(
    loaded: LoadedModel,
    spec: ExportSpec,
    images: CalibrationImages,
    *,
    progress: Progress = silent,
) -> onnx.ModelProto:
    """Export a model with its linear layers in 8-bit integers; nothing is written yet.

    The patch embedding, the head, the products inside attention and ``spec.keep`` stay float32.

    Args:
        loaded: The model.
        spec: Input, opset and batch of the export, for CPUs.
        images: Images to calibrate on.
        progress: Function that is told what is run.

    Raises:
        ConfigError: If the model's preprocessing is not known.
        ExportError: If the export fails, or nothing is left to quantise.
        FileError: If an image cannot be decoded.
    """
    model = fold(loaded.reference, "cpu", migrated=True)
    paths = integer_layers(model, spec.keep)
    if not paths:
        raise ExportError("every linear layer is to stay float32; leave out --precision int8")
    whole = taking_pixels(model, loaded.preprocessing) if spec.input_type == "uint8" else model
    plain = dataclasses.replace(spec, precision="fp32", keep=())
    graph = export_onnx(whole, plain, metadata={})
    seen = collect_magnitudes(graph, paths, images, steps=loaded.preprocessing, progress=progress)
    scales = {path: affine_scale(one) for path, one in seen.items()}
    quantise_products(graph, scales)
    kept = {FLOAT32_MODULES: [*float32_modules(graph), *spec.keep], FLOAT32_ASKED: [*spec.keep]}
    onnx.helper.set_model_props(
        graph,
        texts(facts_of(loaded), "int8")
        | {key: json.dumps(names) for key, names in kept.items() if names}
        | {RECORD: json.dumps(_record(images, scales))},
    )
    return graph


def integer_layers(model: DeployModel, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
    """List the paths of the linear layers that are computed in integers.

    Args:
        model: A deploy model.
        keep: Paths of the modules that stay float32.
    """
    return tuple(
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and path.startswith("layers.")
        # q, k and v are three layers here, and one module in the layout that parts are named in
        and not {path, path.rpartition(".")[0]} & set(keep)
    )


def calibration_values(graph: onnx.ModelProto) -> dict[str, Any]:
    """Return what a file's scales come from, and the scales, for a manifest; empty without any."""
    props = {entry.key: entry.value for entry in graph.metadata_props}
    return {CALIBRATION: json.loads(props[RECORD])} if RECORD in props else {}


def _record(images: CalibrationImages, scales: dict[str, Affine]) -> dict[str, Any]:
    return {
        "images": images.count,
        "found": images.found,
        "sha256": images.sha256,
        "method": f"{METHOD}, integers 0 to {LEVELS}; weights by their largest, per output",
        "scales": {path: [one.scale, one.zero_point] for path, one in scales.items()},
    }
