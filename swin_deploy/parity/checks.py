"""Limits of parity as values: the noise floor, a tolerance, and one rule applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Figure = Literal["max_error", "relative_l2", "cosine", "values"]
FIGURES: dict[Figure, str] = {
    "max_error": "max error",
    "relative_l2": "relative L2",
    "cosine": "1 - cosine",
    "values": "values",
}


@dataclass(frozen=True)
class NoiseFloor:
    """Error of PyTorch itself when the reference runs in a candidate's precision.

    Both figures are infinite where the reference overflows in that precision.

    Attributes:
        atol: Largest error, weighted as ``ParityResult.needed_atol``.
        relative_l2: Relative L2 error, ||a - b|| / ||b|| over all values.
        source: The two runs that are compared, in words.
    """

    atol: float
    relative_l2: float
    source: str

    @property
    def is_finite(self) -> bool:
        """True if both figures are finite, so that there is a floor to compare with."""
        return math.isfinite(self.atol) and math.isfinite(self.relative_l2)


@dataclass(frozen=True)
class Tolerance:
    """``|a - b| <= atol + rtol * |b|`` after both are divided by the reference's RMS.

    Attributes:
        atol: Largest error where the reference is zero.
        rtol: Growth of that error with the reference's size.
        min_cosine: Smallest cosine similarity of a row; None where none is asked for.
        source: Origin of the numbers, for the report.
        relative_l2: Largest ||a - b|| / ||b|| allowed; None where no floor was measured.
        floor: Floor of which ``atol`` and ``relative_l2`` are multiples; None for ceilings alone.
        atol_multiple: ``atol`` as a multiple of the floor; None where it is the ceiling.
        l2_multiple: ``relative_l2`` as a multiple of the floor; None where it is the ceiling.
    """

    atol: float
    rtol: float
    min_cosine: float | None
    source: str
    relative_l2: float | None = None
    floor: NoiseFloor | None = None
    atol_multiple: float | None = None
    l2_multiple: float | None = None

    @property
    def atol_rule(self) -> str:
        """The origin of ``atol``: ``ceiling`` or ``4 x noise``."""
        return _limit_text(self.atol_multiple)

    @property
    def l2_rule(self) -> str:
        """The origin of ``relative_l2``: ``ceiling`` or ``3 x noise``."""
        return _limit_text(self.l2_multiple)


def _limit_text(multiple: float | None) -> str:
    return "ceiling" if multiple is None else f"{multiple:g} x noise"


@dataclass(frozen=True)
class Check:
    """One rule applied to one result: it holds when ``needed <= allowed``.

    Attributes:
        figure: Figure that is limited; ``cosine`` stands for 1 - cosine, ``values`` for values
            that are not finite.
        needed: Value that the candidate needs.
        floor: Value that PyTorch itself loses; None where it was not measured or the rule has none.
        allowed: The limit.
        multiple: The limit as a multiple of the floor; None where it is the ceiling.
    """

    figure: Figure
    needed: float
    floor: float | None
    allowed: float
    multiple: float | None = None

    @property
    def rule(self) -> str:
        """Name for people, such as ``relative L2, 3 x noise``."""
        if self.figure == "values":
            return "values"
        return f"{FIGURES[self.figure]}, {_limit_text(self.multiple)}"

    @property
    def passed(self) -> bool:
        """True if the value is within the limit; False for a NaN."""
        return self.needed <= self.allowed

    @property
    def share(self) -> float:
        """The share of the limit that is needed: 1 is at the limit."""
        share = self.needed / self.allowed if self.allowed else math.inf
        return math.inf if math.isnan(share) else share
