"""The scale and zero point at which 8-bit integers lose least of what a product reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporters.int8 import LEVELS, Affine
from swin_deploy.calibration.statistics import BINS, Magnitudes, centres

SHARES = np.linspace(1.0, 0.2, 33)  # of the range that calibration saw
METHOD = "least mean squared error"


def affine_scale(seen: Magnitudes) -> Affine:
    """Return the scale and zero point with the least mean squared error over what was seen.

    Values beyond the range are clipped to its ends, which costs much for few values; a smaller
    range has finer steps for all others. Both ends are tried at every pair of ``SHARES``, first
    coarsely and then around the best pair.

    Args:
        seen: The values that the product read, all finite.
    """
    values, counts = _signed(seen)
    low, high = -float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not low + high > 0:
        return Affine(1.0, 0)
    best, at = _best(values, counts, _pairs(SHARES[::4], SHARES[::4], (low, high)))
    ends = (at * best.scale, (LEVELS - at) * best.scale)
    near = np.linspace(0.85, 1.15, 9)
    return _best(values, counts, _pairs(near, near, ends))[0]


def _pairs(
    lows: NDArray[np.float64], highs: NDArray[np.float64], ends: tuple[float, float]
) -> list[tuple[float, float]]:
    return [(one * ends[0], other * ends[1]) for one in lows for other in highs]


def _best(
    values: NDArray[np.float64], counts: NDArray[np.int64], ranges: list[tuple[float, float]]
) -> tuple[Affine, int]:
    """Return the best of some ranges, each the distance of its ends from 0, and its zero point."""
    tried = [_between(*one) for one in ranges if sum(one) > 0]
    best = min(tried, key=lambda one: squared_error(values, counts, one))
    return best, best.zero_point


def _between(low: float, high: float) -> Affine:
    """Return the integers for the numbers from ``-low`` to ``high``; 0 is one of them."""
    scale = max((low + high) / LEVELS, float(np.finfo(np.float32).tiny))
    return Affine(float(np.float32(scale)), round(low / scale))


def squared_error(values: NDArray[np.float64], counts: NDArray[np.int64], affine: Affine) -> float:
    """Return the sum of the squared errors of values in 8-bit integers, each counted so often."""
    integers = (np.rint(values / affine.scale) + affine.zero_point).clip(0, LEVELS)
    return float(counts @ np.square((integers - affine.zero_point) * affine.scale - values))


def _signed(seen: Magnitudes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the middles of the bins that hold values, negative ones too, and their counts."""
    counts = np.concatenate((seen.counts - seen.negative, seen.negative))
    used = np.flatnonzero(counts)
    sizes = centres()[used % BINS].astype(np.float64)  # those of infinity are never used
    return np.where(used < BINS, sizes, -sizes), counts[used]
