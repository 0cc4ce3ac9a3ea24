"""What a plan must show of a graph that stores values in FP8, on plans made by hand."""

from __future__ import annotations

import onnx
import pytest
from families import loaded

from exporters.half_precision import to_half
from exporters.plan import Kernel, KernelPlan
from exporters.plan.fp8 import lost_fp8
from exporters.quantisation import Fp8Product, quantise
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.engine_file import missing_precision
from swin_deploy.deploy.fold import fold

STORED = ("layers.0.mlp.2", "layers.1.mlp.2")


@pytest.fixture(scope="module")
def half() -> onnx.ModelProto:
    model = loaded("swin")
    spec = ExportSpec((3, *model.config.image), model.config.output_names, opset=19)
    return to_half(export_onnx(fold(model.reference), spec, metadata={}), io_precision="fp32")


@pytest.fixture(scope="module")
def graph(half: onnx.ModelProto) -> onnx.ModelProto:
    stored = onnx.ModelProto()
    stored.CopyFrom(half)
    quantise(stored, [Fp8Product(path, 4.0) for path in STORED])
    return stored


def kernel(*nodes: str, kind: str = "gemm", fp8: bool = True) -> Kernel:
    return Kernel(
        name=f"_{kind}",
        kind=kind,
        layer_type="kgen",
        bytes_moved=8,
        half_bytes=4,
        float32_inputs=(),
        onnx_nodes=nodes,
        bytes_by_type={"FP16": 4, "FP8": 4},
        fp8_inputs=("x",) if fp8 else (),
    )


FIRST, SECOND = (f"{path}/MatMul" for path in STORED)


@pytest.mark.parametrize(
    ("kernels", "lost"),
    [
        ([kernel(FIRST), kernel(SECOND)], ()),
        ([kernel(FIRST, SECOND)], ()),
        ([kernel(FIRST), kernel(SECOND, fp8=False)], STORED[1:]),
        ([kernel(FIRST)], STORED[1:]),
        ([kernel(FIRST, kind="copy"), kernel(SECOND)], STORED[:1]),
        ([kernel(FIRST, fp8=False), kernel("layers.0.mlp.0/MatMul")], STORED),
        ([], STORED),
    ],
    ids=["each", "one kernel", "half", "no kernel", "a copy", "another product", "none"],
)
def test_lost_fp8_names_products_that_no_kernel_reads_in_fp8(
    kernels: list[Kernel], lost: tuple[str, ...], graph: onnx.ModelProto
) -> None:
    assert lost_fp8(kernels, graph) == lost
    plan = KernelPlan(8, 0, tuple(kernels), "tensorrt-rtx", "1.7.1", lost_fp8=lost)
    reasons = missing_precision(plan, graph)
    assert len(reasons) == bool(lost)
    assert all(f"{len(lost)} products that read FP8 in the graph would not" in r for r in reasons)


def test_lost_fp8_of_a_graph_without_fp8_is_nothing(half: onnx.ModelProto) -> None:
    assert lost_fp8([kernel(FIRST, fp8=False)], half) == ()


@pytest.mark.parametrize("fused", [2, 1, 0])
def test_missing_precision_of_unfused_attention_in_fp8_is_a_reason(
    fused: int, graph: onnx.ModelProto, half: onnx.ModelProto
) -> None:
    kernels = (kernel(FIRST), kernel(SECOND), *[kernel(kind="attention", fp8=False)] * fused)
    plan = KernelPlan(8, 2, kernels, "tensorrt-rtx", "1.7.1")
    expected = () if fused == 2 else (f"attention would be fused in {fused} of 2 blocks only",)
    assert missing_precision(plan, graph) == expected
    assert missing_precision(plan, half) == ()  # half precision alone splits nothing
