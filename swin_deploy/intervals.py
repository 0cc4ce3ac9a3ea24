"""Confidence intervals: for shares on the same images, and for ratios of latencies.

Intervals of shares invert a score test at 95 %, so they stay inside the possible range and remain
meaningful even if every answer, or none, is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL_PERCENT = 95
Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
BISECTIONS = 60  # halves an interval of 2 to below float64's resolution
SETTLED_ROUNDS = 5
SETTLED_SHARE = 0.02
RESAMPLES = 1000
CONFIDENCE = 0.95
MIN_PAIRS = 8  # with fewer rounds a resampled median is one of a handful of values


@dataclass(frozen=True)
class Interval:
    """An interval of shares.

    Attributes:
        low: Lower end, from -1 to 1.
        high: Upper end.
    """

    low: float
    high: float


def wilson_interval(right: int, images: int) -> Interval:
    """Compute the Wilson score interval, at 95 %, of the share ``right / images``.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927); recommended by R. G. Newcombe, Statistics in
    Medicine 17 (1998) 857-872.

    Args:
        right: Number of images classified right.
        images: Number of all images, at least one.
    """
    share, spread = right / images, Z * Z / images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def paired_interval(lost: int, gained: int, images: int) -> Interval:
    """Compute Tango's score interval, at 95 %, of a difference of two shares on the same images.

    The images that both models get right, or both wrong, say nothing about the difference: only
    the discordant ones do. An interval for independent samples would be several times too wide.
    This one is the set of differences that the score test does not reject, the test that is
    McNemar's at a difference of zero: zero lies outside exactly where McNemar's test (without
    continuity correction) finds a difference. It keeps its level with few discordant images; with
    none it is plus and minus ``Z**2 / (images + Z**2)``.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998) 891-908; recommended by M. W. Fagerland,
    S. Lydersen and P. Laake, Statistics in Medicine 33 (2014) 2850-2875.

    Args:
        lost: Number of images that the reference has right and the candidate wrong.
        gained: Number of images that the reference has wrong and the candidate right.
        images: Number of all images, at least one.

    Returns:
        Interval of the candidate's accuracy minus the reference's.
    """
    estimate = (gained - lost) / images

    def score(difference: float) -> float:
        return _score(difference, lost=lost, gained=gained, images=images)

    return Interval(_falls_below(Z, score, -1.0, estimate), _falls_below(-Z, score, estimate, 1.0))


def images_to_show(max_drop: float) -> int:
    """Compute the fewest images on which equal answers rule out a drop above ``max_drop``.

    Args:
        max_drop: Allowed drop, as a share above 0.
    """
    return math.ceil(Z * Z * (1 - max_drop) / max_drop)


def _score(difference: float, *, lost: int, gained: int, images: int) -> float:
    """Compute the score statistic of a difference; it falls as the difference grows."""
    # The maximum-likelihood share of lost images, given the difference: the larger root of
    # a x**2 + b x + c.
    a = 2 * images
    b = -gained - lost + (2 * images - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share_lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = images * (2 * share_lost + difference * (1 - difference))
    distance = gained - lost - images * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _falls_below(level: float, score: Callable[[float], float], low: float, high: float) -> float:
    """Find where a falling function passes ``level`` between ``low`` and ``high``, by bisection."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if score(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def is_settled(calls_ms: Sequence[float]) -> bool:
    """Tell whether the medians of the last two spans of ``SETTLED_ROUNDS`` are within 2 %.

    Args:
        calls_ms: Latency of each round, in milliseconds, in order.

    Returns:
        True if they are; False also with fewer than twice ``SETTLED_ROUNDS`` rounds.
    """
    if len(calls_ms) < 2 * SETTLED_ROUNDS:
        return False
    last = float(np.median(calls_ms[-SETTLED_ROUNDS:]))
    before = float(np.median(calls_ms[-2 * SETTLED_ROUNDS : -SETTLED_ROUNDS]))
    return abs(last - before) <= SETTLED_SHARE * before


def ratio_of(base_ms: Sequence[float], calls_ms: Sequence[float]) -> float:
    """Compute the speed-up of ``calls_ms`` over ``base_ms``: the ratio of their medians."""
    return float(np.median(base_ms) / np.median(calls_ms))


def ratio_interval(base_ms: Sequence[float], calls_ms: Sequence[float]) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of ``ratio_of``.

    Whole rounds are drawn, both runners' calls of a round together: a slow round slows both, and
    so does not widen the interval.

    Args:
        base_ms: Latency of the baseline in each round, in milliseconds.
        calls_ms: Latency of the other runner in the same rounds, in milliseconds.

    Returns:
        Lower and upper end; (0, 0) with fewer than ``MIN_PAIRS`` rounds, or unequal numbers.
    """
    if len(base_ms) != len(calls_ms) or len(base_ms) < MIN_PAIRS:
        return 0.0, 0.0
    base, calls = np.asarray(base_ms), np.asarray(calls_ms)
    drawn = np.random.default_rng(0).integers(0, len(base), (RESAMPLES, len(base)))
    ratios = np.median(base[drawn], axis=1) / np.median(calls[drawn], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
