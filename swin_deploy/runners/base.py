"""The interface of every runner."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from exporters.arrays import plain_array
from exporters.errors import ComparisonError, ExportError
from exporters.spec import Precision
from exporters.text_files import shortened
from swin_deploy.config.memory import available_bytes
from swin_deploy.images.decode import denormalise
from swin_deploy.images.preprocessing import Preprocessing

# One array [B, ...], row-major, for each output of a model, in the model's order.
Outputs = tuple[NDArray[np.float32], ...]


class Runner(Protocol):
    """One model, ready to run once opened.

    Attributes:
        name: Short name for reports.
        precision: Precision of weights and activations.
        backend: Library, its version and the device; complete once opened.
        min_batch: Smallest batch that a call takes.
        max_batch: Largest batch that a call takes; None for no limit.
    """

    name: str
    precision: Precision
    backend: str
    min_batch: int = 1
    max_batch: int | None = None

    def __enter__(self) -> Self:
        """Open the model.

        Raises:
            MissingBackendError: If this machine lacks the package or the device that it needs.
            DeployError: If the file cannot be used.
        """

    def __exit__(self, *exc_info: object) -> None:
        """Release the model and its memory."""

    def full_batch(self, count: int) -> int:
        """Return the number of images that a call of ``count`` images is filled up to."""
        return max(count, self.min_batch)

    def inputs(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Convert images [B, channels, H, W] to the model's input; ``prepare`` takes either form.

        Raises:
            ComparisonError: If there is no image among them, or they cannot be converted.
        """
        return images

    def prepare(self, images: NDArray[Any]) -> None:
        """Copy images [B, channels, H, W] to where the model reads them, in the type that it takes.

        Raises:
            ComparisonError: If the model takes images of another shape.
        """

    def execute(self) -> None:
        """Start one call on the prepared images."""

    def synchronize(self) -> None:
        """Wait until the calls that were started are done."""

    def fetch(self) -> Outputs:
        """Return the outputs of the last call, on the host, one array [B, ...] each."""

    def run(self, images: NDArray[Any]) -> Outputs:
        """Run the model on images [B, channels, H, W]; each output has one row for each image."""
        self.prepare(images)
        self.execute()
        self.synchronize()
        return self.fetch()


def run_images(runner: Runner, images: NDArray[Any]) -> Outputs:
    """Run any number of images in calls that the runner takes.

    Args:
        runner: The model, open.
        images: Images [n, ...], at least one.

    Returns:
        The outputs, each [n, ...], one row for each image in order.

    Raises:
        ComparisonError: If the model gives another number of rows than it was given images.
    """
    most = min(runner.max_batch or len(images), len(images))
    calls = []
    for start in range(0, len(images), most):
        part = images[start : start + most]
        size = runner.full_batch(len(part))
        full = part[np.arange(size) % len(part)]  # repeated to a number that the runner takes
        outputs = runner.run(full)
        if any(len(output) != size for output in outputs):
            raise ComparisonError(
                f"{runner.name} gives outputs of shapes {[list(one.shape) for one in outputs]} for "
                f"{size} images; use a file that gives one row an image"
            )
        calls.append(tuple(output[: len(part)] for output in outputs))
    return tuple(np.concatenate(parts) for parts in zip(*calls, strict=True))


def plain_images(images: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Return images as a row-major float32 array, which every library takes.

    Args:
        images: Images [B, channels, H, W], of any memory layout and number type.
        name: Name of the runner, for the message.

    Raises:
        ComparisonError: If the array has another number of axes, or is empty.
    """
    if images.ndim != 4 or not images.size:
        raise ComparisonError(
            f"{name} takes images of shape [batch, channels, height, width], not "
            f"{list(images.shape)}; give at least one image"
        )
    return plain_array(images, np.float32)


def pixel_images(images: NDArray[Any], steps: Preprocessing | None, name: str) -> NDArray[np.uint8]:
    """Return the pixels [B, H, W, channels], uint8, for a model that normalises them itself.

    Args:
        images: Normalised images [B, channels, H, W], or pixels [B, H, W, channels], uint8.
        steps: Preprocessing by which the images were normalised; None if it is not known.
        name: Name of the runner, for the message.

    Raises:
        ComparisonError: If there is no image among them, or it is not known how they were
            normalised.
    """
    if images.dtype == np.uint8 and images.ndim == 4 and images.size:
        return plain_array(images, np.uint8)
    if steps is None:
        raise ComparisonError(
            f"{name} takes pixels, and nothing says how these images were normalised; export it "
            "again without --bake-preprocessing"
        )
    return denormalise(plain_images(images, name), steps)


def typed_images(
    images: NDArray[Any], dtype: type[np.number[Any]], steps: Preprocessing | None, name: str
) -> NDArray[Any]:
    """Return images as a file takes them: pixels if that is uint8, else normalised in its type.

    Args:
        images: Normalised images [B, channels, H, W], or pixels [B, H, W, channels], uint8.
        dtype: Type of the file's input.
        steps: Preprocessing by which the images were normalised; None if it is not known.
        name: Name of the runner, for the message.

    Raises:
        ComparisonError: If there is no image among them, or it is not known how they were
            normalised.
    """
    if dtype is np.uint8:
        return pixel_images(images, steps, name)
    return plain_array(plain_images(images, name), dtype)


def check_shape(images: NDArray[Any], wanted: tuple[Any, ...], name: str) -> None:
    """Compare the shape of images with the shape that a model takes; only fixed sizes count.

    Args:
        images: The images.
        wanted: The model's input shape; an axis of free size is negative or not an integer.
        name: Name of the runner, for the message.

    Raises:
        ComparisonError: If the shapes differ.
    """
    fixed = [size if isinstance(size, int) and size >= 0 else None for size in wanted]
    pairs = zip(fixed, images.shape, strict=False)
    if len(fixed) != images.ndim or any(size not in (None, given) for size, given in pairs):
        raise ComparisonError(
            f"{name} takes images of shape {list(wanted)}, not {list(images.shape)}; use the image "
            "size and batch that it was exported for"
        )


def not_one_input(path: Path, *, inputs: int, outputs: int) -> ExportError:
    """Make the error for an ONNX file without exactly one input, or without an output.

    Args:
        path: Path of the file.
        inputs: Number of its inputs.
        outputs: Number of its outputs.
    """
    return ExportError(
        f"{path} has {inputs} inputs and {outputs} outputs; expected one input: export the model "
        "again"
    )


def require_image_memory(path: Path, shape: tuple[Any, ...], dtype: type[np.number[Any]]) -> None:
    """Refuse a fixed batch whose images alone exceed this machine's memory.

    Args:
        path: Path of the ONNX file, for the message.
        shape: Shape of its input; an axis of free size is negative or not an integer.
        dtype: Type of its input.

    Raises:
        ExportError: If there is less memory.
    """
    values = math.prod(size for size in shape if isinstance(size, int) and size >= 0)
    need = np.dtype(dtype).itemsize * values
    have = available_bytes()
    if have is not None and need > have:
        raise ExportError(
            f"one call of {shortened(path)} takes {need / 1e9:,.1f} GB of images, here are "
            f"{have / 1e9:,.1f} GB; export it with a smaller batch"
        )
