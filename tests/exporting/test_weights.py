"""Graphs taken apart from their weights: nothing is lost, and what is wrong is still found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import copy_of, exported, make_graph
from onnx import TensorProto, helper, numpy_helper

from exporters.half_precision import to_half
from exporters.weights import LARGE, check_graph, infer_shapes, serialized, without_weights

Change = Callable[[onnx.ModelProto], None]
WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def products(ir_version: int = 8) -> onnx.ModelProto:
    """y = x @ w + b, with one weight, one small tensor and one index."""
    graph = make_graph(
        helper.make_node("MatMul", ["x", "w"], ["product"], name="layer/MatMul"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="layer/Add"),
        helper.make_node("Gather", ["sum", "index"], ["y"], name="order/Gather", axis=1),
        inputs={"x": ("batch", 64)},
        outputs={"y": ("batch", 2000)},
        weights={
            "w": WEIGHT,
            "b": np.zeros(64, np.float32),
            "index": np.arange(2000, dtype=np.int64) % 64,
        },
    )
    graph.ir_version = ir_version
    return graph


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "by hand": products,
    "digits": lambda: exported("digits"),
    "digits fp16": lambda: exported("digits", precision="fp16"),
    "bf16": lambda: to_half(exported("digits"), io_precision="fp32", precision="bf16"),
}
every_graph = pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)


@every_graph
def test_serialized_is_the_graph(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    graph = make()
    data = b"".join(serialized(graph))
    assert onnx.ModelProto.FromString(data) == graph
    assert len(data) == len(graph.SerializeToString())
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    onnx.checker.check_model(path)  # read by onnx itself, and not by Python's parser


def test_serialized_of_a_weight_of_every_length_of_its_length() -> None:
    """Lengths below and above the borders at which one more byte is needed to write them."""
    graph = onnx.ModelProto(ir_version=8)
    for bits in (7, 14, 21):
        for size in range((1 << bits) - 24, (1 << bits) + 4):
            graph.graph.initializer.append(TensorProto(name="t", raw_data=b"x" * size))
        assert onnx.ModelProto.FromString(b"".join(serialized(graph))) == graph
        del graph.graph.initializer[:]


@every_graph
def test_without_weights_keeps_all_but_the_values(make: Callable[[], onnx.ModelProto]) -> None:
    graph = make()
    before = copy_of(graph)
    structure = without_weights(graph)
    assert graph == before
    for tensor, whole in zip(structure.graph.initializer, graph.graph.initializer, strict=True):
        assert (tensor.name, tensor.data_type) == (whole.name, whole.data_type)
        assert list(tensor.dims) == list(whole.dims)
        large = whole.data_type != TensorProto.INT64 and np.prod(whole.dims) >= LARGE
        assert tensor.HasField("raw_data") is not large
        if large:
            tensor.CopyFrom(whole)
    assert structure == graph


@every_graph
def test_infer_shapes_is_what_onnx_infers(make: Callable[[], onnx.ModelProto]) -> None:
    graph = make()
    graph.graph.ClearField("value_info")
    expected = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
    infer_shapes(graph)
    assert graph == expected


def weight_of(graph: onnx.ModelProto) -> TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == "w")


def cut(graph: onnx.ModelProto) -> None:
    weight_of(graph).raw_data = WEIGHT.tobytes()[:-4]


def twice(graph: onnx.ModelProto) -> None:
    weight_of(graph).float_data.append(1.0)


def empty(graph: onnx.ModelProto) -> None:
    weight_of(graph).ClearField("raw_data")


def unknown_type(graph: onnx.ModelProto) -> None:
    weight_of(graph).data_type = 99


def other_shape(graph: onnx.ModelProto) -> None:
    weight_of(graph).dims[:] = [32, 128]


def negative(graph: onnx.ModelProto) -> None:
    weight_of(graph).dims[:] = [-64, -64]


def huge(graph: onnx.ModelProto) -> None:
    weight_of(graph).dims[:] = [1 << 40, 64]


def missing(graph: onnx.ModelProto) -> None:
    weight_of(graph).name = "another"


def unnamed(graph: onnx.ModelProto) -> None:
    weight_of(graph).name = ""


def made_twice(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].output[0] = "w"
    graph.graph.node[1].input[0] = "w"


def elsewhere(graph: onnx.ModelProto) -> None:
    tensor = weight_of(graph)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nowhere.bin")


def other_type(graph: onnx.ModelProto) -> None:
    weight_of(graph).CopyFrom(numpy_helper.from_array(WEIGHT.astype(np.float16), "w"))


def nothing(graph: onnx.ModelProto) -> None:
    assert graph.graph.node


CHANGES = (
    nothing, cut, twice, empty, unknown_type, other_shape, negative, huge, missing, unnamed,
    made_twice, elsewhere, other_type,
)  # fmt: skip


def refuses(check: Callable[[], object]) -> bool:
    try:
        check()
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
        return True
    return False


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("full", [True, False], ids=["full", "quick"])
@pytest.mark.parametrize("ir_version", [8, 3])
def test_check_graph_refuses_what_onnx_refuses(change: Change, full: bool, ir_version: int) -> None:
    graph = products(ir_version)
    change(graph)
    expected = refuses(lambda: onnx.checker.check_model(graph, full_check=full))
    assert refuses(lambda: check_graph(graph, full=full)) is expected
    if full and ir_version == 8:
        assert expected is (change is not nothing)
