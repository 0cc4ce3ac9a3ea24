"""Half-precision forms of other tools' graphs: their casts, constants, branches and scales."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import composites
import numpy as np
import onnx
import peers
import pytest
import swaps
import torch
from conftest import rms_error
from exported import make_graph, needs_rtx, run_onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters.engine.to_engine import build_engine
from exporters.errors import ExportError
from exporters.half_precision import to_half
from exporters.spec import BatchProfile, EngineOptions, Precision
from exporters.weights import check_graph

ROW = ("batch", 4)
IMAGE = ("batch", 1, 6, 6)
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LARGEST = np.finfo(np.float32).max


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def halved(*nodes: onnx.NodeProto, shape: Any = ROW, **weights: np.ndarray) -> onnx.ModelProto:  # noqa: ANN401
    """The float16 form of a graph from images to y, which ONNX's checker has passed."""
    graph = make_graph(*nodes, inputs={"images": shape}, outputs={"y": shape}, weights=weights)
    half = to_half(graph, io_precision="fp32")
    check_graph(half, full=True)
    return half


def casts_to(half: onnx.ModelProto, kind: int) -> int:
    """Number of casts to a type, but for those at the edges."""
    inner = [one for one in half.graph.node if one.op_type == "Cast" and "/Cast" not in one.name]
    return sum(one.attribute[0].i == kind for one in inner)


def float32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def test_to_half_lets_a_cast_of_data_be_one_to_half() -> None:
    half = halved(
        node("Greater", "images zero", "positive"),
        node("Cast", "positive", "mask", to=FLOAT, name="mask"),
        node("Mul", "images mask", "y"),
        zero=float32(0),
    )
    assert casts_to(half, HALF) == 1
    (output,) = run_onnx(half, np.array([[-2, 0, 1, 3]], np.float32))
    np.testing.assert_array_equal(output, [[0, 0, 1, 3]])


def test_to_half_keeps_positions_that_float16_does_not_count() -> None:
    """2049 is not a float16: a position counted in it would be 2048."""
    half = halved(
        node("Cast", "steps", "counted", to=FLOAT, name="positions/Cast"),
        node("Sub", "counted middle", "positions", name="positions/Sub"),
        node("Mul", "images positions", "y"),
        steps=np.array([0, 2047, 2049, 4097]),
        middle=float32(2048),
    )
    (output,) = run_onnx(half, np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(output, [[-2048, -1, 1, 2049 - 1]])


def test_to_half_keeps_the_scales_of_resize() -> None:
    """Two thirds in float16 make three of four rows."""
    scale = np.array([1, 1, 4 / 6, 4 / 6], np.float32)
    graph = make_graph(
        node("Resize", "images  scales", "y", mode="linear", name="resize"),
        inputs={"images": IMAGE},
        outputs={"y": ("batch", 1, 4, 4)},
        weights={"scales": scale},
    )
    graph.graph.node[0].input[:] = ["images", "", "scales"]
    half = to_half(graph, io_precision="fp32")
    check_graph(half, full=True)
    kept = {one.name: one.data_type for one in half.graph.initializer}
    assert kept == {"scales": FLOAT}
    image = np.random.default_rng(0).standard_normal((2, 1, 6, 6)).astype(np.float32)
    single, ours = run_onnx(graph, image)[0], run_onnx(half, image)[0]
    assert ours.shape == single.shape
    np.testing.assert_allclose(ours, single, atol=4e-3)


def test_to_half_copies_a_weight_that_is_a_scale_too() -> None:
    half = halved(
        node("Resize", "images scales scales", "same", mode="nearest", name="resize"),
        node("Reshape", "scales to_one", "factor"),
        node("Mul", "same factor", "y"),
        shape=("batch", 1, 2, 2),
        scales=np.ones(4, np.float32),
        to_one=np.array([1, 1, 2, 2]),
    )
    kinds = sorted(one.data_type for one in half.graph.initializer if one.data_type != 7)
    assert kinds == [FLOAT, HALF]


def test_to_half_keeps_what_onnx_has_in_float32_alone() -> None:
    """Range has no float16 form, and computes at run time what the data are multiplied with."""
    half = halved(
        node("Constant", "", "zero", value_float=0.0),
        node("Constant", "", "one", value_float=1.0),
        node("Constant", "", "four", value=numpy_helper.from_array(float32(4))),
        node("Range", "zero four one", "steps", name="steps/Range"),
        node("Mul", "images steps", "y"),
    )
    (output,) = run_onnx(half, np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(output, [[0, 1, 2, 3]] * 2)


def test_to_half_brings_values_into_the_branches_of_if() -> None:
    """Branches stay float32, with the values and weights that they take from around them."""

    def branch(name: str, op: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, FLOAT, None)
        return helper.make_graph([node(op, "scaled w", name)], name, [], [result])

    half = halved(
        node("Mul", "images w", "scaled", name="scale"),
        node("ReduceMax", "scaled", "top", keepdims=0),
        node("Greater", "top zero", "large"),
        helper.make_node(
            "If", ["large"], ["y"], then_branch=branch("a", "Add"), else_branch=branch("b", "Sub")
        ),
        w=np.array([1, 2, 3, 4], np.float32),
        zero=float32(0),
    )
    for sign in (1, -1):
        images = np.full((2, 4), sign, np.float32)
        weights = np.array([1, 2, 3, 4], np.float32)
        (output,) = run_onnx(half, images)
        np.testing.assert_array_equal(
            output[0], sign * weights + (weights if sign > 0 else -weights)
        )


def test_to_half_writes_the_functions_of_a_graph_out() -> None:
    graph = make_graph(
        helper.make_node("Twice", ["images"], ["y"], domain="own", name="twice"),
        inputs={"images": ROW},
        outputs={"y": ROW},
    )
    body = [
        node("Constant", "", "two", value_float=2.0),
        node("Mul", "x two", "z"),
    ]
    opsets = [helper.make_opsetid("", 17)]
    graph.functions.append(helper.make_function("own", "Twice", ["x"], ["z"], body, opsets))
    graph.opset_import.append(helper.make_opsetid("own", 1))
    half = to_half(graph, io_precision="fp32")
    (output,) = run_onnx(half, np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(output, np.full((1, 4), 2))


def test_to_half_gives_zeros_of_a_shape_the_type_of_the_data() -> None:
    """ConstantOfShape without a value is float32 zeros, which nothing in the file says."""
    half = halved(
        node("Shape", "images", "shape"),
        node("ConstantOfShape", "shape", "zeros"),
        node("Add", "images zeros", "y"),
    )
    assert np.array_equal(run_onnx(half, np.ones((1, 4), np.float32))[0], np.ones((1, 4)))


@pytest.mark.parametrize("low", [-LARGEST, -np.inf])
def test_to_half_lets_masks_hold_the_least_of_any_type(low: float) -> None:
    mask = np.array([0, low, 0, low], np.float32)
    half = halved(
        node("Add", "images mask", "masked"), node("Softmax", "masked", "y", axis=-1), mask=mask
    )
    (output,) = run_onnx(half, np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(output, [[0.5, 0, 0.5, 0]])


def test_to_half_keeps_a_least_divisor_above_zero() -> None:
    """1e-12 in float16 is 0, and 0 / 0 is not a number."""
    half = halved(
        node("Abs", "images", "size"),
        node("Max", "size least", "divisor"),
        node("Div", "images divisor", "y"),
        least=float32(1e-12),
    )
    (output,) = run_onnx(half, np.array([[0, 1, -2, 0]], np.float32))
    np.testing.assert_array_equal(output, [[0, 1, -1, 0]])


def test_to_half_takes_a_weight_as_an_output() -> None:
    graph = make_graph(
        node("Mul", "images w", "y"),
        inputs={"images": ROW},
        outputs={"y": ROW},
        weights={"w": np.array([1, 2, 3, 4], np.float32)},
    )
    graph.graph.output.append(helper.make_tensor_value_info("w", FLOAT, [4]))
    half = to_half(graph, io_precision="fp32")
    check_graph(half, full=True)
    np.testing.assert_array_equal(run_onnx(half, np.ones((1, 4), np.float32))[1], [1, 2, 3, 4])


def test_to_half_tells_nodes_without_names_apart() -> None:
    """Naming none, one kept node must not keep all of them."""
    half = halved(
        node("Cast", "steps", "counted", to=FLOAT),
        node("Mul", "images counted", "scaled"),
        node("Mul", "scaled w", "y"),
        steps=np.array([0, 1, 2, 3]),
        w=np.ones(4, np.float32),
    )
    assert {one.data_type for one in half.graph.initializer} == {TensorProto.INT64, HALF}


def test_to_half_refuses_types_that_do_not_fit() -> None:
    graph = make_graph(
        node("Cast", "images", "whole", to=TensorProto.INT64),
        node("Add", "whole images", "y"),
        inputs={"images": ROW},
        outputs={"y": ROW},
    )
    with pytest.raises(
        (ExportError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    ):
        check_graph(to_half(graph, io_precision="fp32"), full=True)


def exported(model: nn.Module, images: torch.Tensor, *, dynamo: bool, dynamic: bool) -> Any:  # noqa: ANN401
    """A file of PyTorch's new exporter, or of its old one, as a user makes it."""
    warnings.simplefilter("ignore")
    if dynamo:
        program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
        assert program is not None
        return program.model_proto
    file = io.BytesIO()
    axes = {"images": {0: "batch"}} if dynamic else None
    torch.onnx.export(
        model,
        (images,),
        file,  # type: ignore[arg-type]  # its annotation forgets files
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        dynamic_axes=axes,
    )
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize(
    ("name", "dynamo", "dynamic"),
    [
        ("donut", False, False),
        ("donut", False, True),
        ("torchvision", False, True),
        ("torchvision", True, False),
    ],
)
def test_to_half_of_an_unmodified_swin_loses_no_more_than_float16_does(
    name: str, dynamo: bool, dynamic: bool
) -> None:
    build = {
        "donut": composites.COMPOSITES["donut-encoder"].build,
        "torchvision": lambda: swaps.torchvision_classifier("swin"),
    }[name]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    graph = exported(build().eval(), images, dynamo=dynamo, dynamic=dynamic)
    half = to_half(graph, io_precision="fp32")
    check_graph(half, full=True)
    weights = [one for one in half.graph.initializer if math.prod(one.dims) > 16]
    assert FLOAT not in {one.data_type for one in weights}
    single, ours = (torch.from_numpy(run_onnx(one, images.numpy())[0]) for one in (graph, half))
    assert 1e-5 < rms_error(ours, single) < 5e-3


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", ["donut", "swin-v2"])
def test_to_half_of_an_unmodified_swin_has_no_product_in_float32(
    name: str, dynamic: bool, precision: Precision
) -> None:
    """ONNX Runtime's CPUs have no bfloat16, so its types are those of the engine."""
    build = {
        "donut": composites.COMPOSITES["donut-encoder"].build,
        "swin-v2": lambda: peers.build_huggingface("swinv2"),
    }[name]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    graph = exported(build().eval(), images, dynamo=False, dynamic=dynamic)
    half = to_half(graph, io_precision="fp32", precision=precision)
    check_graph(half, full=precision == "fp16")  # ONNX's Conv takes bfloat16 from opset 22 on
    plan = build_engine(half, BatchProfile(2, 2, 2), options=EngineOptions("tensorrt-rtx")).plan
    assert plan.attention_blocks == plan.fused_attention == 6
    assert plan.float32_compute == ()
