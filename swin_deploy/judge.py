"""Run every stage on the same images and judge each against the reference."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ComparisonError, MissingBackendError
from swin_deploy.inputs import ImageSet
from swin_deploy.parity import Hop, ParityResult, Tolerance, compare, second_opinion, tolerance_for
from swin_deploy.runners import Outputs, Runner

DEFAULT_BATCHES = (1, 2, 3, 7)
REFERENCE_BATCH = 8

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """One stage to judge.

    Attributes:
        runner: What runs it; not open yet.
        stage: ``deploy``, ``onnx`` or ``engine``.
        file: File name of the artefact, or empty.
        family: Of the model, where its tolerance differs.
    """

    runner: Runner
    stage: str
    file: str = ""
    family: str = ""


@dataclass(frozen=True)
class ReferenceOutputs:
    """What the reference computes, once for each image set.

    Attributes:
        backend: What ran it and where.
        image_sets: The images.
        outputs: For each image set, one array [n, ...] for each output.
        names: Of the outputs.
        top1_accuracy: Share of labelled images classified right; None without labels.
    """

    backend: str
    image_sets: tuple[ImageSet, ...]
    outputs: tuple[Outputs, ...]
    names: tuple[str, ...]
    top1_accuracy: float | None


@dataclass(frozen=True)
class _Rows:
    """Outputs at one batch size: row ``i`` of each belongs to image ``index[i]``."""

    batch: int
    index: NDArray[np.int64]
    outputs: Outputs


def run_reference(
    runner: Runner,
    image_sets: Sequence[ImageSet],
    *,
    names: tuple[str, ...],
    progress: Progress = lambda message: None,
) -> ReferenceOutputs:
    """Run the reference on all images, once.

    Args:
        runner: The float32 reference, not open yet.
        image_sets: At least one, none empty.
        names: Of its outputs; one named ``logits`` is of classes.
        progress: Told what is run, before it is run.

    Raises:
        ComparisonError: If there are no images.
        DeployError: If the reference cannot run.
    """
    if not image_sets or not all(len(images.images) for images in image_sets):
        raise ComparisonError("no images to compare on; give at least one image in every set")
    outputs = []
    with runner:
        for images in image_sets:
            count = len(images.images)
            progress(f"{runner.name}: {images.name}, {count} images")
            rows = _run(runner, images, min(REFERENCE_BATCH, count), count)
            outputs.append(_by_image(rows, count))
    return ReferenceOutputs(
        backend=runner.backend,
        image_sets=tuple(image_sets),
        outputs=tuple(outputs),
        names=names,
        top1_accuracy=_accuracy(image_sets, outputs, names),
    )


def judge(
    reference: ReferenceOutputs,
    candidates: Sequence[Candidate],
    *,
    batches: Sequence[int] = DEFAULT_BATCHES,
    progress: Progress = lambda message: None,
) -> tuple[Hop, ...]:
    """Compare each candidate with the reference, on every image set at several batch sizes.

    The largest batch goes through all images, the others through enough of them to fill one call.
    One more result for each image set holds the rows of the largest batch against the same rows
    of the smallest: the batch must not change a row. Polygraphy repeats every verdict on the
    values; where it does not agree, the result fails.

    Args:
        reference: From ``run_reference``.
        candidates: Stages in the order of the line.
        batches: Batch sizes, clipped to what a candidate takes and to the images there are; a
            candidate of a larger fixed batch gets its rows by repeating images.
        progress: Told what is run, before it is run.

    Returns:
        One hop for each candidate, in order. A candidate whose package or device is not here has
        ``not_run`` with the reason.

    Raises:
        ComparisonError: If a candidate's output has another shape than the reference's.
        DeployError: If a candidate's file cannot be used.
    """
    return tuple(_judge_one(reference, one, batches, progress) for one in candidates)


def _judge_one(
    reference: ReferenceOutputs, candidate: Candidate, batches: Sequence[int], progress: Progress
) -> Hop:
    runner = candidate.runner
    hop = Hop(runner.name, candidate.stage, runner.precision, candidate.file, runner.backend)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(runner)
        except MissingBackendError as err:
            return dataclasses.replace(hop, not_run=str(err))
        results: list[ParityResult] = []
        outputs = []
        tolerance = tolerance_for(candidate.stage, runner.precision, family=candidate.family)
        for images, expected in zip(reference.image_sets, reference.outputs, strict=True):
            try:
                by_batch = _run_batches(runner, images, batches, progress)
                results += _judge_rows(
                    by_batch,
                    expected,
                    tolerance=tolerance,
                    images=images,
                    names=reference.names,
                )
            except ComparisonError as err:
                raise ComparisonError(f"{runner.name}, {images.name}: {err}") from err
            outputs.append(_by_image(by_batch[-1], len(expected[0])))
    return dataclasses.replace(
        hop,
        backend=runner.backend,
        results=tuple(results),
        top1_accuracy=_accuracy(reference.image_sets, outputs, reference.names),
    )


def _run_batches(
    runner: Runner, images: ImageSet, batches: Sequence[int], progress: Progress
) -> list[_Rows]:
    """Outputs by batch size, ascending."""
    count = len(images.images)
    low, high = runner.min_batch, runner.max_batch or count
    usable = sorted({max(low, min(batch, high, count)) for batch in batches})
    by_batch = []
    for batch in usable:
        wanted = {usable[0]: usable[-1], usable[-1]: count}.get(batch, batch)
        progress(f"{runner.name}: {images.name}, batch {batch}")
        by_batch.append(_run(runner, images, batch, wanted))
    return by_batch


def _run(runner: Runner, images: ImageSet, batch: int, wanted: int) -> _Rows:
    """Run the first ``wanted`` images in full batches; the last may go over images again."""
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
    return _Rows(batch, np.concatenate(chunks), outputs)


def _by_image(rows: _Rows, count: int) -> Outputs:
    """One row for each of the first ``count`` images, all of which were run."""
    ordered = tuple(np.empty((count, *one.shape[1:]), np.float32) for one in rows.outputs)
    for target, source in zip(ordered, rows.outputs, strict=True):
        target[rows.index] = source
    return ordered


def _judge_rows(
    by_batch: list[_Rows],
    expected: Outputs,
    *,
    tolerance: Tolerance,
    images: ImageSet,
    names: tuple[str, ...],
) -> list[ParityResult]:
    """Each output at each batch against the reference, then the largest against the smallest."""
    if len(by_batch[0].outputs) != len(names):
        raise ComparisonError(f"{len(by_batch[0].outputs)} outputs, expected {', '.join(names)}")
    small, large = by_batch[0], by_batch[-1]
    results = []
    for number, name in enumerate(names):
        label = images.name if len(names) == 1 else f"{images.name}, {name}"
        judge_output = functools.partial(
            _judge_values, tolerance=tolerance, classes=name == "logits"
        )
        for rows in by_batch:
            reference = expected[number][rows.index]
            result = judge_output(rows.outputs[number], reference, inputs=label, batch=rows.batch)
            # An image that filled up a batch a second time was judged, but counts once.
            results.append(dataclasses.replace(result, rows=len(np.unique(rows.index))))
        if small is not large:
            alone = _by_image(small, int(small.index.max()) + 1)[number]
            results.append(
                judge_output(
                    large.outputs[number][: large.batch],
                    alone[large.index[: large.batch]],
                    inputs=f"{label}, batch {large.batch} against batch {small.batch}",
                    batch=large.batch,
                )
            )
    return results


def _judge_values(
    actual: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    tolerance: Tolerance,
    inputs: str,
    batch: int,
    classes: bool,
) -> ParityResult:
    """Our verdict, if Polygraphy's is the same; else a failure that says so."""
    result = compare(actual, reference, tolerance, inputs=inputs, batch=batch, classes=classes)
    ours = result.needed_atol <= tolerance.atol
    theirs = second_opinion(actual, reference, tolerance)
    if ours == theirs:
        return result
    words = {True: "within", False: "out of"}
    verdicts = f"Polygraphy finds the values {words[theirs]} tolerance, we {words[ours]}"
    return dataclasses.replace(
        result, passed=False, reason="; ".join(filter(None, (result.reason, verdicts)))
    )


def _accuracy(
    image_sets: Sequence[ImageSet], outputs: Sequence[Outputs], names: tuple[str, ...]
) -> float | None:
    """Share of the labelled images whose largest logit is their class; None without either."""
    if "logits" not in names:
        return None
    hits = [
        output[names.index("logits")].argmax(axis=1) == images.labels
        for images, output in zip(image_sets, outputs, strict=True)
        if images.labels is not None
    ]
    return float(np.concatenate(hits).mean()) if hits else None
