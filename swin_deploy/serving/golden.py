"""Pictures with the outputs that were proved: what a server is compared with."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exporters.backends import current_gpu
from exporters.errors import ComparisonError, ConfigError, MissingBackendError
from swin_deploy.artifacts.facts import ModelFacts
from swin_deploy.images.decode import MODES
from swin_deploy.images.opening import ORIENTATION
from swin_deploy.parity.checks import Tolerance
from swin_deploy.parity.tolerances import tolerance_for
from swin_deploy.predict.forms import form_of
from swin_deploy.predict.predictor import Predictor
from swin_deploy.serving.served import Served

FOLDER = "golden"
OUTPUTS_FILE = f"{FOLDER}/outputs.npz"
# Rows and columns of the pictures: odd, tall, wide and small ones, where each resize rounds.
SIDES = ((240, 320), (321, 215), (97, 410), (511, 96), (224, 224), (49, 63), (257, 301), (400, 400))
SEED = 20
TURNED = 2  # the picture with EXIF
# A GPU computes float32 with TF32 unless it is told otherwise: 2.5e-3 was measured on an H200.
TF32 = 5e-3


@dataclass(frozen=True, eq=False)
class Golden:
    """Pictures and a reference's outputs for them.

    Attributes:
        pictures: Bytes of each picture by the name of its file.
        outputs: Outputs by name, a row for each picture.
        reference: Name of the file that gave them, and the library that ran it.
        atol: Difference that is allowed, in the reference's RMS.
        rtol: Difference that is allowed, as a share of a value.
        min_cosine: Smallest cosine similarity of a row; None where none is asked for.
    """

    pictures: Mapping[str, bytes]
    outputs: Mapping[str, NDArray[np.float32]]
    reference: str
    atol: float
    rtol: float
    min_cosine: float | None

    @property
    def tolerance(self) -> Tolerance:
        """The limits on a server's outputs."""
        return Tolerance(self.atol, self.rtol, self.min_cosine, "the bundle's")


def make_golden(
    served: Served, *, reference: Path | None = None, images: Sequence[Path] = ()
) -> Golden:
    """Run the reference of a file that is to be served on some pictures.

    Args:
        served: The file.
        reference: The checkpoint, ONNX file or engine that gives the outputs; by default the file
            itself, or the ONNX file of an engine that this machine cannot run.
        images: Paths of pictures to take; by default pictures are made.

    Raises:
        ComparisonError: If the reference is another model.
        ConfigError: If it is a manifest of sizes, or a file with another normalisation.
        FileError: If a picture cannot be read.
        MissingBackendError: If this machine cannot run the reference.
    """
    chosen = reference or _default_reference(served)
    pictures = {f"{n}{one.suffix.lower()}": one.read_bytes() for n, one in enumerate(images, 1)}
    pictures = pictures or made_pictures(served.facts.preprocessing.channels)
    with Predictor(chosen) as predictor:
        theirs, ours = predictor.facts, served.facts
        if (theirs.config, theirs.checkpoint_sha256) != (ours.config, ours.checkpoint_sha256):
            raise ComparisonError(
                f"{chosen.name} is not the model in {served.path.name}: it has other weights or "
                "sizes; give the checkpoint or the file that it was made from"
            )
        if predictor.sizes:
            raise ConfigError(
                f"{chosen.name} is a manifest of sizes, and {served.path.name} has one; give the "
                "file of this size, or the checkpoint"
            )
        if form_of(chosen) != "checkpoint" and _scale(theirs) != _scale(ours):
            raise ConfigError(
                f"{chosen.name} was exported with another mean, std or rescale than "
                f"{served.path.name}, and may have them inside; give the checkpoint"
            )
        # The pictures are those of the file: the options of an export are not in its checkpoint.
        predictor.facts = dataclasses.replace(theirs, preprocessing=ours.preprocessing)
        answers = predictor(list(images) or list(pictures.values()))  # a path is in messages
        where = f"{predictor.name} in {predictor.runner.backend}"
    names = served.facts.config.output_names
    outputs = {name: np.stack([one.outputs[name] for one in answers]) for name in names}
    limit = _limit(served)
    ratio = limit.rtol / limit.atol
    atol = max(limit.atol, TF32)
    return Golden(pictures, outputs, where, atol, atol * ratio, limit.min_cosine)


def _scale(facts: ModelFacts) -> tuple[object, ...]:
    """Return what a file that takes pixels has inside, and undoes of images that it is given."""
    steps = facts.preprocessing
    return steps.mean, steps.std, steps.rescale


def _limit(served: Served) -> Tolerance:
    """Return the ceiling of an engine of the file's precision, or of an ONNX file's."""
    family = served.facts.config.family
    try:
        return tolerance_for("engine", served.precision, family=family)
    except KeyError:  # a precision of ONNX files alone
        return tolerance_for("onnx", served.precision, family=family)


def _default_reference(served: Served) -> Path:
    if current_gpu() is not None:
        return served.path
    if served.kind == "onnx":
        if served.needs_gpu:
            raise MissingBackendError(
                f"{served.path.name} is in {served.precision}, which ONNX Runtime runs on a GPU "
                "alone, and none is here; give --reference, the checkpoint or its fp32 ONNX file"
            )
        return served.path
    if served.source is None:
        raise MissingBackendError(
            f"{served.path.name} needs an NVIDIA GPU, and the ONNX file that it was built from is "
            "not next to it; give --reference, the checkpoint or that file"
        )
    return served.source


def made_pictures(channels: int) -> dict[str, bytes]:
    """Return pictures with slopes, edges and texture: PNG files, whose pixels no decoder changes.

    Args:
        channels: Number of channels; pictures of a number that no PNG has are `.npy` files.
    """
    rng = np.random.default_rng(SEED)
    found = {}
    for number, (rows, columns) in enumerate(SIDES, 1):
        y, x = np.mgrid[0:rows, 0:columns]
        waves = [np.sin(y * rng.uniform(-0.2, 0.2) + x * rng.uniform(-0.2, 0.2)) * 80
                 + 60 * (y * rng.random() > x * rng.random()) + rng.integers(-12, 13, y.shape) + 90
                 for _ in range(channels)]  # fmt: skip
        levels = np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)  # [rows, columns, C]
        stream = io.BytesIO()
        if channels in MODES:
            image = Image.fromarray(levels[..., 0] if channels == 1 else levels)
            image.save(stream, "PNG", exif=_turned() if number == TURNED else None)
        else:
            np.save(stream, levels, allow_pickle=False)
        found[f"{number}.{'png' if channels in MODES else 'npy'}"] = stream.getvalue()
    return found


def _turned() -> Image.Exif:
    """Return EXIF that asks for a quarter turn, which a model's preprocessing obeys or does not."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def to_npz(outputs: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return outputs as an NPZ file."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **outputs)
    return stream.getvalue()


def from_npz(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the outputs in an NPZ file; nothing is unpickled.

    Raises:
        ValueError: If it is none.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
