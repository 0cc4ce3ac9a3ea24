"""Run the reference once; keep its outputs, its intermediate tokens and its noise floor.

The noise is what PyTorch itself loses when the same reference runs in a candidate's precision on
the same images: float16 or bfloat16 against float32, and for float32 the distance from float64. A
machine without a GPU runs the half precisions with PyTorch's CPU kernels: they round every tensor
to half as a GPU does, and sum products in float32.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.arrays import plain_array
from exporters.errors import ComparisonError
from exporters.memory import release_memory
from exporters.precisions import FP8_FORMS, carrier_of, kind_of
from exporters.progress import Progress, silent
from exporters.spec import Precision
from swin_deploy.images.scores import Scores
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import NoiseFloor, measure_floor, tolerance_for
from swin_deploy.parity.fp8_noise import round_as_stored
from swin_deploy.parity.points import ComparePoint, compare_points
from swin_deploy.reference import Reference
from swin_deploy.reference.alias import alias
from swin_deploy.runners import Outputs, Runner, TorchRunner, torch_dtype
from swin_deploy.runners.int8_noise import RoundedLinears
from swin_deploy.runners.intermediates import TappedModule

REFERENCE_BATCH = 8
NOISE_ROWS = 8  # of each image set, spread over it
TRACE_ROWS = 2  # the last of those: tokens on the way take much memory

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """The reference in another precision, for each image set.

    Attributes:
        source: Dtype and device of the run, in words.
        outputs: One tuple for each image set: an array [NOISE_ROWS, ...] for each output, in
            float64; fewer rows where the set has fewer images.
        trace: One tuple for each image set: the noise floor at each compare point.
    """

    source: str
    outputs: tuple[tuple[Wide, ...], ...]
    trace: tuple[tuple[NoiseFloor, ...], ...]


@dataclass(frozen=True)
class Trace:
    """The reference's intermediate tokens, for each image set.

    Attributes:
        reference: The model itself.
        points: Places along the model where the tokens were taken.
        tokens: One tuple for each image set: an array [TRACE_ROWS, ...] for each point.
        noise: Noise of the reference, by precision.
    """

    reference: Reference
    points: tuple[ComparePoint, ...]
    tokens: tuple[Outputs, ...]
    noise: dict[Precision, Noise]


@dataclass(frozen=True)
class ReferenceOutputs:
    """The reference's outputs, and its trace if it was asked for.

    Attributes:
        backend: Library and device that ran it.
        image_sets: The images.
        outputs: One tuple for each image set: an array [n, ...] for each output.
        names: Names of the outputs.
        top1_accuracy: Share of labelled images classified right; None without labels or logits.
        trace: Intermediate tokens and noise; None if they were not asked for.
        scores: Kind of the classes' scores.
    """

    backend: str
    image_sets: tuple[ImageSet, ...]
    outputs: tuple[Outputs, ...]
    names: tuple[str, ...]
    top1_accuracy: float | None
    trace: Trace | None = None
    scores: Scores = "softmax"


@dataclass(frozen=True)
class Rows:
    """Outputs at one batch size.

    Attributes:
        batch: Number of images in a call.
        index: Index of each row's image in the image set, [rows].
        outputs: One array [rows, ...] for each output; row ``i`` belongs to image ``index[i]``.
    """

    batch: int
    index: NDArray[np.int64]
    outputs: Outputs


def run_reference(
    runner: Runner,
    image_sets: Sequence[ImageSet],
    *,
    names: tuple[str, ...],
    progress: Progress = silent,
) -> ReferenceOutputs:
    """Run the reference on all images, once.

    Args:
        runner: The float32 reference, not open yet.
        image_sets: Image sets, at least one and none empty.
        names: Names of its outputs; one named ``logits`` holds class logits.
        progress: Function that is told what is run, before it is run.

    Raises:
        ComparisonError: If there are no images.
        DeployError: If the reference cannot run.
    """
    if not image_sets or not all(len(images.images) for images in image_sets):
        raise ComparisonError("no images to compare on; give at least one image in every set")
    outputs = []
    with runner:
        for number, images in enumerate(image_sets):
            count = len(images.images)
            share = number / len(image_sets)
            progress(f"{runner.name}: {images.name}, {count} images", share)
            rows = run_rows(runner, images, min(REFERENCE_BATCH, count), count)
            outputs.append(by_image(rows, count))
    return ReferenceOutputs(
        backend=runner.backend,
        image_sets=tuple(image_sets),
        outputs=tuple(outputs),
        names=names,
        top1_accuracy=accuracy(image_sets, outputs, names),
    )


def trace_reference(
    outputs: ReferenceOutputs,
    reference: Reference,
    *,
    precisions: Sequence[Precision],
    progress: Progress = silent,
) -> ReferenceOutputs:
    """Add the reference's intermediate tokens, and its noise in the candidates' precisions.

    Args:
        outputs: Result of ``run_reference`` for the same model.
        reference: The model, float32.
        precisions: Precisions in which to measure the noise.
        progress: Function that is told what is run, before it is run.
    """
    points = compare_points(reference)
    tapped = TappedModule(reference, tuple(point.reference for point in points))
    count = len(outputs.names)
    with TorchRunner("PyTorch reference", tapped) as runner:
        tokens = tuple(runner.run(trace_images(s))[count:] for s in outputs.image_sets)
    trace = Trace(reference, points, tokens, {})
    different = list(dict.fromkeys(precisions))
    for number, precision in enumerate(different):
        progress(f"PyTorch reference: its noise in {precision}", number / len(different))
        trace.noise[precision] = _measure_noise(outputs, trace, precision)
        release_memory()
    return dataclasses.replace(outputs, trace=trace)


def _measure_noise(outputs: ReferenceOutputs, trace: Trace, precision: Precision) -> Noise:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float64 if precision == "fp32" else plain_dtype(precision)
    taps = tuple(point.reference for point in trace.points)
    own = alias(trace.reference).to(device, dtype).eval()
    if precision in FP8_FORMS:
        round_as_stored(own, trace.reference.config, precision)
    plain: nn.Module = own
    noisy: nn.Module = TappedModule(own, taps)
    if precision == "int8":
        plain, noisy = RoundedLinears(plain), RoundedLinears(noisy)
    ceiling = tolerance_for("deploy", precision, family=trace.reference.config.family)
    place = "the GPU" if device.type == "cuda" else "this CPU"
    kind = "float64" if precision == "fp32" else kind_of(precision)
    if precision == "int8":
        kind = "float32, its linear layers in int8,"
    source = f"the reference in {kind} on {place}"
    count = len(outputs.names)
    found, traces = [], []
    for images, tokens in zip(outputs.image_sets, trace.tokens, strict=True):
        chosen = plain_array(images.images[noise_rows(images)], np.float32)
        batch = torch.tensor(chosen, dtype=dtype, device=device)
        traced = _in_float64(noisy, batch[-TRACE_ROWS:])
        others = (rows for rows in torch.split(batch[:-TRACE_ROWS], TRACE_ROWS) if len(rows))
        parts = [*(_in_float64(plain, rows) for rows in others), traced[:count]]
        found.append(tuple(np.concatenate(one) for one in zip(*parts, strict=True)))
        pairs = zip(traced[count:], tokens, strict=True)
        traces.append(tuple(measure_floor(a, b, ceiling, source=source) for a, b in pairs))
    return Noise(source, tuple(found), tuple(traces))


def plain_dtype(precision: Precision) -> torch.dtype:
    """Return the type of PyTorch in which a model has a precision, but for what it rounds."""
    return torch.float32 if precision == "int8" else torch_dtype(carrier_of(precision))


def _in_float64(module: nn.Module, batch: Tensor) -> tuple[Wide, ...]:
    with torch.inference_mode():
        outputs = module(batch)
    wide = outputs if isinstance(outputs, tuple) else (outputs,)
    return tuple(plain_array(one.double().cpu().numpy(), np.float64) for one in wide)


def noise_rows(images: ImageSet) -> NDArray[np.int64]:
    """Return the rows of an image set on which the noise is measured, spread evenly over it."""
    count = len(images.images)
    return np.unique(np.linspace(0, count - 1, min(NOISE_ROWS, count)).astype(np.int64))


def trace_images(images: ImageSet) -> NDArray[np.float32]:
    """Return the images whose intermediate tokens are compared, [TRACE_ROWS, in_channels, H, W]."""
    return images.images[noise_rows(images)[-TRACE_ROWS:]]


def run_rows(runner: Runner, images: ImageSet, batch: int, wanted: int) -> Rows:
    """Run the first ``wanted`` images in full batches.

    The last batch is filled up with the images after them, and after the last image with the
    first ones again.

    Args:
        runner: The runner, open.
        images: The image set.
        batch: Number of images in a call.
        wanted: Number of images to run.

    Raises:
        ComparisonError: If an output does not have ``batch`` rows.
        DeployError: If the runner fails.
    """
    count = len(images.images)
    chunks = [np.arange(start, start + batch) % count for start in range(0, wanted, batch)]
    calls = [runner.run(images.images[chunk]) for chunk in chunks]
    for output in itertools.chain.from_iterable(calls):
        if len(output) != batch:
            raise ComparisonError(
                f"{runner.name} gives {len(output)} rows for {batch} images; export it with a "
                "dynamic batch, or with this one"
            )
    outputs = tuple(np.concatenate(parts) for parts in zip(*calls, strict=True))
    return Rows(batch, np.concatenate(chunks), outputs)


def by_image(rows: Rows, count: int) -> Outputs:
    """Return one row for each of the first ``count`` images, all of which were run."""
    ordered = tuple(np.empty((count, *one.shape[1:]), np.float32) for one in rows.outputs)
    for target, source in zip(ordered, rows.outputs, strict=True):
        target[rows.index] = source
    return ordered


def accuracy(
    image_sets: Sequence[ImageSet], outputs: Sequence[Outputs], names: tuple[str, ...]
) -> float | None:
    """Return the share of labelled images whose largest logit is their class.

    Returns:
        A share from 0 to 1; None if there are no labels or no output named ``logits``.
    """
    if "logits" not in names:
        return None
    hits = [
        output[names.index("logits")].argmax(axis=1) == images.labels
        for images, output in zip(image_sets, outputs, strict=True)
        if images.labels is not None
    ]
    return float(np.concatenate(hits).mean()) if hits else None
