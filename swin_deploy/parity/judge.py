"""Run every stage on the same images and judge each against the reference."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporters.errors import BuildError, ComparisonError, MissingBackendError
from exporters.memory import release_memory
from exporters.progress import Progress, silent, within
from swin_deploy.candidates import Candidate
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import (
    Case,
    FirstFault,
    Hop,
    ParityResult,
    Tolerance,
    compare,
    limits,
    measure_floor,
    second_opinion,
    tolerance_for,
)
from swin_deploy.parity.drift import measure_drift, missing_points
from swin_deploy.parity.localize import locate
from swin_deploy.parity.reference_run import (
    ReferenceOutputs,
    Rows,
    accuracy,
    by_image,
    noise_rows,
    run_rows,
)
from swin_deploy.parity.sample_images import answer_samples
from swin_deploy.runners import Outputs, Runner

DEFAULT_BATCHES = (1, 2, 3, 7)
# What runs may not run, or give other shapes, once its tokens are further outputs.
CANNOT_LOOK = (ComparisonError, MissingBackendError)


@dataclass(frozen=True)
class _Runs:
    """A candidate's outputs for one image set.

    Attributes:
        by_batch: Outputs at each batch size, ascending.
        turned: Outputs of the first call of the largest batch run again, with its images one place
            further on; None if the largest batch is 1.
    """

    by_batch: list[Rows]
    turned: Rows | None


def judge(
    reference: ReferenceOutputs,
    candidates: Sequence[Candidate],
    *,
    batches: Sequence[int] = DEFAULT_BATCHES,
    progress: Progress = silent,
) -> tuple[Hop, ...]:
    """Compare each candidate with the reference, on every image set at several batch sizes.

    The largest batch goes through all images, the others through enough of them to fill one call.
    Two more results for each image set hold rows of the largest batch against each other: the
    batch must not change a row (against the smallest), nor may a row's place in it (the same
    images, one place further on). Polygraphy repeats every verdict on the values of a candidate
    with ``second_opinion``; if it does not agree, the result fails. A candidate that can be probed
    is compared along the model, too, and if one fails, its first fault is searched for.

    Args:
        reference: Result of ``run_reference``, or of ``trace_reference`` if the noise is to decide.
        candidates: Stages in the order of the line.
        batches: Batch sizes, clipped to what a candidate takes and to the number of images; a
            candidate's own largest batch is added, and repeats images if it must.
        progress: Function that is told what is run, before it is run.

    Returns:
        One hop for each candidate, in order. A candidate whose package or device is missing has
        ``not_run`` with the reason; a deploy model that cannot be compiled fails without a result.

    Raises:
        ComparisonError: If a candidate's output has another shape than the reference's.
        DeployError: If a candidate's file cannot be used.
    """
    hops, count = [], max(1, len(candidates))
    for index, candidate in enumerate(candidates):
        part = within(progress, index / count, (index + 1) / count)
        hop = _judge_outputs(reference, candidate, batches, part)
        release_memory()
        hops.append(hop if hop.not_run else _look_inside(hop, reference, candidate, part))
        release_memory()
    return tuple(hops)


def _judge_outputs(
    reference: ReferenceOutputs, candidate: Candidate, batches: Sequence[int], progress: Progress
) -> Hop:
    runner = candidate.runner
    hop = Hop(runner.name, candidate.stage, runner.precision, candidate.file, runner.backend)
    results: list[ParityResult] = []
    outputs, floors = [], []
    count = len(reference.image_sets)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(runner)
        except MissingBackendError as err:
            return replace(hop, not_run=str(err))
        for number, images in enumerate(reference.image_sets):
            expected = reference.outputs[number]
            allowed = _allowed(reference, number, candidate)
            try:
                part = within(progress, number / count, (number + 1) / count)
                runs = _run_batches(runner, images, batches, part)
                values = _judge_values if candidate.second_opinion else compare
                judges = {
                    name: functools.partial(values, classes=name == "logits", tolerance=one)
                    for name, one in zip(reference.names, allowed, strict=True)
                }
                results += _judge_runs(runs, expected, judges, images)
            except ComparisonError as err:
                name = f"{runner.name} ({candidate.file})" if candidate.file else runner.name
                raise ComparisonError(f"{name}, {images.name}: {err}") from err
            except MissingBackendError as err:  # some GPUs and files are refused at the first call
                return replace(hop, backend=runner.backend, not_run=str(err))
            except BuildError as err:
                if candidate.stage != "deploy":
                    raise
                # torch.compile failed on it: this must not lose the results of the other stages
                why = str(err).removeprefix(f"{runner.name}: ")
                fault = FirstFault("error", detail=why)
                return replace(hop, backend=runner.backend, first_fault=fault)
            if "logits" in reference.names:  # for classes; maps of many images would fill memory
                outputs.append(by_image(runs.by_batch[-1], len(expected[0])))
            floors.append(allowed[0].floor)
    return replace(
        hop,
        backend=runner.backend,
        results=tuple(results),
        top1_accuracy=accuracy(reference.image_sets, outputs, reference.names),
        answers=answer_samples(reference, outputs, floors),
    )


def _ceiling(candidate: Candidate) -> Tolerance:
    """Return the most that a candidate is allowed."""
    return tolerance_for(candidate.stage, candidate.runner.precision, family=candidate.family)


def _allowed(
    reference: ReferenceOutputs, number: int, candidate: Candidate
) -> tuple[Tolerance, ...]:
    """Return the tolerance of each output on one image set."""
    ceiling, precision = _ceiling(candidate), candidate.runner.precision
    noise = reference.trace.noise.get(precision) if reference.trace else None
    if noise is None:
        return (ceiling,) * len(reference.names)
    rows = noise_rows(reference.image_sets[number])
    pairs = zip(noise.outputs[number], reference.outputs[number], strict=True)
    floors = ((measure_floor(a, b[rows], ceiling, source=noise.source), a.size) for a, b in pairs)
    spread = reference.image_sets[number].spread
    return tuple(
        limits(ceiling, floor, precision=precision, spread=spread, values=size)
        for floor, size in floors
    )


def _look_inside(
    hop: Hop, reference: ReferenceOutputs, candidate: Candidate, progress: Progress
) -> Hop:
    """Add to a hop its drift along the model and, if it failed, its first fault."""
    probed, precision = candidate.probed, candidate.runner.precision
    missing = missing_points(reference, probed, precision)
    if missing or probed is None:
        return replace(hop, drift_not_run=missing)
    progress(f"{hop.name}: tokens along the model", 1.0)
    try:
        drift = measure_drift(reference, probed, _ceiling(candidate), precision)
    except CANNOT_LOOK as err:
        return replace(hop, drift_not_run=str(err))
    hop = replace(hop, results=(*hop.results, *drift.results), drift=drift.points)
    if hop.passed:
        return hop
    if _only_ceilings(hop):
        return replace(hop, first_fault=FirstFault("noise", detail=precision))
    progress(f"{hop.name}: looking for what goes wrong first")
    try:
        return replace(hop, first_fault=locate(reference, probed, hop, precision))
    except CANNOT_LOOK as err:  # the verdict stands without the place
        return replace(hop, drift_not_run=str(err))


def _only_ceilings(hop: Hop) -> bool:
    """Return True if a hop failed by ceilings alone, with every value within its noise."""
    failed = [check for result in hop.results for check in result.checks if not check.passed]
    finite = all(result.checks for result in hop.results)
    ceilings = bool(failed) and all(check.multiple is None for check in failed)
    return finite and ceilings and all(point.passed for point in hop.drift)


def _run_batches(
    runner: Runner, images: ImageSet, batches: Sequence[int], progress: Progress
) -> _Runs:
    count = len(images.images)
    low, high = runner.min_batch, runner.max_batch or count
    own = {runner.max_batch} if runner.max_batch else set()
    usable = sorted({max(low, min(batch, high, count)) for batch in batches} | own)
    by_batch = []
    for number, batch in enumerate(usable):
        wanted = {usable[0]: usable[-1], usable[-1]: count}.get(batch, batch)
        progress(f"{runner.name}: {images.name}, batch {batch}", number / len(usable))
        by_batch.append(run_rows(runner, images, batch, wanted))
    largest = by_batch[-1]
    if largest.batch == 1:
        return _Runs(by_batch, None)
    index = np.roll(largest.index[: largest.batch], 1)
    return _Runs(by_batch, Rows(largest.batch, index, runner.run(images.images[index])))


def _judge_runs(
    runs: _Runs,
    expected: Outputs,
    judges: Mapping[str, Callable[..., ParityResult]],
    images: ImageSet,
) -> list[ParityResult]:
    """Judge each output at each batch against the reference, then the largest batch's rows.

    The first call of the largest batch is held against the same images in the smallest batch, and
    against itself with its images one place further on.
    """
    small, large = runs.by_batch[0], runs.by_batch[-1]
    if len(small.outputs) != len(judges):
        raise ComparisonError(f"{len(small.outputs)} outputs, expected {', '.join(judges)}")
    results = []
    for number, (name, judge_output) in enumerate(judges.items()):
        case = Case(images.name, large.batch, "" if len(judges) == 1 else name)
        for rows in runs.by_batch:
            reference = expected[number][rows.index]
            result = judge_output(
                rows.outputs[number], reference, case=replace(case, batch=rows.batch)
            )
            # An image that filled up a batch a second time was judged, but counts once.
            results.append(replace(result, rows=len(np.unique(rows.index))))
        first = large.outputs[number][: large.batch]
        if small is not large:
            alone = by_image(small, int(small.index.max()) + 1)[number]
            others = alone[large.index[: large.batch]]
            by_size = replace(case, against="smallest batch", against_batch=small.batch)
            results.append(judge_output(first, others, case=by_size))
        if runs.turned is not None:
            others = np.roll(first, 1, axis=0)
            by_row = replace(case, against="other rows", against_batch=large.batch)
            results.append(judge_output(runs.turned.outputs[number], others, case=by_row))
    return results


def _judge_values(
    actual: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    tolerance: Tolerance,
    case: Case,
    classes: bool,
) -> ParityResult:
    """Return our result if Polygraphy's verdict is the same; else a failure that says so."""
    result = compare(actual, reference, tolerance, case, classes=classes)
    ours = result.needed_atol <= tolerance.atol
    theirs = second_opinion(actual, reference, tolerance)
    if ours == theirs:
        return result
    words = {True: "within", False: "out of"}
    verdicts = f"Polygraphy finds the values {words[theirs]} tolerance, we {words[ours]}"
    return replace(result, passed=False, reason="; ".join(filter(None, (result.reason, verdicts))))
