"""Scales of 8-bit integers: against a search over the values themselves, and the ends of range."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.int8 import Affine, integer_weights
from swin_deploy.calibration.affine import affine_scale, squared_error
from swin_deploy.calibration.statistics import magnitudes_of

NORMAL = np.random.default_rng(0).standard_normal((1, 4000, 4)).astype(np.float32)
GELU = np.where(NORMAL > 0, NORMAL * 3, -0.17 * np.exp(-(NORMAL**2))).astype(np.float32)
OUTLIERS = np.concatenate((NORMAL, NORMAL[:, :1] * 0 + 30), axis=1)
CASES = {"normal": NORMAL, "gelu": GELU, "outliers": OUTLIERS, "positive": np.abs(NORMAL)}


def error(values: np.ndarray, affine: Affine) -> float:
    flat = values.reshape(-1).astype(np.float64)
    return squared_error(flat, np.ones(flat.size, np.int64), affine)


@pytest.mark.parametrize("name", CASES)
def test_affine_scale_loses_as_little_as_a_search_over_the_values(name: str) -> None:
    values = CASES[name]
    low, high = min(float(values.min()), 0.0), float(values.max())
    shares = np.linspace(0.05, 1, 20)
    steps = [((high * up - low * down) / 255, -low * down) for up in shares for down in shares]
    tried = [Affine(scale, round(least / scale)) for scale, least in steps]
    assert error(values, affine_scale(magnitudes_of(values))) <= 1.05 * min(
        error(values, one) for one in tried
    )


def test_affine_scale_of_positive_values_uses_all_integers() -> None:
    assert affine_scale(magnitudes_of(CASES["positive"])).zero_point == 0


@pytest.mark.parametrize("value", [0.0, 1e-40])
def test_affine_scale_of_nothing_is_usable(value: float) -> None:
    found = affine_scale(magnitudes_of(np.full((1, 3), value, np.float32)))
    assert 0 < found.scale < np.inf
    assert 0 <= found.zero_point <= 255


def test_integer_weights_are_within_half_a_step_of_each_output() -> None:
    weights = NORMAL[0, :8] * np.array([1, 10, 0, 1e-3], np.float32)
    integers, scales = integer_weights(weights, channel=1)
    assert np.abs(integers).max(axis=0).tolist() == [127, 127, 0, 127]
    assert np.all(np.abs(integers * scales - weights) <= scales * 0.501)
