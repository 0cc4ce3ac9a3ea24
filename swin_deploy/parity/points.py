"""Places along the model where tokens are compared, and each side's token order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.errors import ComparisonError
from exporters.spec import Runtime
from swin_deploy.config import StageSpec, SwinConfig
from swin_deploy.config.windows import PAD, merge_order
from swin_deploy.deploy.cpu_form import stream_slots
from swin_deploy.deploy.fold_parts import stream_order
from swin_deploy.parity.results import Place
from swin_deploy.reference import Reference
from swin_deploy.reference.notebook import NotebookSwin, PatchMerging
from swin_deploy.runners.intermediates import Probed, Tap

Order = NDArray[np.int64]


@dataclass(frozen=True)
class ComparePoint:
    """A place that the reference and the deploy model both have.

    Attributes:
        place: Place along the model.
        candidate: Tensor in the deploy model, and in a graph exported from it.
        reference: Tensor in the reference; its tokens are in raster order.
    """

    place: Place
    candidate: Tap
    reference: Tap


def compare_points(reference: Reference) -> tuple[ComparePoint, ...]:
    """List the embedding, every block and merge in turn, and the features before a head.

    Args:
        reference: The reference model.
    """
    points = [
        ComparePoint(place, Tap(f"layers.{number - 1}" if number else "embed"), Tap(path))
        for number, (place, path) in enumerate(_reference_places(reference))
    ]
    if reference.config.output_name == "logits":
        count = len(points) - 1
        tap = Tap(f"heads.{count}.2", "in")  # the linear layer after the norm and the mean
        points.append(ComparePoint(Place("features"), tap, Tap("head", "in")))
    return tuple(points)


def _reference_places(reference: Reference) -> Iterator[tuple[Place, str]]:
    """Yield each place and its module path in the reference, from first to last."""
    if isinstance(reference, NotebookSwin):
        yield from _notebook_places(reference)
        return
    config = reference.config
    yield Place("embed"), "pos_drop" if config.absolute_positions else "patch_embed"
    # No stage after the last map that is returned is built.
    count = config.shown_stages[-1] + 1 if config.output_name == "stages" else len(config.depths)
    for stage, depth in enumerate(config.depths[:count]):
        for block in range(depth):
            yield Place("block", stage + 1, block + 1), f"layers.{stage}.blocks.{block}"
        if stage + 1 < count:
            yield Place("merge", stage + 1), f"layers.{stage}.downsample"


def _notebook_places(reference: NotebookSwin) -> Iterator[tuple[Place, str]]:
    yield Place("embed"), "Embedding"
    stage, block = 0, 0
    for number, entry in enumerate(reference.stages):
        if isinstance(entry, PatchMerging):
            yield Place("merge", stage + 1), f"stages.{number}"
            stage, block = stage + 1, 0
            continue
        for name in ("WSA", "SWSA"):
            yield Place("block", stage + 1, block + 1), f"stages.{number}.{name}"
            block += 1


def token_orders(
    points: tuple[ComparePoint, ...], candidate: Probed, config: SwinConfig
) -> tuple[Order | None, ...]:
    """Compute the order of the candidate's tokens at each point.

    The tokens are followed through the candidate's own gathers, so a candidate may keep them in
    any order that its gathers show.

    Args:
        points: Points along the model, from first to last.
        candidate: The candidate, with its gathers.
        config: Configuration of the model.

    Returns:
        For each point the raster index of each token, or ``PAD``, [slots]; None for features.

    Raises:
        ComparisonError: If a gather does not fit the tokens that it gets.
    """
    order = _stream(config.stages[0], candidate.runtime)
    found: list[Order | None] = []
    for point in points:
        place, path = point.place, point.candidate.path
        for child in (f"{path}.reorder_before", f"{path}.reorder_after"):
            order = _follow(order, candidate.reorders, child)
        if _joins_neighbours(place, path, candidate.reorders, config):
            merged = _stream(config.stages[place.stage or 0], candidate.runtime)
            order = _without_pads(order, config, place.stage or 0, merged)
        if place.part == "merge":
            order = _merged(order, config.stages[(place.stage or 0) - 1].resolution.columns)
        found.append(None if place.part == "features" else order)
    return tuple(found)


def _stream(stage: StageSpec, runtime: Runtime) -> Order:
    """Return the order of the tokens between a stage's blocks, laid out for a runtime."""
    order = stream_order(stage)
    return (order[stream_slots(stage)] if runtime == "cpu" else order).numpy()


def _follow(order: Order, reorders: Mapping[str, Order], child: str) -> Order:
    index = reorders.get(child)
    if index is None:
        return order
    if index.min() < 0 or index.max() >= len(order):
        raise ComparisonError(f"{child} does not fit {len(order)} tokens; export it again")
    return order[index]


def _joins_neighbours(
    place: Place, path: str, reorders: Mapping[str, Order], config: SwinConfig
) -> bool:
    """Tell whether tokens after a place are the four of each that the next stage has.

    The gather is the merge's own, or follows the last block of the stage (V2).
    """
    if place.part == "merge":
        return True
    last = place.part == "block" and place.block == config.depths[(place.stage or 0) - 1]
    return last and f"{path}.reorder_after" in reorders


def _without_pads(order: Order, config: SwinConfig, stage: int, merged: Order) -> Order:
    """Mark the neighbours that odd maps and pads do not have, which a gather fills with any token.

    Args:
        order: Raster index of each token, [4 * M].
        config: Configuration of the model.
        stage: Number of the stage before the merge, from 1.
        merged: Order of the merged tokens, [M].

    Raises:
        ComparisonError: If there are other numbers of tokens.
    """
    wanted = merge_order(config.stages[stage - 1].resolution, torch.from_numpy(merged)).numpy()
    if len(wanted) != len(order):
        raise ComparisonError(
            f"a merge after stage {stage} takes {len(order)} tokens, not {len(wanted)}; export it "
            "again"
        )
    return np.where(wanted == PAD, PAD, order)


def _merged(order: Order, columns: int) -> Order:
    """Raster index in the merged map of each group of four tokens of a map of so many columns."""
    first, half = order[::4], (columns + 1) // 2
    return np.where(first == PAD, PAD, first // columns // 2 * half + first % columns // 2)


def in_candidate_order(tokens: NDArray[np.floating], order: Order | None) -> NDArray[np.floating]:
    """Reorder the reference's tokens as the candidate's.

    Args:
        tokens: Tokens in raster order, [B, N, C] or [B, H, W, C].
        order: Raster index of each of the candidate's tokens, [slots]; None for features [B, C].

    Returns:
        Tokens, [B, real slots, C]; ``tokens`` itself if ``order`` is None.
    """
    if order is None:
        return tokens
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])  # [B, H, W, C] -> [B, N, C]
    return flat[:, order[order != PAD]]


def batch_first(
    tokens: NDArray[np.floating],
    batch: int,
    order: Order | None = None,
    *,
    runtime: Runtime = "tensorrt",
) -> NDArray[np.floating]:
    """Move a candidate's batch axis to the front, and leave out the pads.

    Args:
        tokens: Tokens, [slots, B, C], or [M, B, 4, C] before a merge; [B, slots, C] or
            [B, M, 4, C] in the layout for CPUs.
        batch: Number of images, B.
        order: Raster index of each token, or ``PAD``, [slots] or [4 * M]; None without pads.
        runtime: Runtimes that the tokens are laid out for.

    Returns:
        Tokens, [B, real slots, C].

    Raises:
        ComparisonError: If the tokens are laid out in another way.
    """
    axis = 0 if runtime == "cpu" else 1  # of the batch
    if tokens.ndim not in (3, 4) or tokens.shape[axis] != batch:
        wanted = f"[{batch}, tokens, channels]" if axis == 0 else f"[tokens, {batch}, channels]"
        raise ComparisonError(
            f"its tokens have shape {list(tokens.shape)}, not {wanted}; export it again"
        )
    # [slots, B, C] or [M, B, 4, C] -> [B, slots, C]
    found = np.moveaxis(tokens, axis, 0).reshape(batch, -1, tokens.shape[-1])
    if order is None or len(order) != found.shape[1]:
        return found
    return found[:, order != PAD]
