"""Compare what two stages compute for the same images, and judge the difference.

=================  ==============================================================================
``results``        the values: tolerances, results, hops, the report
``tolerances``     how much is allowed: ceilings, and multiples of the floor
``compare``        two outputs against a tolerance
``samples``        a few images with what each model sees in them
``drift``          how far a candidate's tokens are from the reference's along the model, beside
                   the noise there
``judge``          run every stage on the same images and judge each against the reference
``localize``       say where a candidate that failed goes wrong first
``points``         where the tokens are compared along the model, and in which order each side
                   holds them
``reference_run``  what the reference computes, once for all candidates
``run``            prove a model and every file made from it
``sample_images``  choose a few images to show, and say what the reference and each candidate see
                   in them
=================  ==============================================================================

One rule: ``|a - b| <= atol + rtol * |b|`` in float64, after both sides are divided by the
reference's RMS, so that small outputs cannot pass by being small; and a limit on ||a - b|| / ||b||.
What is allowed comes from what PyTorch itself loses in the same precision on the same images.
"""

from swin_deploy.parity.compare import compare, measure_floor, second_opinion
from swin_deploy.parity.results import (
    Case,
    Check,
    ComparedImages,
    DriftPoint,
    FirstFault,
    Hop,
    NoiseFloor,
    ParityReport,
    ParityResult,
    Place,
    Tolerance,
)
from swin_deploy.parity.samples import Answer, Guess, Sample
from swin_deploy.parity.tolerances import TOLERANCES, limits, tolerance_for, without_ceiling

__all__ = [
    "TOLERANCES",
    "Answer",
    "Case",
    "Check",
    "ComparedImages",
    "DriftPoint",
    "FirstFault",
    "Guess",
    "Hop",
    "NoiseFloor",
    "ParityReport",
    "ParityResult",
    "Place",
    "Sample",
    "Tolerance",
    "compare",
    "limits",
    "measure_floor",
    "second_opinion",
    "tolerance_for",
    "without_ceiling",
]
