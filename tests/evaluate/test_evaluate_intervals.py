import math
from collections.abc import Callable

import numpy as np
import pytest

from swin_deploy.intervals import (
    Interval,
    Z,
    images_to_show,
    paired_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_interval_is_the_published_one(
    right: int, images: int, low: float, high: float
) -> None:
    interval = wilson_interval(right, images)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@pytest.mark.parametrize(
    ("lost", "gained", "images", "low", "high"),
    [
        # Bentur et al. (2009) as computed by Fagerland, Lydersen and Laake (2014): -0.517, -0.026
        pytest.param(7, 1, 21, -0.517, -0.026, id="published"),
        # By hand: plus and minus 3.8415 / (360 + 3.8415).
        pytest.param(0, 0, 360, -0.011, 0.011, id="no-discordant"),
        pytest.param(21, 0, 21, -1.0, -0.691, id="all-lost"),
        pytest.param(0, 21, 21, 0.691, 1.0, id="all-gained"),
    ],
)
def test_paired_interval_known_values(
    lost: int, gained: int, images: int, low: float, high: float
) -> None:
    interval = paired_interval(lost, gained, images)
    assert (round(interval.low, 3), round(interval.high, 3)) == (low, high)


TABLES = [(7, 1, 21), (20, 40, 160), (3, 1, 360), (0, 3, 50), (5, 0, 360), (12, 4, 50_000)]


@pytest.mark.parametrize(("lost", "gained", "images"), TABLES)
def test_paired_interval_solves_the_quartic(lost: int, gained: int, images: int) -> None:
    """Yang, Sun and Hardin, Statistics in Medicine 32 (2013) 1336-1342: the ends as roots."""
    g, n, d, s = Z * Z, images, gained - lost, gained + lost
    roots = np.roots([
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ])  # fmt: skip
    real = roots[abs(roots.imag) < 1e-9].real
    interval = paired_interval(lost, gained, images)
    assert interval.low == pytest.approx(real.min(), abs=1e-9)
    assert interval.high == pytest.approx(real.max(), abs=1e-9)


@pytest.mark.parametrize(
    ("lost", "gained", "found"),
    [(4, 0, True), (3, 0, False), (12, 3, True), (11, 3, True), (10, 3, False)],
)
def test_paired_interval_excludes_zero_where_mcnemar_does(
    lost: int, gained: int, found: bool
) -> None:
    assert ((lost - gained) ** 2 / (lost + gained) > Z * Z) == found  # McNemar's statistic
    for images in (50, 50_000):
        assert (paired_interval(lost, gained, images).high < 0) == found
        assert (paired_interval(gained, lost, images).low > 0) == found


def test_paired_interval_is_mirrored() -> None:
    one, other = paired_interval(7, 2, 90), paired_interval(2, 7, 90)
    assert one.low == pytest.approx(-other.high)
    assert one.high == pytest.approx(-other.low)


def wald_interval(lost: int, gained: int, images: int) -> Interval:
    difference = (gained - lost) / images
    half = Z * math.sqrt(gained + lost - images * difference**2) / images
    return Interval(difference - half, difference + half)


def coverage(
    interval: Callable[[int, int, int], Interval], lost: float, gained: float, images: int
) -> float:
    """Chance that the interval holds the true difference, over every table of ``images``."""
    found = 0.0
    for a in range(images + 1):
        for b in range(images + 1 - a):
            ways = math.comb(images, a) * math.comb(images - a, b)
            chance = ways * lost**a * gained**b * (1 - lost - gained) ** (images - a - b)
            if chance > 1e-9:
                ends = interval(a, b, images)
                found += chance * (ends.low <= gained - lost <= ends.high)
    return found


RARE = [(0.02, 0.02), (0.05, 0.01), (0.1, 0.1), (0.2, 0.05)]


@pytest.mark.parametrize(("lost", "gained"), RARE)
def test_paired_interval_covers_the_truth(lost: float, gained: float) -> None:
    assert coverage(paired_interval, lost, gained, 40) >= 0.93


def test_coverage_check_rejects_the_textbook_interval() -> None:
    assert min(coverage(wald_interval, *rates, 40) for rates in RARE) < 0.9


@pytest.mark.parametrize("max_drop", [0.001, 0.005, 0.01, 0.1])
def test_images_to_show_are_just_enough(max_drop: float) -> None:
    enough = images_to_show(max_drop)
    assert paired_interval(0, 0, enough).low >= -max_drop
    assert paired_interval(0, 0, enough - 1).low < -max_drop
