"""The preprocessing as a pipeline of NVIDIA DALI, for Triton's DALI backend.

DALI decodes on the GPU, and resizes with filters of its own: its images are near Pillow's and not
equal to them.
"""

from __future__ import annotations

from pathlib import Path

from exporters.errors import ConfigError
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.serving.pbtxt import edge, to_pbtxt
from swin_deploy.serving.served import Served, Tensor

FILTERS = {
    "nearest": "INTERP_NN",
    "bilinear": "INTERP_TRIANGULAR",
    "bicubic": "INTERP_CUBIC",
    "lanczos": "INTERP_LANCZOS3",
}
DTYPES = {"float32": "FLOAT", "float16": "FLOAT16", "uint8": "UINT8"}

# Numbers and names of ours alone are put in: texts of a file could be code.
PIPELINE = '''"""The preprocessing of this bundle's model by NVIDIA DALI."""

import nvidia.dali as dali
from nvidia.dali import fn, math, types
from nvidia.dali.plugin.triton import autoserialize


def prepare(encoded, device):
    """Decode, resize, crop and normalise encoded pictures."""
    pictures = fn.decoders.image(encoded, device="mixed" if device == "gpu" else "cpu",
                                 output_type=types.RGB, adjust_orientation={turn})
    {sizes}
    pictures = fn.resize(pictures, resize_y=rows, resize_x=columns,
                         interp_type=types.{interp}, antialias=True, dtype=types.UINT8)
    return fn.crop_mirror_normalize(
        pictures, crop=({rows}, {columns}), dtype=types.{dtype}, output_layout="{layout}",
        mean={mean}, std={std})


@autoserialize
@dali.pipeline_def(batch_size={batch}, num_threads=4, device_id=0)
def pipeline():
    encoded = fn.external_source(device="cpu", name="image")
    return prepare(encoded, "gpu")
'''
# Both sides are rounded down as by the libraries; DALI's own resize_shorter rounds to the nearest.
SHORTEST = """shape = fn.peek_image_shape(encoded, dtype=types.FLOAT64, adjust_orientation={turn})
    shorter = math.min(shape[0], shape[1])
    rows = fn.cast(math.floor(shape[0] * {side} / shorter), dtype=types.FLOAT)
    columns = fn.cast(math.floor(shape[1] * {side} / shorter), dtype=types.FLOAT)"""


def dali_files(served: Served, given: Tensor, folder: str) -> dict[str, bytes | Path]:
    """Return the folder of the preprocessing by DALI.

    Args:
        served: The file to serve.
        given: The input of encoded pictures.
        folder: Folder of the model in the bundle, which has the model's name.

    Raises:
        ConfigError: If DALI cannot do the steps, or something near them.
    """
    steps = served.facts.preprocessing
    _require_possible(steps)
    size, target = steps.crop_size, steps.resize_size
    sizes = f"rows, columns = {target.rows}, {target.columns}"
    if steps.resize_mode == "shortest":
        sizes = SHORTEST.format(turn=steps.turn, side=float(target.rows))
    pixels = served.takes_pixels
    source = PIPELINE.format(
        turn=steps.turn,
        sizes=sizes,
        interp=FILTERS[steps.interpolation],
        rows=size.rows,
        columns=size.columns,
        dtype=DTYPES[served.input.type],
        layout="HWC" if pixels else "CHW",
        mean=[0.0] * 3 if pixels else [one / steps.rescale for one in steps.mean],
        std=[1.0] * 3 if pixels else [one / steps.rescale for one in steps.std],
        batch=served.batches.max,
    )
    message = {
        "name": folder.rpartition("/")[2],
        "backend": "dali",
        "max_batch_size": served.batches.max,
        "input": edge(given),
        "output": edge(served.input),
    }
    return {
        f"{folder}/config.pbtxt": to_pbtxt(message).encode(),
        f"{folder}/1/dali.py": source.encode(),
    }


def _require_possible(steps: Preprocessing) -> None:
    """Refuse steps that DALI does not have; raises ``ConfigError``."""
    square = steps.resize_size.is_square
    possible = {
        f"the resize mode {steps.resize_mode}": steps.resize_mode == "squash"
        or (steps.resize_mode == "shortest" and square),
        f"the filter {steps.interpolation}": steps.interpolation in FILTERS,
        "images of other than three channels": steps.channels == 3,
        "channels in the order BGR": steps.channel_order == "rgb",
        "steps of a page": steps.page is None,
        "pads": steps.fill is None and steps.pad_size is None,
        "a transparent colour in white": not steps.on_white,
    }
    missing = [what for what, can in possible.items() if not can]
    if missing:
        raise ConfigError(f"DALI's pipeline lacks {missing[0]}; use --preprocessing pillow")
