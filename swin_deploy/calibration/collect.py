"""A float32 graph run over images in ONNX Runtime, and the sizes of what its products read."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from exporters.engine.to_engine import fixed_batch
from exporters.errors import ExportError
from exporters.progress import Progress, silent
from exporters.quantisation import LinearProduct, products_at
from exporters.staging import temporary_folder
from exporters.weights import serialized
from swin_deploy.calibration.pictures import CalibrationImages
from swin_deploy.calibration.statistics import Magnitudes, magnitudes_of
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.runners import OrtRunner


def collect_magnitudes(
    graph: onnx.ModelProto,
    paths: Collection[str],
    images: CalibrationImages,
    *,
    steps: Preprocessing,
    progress: Progress = silent,
) -> dict[str, Magnitudes]:
    """Measure what the linear layers of a float32 graph read, over images.

    Args:
        graph: The graph with its weights, one that takes images or pixels; it is not changed.
        paths: Paths of the linear layers, such as ``layers.0.mlp.2``.
        images: The images.
        steps: Preprocessing of the images.
        progress: Function that is told what is run.

    Returns:
        The magnitudes by path, in the graph's order.

    Raises:
        ConfigError: If the images' preprocessing is not known.
        ExportError: If a path has no product, ONNX Runtime cannot run the graph, or a layer reads
            values that are not finite.
        FileError: If an image cannot be decoded.
    """
    products = products_at(graph, paths)
    found: dict[str, Magnitudes] = {}
    batch = fixed_batch(graph) or 1
    with temporary_folder() as folder:
        path = folder / "calibrated.onnx"
        names = _write_tapped(graph, products, path)
        with OrtRunner(path, "fp32", name="calibration", steps=steps) as runner:
            for number, part in enumerate(images.batches(steps, batch=batch)):
                done = min(number * batch, images.count)
                progress(f"calibrating: image {done + 1} of {images.count}")
                values = dict(zip(names, runner.run(part), strict=True))
                for name, layers in names.items():
                    sizes = magnitudes_of(values.pop(name))
                    for layer in layers:
                        found[layer] = found[layer].joined(sizes) if layer in found else sizes
    _require_finite(found)
    return {one.path: found[one.path] for one in products}


def _write_tapped(
    graph: onnx.ModelProto, products: tuple[LinearProduct, ...], path: Path
) -> dict[str, list[str]]:
    """Write a graph whose outputs are what products read; return the layers that read each."""
    readers: dict[str, list[str]] = {}
    for one in products:
        readers.setdefault(one.data, []).append(one.path)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(graph)
    del tapped.graph.output[:]
    del tapped.graph.value_info[:]
    for name in readers:
        tapped.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    with path.open("wb") as stream:
        stream.writelines(serialized(tapped))
    return readers


def _require_finite(found: dict[str, Magnitudes]) -> None:
    for path, sizes in found.items():
        if not math.isfinite(sizes.largest):
            raise ExportError(
                f"{path} reads values that are not finite for these images, in float32 already; "
                "look at the model with swin-deploy parity"
            )
