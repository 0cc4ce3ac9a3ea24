"""Histograms of absolute values, against NumPy on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest

from swin_deploy.calibration.statistics import BINS, centres, magnitudes_of

VALUES = (np.random.default_rng(0).standard_normal((3, 40, 8)) * 3).astype(np.float32)


def test_magnitudes_of_values_are_those_of_numpy() -> None:
    found = magnitudes_of(VALUES)
    sizes = np.abs(VALUES)
    np.testing.assert_array_equal(found.channels, sizes.max(axis=(0, 1)))
    assert (found.count, found.largest) == (VALUES.size, float(sizes.max()))
    repeated = np.repeat(centres()[: np.flatnonzero(found.counts)[-1] + 1],
                         found.counts[: np.flatnonzero(found.counts)[-1] + 1])  # fmt: skip
    np.testing.assert_allclose(repeated, np.sort(sizes.reshape(-1)), rtol=1 / 128)
    assert found.negative.sum() == (VALUES < 0).sum()
    assert np.all(found.negative <= found.counts)


@pytest.mark.parametrize("share", [0.5, 0.99, 0.999, 1.0])
def test_percentile_is_the_value_itself_or_the_end_of_its_bin(share: float) -> None:
    exact = float(np.quantile(np.abs(VALUES), share, method="inverted_cdf"))
    assert exact <= magnitudes_of(VALUES).percentile(share) <= exact * (1 + 1 / 128)


def test_joined_magnitudes_are_those_of_all_values() -> None:
    both = magnitudes_of(VALUES[:1]).joined(magnitudes_of(VALUES[1:]))
    whole = magnitudes_of(VALUES)
    np.testing.assert_array_equal(both.counts, whole.counts)
    np.testing.assert_array_equal(both.negative, whole.negative)
    np.testing.assert_array_equal(both.channels, whole.channels)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_largest_of_values_that_are_not_finite_is_not_finite(odd: float) -> None:
    found = magnitudes_of(np.array([[1.0, odd]], np.float32))
    assert not np.isfinite(found.largest)
    assert len(found.counts) == BINS


def test_magnitudes_of_zeros_have_no_size() -> None:
    found = magnitudes_of(np.zeros((2, 3), np.float32))
    assert (found.largest, found.percentile(0.99), found.count) == (0.0, 0.0, 6)
