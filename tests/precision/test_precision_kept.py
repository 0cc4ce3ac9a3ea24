"""Modules with ``keep_float32`` in a half-precision graph: V2's cosine normalisation."""

import functools

import numpy as np
import onnx
import pytest
import torch
from conftest import rms_error, seeded_images
from exported import copy_of, run_onnx
from onnx import TensorProto, numpy_helper
from peers import trained_like
from torch import Tensor, nn

from exporters.half_precision import FLOAT32_MODULES, to_half
from exporters.spec import ExportSpec, Precision
from exporters.to_onnx import export_onnx
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference
from swin_deploy.runners.emulated import Emulated

V2 = SwinConfig(
    family="swinv2",
    img_size=32,
    window_size=4,
    embed_dim=32,
    depths=(2, 2),
    num_heads=(2, 4),
    num_classes=10,
)
TINY_NUMBER = 1e-12  # 0 in float16


class Normalize(nn.Module):
    """The rows of images over their length; ``shared`` is a weight of the outer module too."""

    keep_float32 = True
    shared: Tensor
    own: Tensor

    def __init__(self, shared: Tensor) -> None:
        super().__init__()
        self.register_buffer("shared", shared)
        self.register_buffer("own", torch.tensor([1.0, 2.0, 3.0, 0.1]))

    def forward(self, rows: Tensor) -> Tensor:
        length = (rows * rows).sum(dim=-1, keepdim=True).sqrt()
        return rows / length.clamp(min=TINY_NUMBER) * self.own + self.shared


class Outer(nn.Module):
    """A module that is half but for one part of it."""

    shared: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        shared = torch.tensor([0.5, 0.25, 0.125, 0.3])
        self.register_buffer("weight", torch.tensor([1.5, 1.0, -1.0, 0.7]))
        self.register_buffer("shared", shared)
        self.normalize = Normalize(shared)

    def forward(self, images: Tensor) -> Tensor:
        return self.normalize(images * self.weight) * 2.0 - self.shared


class Plain(Outer):
    """``Outer`` without a part that stays float32."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize.keep_float32 = False


SHAPE = (3, 8, 4)


@functools.cache
def outer_graph(precision: Precision = "fp16", io_precision: Precision = "fp32") -> onnx.ModelProto:
    spec = ExportSpec(SHAPE, ("y",), precision=precision, io_precision=io_precision)
    return export_onnx(Outer().eval(), spec, metadata={})


@functools.cache
def v2_model() -> nn.Module:
    return fold(trained_like(build_reference(V2)))


@functools.cache
def v2_graph(precision: Precision) -> onnx.ModelProto:
    spec = ExportSpec((3, 32, 32), V2.output_names, precision=precision)
    return export_onnx(v2_model(), spec, metadata={})


def kinds(graph: onnx.ModelProto) -> dict[str, int]:
    """The type of every value: inputs, outputs, initializers and what nodes give."""
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def assert_all(nodes: list[onnx.NodeProto], kind: int, graph: onnx.ModelProto) -> None:
    """Every value that the nodes take or give is of one type, indices apart."""
    known = kinds(graph)
    for node in nodes:
        found = {known[name] for name in (*node.input, *node.output) if name}
        assert found - {TensorProto.INT64} == {kind}, node.name


def inside(node: onnx.NodeProto) -> bool:
    """Whether a node other than a cast belongs to a module that normalises."""
    return node.op_type != "Cast" and node.name.rpartition("/")[0].endswith("normalize")


@pytest.mark.parametrize("io_precision", ["fp32", "fp16"])
def test_kept_module_is_float32_between_casts_and_the_rest_is_half(io_precision: str) -> None:
    graph = outer_graph(io_precision=io_precision)
    onnx.checker.check_model(graph, full_check=True)
    kept = [node for node in graph.graph.node if inside(node)]
    rest = [node for node in graph.graph.node if not inside(node) and node.op_type != "Cast"]
    assert {node.op_type for node in kept} >= {"Div", "Mul", "Sqrt", "Add"}
    assert {node.op_type for node in rest} == {"Mul", "Sub"}
    assert_all(kept, TensorProto.FLOAT, graph)
    assert_all(rest, TensorProto.FLOAT16, graph)
    casts = [node for node in graph.graph.node if node.op_type == "Cast"]
    # In and out of the module, and the graph's own edges.
    assert len(casts) == 2 + (2 if io_precision == "fp32" else 0)


def test_initializers_are_float32_only_where_a_kept_module_alone_uses_them() -> None:
    graph = outer_graph()
    single = {tensor.name: tensor for tensor in outer_graph("fp32").graph.initializer}
    users: dict[str, set[bool]] = {}
    for node in outer_graph("fp32").graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(inside(node))
    stayed = set()
    shared = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("/float")]
    assert len(shared) == 1  # the kept module's own copy of a weight that both sides use
    for tensor in shared:
        original = numpy_helper.to_array(single[tensor.name.removesuffix("/float")])
        assert np.array_equal(numpy_helper.to_array(tensor), original)
    for tensor in graph.graph.initializer:
        if tensor in shared:
            continue
        if single[tensor.name].data_type != TensorProto.FLOAT:
            assert tensor == single[tensor.name]
        elif users[tensor.name] == {True}:
            assert tensor == single[tensor.name]
            stayed.add(tensor.name)
        else:
            expected = numpy_helper.to_array(single[tensor.name]).astype(np.float16)
            assert np.array_equal(numpy_helper.to_array(tensor), expected)
    values = [numpy_helper.to_array(single[name]).reshape(-1).tolist() for name in stayed]
    assert [np.float32(TINY_NUMBER)] in values
    assert np.array([1.0, 2.0, 3.0, 0.1], np.float32).tolist() in values
    assert {False, True} in users.values()  # the weight that both sides use


def test_kept_module_computes_what_half_cannot() -> None:
    images = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    images = torch.cat((images * 3e4 / images.abs().max(), images * 1e-3, torch.zeros(1, *SHAPE)))
    expected = Outer()(images)
    (kept,) = run_onnx(outer_graph(), images.numpy())
    assert rms_error(torch.from_numpy(kept), expected) < 2e-3
    halved = Emulated(Plain().eval(), "fp16")(images)  # rounds every step, as a GPU does
    assert rms_error(halved, expected) == float("inf")


def outer_graph_without_shapes() -> onnx.GraphProto:
    graph = copy_of(outer_graph()).graph
    graph.ClearField("value_info")
    return graph


def test_kept_modules_that_the_metadata_does_not_name_are_half() -> None:
    single = copy_of(outer_graph("fp32"))
    named = {entry.key: entry.value for entry in single.metadata_props}
    assert named == {FLOAT32_MODULES: '["normalize"]'}
    assert to_half(single, io_precision="fp32").graph == outer_graph_without_shapes()
    single.ClearField("metadata_props")
    halved = to_half(single, io_precision="fp32")
    floats = {tensor.data_type for tensor in halved.graph.initializer} - {TensorProto.INT64}
    assert floats == {TensorProto.FLOAT16}


def test_v2_export_normalises_in_float32_and_nothing_else() -> None:
    graph = v2_graph("fp16")
    onnx.checker.check_model(graph, full_check=True)
    nodes = [node for node in graph.graph.node if node.op_type != "Cast"]
    kept = [node for node in nodes if node.name.rpartition("/")[0].endswith("_factor")]
    for operator in ("ReduceL2", "Max", "Div"):
        assert sum(node.op_type == operator for node in kept) == 8  # queries and keys of 4 blocks
    assert_all(kept, TensorProto.FLOAT, graph)
    assert_all([node for node in nodes if node not in kept], TensorProto.FLOAT16, graph)


def test_v2_in_half_is_close_to_float32() -> None:
    images = seeded_images(V2, batch=4)
    with torch.no_grad():
        expected = v2_model()(images)
    (half,) = run_onnx(v2_graph("fp16"), images.numpy())
    (single,) = run_onnx(v2_graph("fp32"), images.numpy())
    assert rms_error(torch.from_numpy(single), expected) < 1e-4
    assert 1e-5 < rms_error(torch.from_numpy(half), expected) < 3e-2
