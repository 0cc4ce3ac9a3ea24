"""Compare a model and every file made from it with the reference, step by step.

The reference and its noise are computed once, for as many candidates as there are:

    outputs = reference_outputs(loaded, image_sets, precisions=("fp32",))
    report = check_parity(loaded, outputs, loaded.deploy)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import nn

from exporters.errors import ComparisonError, MissingBackendError
from exporters.progress import Progress, silent, within
from exporters.spec import Precision
from exporters.staging import temporary_folder
from swin_deploy.artifacts.onnx_file import OnnxFile
from swin_deploy.candidates import (
    Candidate,
    Made,
    candidates,
    emulated,
    graph_candidate,
    module_candidate,
)
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.images.chance import chance_doubt
from swin_deploy.images.sets import (
    ImageSet,
    extreme_images,
    load_images,
    seeded_images,
    to_pixel_values,
)
from swin_deploy.original.build import (
    build_original,
    library_version,
    original_library,
)
from swin_deploy.parity import ComparedImages, FirstFault, Hop, ParityReport
from swin_deploy.parity.judge import DEFAULT_BATCHES, judge
from swin_deploy.parity.reference_run import (
    REFERENCE_BATCH,
    ReferenceOutputs,
    run_reference,
    trace_reference,
)
from swin_deploy.parity.sample_images import make_samples
from swin_deploy.runners import TorchRunner

SEEDED_IMAGES = 8

BATCHES = (1, 2, 3, 7)


def image_sets(loaded: LoadedModel, folder: Path | None, *, limit: int) -> tuple[ImageSet, ...]:
    """Load the images to compare on: pictures, seeded noise and extreme inputs.

    Args:
        loaded: The model, whose preprocessing is used.
        folder: Folder of pictures, in class folders or not; None for those shipped with the model,
            if there are any.
        limit: Maximum number of pictures.

    Raises:
        ConfigError: If the source's preprocessing is not known.
        FileError: If the folder or an image in it cannot be read.
    """
    config, steps = loaded.config, loaded.preprocessing
    made = seeded_images(config, count=SEEDED_IMAGES), extreme_images(steps)
    folder = folder or BUNDLED_IMAGES.get(loaded.name)
    if folder is None:
        return made
    labelled = config.output_name == "logits" and loaded.scores == "softmax"
    classes = config.num_classes if labelled else 0
    pictures = load_images(
        folder, steps, num_classes=classes, known=loaded.class_names, limit=limit
    )
    return (pictures, *made)


def prove_parity(
    loaded: LoadedModel,
    made: Made,
    *,
    images: Sequence[ImageSet],
    batches: Sequence[int],
    progress: Progress,
    original: str = "none",
) -> ParityReport:
    """Compare the deploy model and each file made from it with the reference.

    Args:
        loaded: The model, with its reference.
        made: The files, and further ways to run them and the deploy model.
        images: Image sets, normalised.
        batches: Batch sizes.
        progress: Function that is told what is run, before it is run.
        original: The library whose own model is compared with the reference first.

    Raises:
        ComparisonError: If a file was not made from this model, or gives other shapes; or if the
            checkpoint does not come from the library that is asked for.
        DeployError: If a file cannot be read.
    """
    library = original_library(loaded, original)
    if made.takes_pixels:
        images = [to_pixel_values(one, loaded.preprocessing) for one in images]
    first, *rest = candidates(loaded, made)
    found = [first, *emulated(loaded, made), *rest]
    parts = 3 + len(found)  # about equally long: the reference, its noise, the original, the rest
    precisions = [one.runner.precision for one in found]
    first_parts = within(progress, 0, 2 / parts)
    outputs = reference_outputs(loaded, images, precisions=precisions, progress=first_parts)
    third = within(progress, 2 / parts, 3 / parts)
    source = judge_original(loaded, outputs, library, progress=third)
    source = source or untested_original(loaded, original)
    hops = judge(outputs, found, batches=batches, progress=within(progress, 3 / parts, 1))
    return parity_report(loaded, outputs, (*source, *hops))


def judge_original(
    loaded: LoadedModel, outputs: ReferenceOutputs, library: str, *, progress: Progress
) -> tuple[Hop, ...]:
    """Compare the reference with the library's own model of the same checkpoint.

    Args:
        loaded: The model, with its reference.
        outputs: Outputs of the reference, with its noise in float32.
        library: Name of the library, from ``original_library``; empty for none.
        progress: Function that is told what is run, before it is run.

    Returns:
        One hop, which failed if the library's model gives something else, and did not run if the
        library has no such model or cannot load it; none without a library.
    """
    if not library or loaded.reading is None:
        return ()
    name = f"original ({library})"
    hop = Hop(name, "original", "fp32", loaded.reading.path.name, library)
    progress(f"{name}: building it from {loaded.reading.path.name}")
    try:
        module = build_original(loaded.config, loaded.reading, library)
    except (MissingBackendError, ComparisonError) as err:
        return (dataclasses.replace(hop, not_run=str(err)),)
    runner = TorchRunner(name, module)
    runner.backend = f"{library} {library_version(library)}, {runner.backend}"
    candidate = Candidate(runner, "original", hop.file, loaded.config.family)
    why = f"{library} computes something else from the same file"
    try:
        (hop,) = judge(outputs, [candidate], batches=(REFERENCE_BATCH,), progress=progress)
    except ComparisonError as err:  # other shapes or outputs: not the same model
        hop = dataclasses.replace(hop, backend=runner.backend)
        why = f"{why} ({str(err).removeprefix(f'{name}, ')})"
    fault = None if hop.passed else FirstFault("reading", detail=why)
    return (dataclasses.replace(hop, first_fault=fault),)


def untested_original(loaded: LoadedModel, choice: str) -> tuple[Hop, ...]:
    """Return a hop that did not run if the checkpoint's own library is one that is not loaded here.

    Args:
        loaded: The model.
        choice: Name from ``ORIGINAL_CHOICES``; there is no hop unless it is ``auto``.
    """
    if choice != "auto" or loaded.reading is None or not loaded.reading.dialect.no_library:
        return ()
    dialect, file = loaded.reading.dialect, loaded.reading.path.name
    name = f"original ({dialect.source})"
    return (Hop(name, "original", "fp32", file, dialect.source, not_run=dialect.no_library),)


def reference_outputs(
    loaded: LoadedModel,
    images: Sequence[ImageSet],
    *,
    precisions: Sequence[Precision],
    progress: Progress = silent,
) -> ReferenceOutputs:
    """Compute the reference's outputs, its intermediate tokens, and its noise in these precisions.

    Args:
        loaded: The model, with its reference.
        images: Image sets, normalised; at least one, none empty.
        precisions: Precisions in which to measure the noise.
        progress: Function that is told what is run, before it is run.

    Raises:
        ComparisonError: If there are no images.
        DeployError: If the reference cannot run.
    """
    outputs = run_reference(
        TorchRunner("PyTorch reference", loaded.reference),
        images,
        names=loaded.config.output_names,
        progress=within(progress, 0, 0.5),
    )
    outputs = dataclasses.replace(outputs, scores=loaded.scores)
    return trace_reference(
        outputs, loaded.reference, precisions=precisions, progress=within(progress, 0.5, 1)
    )


def check_parity(
    loaded: LoadedModel,
    outputs: ReferenceOutputs,
    candidate: nn.Module | onnx.ModelProto,
    *,
    precision: Precision = "fp32",
    batches: Sequence[int] = DEFAULT_BATCHES,
) -> ParityReport:
    """Judge a module in the deploy model's place, or an ONNX graph, on the outputs' images.

    Args:
        loaded: The model, with its reference.
        outputs: Result of ``reference_outputs``, with the noise in the candidate's precision.
        candidate: The module or graph, with the same inputs and outputs as the reference.
        precision: Precision in which to run a module; a graph has its own.
        batches: Batch sizes.

    Raises:
        ComparisonError: If the candidate's output has another shape than the reference's.
        DeployError: If it cannot run.
    """
    if isinstance(candidate, nn.Module):
        one = module_candidate(loaded, candidate, precision=precision)
        return parity_report(loaded, outputs, judge(outputs, [one], batches=batches))
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        onnx.save(candidate, path)
        one = graph_candidate(loaded, OnnxFile(path, candidate))
        return parity_report(loaded, outputs, judge(outputs, [one], batches=batches))


def parity_report(
    loaded: LoadedModel, outputs: ReferenceOutputs, hops: tuple[Hop, ...]
) -> ParityReport:
    """Make the report on some hops."""
    return ParityReport(
        model=loaded.name,
        weights=loaded.weights,
        reference_backend=outputs.backend,
        image_sets=tuple(
            ComparedImages(one.name, one.contents, one.folder) for one in outputs.image_sets
        ),
        reference_top1_accuracy=outputs.top1_accuracy,
        hops=hops,
        samples=make_samples(outputs, loaded.preprocessing),
        labelled=sum(len(s.images) for s in outputs.image_sets if s.labels is not None),
        doubt=_doubt(loaded, outputs),
    )


def _doubt(loaded: LoadedModel, outputs: ReferenceOutputs) -> str:
    """Return the reason to doubt the accuracy; empty for none, and for random weights."""
    if loaded.checkpoint is None or "logits" not in outputs.names:
        return ""
    place = outputs.names.index("logits")
    for images, output in zip(outputs.image_sets, outputs.outputs, strict=True):
        if images.labels is not None and images.order is not None:
            return chance_doubt(
                int((output[place].argmax(axis=1) == images.labels).sum()),
                len(images.labels),
                num_classes=loaded.config.num_classes,
                order=images.order,
                known=loaded.class_names,
            )
    return ""
