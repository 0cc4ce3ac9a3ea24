"""One model at several image sizes, to ONNX files that share their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Unpack

from exporters.artifact import artifact_outputs
from exporters.errors import ConfigError
from exporters.outputs import claim
from swin_deploy.api.border import Artifact, StrPath, path_of, require_ending
from swin_deploy.api.models import ExportOptions, Model, calibrated, check_options, checked_spec
from swin_deploy.artifacts.onnx_file import Calibrated, OnnxFile, export_graph
from swin_deploy.artifacts.outputs import SIZES_ENDINGS, sizes_output
from swin_deploy.artifacts.sizes_file import (
    file_beside,
    share_weights,
    to_dict,
    weights_beside,
    write_sizes,
)


def export_sizes(
    models: Iterable[Model], path: StrPath, *, force: bool = False, **asked: Unpack[ExportOptions]
) -> Artifact:
    """Export one model at several image sizes to ONNX files that share their weights.

    The weights are in one data file, those that are equal to the bit once. The manifest names the
    files of each size; ``Predictor`` and ``build`` take it. All files are written, or none.

    Args:
        models: The model as ``load`` returns it, once for each image size; a generator keeps one
            in memory at a time.
        path: The manifest to write, such as ``x-sizes.json``; the other files get its folder and
            name: ``x-1024.onnx``, ``x-512.onnx``, ``x.weights``.
        force: True to replace files that swin-deploy did not make.
        asked: Options of the export, see ``ExportOptions``.

    Returns:
        The manifest of sizes and its content.

    Raises:
        ConfigError: If two models are of the same size or of different weights, or an option is
            unknown.
        ExportError: If an export fails, or is not what was asked for.
        FileError: If a file cannot be written, or must not be replaced.

    Example:
        >>> models = (swin_deploy.load("notebook-digits", img_size=side) for side in (112, 56))
        >>> sizes = swin_deploy.export_sizes(models, "digits-sizes.json")
        >>> [(one["image_size"], one["onnx"]["file"]) for one in sizes.manifest["sizes"]]
        [(112, 'digits-112.onnx'), (56, 'digits-56.onnx')]
    """
    if asked.get("precision") == "int8":
        raise ConfigError("an int8 file has scales of one image size; export each size by itself")
    check_options(asked)
    place = path_of(path)
    require_ending(place, SIZES_ENDINGS)
    shared = [sizes_output(place), *artifact_outputs(weights_beside(place))]
    claim(shared, force=force)
    told = calibrated(asked)
    exported = _exported(models, place, force=force, asked=asked, told=told)
    new, sizes = share_weights(exported, place)
    return Artifact(place, to_dict(write_sizes(new, sizes, force=force)))


def _exported(
    models: Iterable[Model],
    place: Path,
    *,
    force: bool,
    asked: ExportOptions,
    told: Calibrated,
) -> Iterator[OnnxFile]:
    """Yield the export of each model; nothing is written yet."""
    for model in models:
        path = file_beside(place, model.config.image, ".onnx")
        inputs = [model.checkpoint] if model.checkpoint else []
        claim([*artifact_outputs(path), sizes_output(place)], inputs=inputs, force=force)
        yield export_graph(model, checked_spec(model, asked), path, told=told)
