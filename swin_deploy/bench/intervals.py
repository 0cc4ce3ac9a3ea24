"""How sure a ratio of two runners is, and when a latency has settled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SETTLED_ROUNDS = 5
SETTLED_SHARE = 0.02
RESAMPLES = 1000
CONFIDENCE = 0.95
MIN_PAIRS = 8  # with fewer rounds a resampled median is one of a handful of values


def is_settled(calls_ms: Sequence[float]) -> bool:
    """Whether the median of the last ``SETTLED_ROUNDS`` is within 2 % of that before them."""
    if len(calls_ms) < 2 * SETTLED_ROUNDS:
        return False
    last = float(np.median(calls_ms[-SETTLED_ROUNDS:]))
    before = float(np.median(calls_ms[-2 * SETTLED_ROUNDS : -SETTLED_ROUNDS]))
    return abs(last - before) <= SETTLED_SHARE * before


def ratio_of(base_ms: Sequence[float], calls_ms: Sequence[float]) -> float:
    """How many times faster ``calls_ms`` is than ``base_ms``: the ratio of their medians."""
    return float(np.median(base_ms) / np.median(calls_ms))


def ratio_interval(base_ms: Sequence[float], calls_ms: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of ``ratio_of``.

    Whole rounds are drawn, both runners' calls of a round together: what slows a round down slows
    both, and so does not widen the interval.

    Args:
        base_ms: Latency of the baseline in each round.
        calls_ms: Latency of the other in the same rounds.

    Returns:
        Lower and upper end; (0, 0) with fewer than ``MIN_PAIRS`` rounds.
    """
    if len(base_ms) != len(calls_ms) or len(base_ms) < MIN_PAIRS:
        return 0.0, 0.0
    base, calls = np.asarray(base_ms), np.asarray(calls_ms)
    drawn = np.random.default_rng(0).integers(0, len(base), (RESAMPLES, len(base)))
    ratios = np.median(base[drawn], axis=1) / np.median(calls[drawn], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
