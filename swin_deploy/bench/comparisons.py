"""The fastest deploy runner against the fastest baseline of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from swin_deploy.bench import SHIPPED, Comparison
from swin_deploy.intervals import ratio_interval, ratio_of

if TYPE_CHECKING:
    from swin_deploy.bench.contenders import Contender, TimedRunner

BaselineKind = Literal["eager", "compile", "original"]
BASELINE_KINDS: tuple[BaselineKind, ...] = ("eager", "compile", "original")


def compare_baselines(lanes: Sequence[TimedRunner], batch: int) -> list[Comparison]:
    """Compare our fastest runner with the fastest baseline of each kind, by their timed calls.

    Args:
        lanes: The runners, with the latencies of their calls at this batch.
        batch: Number of images in a call.

    Returns:
        One comparison for each kind that has a timed runner; none if nothing of ours was timed.
    """
    timed = [lane for lane in lanes if lane.ready and lane.calls_ms]
    ours = _fastest([lane for lane in timed if _is_ours(lane.contender)])
    if ours is None:
        return []
    found = []
    for bar in BASELINE_KINDS:
        theirs = _fastest([lane for lane in timed if _is_of(lane.contender, bar)])
        if theirs is None:
            continue
        low, high = ratio_interval(theirs.calls_ms, ours.calls_ms)
        found.append(
            Comparison(
                batch=batch,
                bar=bar,
                ours=_title(ours),
                theirs=_title(theirs),
                ratio=ratio_of(theirs.calls_ms, ours.calls_ms),
                low=low,
                high=high,
            )
        )
    return found


def _is_ours(contender: Contender) -> bool:
    return contender.kind in SHIPPED


def _is_of(contender: Contender, bar: BaselineKind) -> bool:
    if _is_ours(contender):
        return False
    if bar == "compile":
        return contender.mode == "compile"
    kind = "reference" if bar == "eager" else "original"
    return contender.kind == kind and (bar == "original" or contender.mode == "eager")


def _fastest(lanes: list[TimedRunner]) -> TimedRunner | None:
    return min(lanes, key=lambda lane: float(np.median(lane.calls_ms)), default=None)


def _title(lane: TimedRunner) -> str:
    """Return name and precision; a file's name has its precision already."""
    contender = lane.contender
    if contender.mode == "file":
        return contender.runner.name
    return f"{contender.runner.name}, {contender.precision or contender.runner.precision}"
