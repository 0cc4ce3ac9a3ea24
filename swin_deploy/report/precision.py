"""Ranges and noise of a model's parts as tables, facts and JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from exporters.precisions import FP8_FORMS, kind_of
from swin_deploy.precision.diagnose import Diagnosis, Trial, is_noisy
from swin_deploy.precision.ranges import FLOAT16, OVERFLOW_SHARE, Activation, Part
from swin_deploy.report.numbers import error_text, percent_text
from swin_deploy.report.tables import Columns, Facts, Table, make_table

FP8_SCALES = "powers of two, of the largest values over these images, as in a file"
FIGURES = ("name", "max_abs", "headroom", "rms", "tiny_share", "noise")  # of a part, in JSON
RANGES: Columns[Part | Activation] = {
    "Largest": ("number", lambda one: f"{one.max_abs:.3g}"),
    "Headroom": ("number", lambda one: _headroom(one.headroom)),
    "RMS": ("number", lambda one: f"{one.rms:.3g}"),
    "Below normal": ("number", lambda one: percent_text(one.tiny_share)),
}


def _headroom(room: float) -> str:
    return f"{room:,.0f}x" if math.inf > room >= 100 else f"{room:.3g}x"


def part_table(diagnosis: Diagnosis) -> Table:
    """Return one row for each part."""
    columns: Columns[Part] = {
        "Part": ("code", lambda part: part.name),
        "At risk": ("text", lambda part: ", ".join(risks(part, diagnosis.fair_share)) or "-"),
        **RANGES,
        f"Noise {diagnosis.noise_precision}": (
            "number",
            lambda part: "-" if part.noise is None else error_text(part.noise),
        ),
        "Largest in": ("code", _place),
    }
    return make_table(diagnosis.parts, columns)


def activation_table(diagnosis: Diagnosis) -> Table:
    """Return one row for each operation, in the order of computation."""
    columns: Columns[Activation] = {"Activation": ("code", lambda one: one.name), **RANGES}
    found = [one for part in diagnosis.parts for one in part.activations]
    return make_table(sorted(found, key=lambda one: one.step), columns)


def risks(part: Part, fair_share: float) -> tuple[str, ...]:
    """Return the reasons why a part is at risk: ``overflow``, ``noise``, both or none.

    Infinite noise is that of an overflow and is not listed again.

    Args:
        part: The part.
        fair_share: Noise above which a part is at risk.
    """
    beyond = part.noise is not None and math.isinf(part.noise)
    found = {"overflow": part.overflows, "noise": is_noisy(part, fair_share) and not beyond}
    return tuple(word for word, true in found.items() if true)


def precision_facts(diagnosis: Diagnosis) -> Facts:
    """Return what was measured on what, the rules, and the whole models that were tried."""
    limit = OVERFLOW_SHARE * FLOAT16.largest
    kind = kind_of(diagnosis.noise_precision)
    return (
        ("Calibration", diagnosis.images),
        *([("FP8 scales", FP8_SCALES)] if diagnosis.noise_precision in FP8_FORMS else []),
        ("Overflow", f"a largest value above {limit:.0f}, half of float16's {FLOAT16.largest:.0f}"),
        (
            "Noise",
            f"largest output error, in units of its RMS, with this part alone in {kind}, emulated; "
            f"at risk above a fair share of what is allowed: {error_text(diagnosis.fair_share)}",
        ),
        ("Below normal", "share of values that are not 0 and below 6.1e-05, where digits are lost"),
        *(("Emulated", trial_text(trial)) for trial in diagnosis.trials),
    )


def trial_text(trial: Trial) -> str:
    """Return the error, limit and verdict of a whole model in half precision, in words."""
    kept = f", {', '.join(trial.keep)} in float32" if trial.keep else ""
    result = trial.result
    verdict = "pass" if result.passed else f"FAIL ({result.reason})"
    needed, allowed = error_text(result.needed_atol), error_text(result.tolerance.atol)
    return f"{kind_of(trial.precision)}{kept}: error {needed}, limit {allowed}: {verdict}"


def precision_to_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as JSON values; infinity and NaN become None."""
    return {
        "advice": diagnosis.advice,
        "precision": diagnosis.precision,
        "keep_float32": list(diagnosis.keep),
        "at_risk": list(diagnosis.at_risk),
        "noisy": list(diagnosis.noisy),
        "calibration": diagnosis.images,
        "overflow_limit": OVERFLOW_SHARE * FLOAT16.largest,
        "noise_precision": diagnosis.noise_precision,
        "fair_share": _finite(diagnosis.fair_share),
        "parts": [
            {
                **{name: _finite(getattr(part, name)) for name in FIGURES},
                "at_risk": list(risks(part, diagnosis.fair_share)),
                "activations": [
                    {key: _finite(value) for key, value in dataclasses.asdict(one).items()}
                    for one in part.activations
                ],
            }
            for part in diagnosis.parts
        ],
        "trials": [
            {
                "precision": trial.precision,
                "keep_float32": list(trial.keep),
                "passed": trial.result.passed,
                "needed_atol": _finite(trial.result.needed_atol),
                "allowed_atol": trial.result.tolerance.atol,
                "reason": trial.result.reason,
            }
            for trial in diagnosis.trials
        ],
    }


def _place(part: Part) -> str:
    """Return the name of the operation with the largest value, relative to its block."""
    block = ".".join(part.name.split(".")[:2])
    return part.largest.name.removeprefix(f"{block}.") if part.largest else "-"


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return None if isinstance(value, float) and not math.isfinite(value) else value
