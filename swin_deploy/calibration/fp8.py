"""What is stored in FP8 of a Swin Transformer, and the scales that follow from images.

Chosen by kernel plans at full size (``docs/tuning.md``): products whose result goes through a norm
or attention before anything else, so that a kernel has to be neither added nor split. The MLP's
first layer stays half: its product ends with the activation. In V2 qkv reads the residual stream,
which is never rounded, and proj costs a copy unless its weight is FP8 as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import onnx

from exporters.errors import ExportError
from exporters.precisions import PRECISIONS
from exporters.progress import Progress, silent
from exporters.quantisation import (
    Fp8Product,
    WeightScales,
    linear_products,
    quantise,
    record_scales,
    require_opset,
)
from exporters.spec import Precision
from swin_deploy.calibration.collect import collect_magnitudes
from swin_deploy.calibration.pictures import CalibrationImages
from swin_deploy.config import SwinConfig
from swin_deploy.images.preprocessing import Preprocessing

# Kinds of linear layers by the end of their path in the deploy model.
KINDS = {
    "qkv": re.compile(r"(^|\.)attention\.qkv$"),
    "proj": re.compile(r"(^|\.)attention\.proj$"),
    "fc2": re.compile(r"(^|\.)mlp\.2$"),
    "merge": re.compile(r"(^|\.)layers\.\d+\.linear$"),
}
# Scales of each kind's weight; a kind that is not there is not stored in FP8. One scale for the
# whole of qkv keeps its three products one; elsewhere one a channel is free, but for V1's merges.
STORED: dict[tuple[Precision, bool], dict[str, WeightScales]] = {
    ("fp8", False): {"qkv": "half", "fc2": "half", "merge": "half"},
    ("fp8", True): {"fc2": "half", "merge": "half"},
    ("fp8-weights", False): {
        "qkv": "tensor", "proj": "channel", "fc2": "channel", "merge": "tensor",
    },
    ("fp8-weights", True): {"proj": "channel", "fc2": "channel", "merge": "channel"},
}  # fmt: skip
METHOD = "maximum"
FLOAT16 = PRECISIONS["fp16"]


@dataclass(frozen=True)
class CalibrationRun:
    """The images of a calibration, and what is known of the model that reads them.

    Attributes:
        images: The images.
        config: Config of the model.
        steps: Preprocessing of the images.
        progress: Function that is told what is run.
    """

    images: CalibrationImages
    config: SwinConfig
    steps: Preprocessing
    progress: Progress = silent


def stored_layers(
    paths: Collection[str], config: SwinConfig, precision: Precision
) -> dict[str, WeightScales]:
    """Return the scales of the weight of each linear layer that reads FP8, by path.

    Args:
        paths: Paths of linear layers of a deploy model.
        config: Config of the model.
        precision: ``fp8``, or ``fp8-weights``.
    """
    scales = STORED[precision, config.family == "swinv2"]
    return {
        path: scales[kind]
        for path in paths
        for kind, pattern in KINDS.items()
        if kind in scales and pattern.search(path)
    }


def store_in_fp8(
    half: onnx.ModelProto,
    full: onnx.ModelProto,
    run: CalibrationRun,
    *,
    precision: Precision,
    kept: Collection[str] = (),
) -> None:
    """Let the linear layers of a float16 graph read FP8, at scales of the largest values.

    Args:
        half: The float16 graph; it is changed.
        full: The float32 graph that it was made from, which runs over the images.
        run: The images, and the model that reads them.
        precision: ``fp8``, or ``fp8-weights``.
        kept: Paths of modules that stay float32, and so are not stored in FP8.

    Raises:
        ConfigError: If the images' preprocessing is not known.
        ExportError: If the graph's opset is too low, no layer of it can be stored in FP8, it
            cannot be run over the images, or a layer reads values beyond float16's range.
        FileError: If an image cannot be decoded.
    """
    require_opset(half)
    paths = dict.fromkeys(one.path for one in linear_products(half) if one.path not in kept)
    scales = stored_layers(paths, run.config, precision)
    if not scales:
        raise ExportError(
            f"the graph has no linear layer to store in {PRECISIONS[precision].dtype}, by the "
            "names of a deploy model; export it with swin-deploy, and keep fewer parts in float32"
        )
    found = collect_magnitudes(full, scales, run.images, steps=run.steps, progress=run.progress)
    for path, sizes in found.items():
        _require_in_range(path, sizes.largest)
    quantise(half, [Fp8Product(path, found[path].largest, per) for path, per in scales.items()])
    record_scales(
        half,
        {path: sizes.largest for path, sizes in found.items()},
        method=METHOD,
        images=run.images.count,
        found=run.images.found,
        sha256=run.images.sha256,
    )


def _require_in_range(path: str, largest: float) -> None:
    """Refuse a layer whose inputs are infinite in float16, which carries what is stored in FP8."""
    if largest <= FLOAT16.largest:
        return
    if KINDS["qkv"].search(path) or KINDS["proj"].search(path):
        instead = "--precision bf16 or fp32"
    else:
        instead = f"--keep-float32 {path.rpartition('.')[0]}"
    raise ExportError(
        f"{path} reads values of up to {largest:.3g} for these images, beyond float16's "
        f"{FLOAT16.largest:.0f}; export it with {instead}"
    )
