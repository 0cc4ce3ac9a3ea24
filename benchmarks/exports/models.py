"""The models that are compared, the images that they run on, and our files of them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.exports.routes import load_peers
from exporters.spec import FP8_OPSET, Precision, Runtime
from swin_deploy.artifacts.onnx_file import Calibrated, export_graph, export_spec, write_graph
from swin_deploy.calibration.pictures import FEWEST_IMAGES, CalibrationImages, calibration_images
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig, variant
from swin_deploy.reference import build_reference

Images = NDArray[np.float32]
GRAIN = 16  # pixels a side of a patch of one colour, before noise


@dataclass(frozen=True)
class Model:
    """A model that is compared.

    Attributes:
        name: Name in results and tables.
        config: Config of the model.
        batches: Batches that are timed; plans and errors are of the last one.
    """

    name: str
    config: SwinConfig
    batches: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Batch of the plans, and number of images of the errors."""
        return self.batches[-1]


@dataclass(frozen=True)
class Ours:
    """A file of ours: the fields of its export that differ."""

    precision: Precision
    runtime: Runtime = "tensorrt"

    @property
    def title(self) -> str:
        """Name in results and tables."""
        return f"ours, {self.precision}{', for CPUs' if self.runtime == 'cpu' else ''}"


PLAIN, FOR_CPUS, INT8 = Ours("fp32"), Ours("fp32", "cpu"), Ours("int8", "cpu")
PLANNED = (Ours("fp16"), Ours("fp8"), Ours("fp8-weights"))


def models(*, tiny: bool) -> tuple[Model, ...]:
    """Return the models: Swin-T, SwinV2-T and one that pads its maps; small ones of each kind."""
    swin, second = variant("swin_tiny_patch4_window7_224"), variant("swinv2_tiny_window8_256")
    if tiny:
        small: dict[str, Any] = {
            "depths": (2,),
            "num_heads": (2,),
            "embed_dim": 32,
            "num_classes": 10,
        }
        swin = dataclasses.replace(swin, img_size=56, **small)
        second = dataclasses.replace(second, img_size=64, pretrained_window_sizes=(0,), **small)
    # torchvision's and Hugging Face's rules for pads; timm's rolls before it pads.
    rules: dict[str, Any] = {"pads": "pad-then-roll", "window_rule": "torchvision"}
    padded = dataclasses.replace(swin, img_size=64 if tiny else 512, **rules)
    return (
        Model("Swin-T", swin, (1, 8)),
        Model("SwinV2-T", second, (1, 8)),
        Model("Swin-T, 512x512", padded, (2,)),
    )


@functools.lru_cache(maxsize=1)
def trained_like(model: Model) -> LoadedModel:
    """Return the reference model with trained-like random weights, the same at each call."""
    torch.manual_seed(0)
    reference = load_peers().trained_like(build_reference(model.config))
    steps = library_steps(model.config)
    return LoadedModel(model.name, model.config, reference, None, "", steps)


def pictures(model: Model, folder: Path, *, seed: int) -> CalibrationImages:
    """Draw images of coloured patches and noise into a folder, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed)
    rows, columns = model.config.image
    for number in range(FEWEST_IMAGES):
        coarse = drawn.integers(0, 256, (-(-rows // GRAIN), -(-columns // GRAIN), 3))
        patches = coarse.repeat(GRAIN, axis=0).repeat(GRAIN, axis=1)[:rows, :columns]
        pixels = np.clip(patches + drawn.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)
        path = folder / f"{number:02}.png"
        if not path.is_file():
            Image.fromarray(pixels).save(path)
    return calibration_images(folder)


def held_out(model: Model, folder: Path) -> Images:
    """Return images that no calibration saw, [model.batch, 3, H, W], normalised."""
    found = pictures(model, folder / "held-out", seed=1)
    return next(found.batches(library_steps(model.config), batch=model.batch))


def write_ours(model: Model, ours: Ours, path: Path) -> None:
    """Write a file of ours.

    Args:
        model: The model.
        ours: Precision and runtimes of the file.
        path: Path of the file; images for its scales are drawn into its folder.
    """
    loaded = trained_like(model)
    choices: dict[str, Any] = {"precision": ours.precision, "runtime": ours.runtime}
    if ours.precision.startswith("fp8"):
        choices["opset"] = FP8_OPSET
    told = Calibrated(pictures(model, path.parent / "calibration", seed=0))
    graph = export_graph(loaded, export_spec(loaded, **choices), path, told=told)
    write_graph(graph, force=True)
