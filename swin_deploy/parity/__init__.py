"""Compare what two stages compute for the same images, and judge the difference.

One rule: ``|a - b| <= atol + rtol * |b|`` in float64, after both sides are divided by the
reference's RMS, so that small outputs cannot pass by being small; and a limit on ||a - b|| / ||b||.
What is allowed comes from what PyTorch itself loses in the same precision on the same images.

==============  =====================================================
``results``     the values: tolerances, results, hops, the report
``tolerances``  how much is allowed: ceilings, and multiples of the floor
``compare``     two outputs against a tolerance
``samples``     a few images with what each model sees in them
==============  =====================================================
"""

from swin_deploy.parity.compare import compare, measure_floor, second_opinion
from swin_deploy.parity.results import (
    Check,
    DriftPoint,
    Floor,
    Hop,
    ParityReport,
    ParityResult,
    Tolerance,
)
from swin_deploy.parity.samples import Answer, Guess, Sample
from swin_deploy.parity.tolerances import TOLERANCES, limits, tolerance_for, without_ceiling

__all__ = [
    "TOLERANCES",
    "Answer",
    "Check",
    "DriftPoint",
    "Floor",
    "Guess",
    "Hop",
    "ParityReport",
    "ParityResult",
    "Sample",
    "Tolerance",
    "compare",
    "limits",
    "measure_floor",
    "second_opinion",
    "tolerance_for",
    "without_ceiling",
]
