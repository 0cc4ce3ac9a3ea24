"""Absolute values of a tensor over many images: their histogram, and the largest of each channel.

The histogram needs no range in advance: its bins are the float32 numbers of 8 significant bits, so
each is 1/128 of its values wide at most, and those of two images are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DROPPED = 16  # last bits of a float32 number that a bin leaves open
BINS = 1 << (31 - DROPPED)


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """Absolute values that a linear layer read.

    Attributes:
        counts: Number of values in each bin, [BINS], int64; ``centres`` has the bins' middles.
        negative: Number of those that are below 0, [BINS], int64.
        channels: The largest value of each channel, [C], float32.
    """

    counts: NDArray[np.int64]
    negative: NDArray[np.int64]
    channels: NDArray[np.float32]

    @property
    def largest(self) -> float:
        """The largest value; NaN or infinity if one is."""
        return float(np.max(self.channels, initial=0.0))

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def joined(self, other: Magnitudes) -> Magnitudes:
        """Return the magnitudes of the values of both, of as many channels."""
        return Magnitudes(
            self.counts + other.counts,
            self.negative + other.negative,
            np.maximum(self.channels, other.channels),
        )

    def percentile(self, share: float) -> float:
        """Return the value that a share of all values, from 0 to 1, does not exceed.

        It is the upper end of a bin, so up to 1/128 more than the value itself, but never more than
        the largest.
        """
        wanted = share * self.count
        bin_number = int(np.searchsorted(np.cumsum(self.counts), wanted))
        return min(float(_numbers(np.array([bin_number + 1]))[0]), self.largest)


def magnitudes_of(values: NDArray[np.float32]) -> Magnitudes:
    """Measure values whose last axis is that of the channels, [..., C]."""
    given = np.ascontiguousarray(values, np.float32)
    signed = np.bincount((given.view(np.uint32) >> DROPPED).reshape(-1), minlength=2 * BINS)
    positive, negative = signed.astype(np.int64).reshape(2, BINS)  # the sign is the first bit
    channels = np.abs(given).reshape(-1, values.shape[-1]).max(axis=0)
    return Magnitudes(positive + negative, negative, channels)


def centres() -> NDArray[np.float32]:
    """Return the middle of each bin, [BINS]; those of infinity and beyond are not finite."""
    bins = np.arange(BINS, dtype=np.uint32)
    return ((bins << DROPPED) | (1 << (DROPPED - 1))).astype(np.uint32).view(np.float32)


def _numbers(bins: NDArray[np.int64]) -> NDArray[np.float32]:
    return (bins.astype(np.uint32) << DROPPED).astype(np.uint32).view(np.float32)
