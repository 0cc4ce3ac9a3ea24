"""Compare what two stages compute for the same images, and judge the difference.

=================  ==============================================================================
``checks``         limits as values: the noise floor, a tolerance, one rule applied
``results``        findings as values: results, first faults, hops, the report
``tolerances``     how much is allowed: ceilings, and multiples of the floor
``compare``        two outputs against a tolerance
``samples``        a few images with what each model sees in them
``drift``          distance of a candidate's tokens from the reference's along the model, with
                   the noise there
``judge``          run every stage on the same images and judge each against the reference
``fp8_noise``      the reference with what it would store in FP8 rounded
``localize``       find the part and the operation where a candidate that failed goes wrong first
``points``         places along the model where tokens are compared, and each side's token order
``reference_run``  run the reference once: its outputs, intermediate tokens and noise floor
``run``            compare a model and every file made from it with the reference
``sample_images``  choose a few images to show, with the reference's and each candidate's answers
=================  ==============================================================================

One rule: ``|a - b| <= atol + rtol * |b|`` in float64, after both sides are divided by the
reference's RMS, so that small outputs cannot pass by being small; and a limit on ||a - b|| / ||b||.
The limits come from what PyTorch itself loses in the same precision on the same images.
"""

from swin_deploy.parity.checks import Check, NoiseFloor, Tolerance
from swin_deploy.parity.compare import compare, measure_floor, second_opinion
from swin_deploy.parity.results import (
    Case,
    ComparedImages,
    DriftPoint,
    FirstFault,
    Hop,
    ParityReport,
    ParityResult,
    Place,
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
