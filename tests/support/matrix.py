"""Every family, output form and precision as a cell, with its files, each made once in a run.

Precisions that are calibrated have cells of their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from command_line import call_main
from families import trained_like
from PIL import Image

from exporters.precisions import CALIBRATED, FP8_FORMS, HALVES
from exporters.spec import Precision
from swin_deploy.config import Output, SwinConfig, notebook_config

CLASSES = 5
IMAGES = 35  # a calibration needs 32
_SWIN = SwinConfig(
    family="swin", img_size=32, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(1, 2),
    num_classes=CLASSES,
)  # fmt: skip
# Two stages, both shifted and not, of one head and of several; S3 has a window side for each stage.
CONFIGS: dict[str, SwinConfig] = {
    "notebook": notebook_config(
        img_size=32, window_size=4, embed_dim=32, depths=(2, 2), num_classes=CLASSES
    ),
    "swin": _SWIN,
    "swinv2": dataclasses.replace(_SWIN, family="swinv2"),
    "s3": dataclasses.replace(_SWIN, window_size=(4, 2, 2), depths=(2, 2, 1), num_heads=(1, 2, 4)),
}
OUTPUTS: tuple[Output, ...] = ("logits", "features", "stages", "tokens")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One family, output form and precision; its files lie in ``folder``."""

    folder: Path
    family: str
    output: Output
    precision: Precision

    def __str__(self) -> str:
        return f"{self.family}-{self.output}-{self.precision}"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what the model gives."""
        return dataclasses.replace(CONFIGS[self.family], output=self.output).output_names

    @property
    def checkpoint(self) -> Path:
        """The weights, of a kind that no variant has."""
        path = self.folder / f"{self.family}.pth"
        if not path.exists():
            torch.save({"model": trained_like(CONFIGS[self.family]).state_dict()}, path)
        return path

    @property
    def images(self) -> Path:
        """Images in class folders, made where they are not there yet."""
        folder = self.folder / "images"
        return folder if folder.exists() else write_images(folder)

    @property
    def model(self) -> tuple[object, ...]:
        """The options that say which model."""
        window = ("--window-size", 4) if self.family == "swinv2" else ()  # V2's weights do not tell
        sizes = ("--image-size", 32, *window)
        return "--checkpoint", self.checkpoint, *sizes, "--outputs", self.output

    @property
    def export(self) -> tuple[object, ...]:
        """The command that makes ``onnx_path``."""
        laid_out = ("--for", "cpu") if self.precision == "int8" else ()
        images = ("--images", self.images) if self.precision in CALIBRATED else ()
        asked = ("--precision", self.precision, *laid_out, *images)
        return "export", *self.model, *asked, "--output", self.onnx_path

    @property
    def build(self) -> tuple[object, ...]:
        """The command that makes ``engine_path``."""
        return "build-trt", self.onnx(), "--batch", "1,2,4", "--output", self.engine_path

    @property
    def run(self) -> tuple[object, ...]:
        """The command that makes ``run_folder``."""
        places = ("--output", self.run_folder / "engines", "--report", self.run_folder / "report")
        small = ("--batch", 2, "--bench-seconds", 1)
        return "run", *self.model, f"--{self.precision}", *small, *places

    @property
    def onnx_path(self) -> Path:
        """Where the ONNX file goes."""
        return self.folder / f"{self}.onnx"

    @property
    def engine_path(self) -> Path:
        """Where the engine goes."""
        return self.folder / f"{self}.engine"

    @property
    def run_folder(self) -> Path:
        """Where ``run`` writes."""
        return self.folder / f"{self}-run"

    def onnx(self) -> Path:
        """The ONNX file, made where it is not there yet."""
        return _made(self.onnx_path, self.export)

    def engine(self) -> Path:
        """The engine, made where it is not there yet."""
        return _made(self.engine_path, self.build)

    def report(self) -> Path:
        """The report of ``run``, made where it is not there yet."""
        return _made(self.run_folder / "report" / "report.json", self.run)


def _made(path: Path, command: tuple[object, ...]) -> Path:
    if not path.exists():
        assert call_main(("--quiet", *command)) == 0
    return path


def _cells(precisions: tuple[Precision, ...]) -> list[tuple[str, Output, Precision]]:
    """Every pair of a family and an output form, with the precisions in turn."""
    return [
        (family, output, precisions[(row + column) % len(precisions)])
        for row, family in enumerate(CONFIGS)
        for column, output in enumerate(OUTPUTS)
    ]


CELLS = _cells(("fp32", *HALVES))
QUICK_CELLS = CELLS[:: len(OUTPUTS) + 1]  # the diagonal: every family, output form and precision
# Every family and output form with each calibrated precision.
CALIBRATED_CELLS = [
    (family, OUTPUTS[(row + number) % len(OUTPUTS)], precision)
    for number, precision in enumerate((*FP8_FORMS, "int8"))
    for row, family in enumerate(CONFIGS)
]


def write_images(folder: Path) -> Path:
    """A tree of class folders, as many images of noise in each."""
    numbers = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(IMAGES // CLASSES):
            pixels = numbers.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{index}.png")
    return folder
