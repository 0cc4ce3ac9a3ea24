"""The facts of every precision: one table, which all code that depends on a precision reads.

A new precision is a row here and a name in ``exporters.spec.Precision``, what ``half_precision``
must rewrite in its graph, and what was measured of it (``TOLERANCES`` of ``swin_deploy.parity``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporters.spec import Precision


@dataclass(frozen=True)
class PrecisionTraits:
    """One row of the table.

    Attributes:
        dtype: Type of weights and activations, as PyTorch, NumPy and ``ml_dtypes`` name it.
        onnx_type: Number of the type in ONNX (``TensorProto.DataType``).
        engine_type: Name of the type in TensorRT's ``DataType``.
        plan_type: Name of the type in the layer information of TensorRT's builder.
        bytes: Size of a value, in bytes.
        largest: The largest finite value.
        smallest_normal: The smallest value above 0 that keeps all digits.
        roundoff: The largest relative error of rounding a value.
        multiples: Multiples of PyTorch's own loss that a candidate may need, for relative L2 and
            for single values.
        edges: True if the input and outputs of a file may be in it.
        einsum: True if ONNX's Einsum takes it.
        ort_cpu: True if ONNX Runtime's CPU provider has kernels for it.
        carrier: Precision of the values that are not stored in this one; empty if all are.
        stores: Parts of a file that are in it, if not all are, in words.
        engines: True if engines are built in it.
    """

    dtype: str
    onnx_type: int
    engine_type: str
    plan_type: str
    bytes: int
    largest: float
    smallest_normal: float
    roundoff: float
    multiples: tuple[float, float]
    edges: bool = True
    einsum: bool = True
    ort_cpu: bool = True
    carrier: Precision | Literal[""] = ""
    stores: str = ""
    engines: bool = True


# Float32 comes first: it wins where a graph has as many weights in another precision. Multiples:
# both sides lose something against the float32 reference, in other places, so a right candidate
# needs about 1 to 2; single values scatter more, and in float32 so does V2 with its temperatures.
PRECISIONS: dict[Precision, PrecisionTraits] = {
    "fp32": PrecisionTraits(
        "float32", onnx_type=1, engine_type="FLOAT", plan_type="Float", bytes=4,
        largest=(2 - 2.0**-23) * 2.0**127, smallest_normal=2.0**-126, roundoff=2.0**-24,
        multiples=(5.0, 12.0),
    ),
    "fp16": PrecisionTraits(
        "float16", onnx_type=10, engine_type="HALF", plan_type="Half", bytes=2,
        largest=65504.0, smallest_normal=2.0**-14, roundoff=2.0**-11, multiples=(4.0, 6.0),
    ),
    "bf16": PrecisionTraits(
        "bfloat16", onnx_type=16, engine_type="BF16", plan_type="BFloat16", bytes=2,
        largest=(2 - 2.0**-7) * 2.0**127, smallest_normal=2.0**-126, roundoff=2.0**-8,
        multiples=(4.0, 6.0), edges=False, einsum=False, ort_cpu=False,
    ),
    # Weights first: with them rounded, too, there is more to fall back from.
    "fp8-weights": PrecisionTraits(
        "float8_e4m3fn", onnx_type=17, engine_type="FP8", plan_type="FP8", bytes=1,
        largest=448.0, smallest_normal=2.0**-6, roundoff=2.0**-4,
        multiples=(4.0, 6.0), edges=False, einsum=False, carrier="fp16",
        stores="inputs and weights of linear layers",
    ),
    "fp8": PrecisionTraits(
        "float8_e4m3fn", onnx_type=17, engine_type="FP8", plan_type="FP8", bytes=1,
        largest=448.0, smallest_normal=2.0**-6, roundoff=2.0**-4,
        multiples=(4.0, 6.0), edges=False, einsum=False, carrier="fp16",
        stores="inputs of linear layers",
    ),
    # Roundoff: that of a tensor's largest value. Fixed scales against one of each tensor need up to
    # 6.8 times as much for a value, most on noise that no calibration saw.
    "int8": PrecisionTraits(
        "int8", onnx_type=3, engine_type="INT8", plan_type="Int8", bytes=1,
        largest=127.0, smallest_normal=1.0, roundoff=2.0**-8, multiples=(5.0, 8.0),
        edges=False, einsum=False, engines=False,
    ),
}  # fmt: skip
# What a float32 graph is brought to for engines.
REDUCED: tuple[Precision, ...] = tuple(
    name for name, one in PRECISIONS.items() if name != "fp32" and one.engines
)
# Those of all values, and those of some.
HALVES: tuple[Precision, ...] = tuple(name for name in REDUCED if not PRECISIONS[name].carrier)
FP8_FORMS: tuple[Precision, ...] = tuple(name for name in REDUCED if PRECISIONS[name].carrier)
CALIBRATED: tuple[Precision, ...] = (*FP8_FORMS, "int8")  # those whose scales come from images
# Precisions of files that are laid out for CPUs, and why others are not.
CPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
NOT_ON_CPUS = (
    "files for CPUs are float32 or int8. ONNX Runtime's CPU provider computes float16 in float32, "
    "with casts, and runs no bfloat16; OpenVINO takes bfloat16 from a float32 file (--runner "
    "openvino-bf16). Leave --precision out"
)
INT8_ON_CPUS = (
    "int8 is for CPUs: in TensorRT's plans it saves 6 % of the bytes at best (docs/tuning.md, "
    "section J), and engines are built in half precision or float32"
)
EDGES = tuple(name for name, traits in PRECISIONS.items() if traits.edges)


def fallbacks(start: Precision) -> tuple[Precision, ...]:
    """List the precisions to try from ``start`` on, by rising size, then by rising roundoff."""
    built: tuple[Precision, ...] = ("fp32", *REDUCED)
    order = sorted(built, key=lambda name: (PRECISIONS[name].bytes, PRECISIONS[name].roundoff))
    return tuple(order[order.index(start) :])


def carrier_of(precision: Precision) -> Precision:
    """Return the precision of most values of a file: float16 for FP8, else its own."""
    return PRECISIONS[precision].carrier or precision


def kind_of(precision: Precision) -> str:
    """Return the type of a file's weights and activations in words."""
    traits = PRECISIONS[precision]
    if not traits.carrier:
        return traits.dtype
    return f"{PRECISIONS[traits.carrier].dtype} with {traits.stores} in {traits.dtype}"
