"""Places along the model where tokens are compared, and each side's token order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ComparisonError
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.fold_parts import block_order
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
        For each point the raster index of each token, [tokens]; None for features.

    Raises:
        ComparisonError: If a gather does not fit the tokens that it gets.
    """
    order: Order = block_order(config.stages[0]).numpy()
    columns = {stage.resolution.area: stage.resolution.columns for stage in config.stages}
    found: list[Order | None] = []
    for point in points:
        path = point.candidate.path
        order = _follow(order, candidate.reorders, path)
        if point.place.part == "merge":
            order = _merged(order, columns[len(order)])
        found.append(None if point.place.part == "features" else order)
    return tuple(found)


def _follow(order: Order, reorders: Mapping[str, Order], path: str) -> Order:
    for child in (f"{path}.reorder_before", f"{path}.reorder_after"):
        index = reorders.get(child)
        if index is None:
            continue
        if len(index) != len(order) or index.min() < 0 or index.max() >= len(order):
            raise ComparisonError(f"{child} does not fit {len(order)} tokens; export it again")
        order = order[index]
    return order


def _merged(order: Order, columns: int) -> Order:
    """Raster index in the merged map of each group of four tokens of a map of so many columns."""
    first = order[::4]
    return first // columns // 2 * (columns // 2) + first % columns // 2


def in_candidate_order(tokens: NDArray[np.floating], order: Order | None) -> NDArray[np.floating]:
    """Reorder the reference's tokens as the candidate's.

    Args:
        tokens: Tokens in raster order, [B, N, C] or [B, H, W, C].
        order: Raster index of each of the candidate's tokens, [N]; None for features [B, C].

    Returns:
        Tokens, [B, N, C]; ``tokens`` itself if ``order`` is None.
    """
    if order is None:
        return tokens
    return tokens.reshape(len(tokens), -1, tokens.shape[-1])[:, order]


def batch_first(tokens: NDArray[np.floating], batch: int) -> NDArray[np.floating]:
    """Move a candidate's batch axis to the front.

    Args:
        tokens: Tokens, [N, B, C], or [N / 4, B, 4, C] before a merge.
        batch: Number of images, B.

    Returns:
        Tokens, [B, N, C].

    Raises:
        ComparisonError: If the tokens are laid out in another way.
    """
    if tokens.ndim not in (3, 4) or tokens.shape[1] != batch:
        raise ComparisonError(
            f"its tokens have shape {list(tokens.shape)}, not [tokens, {batch}, channels]; export "
            "it again"
        )
    return np.moveaxis(tokens, 1, 0).reshape(batch, -1, tokens.shape[-1])
