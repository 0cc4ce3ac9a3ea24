"""The precision that a model can have, and the parts that must stay float32 for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from exporters.precisions import FP8_FORMS
from exporters.progress import Progress
from exporters.spec import Precision
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import ParityResult, Tolerance, tolerance_for
from swin_deploy.precision.fp8_scales import fp8_scales
from swin_deploy.precision.ranges import FLOAT16, Part, emulate, measure_noise, measure_ranges
from swin_deploy.runners.emulated import NOTHING

NOISE_IMAGES = 4  # one forward pass a part on each of them


@dataclass(frozen=True)
class Float32Layers:
    """The parts to keep in float32 in a float16 model.

    Attributes:
        keep: Names of the parts; empty if none can help.
        reason: The reason for these parts, or for none.
    """

    keep: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Trial:
    """A whole model in emulated half precision against itself in float32.

    Attributes:
        precision: One of ``REDUCED``.
        keep: Names of the parts that stay float32.
        result: Result of the worst output.
    """

    precision: Precision
    keep: tuple[str, ...]
    result: ParityResult


@dataclass(frozen=True)
class Diagnosis:
    """The measurements of a model's parts, and the precision that follows from them.

    Attributes:
        images: Description of the calibration images.
        noise_precision: Precision in which each part's noise was measured, one of ``REDUCED``.
        fair_share: Largest noise of a part that is not called noisy, in units of the outputs' RMS.
        parts: The parts, in the order computed.
        trials: Whole models, in the order tried; the last one passed, or none did.
        float32_layers: The parts to keep in float32 in a float16 model, and the reason.
    """

    images: str
    noise_precision: Precision
    fair_share: float
    parts: tuple[Part, ...]
    trials: tuple[Trial, ...]
    float32_layers: Float32Layers

    @property
    def precision(self) -> Precision:
        """The precision of the trial that passed; float32 if neither half precision did."""
        last = self.trials[-1]
        return last.precision if last.result.passed else "fp32"

    @property
    def keep(self) -> tuple[str, ...]:
        """Names of the parts to keep in float32 in that precision."""
        return self.trials[-1].keep if self.trials[-1].result.passed else ()

    @property
    def advice(self) -> str:
        """The advice to the user, in one sentence."""
        if self.precision == "fp32":
            return "use fp32: neither float16 nor bfloat16 is within tolerance"
        if self.precision == "bf16":
            return f"use bf16: in float16, {self.float32_layers.reason}"
        if self.keep:
            return f"keep {', '.join(self.keep)} in float32, the rest in fp16"
        if self.at_risk:
            return f"fp16 is within tolerance, but {', '.join(self.at_risk)} has little room"
        return "fp16 is safe"

    @property
    def at_risk(self) -> tuple[str, ...]:
        """Names of the parts with values near to float16's range or beyond it."""
        return tuple(part.name for part in self.parts if part.overflows)

    @property
    def noisy(self) -> tuple[str, ...]:
        """Names of the parts whose noise is above a fair share of the tolerance."""
        return tuple(part.name for part in self.parts if is_noisy(part, self.fair_share))


def fair_share(tolerance: Tolerance, parts: Sequence[Part]) -> float:
    """Compute the error that each of n parts may add: independent errors add up as squares.

    Args:
        tolerance: Tolerance of the whole model.
        parts: The n parts.

    Returns:
        The absolute tolerance divided by sqrt(n), in units of the outputs' RMS.
    """
    return tolerance.atol / math.sqrt(len(parts))


def is_noisy(part: Part, share: float) -> bool:
    """Tell whether a part's noise was measured and is above its share."""
    return part.noise is not None and not part.noise <= share


def diagnose(
    loaded: LoadedModel, images: ImageSet, *, noise_precision: Precision, progress: Progress
) -> Diagnosis:
    """Measure every part of a model on calibration images, and try whole models in half.

    Args:
        loaded: The model.
        images: The calibration images; the first ``NOISE_IMAGES`` are also for noise and trials.
        noise_precision: Precision in which each part's noise is measured, one of ``REDUCED``; in
            FP8 at the scales of these images.
        progress: Function that is told each step before it runs.
    """
    model = loaded.deploy
    few = images.images[:NOISE_IMAGES]
    noise_tolerance = _tolerance(loaded, noise_precision)
    parts = measure_ranges(model, images.images, progress=progress)
    of_fp8 = noise_precision in FP8_FORMS
    stored = fp8_scales(loaded, images.images, noise_precision) if of_fp8 else NOTHING
    noise = measure_noise(model, few, precision=noise_precision, stored=stored, progress=progress)
    parts = tuple(dataclasses.replace(part, noise=noise[part.name]) for part in parts)
    trials: list[Trial] = []

    def passes(precision: Precision, keep: tuple[str, ...] = ()) -> bool:
        progress(f"the whole model in {precision}")
        tolerance = _tolerance(loaded, precision)
        result = emulate(
            model,
            few,
            precision=precision,
            tolerance=tolerance,
            keep=keep,
            stored=stored if precision == noise_precision else NOTHING,
        )
        trials.append(Trial(precision, keep, result))
        return result.passed

    if of_fp8:
        passes(noise_precision)  # shown, and no advice: FP8 is an option, not a default
    float32_layers = Float32Layers((), "nothing is at risk")
    if not passes("fp16"):
        if noise_precision != "fp16":  # what float16 loses decides what float16 should keep
            noise = measure_noise(model, few, precision="fp16", progress=progress)
        judged = [dataclasses.replace(part, noise=noise[part.name]) for part in parts]
        share = fair_share(_tolerance(loaded, "fp16"), parts)
        float32_layers = choose_float32_layers(judged, share=share)
        if not (float32_layers.keep and passes("fp16", float32_layers.keep)):
            passes("bf16")
    return Diagnosis(
        images=images.description,
        noise_precision=noise_precision,
        fair_share=fair_share(noise_tolerance, parts),
        parts=parts,
        trials=tuple(trials),
        float32_layers=float32_layers,
    )


def choose_float32_layers(parts: Sequence[Part], *, share: float) -> Float32Layers:
    """Choose the parts that a float16 model which is out of tolerance should keep in float32.

    These are the parts with values near to float16's range or beyond it; if there are none, those
    whose noise is above a fair share. Attention cannot be kept, so if it overflows nothing helps.

    Args:
        parts: The parts, from ``measure_ranges``, with their noise in float16 unless one overflows.
        share: Largest noise of a part, from ``fair_share``.
    """
    risky = [part for part in parts if part.overflows]
    for part in risky:
        if part.max_abs > FLOAT16.largest and not part.keepable:
            where = part.largest.name if part.largest else part.name
            return Float32Layers(
                (),
                f"{where} reaches {part.max_abs:.3g}, beyond {FLOAT16.largest:.0f}, and attention "
                "must stay in half to be fused",
            )
    noisy = [part for part in parts if is_noisy(part, share)]
    keep = [part for part in risky or noisy if part.keepable]
    if not keep:
        return Float32Layers(
            (), "no single part explains the error" if not noisy else _names(noisy)
        )
    word = "float16's range is too small for" if risky else "float16 is too coarse for"
    return Float32Layers(
        tuple(part.name for part in keep), f"{word} {', '.join(p.name for p in keep)}"
    )


def _names(noisy: Sequence[Part]) -> str:
    return f"{', '.join(part.name for part in noisy)} loses too much, and must stay in half"


def _tolerance(loaded: LoadedModel, precision: Precision) -> Tolerance:
    return tolerance_for("onnx", precision, family=loaded.config.family)
