"""Find the part of the model, then the operation, where a candidate that failed goes wrong first.

A candidate is compared operation by operation with a deploy model folded afresh from the reference,
for the same runtimes, and run in float64: both have the same modules. If that model does not agree
with the reference either, the fault is in the folding or in the deploy model's code, and the search
ends there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.arrays import plain_array
from exporters.precisions import FP8_FORMS
from exporters.spec import Precision
from swin_deploy.calibration.fp8 import KINDS
from swin_deploy.deploy.cpu_model import CpuQkv
from swin_deploy.deploy.fold import fold
from swin_deploy.parity import (
    Case,
    DriftPoint,
    FirstFault,
    Hop,
    ParityResult,
    compare,
    limits,
    measure_floor,
    tolerance_for,
    without_ceiling,
)
from swin_deploy.parity.fp8_noise import round_as_stored
from swin_deploy.parity.points import ComparePoint, batch_first, in_candidate_order, token_orders
from swin_deploy.parity.reference_run import (
    ReferenceOutputs,
    Trace,
    plain_dtype,
    trace_images,
)
from swin_deploy.reference.alias import alias
from swin_deploy.runners.int8_noise import RoundedLinears
from swin_deploy.runners.intermediates import Probed, Side, Tap, TappedModule, tappable_module

Real = NDArray[np.floating]

# Operations in the order in which they run; those that a family or a precision lacks are skipped.
BLOCK_PARTS: tuple[tuple[str, str, Side], ...] = (
    ("token order", "reorder_before", "out"),
    ("displacement", "reorder_branch", "out"),
    ("norm before attention", "attention", "in"),
    ("qkv", "attention.qkv", "out"),  # one layer, in the layout of TensorRT
    ("qkv: queries", "attention.qkv.query", "out"),  # three, in that of CPUs
    ("qkv: keys", "attention.qkv.key", "out"),
    ("qkv: values", "attention.qkv.value", "out"),
    ("attention scores", "attention.bias", "in"),
    ("attention bias and mask", "attention.bias", "out"),
    ("softmax or values", "attention.proj", "in"),
    ("projection", "attention.proj", "out"),
    ("norm behind attention", "norm_after_attention", "out"),
    ("residual behind attention, or the norm before the MLP", "mlp", "in"),
    ("MLP, first layer", "mlp.0", "out"),
    ("MLP, activation", "mlp.1", "out"),
    ("MLP, second layer", "mlp.2", "out"),
    ("norm behind the MLP", "norm_after_mlp", "out"),
    ("residual behind the MLP, or the order that follows", "", "out"),
)
MERGE_PARTS: tuple[tuple[str, str, Side], ...] = (
    ("token order", "reorder_before", "out"),
    ("norm before the linear layer", "linear", "in"),
    ("linear layer", "linear", "out"),
    ("norm behind the linear layer", "", "out"),
)
EMBED_PARTS: tuple[tuple[str, str, Side], ...] = (
    ("patches", "0.linear", "in"),
    ("linear layer", "0", "out"),
    ("norm", "1", "out"),
    ("norm, activation or absolute positions", "", "out"),
)
PARTS = {"block": BLOCK_PARTS, "merge": MERGE_PARTS, "embed": EMBED_PARTS}
SCORES = "attention bias and mask"


@dataclass(frozen=True)
class _Place:
    """The part of the model that is wrong, with the images that show it.

    Attributes:
        trace: The reference's trace.
        number: Index of the image set.
        index: Index of the point in ``trace.points``.
        images: The images of that set that were traced, [TRACE_ROWS, in_channels, H, W].
    """

    trace: Trace
    number: int
    index: int
    images: NDArray[np.float32]

    @property
    def point(self) -> ComparePoint:
        """The compare point of that part."""
        return self.trace.points[self.index]


@dataclass(frozen=True)
class _Operation:
    """One operation inside a part of the model.

    Attributes:
        name: Name for people, such as ``softmax or values``.
        tap: Tensor that shows its result.
    """

    name: str
    tap: Tap


def locate(
    reference: ReferenceOutputs, candidate: Probed, hop: Hop, precision: Precision
) -> FirstFault:
    """Name the first part and operation beyond the noise floor, and the inputs that show it.

    Args:
        reference: Reference's outputs, with its trace and its noise in this precision.
        candidate: The model to probe.
        hop: Hop of the candidate, which failed, with its drift.
        precision: Precision of the candidate.

    Raises:
        DeployError: If the candidate cannot run.
    """
    batches, image_sets = _shows_only(hop.results)
    first = next((point for point in hop.drift if not point.passed), None)
    if reference.trace is None or first is None:
        return FirstFault("after the last part", batches=batches, image_sets=image_sets)
    fault = _first_operation(_place(reference, reference.trace, first), candidate, precision)
    return dataclasses.replace(
        fault, module=first.module, where=first.where, batches=batches, image_sets=image_sets
    )


def _place(reference: ReferenceOutputs, trace: Trace, first: DriftPoint) -> _Place:
    number = [images.name for images in reference.image_sets].index(first.inputs)
    index = [point.candidate.path for point in trace.points].index(first.module)
    return _Place(trace, number, index, trace_images(reference.image_sets[number]))


def _shows_only(results: Sequence[ParityResult]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the batches and the image sets that alone show a fault; each empty if all do."""
    failed = [result for result in results if not result.passed]
    batches = sorted({result.batch for result in failed})
    sets = tuple(dict.fromkeys(result.case.image_set for result in failed))
    wrong = {dataclasses.replace(result.case, batch=0) for result in failed}
    smallest = min(r.batch for r in results if dataclasses.replace(r.case, batch=0) in wrong)
    others = {result.case.image_set for result in results} - set(sets)
    return (tuple(batches) if batches[0] > smallest else (), sets if others else ())


def _first_operation(place: _Place, candidate: Probed, precision: Precision) -> FirstFault:
    """Find the first operation of a part that is beyond its noise."""
    folded = fold(place.trace.reference, candidate.runtime, migrated=precision == "int8")
    fresh = tappable_module(folded, "fp32", runtime=candidate.runtime)
    if not _fresh_agrees(place, fresh):
        return FirstFault("folding")
    known = [one for one in _operations(place.point) if _in_both(one.tap, candidate, fresh)]
    operations = [one for one in known if _gives_one(folded.get_submodule(one.tap.path))]
    taps = tuple(one.tap for one in operations)
    if not taps:
        return FirstFault("part")
    with candidate.open(taps) as runner:
        actual = runner.run(place.images)[-len(taps) :]
    exact = _run_tapped(folded, None, taps, place)
    noisy = _run_tapped(folded, precision, taps, place)
    for number, operation in enumerate(operations):
        sides = actual[number], exact[number], noisy[number]
        result = _compare_operation(operation, sides, place, precision)
        if not result.passed:
            return FirstFault("part", operation=operation.name, check=result.deciding)
    return FirstFault("part")


def _operations(point: ComparePoint) -> list[_Operation]:
    path = point.candidate.path
    return [
        _Operation(name, Tap(f"{path}.{part}" if part else path, side))
        for name, part, side in PARTS.get(point.place.part, ())
    ]


def _in_both(tap: Tap, candidate: Probed, fresh: Probed) -> bool:
    return tap.path in candidate.paths and tap.path in fresh.paths


def _gives_one(module: nn.Module) -> bool:
    """Tell whether a module gives one tensor; one that gives three has each of them inside."""
    return not isinstance(module, CpuQkv)


def _fresh_agrees(place: _Place, fresh: Probed) -> bool:
    """Compare the tokens of a model folded afresh with the reference's at the place."""
    trace, point = place.trace, place.point
    config = trace.reference.config
    order = token_orders(trace.points, fresh, config)[place.index]
    expected = in_candidate_order(trace.tokens[place.number][place.index], order)
    with fresh.open((point.candidate,)) as runner:
        actual = runner.run(place.images)[-1]
    if point.place.part != "features":
        actual = batch_first(actual, len(expected), order, runtime=fresh.runtime)
    noise = trace.noise.get("fp32")
    floor = noise.trace[place.number][place.index] if noise else None
    ceiling = without_ceiling(tolerance_for("deploy", "fp32", family=config.family))
    allowed = limits(ceiling, floor, precision="fp32")
    return compare(actual, expected, allowed, Case("", len(expected))).passed


def _run_tapped(
    model: nn.Module, precision: Precision | None, taps: tuple[Tap, ...], place: _Place
) -> tuple[Real, ...]:
    """Run a model in PyTorch's own form of a precision, and return the tensors at its taps.

    Without a precision it runs in float64, the exact values.
    """
    dtype = torch.float64 if precision is None else plain_dtype(precision)
    own = alias(model).to(dtype)
    if precision in FP8_FORMS:
        round_as_stored(own, place.trace.reference.config, precision, kinds=KINDS)
    module: nn.Module = TappedModule(own, taps)
    if precision == "int8":
        module = RoundedLinears(module)
    with torch.inference_mode():
        outputs = module(torch.tensor(plain_array(place.images, np.float32), dtype=dtype))
    kept = torch.float64 if precision is None else torch.float32
    return tuple(one.to(kept).numpy() for one in outputs[-len(taps) :])


def _compare_operation(
    operation: _Operation, sides: tuple[Real, Real, Real], place: _Place, precision: Precision
) -> ParityResult:
    """Compare a candidate's tensor with the exact one; the noisy one gives the floor.

    Args:
        operation: The operation.
        sides: Tensors of the candidate, of the float64 model, and of the model in the candidate's
            precision.
        place: The part of the model.
        precision: Precision of the candidate.
    """
    actual = sides[0]
    # Exporters join a reshape with the next one, as after a merge's gather: any shape will do.
    exact, noisy = (
        one.reshape(actual.shape) if one.size == actual.size else one for one in sides[1:]
    )
    if operation.name == SCORES:  # a mask is so large that nothing else would count
        actual, exact, noisy = map(_softmax, (actual, exact, noisy))
    family = place.trace.reference.config.family
    ceiling = without_ceiling(tolerance_for("deploy", precision, family=family))
    allowed = limits(ceiling, measure_floor(noisy, exact, ceiling, source=""), precision=precision)
    return compare(actual, exact, allowed, Case("", len(place.images)))


def _softmax(scores: Real) -> Real:
    wide = plain_array(scores, np.float64)
    powers: Real = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
