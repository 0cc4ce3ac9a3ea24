"""Limits on the error: a multiple of PyTorch's own noise floor, and never more than a ceiling.

``docs/parity.md`` has the measurements that the multiples come from.
"""

from __future__ import annotations

import dataclasses

from exporters.precisions import PRECISIONS, carrier_of
from exporters.spec import Precision, Stage
from swin_deploy.parity.checks import NoiseFloor, Tolerance

_BEYOND_REACH = 1e9  # in units of the RMS
FEW_VALUES = 32  # of an output on the images of its noise: fewer than 4 classes on 8 images

_MEASURED = "measured on a CPU: needs at most {} with random and outlier weights"
_BFLOAT16 = "measured on a CPU: needs at most 5.2e-2 with initial and random weights"
_OPENVINO = "measured on a CPU in OpenVINO: needs at most 9.4e-2 with initial and random weights"
_ON_A_GPU = "measured on an H200: needs at most 1.4e-2 with random weights"
_FP8 = "measured on a CPU: needs at most 3.0e-1 with initial and random weights"
_FP8_WEIGHTS = "measured on a CPU: needs at most 3.9e-1 with initial and random weights"
_INT8 = "measured on a CPU: needs at most 2.9e-1 with random weights"
_NOT_MEASURED = "assumed: not measured on a GPU yet"

# The only copy, by stage and precision. Each comment has the largest atol needed at this rtol, on
# what, and the margin. Measured with PyTorch 2.13 and ONNX Runtime 1.31.1 on a two-core CPU, on
# noise and on smooth images, over three sizes: "S" is 56 pixels, 32 channels, depths 2-2; "M" is
# 112 pixels, 64 channels, depths 2-2-2; "T" is the notebook's Swin-T at 224 pixels. Three kinds of
# weights: initial; random (weights times 1.5, norms and biases random); outlier (random, and 1 in
# 64 channels with ten times the norm's gain and 20 more in the MLP's bias).
TOLERANCES: dict[tuple[Stage, Precision], Tolerance] = {
    # The original library's own model against the reference: 5.2e-6 (transformers' Swin-B, stage
    # maps of extreme images): margin 19, as transformers adds up in another order; timm's and
    # torchvision's models are bit-equal to it. A wrong reading needs far more than the noise.
    ("original", "fp32"): Tolerance(1e-4, 1e-4, None, _MEASURED.format("5.2e-6")),
    # 4.1e-6 (M, outlier), 3.3e-6 (T, random): margin 2.4.
    ("deploy", "fp32"): Tolerance(1e-5, 1e-5, None, _MEASURED.format("4.1e-6")),
    # 3.1e-6 (T, initial): margin 32; other processors and providers were not measured.
    ("onnx", "fp32"): Tolerance(1e-4, 1e-4, None, _MEASURED.format("3.1e-6")),
    # Not measured without TF32; with it, as TensorRT has it by default, 2.5e-3 on an H200.
    ("engine", "fp32"): Tolerance(1e-3, 1e-3, None, _NOT_MEASURED),
    # PyTorch's own half precision, the noise floor of the others: 6.9e-3 (S, outlier), 6.5e-3
    # (T, initial): margin 2.9. Cosine at least 0.9999988 (S, random).
    ("deploy", "fp16"): Tolerance(2e-2, 1e-2, 0.9995, _MEASURED.format("6.9e-3")),
    # 4.6e-3 (T, random): margin 4.3. Cosine at least 0.9999989 (S with a head, outlier).
    ("onnx", "fp16"): Tolerance(2e-2, 1e-2, 0.9995, _MEASURED.format("4.6e-3")),
    # TensorRT-RTX 1.6.1 on an H200, four models at full size (docs/results): 1.4e-2 (the
    # notebook's Swin-T): margin 1.4. At most 2.1 and 2.5 x the noise, where 4 and 6 are allowed.
    # Cosine at least 0.9999956.
    ("engine", "fp16"): Tolerance(2e-2, 1e-2, 0.9995, _ON_A_GPU),
    # bfloat16 has 8 significant bits where float16 has 11: 5.2e-2 (T, initial), 4.8e-2 (T, random),
    # 8 to 11 times what float16 needs: margin 3.1. Cosine at least 0.99992 (T, initial).
    ("deploy", "bf16"): Tolerance(1.6e-1, 1e-2, 0.998, _BFLOAT16),
    # OpenVINO 2026.4.1 in bfloat16 (ONNX Runtime has no kernels for it), sizes S and M, files for
    # CPUs: 9.4e-2 (S, V2, initial), V1 and the notebook's at most 3.7e-2 (M, random): margin 1.7.
    # Outlier weights need up to 2.1e-1 (S, the notebook's). Cosine at least 0.99987.
    ("onnx", "bf16"): Tolerance(1.6e-1, 1e-2, 0.998, _OPENVINO),
    # Not measured: engines need a GPU.
    ("engine", "bf16"): Tolerance(1.6e-1, 1e-2, 0.998, _NOT_MEASURED),
    # Inputs of linear layers in FP8: 3.0e-1 (tokens of a V2 of 32 pixels, extreme images; outputs
    # 2.7e-1, M, V2, initial): margin 2.0. Cosine at least 0.9950 (S, V2, initial). One of five V2
    # of size S with outlier weights needs 5.4e-1 and a cosine of 0.97: it fails.
    ("deploy", "fp8"): Tolerance(6e-1, 1e-2, 0.99, _FP8),
    ("onnx", "fp8"): Tolerance(6e-1, 1e-2, 0.99, _FP8),
    ("engine", "fp8"): Tolerance(6e-1, 1e-2, 0.99, _NOT_MEASURED),
    # Their weights, too: 3.9e-1 (S, V2, initial): margin 1.5. Cosine at least 0.975 (5
    # classes at 32 pixels, extreme images).
    ("deploy", "fp8-weights"): Tolerance(6e-1, 1e-2, 0.95, _FP8_WEIGHTS),
    ("onnx", "fp8-weights"): Tolerance(6e-1, 1e-2, 0.95, _FP8_WEIGHTS),
    ("engine", "fp8-weights"): Tolerance(6e-1, 1e-2, 0.95, _NOT_MEASURED),
    # Integers of fixed scales: 2.9e-1 (Swin-T, trained-like weights, extreme images): margin 2.0.
    # Cosine at least 0.992 (a small V1 on extreme images).
    ("deploy", "int8"): Tolerance(6e-1, 1e-2, 0.98, _INT8),
    ("onnx", "int8"): Tolerance(6e-1, 1e-2, 0.98, _INT8),
}
# V2 multiplies cosines, and so their rounding, by up to 100: with temperatures at that limit the
# authors' model itself is 4.2e-5 from its own float64 values, and the deploy model, which rounds in
# other places, 7.9e-5 from it (stage maps of swinv2_tiny_window8_256): margin 5.
_V2 = Tolerance(
    4e-4, 1e-4, None, "measured on a CPU: needs at most 7.9e-5 with temperatures of 100"
)
FAMILY_TOLERANCES: dict[tuple[str, Stage, Precision], Tolerance] = {
    ("swinv2", "original", "fp32"): _V2,
    ("swinv2", "deploy", "fp32"): _V2,
    ("swinv2", "onnx", "fp32"): _V2,
}


def tolerance_for(stage: Stage, precision: Precision, *, family: str) -> Tolerance:
    """Return the ceiling of a stage and precision; some families have their own.

    Args:
        stage: Kind of the candidate.
        precision: Precision of the candidate.
        family: Family of the model, such as ``swinv2``.

    Raises:
        KeyError: If there is no tolerance for this stage and precision.
    """
    return FAMILY_TOLERANCES.get((family, stage, precision)) or TOLERANCES[stage, precision]


def without_ceiling(ceiling: Tolerance) -> Tolerance:
    """Remove the ceiling; keep ``rtol`` over ``atol``, which weights the errors.

    Intermediate tensors are judged against the noise floor only: ceilings apply to model outputs.
    """
    weight = ceiling.rtol / ceiling.atol
    return dataclasses.replace(
        ceiling, atol=_BEYOND_REACH, rtol=_BEYOND_REACH * weight, min_cosine=None
    )


def limits(
    ceiling: Tolerance,
    floor: NoiseFloor | None,
    *,
    precision: Precision,
    spread: float = 1.0,
    values: int = FEW_VALUES,
) -> Tolerance:
    """Return the tolerance of a candidate, from a ceiling and a floor measured in the same run.

    1. Without a floor, or where PyTorch itself overflows, the ceiling alone decides.
    2. Otherwise the floor's multiples decide, up to the ceiling; ``rtol`` shrinks with ``atol``.
    3. The relative L2 of few values, as of one class's logits, averages nothing: it is allowed the
       multiple of a value. Its own failed 1 of 20 right ONNX files of one class in float32.

    Args:
        ceiling: The most that is allowed.
        floor: Noise floor on the same images; None if it was not measured.
        precision: Precision of the candidate.
        spread: Factor that widens the floor multiples for this image set.
        values: Number of values that the floor was measured on.
    """
    if floor is None or not floor.is_finite:  # 1
        return dataclasses.replace(ceiling, floor=floor)
    traits = PRECISIONS[precision]  # 2
    # Rounding an output once: no floor is taken to be lower.
    unit = PRECISIONS[carrier_of(precision)].roundoff
    times_l2, times = (spread * multiple for multiple in traits.multiples)
    times_l2 = times if values < FEW_VALUES else times_l2  # 3
    atol = times * max(floor.atol, unit)
    relative_l2 = times_l2 * max(floor.relative_l2, unit)
    bounded = ceiling.atol < _BEYOND_REACH
    most = f", at most {ceiling.atol:g} ({ceiling.source})" if bounded else ", on the way"
    return dataclasses.replace(
        ceiling,
        atol=min(ceiling.atol, atol),
        rtol=ceiling.rtol * min(1.0, atol / ceiling.atol),
        relative_l2=min(ceiling.atol, relative_l2),
        floor=floor,
        source=f"{times:g} x noise for a value, {times_l2:g} x for relative L2{most}",
        atol_multiple=None if atol > ceiling.atol else times,
        l2_multiple=None if relative_l2 > ceiling.atol else times_l2,
    )
