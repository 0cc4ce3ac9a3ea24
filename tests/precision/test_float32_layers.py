"""bfloat16 graphs, modules kept in float32, and what the plan shows of both."""

import functools

import numpy as np
import onnx
import pytest
import torch
from exported import CONFIGS, exported, make_graph, needs_rtx
from onnx import TensorProto, helper, numpy_helper

from exporters.engine.to_engine import build_engine
from exporters.errors import ExportError
from exporters.half_precision import FLOAT32_MODULES, precision_of, to_half
from exporters.plan import Kernel, KernelPlan
from exporters.plan.float32 import lost_float32, unwanted_float32
from exporters.spec import BatchProfile, EngineOptions, Precision
from swin_deploy.artifacts.engine_file import missing_precision

ROW = ("batch", 4)
MLP = ("layers.0.mlp.0", "layers.0.mlp.1", "layers.0.mlp.2")
RESIDUAL = ("layers.0", "layers.0.norm_before_attention", "layers.0.norm_before_mlp")
QUERY_KEY_VALUE = ("layers.0.attention", "layers.0.attention.bias", "layers.0.attention.heads")


def half_of(precision: Precision, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    return to_half(exported("blocks"), io_precision="fp32", precision=precision, keep=keep)


@functools.cache
def plan_of(precision: Precision, keep: tuple[str, ...]) -> KernelPlan:
    graph = half_of(precision, keep)
    return build_engine(graph, BatchProfile(2, 2, 2), options=EngineOptions("tensorrt-rtx")).plan


def scaled(values: list[float]) -> onnx.ModelProto:
    return make_graph(
        helper.make_node("Mul", ["images", "w"], ["y"], name="scale/Mul"),
        inputs={"images": ROW},
        outputs={"y": ROW},
        weights={"w": np.array(values, np.float32)},
    )


def test_bf16_weights_are_rounded_as_pytorch_rounds_them() -> None:
    values = [1.0, 1.00390625, 1.01171875, -3.14159]  # two ties, to even
    half = to_half(scaled(values), io_precision="fp32", precision="bf16")
    tensor = half.graph.initializer[0]
    assert tensor.data_type == TensorProto.BFLOAT16
    expected = torch.tensor(values).bfloat16().view(torch.int16).numpy().astype("<i2")
    assert tensor.raw_data == expected.tobytes()
    onnx.checker.check_model(half, full_check=True)
    assert precision_of(half) == "bf16"


@pytest.mark.parametrize("weight", [3.4e38, np.inf, np.nan])
def test_bf16_refuses_what_it_cannot_hold(weight: float) -> None:
    with pytest.raises(ExportError, match=r"^w holds .* of bfloat16; use float32"):
        to_half(scaled([1, weight, 1, 1]), io_precision="fp32", precision="bf16")
    with pytest.raises(ExportError, match="of float16; use float32"):
        to_half(scaled([1, 1e5, 1, 1]), io_precision="fp32")
    to_half(scaled([1, 1e5, 1, 1]), io_precision="fp32", precision="bf16")


@pytest.mark.parametrize("opset", [17, 20, 23])
def test_bf16_graph_is_valid_and_has_no_einsum(opset: int) -> None:
    graph = exported("blocks", opset=opset, precision="bf16")
    onnx.checker.check_model(graph, full_check=True)
    assert "Einsum" in {node.op_type for node in exported("blocks", opset=opset).graph.node}
    assert "Einsum" not in {node.op_type for node in graph.graph.node}
    kinds = {t.data_type for t in graph.graph.initializer if ".factor." not in t.name}
    assert kinds == {TensorProto.BFLOAT16, TensorProto.INT64}


def test_bf16_refuses_another_contraction() -> None:
    graph = make_graph(
        helper.make_node("Einsum", ["images", "w"], ["y"], name="sum/Einsum", equation="bc,dc->bd"),
        inputs={"images": ROW},
        outputs={"y": ROW},
        weights={"w": np.eye(4, dtype=np.float32)},
    )
    with pytest.raises(ExportError, match=r"^sum/Einsum contracts bc,dc->bd"):
        to_half(graph, io_precision="fp32", precision="bf16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_kept_modules_hold_their_weights_exactly(precision: Precision) -> None:
    graph = half_of(precision, MLP)
    onnx.checker.check_model(graph, full_check=True)
    single = {t.name: t for t in exported("blocks").graph.initializer}
    floats = [t for t in graph.graph.initializer if t.data_type == TensorProto.FLOAT]
    wide = [t for t in floats if ".factor." not in t.name]
    for tensor in wide:
        original = numpy_helper.to_array(single[tensor.name.removesuffix("/float")])
        assert np.array_equal(numpy_helper.to_array(tensor), original)
    dim = CONFIGS["blocks"].embed_dim
    assert sum(t.dims == [dim, 4 * dim] for t in wide) == 1
    # The kept modules hold most weights, and the graph is in half all the same.
    assert precision_of(graph) == precision


def test_unknown_module_is_refused() -> None:
    with pytest.raises(ExportError, match=r"no node of the graph belongs to layers\.9"):
        half_of("fp16", ("layers.9",))


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("keep", "wide_products"), [((), 0), (MLP, 2), (RESIDUAL, 0)], ids=["none", "mlp", "residual"]
)
def test_plan_delivers_islands(
    precision: Precision, keep: tuple[str, ...], wide_products: int
) -> None:
    plan = plan_of(precision, keep)
    assert missing_precision(plan, half_of(precision, keep)) == ()
    assert plan.fused_attention == plan.attention_blocks == 2
    gemms = [kernel for kernel in plan.kernels if kernel.kind == "gemm"]
    assert sum(bool(kernel.float32_constants) for kernel in gemms) == wide_products


@needs_rtx
def test_island_that_cuts_attention_is_not_delivered() -> None:
    graph = half_of("fp16", QUERY_KEY_VALUE)
    plan = plan_of("fp16", QUERY_KEY_VALUE)
    assert plan.fused_attention < 2
    assert any("attention would be fused" in one for one in missing_precision(plan, graph))


@needs_rtx
def test_plan_of_another_half_precision_is_not_delivered() -> None:
    plan, graph = plan_of("bf16", ()), half_of("fp16", ())
    (reason,) = missing_precision(plan, graph)
    assert "attention or matrix product kernels would not run in float16" in reason


def kernel(name: str, nodes: tuple[str, ...], wide: tuple[str, ...], constants: bool) -> Kernel:
    return Kernel(
        name=name,
        kind="attention" if "mha" in name else "gemm",
        layer_type="kgen",
        bytes_moved=8,
        half_bytes=4,
        float32_inputs=wide,
        onnx_nodes=nodes,
        float32_constants=wide if constants else (),
    )


@pytest.mark.parametrize(
    ("nodes", "wide", "constants", "unwanted", "lost"),
    [
        # As asked: the MLP's product in float32.
        (("layers.0.mlp.0/MatMul", "layers.0.mlp.0/Add"), ("w",), True, False, False),
        # The builder undid the casts.
        (("layers.0.mlp.0/MatMul", "layers.0.mlp.0/Add"), (), False, False, True),
        # Another product in float32.
        (("layers.0.attention.qkv/MatMul",), ("w",), True, True, True),
        # A product in half whose result is added to what is kept.
        (("embed.0.linear/MatMul", "layers.0.mlp.0/Add"), ("stream",), False, False, True),
        # The same with its weights in float32.
        (("embed.0.linear/MatMul", "layers.0.mlp.0/Add"), ("w",), True, True, True),
    ],
)
def test_float32_kernels_are_told_apart(
    nodes: tuple[str, ...], wide: tuple[str, ...], constants: bool, unwanted: bool, lost: bool
) -> None:
    graph = half_of("fp16", ("layers.0.mlp.0",))
    assert FLOAT32_MODULES in {entry.key for entry in graph.metadata_props}
    kernels = [kernel("gemm", nodes, wide, constants)]
    assert bool(unwanted_float32(kernels, graph)) == unwanted
    assert bool(lost_float32(kernels, graph)) == lost
    assert unwanted_float32([kernel("_mha", nodes, ("q",), False)], graph) == ("_mha",)
