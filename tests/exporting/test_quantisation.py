"""Q/DQ at products named by module path: against the definition of E4M3, and what is refused."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from families import loaded
from onnx import ModelProto, TensorProto, helper, numpy_helper

from exporters.errors import ExportError, FileError
from exporters.half_precision import precision_of, to_half
from exporters.quantisation import (
    CALIBRATION,
    Fp8Product,
    WeightScales,
    calibration_of,
    fp8_scale,
    quantise,
    quantised_scales,
    quantised_weights,
    record_scales,
)
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.deploy.fold import fold


def half_graph(family: str, opset: int = 19) -> onnx.ModelProto:
    model = loaded(family)
    spec = ExportSpec((3, *model.config.image), model.config.output_names, opset=opset)
    return to_half(export_onnx(fold(model.reference), spec, metadata={}), io_precision="fp32")


def test_fp8_scale_is_the_least_power_of_two_that_the_largest_value_does_not_saturate() -> None:
    sizes = [448.0, 7.0, *np.exp(np.random.default_rng(0).uniform(-20, 8, 500))]
    for largest in map(float, sizes):
        scale = fp8_scale(largest)
        assert np.log2(scale).is_integer()
        assert largest / scale <= 448
        assert scale == 2.0**-14 or largest / (scale / 2) > 448
    assert (fp8_scale(448.0), fp8_scale(449.0), fp8_scale(7.0)) == (1.0, 2.0, 2.0**-6)


def test_fp8_scale_holds_the_constant_that_carries_the_bias_of_qkv() -> None:
    def stored(value: float, scale: float) -> float:
        return float(np.float32(value / scale).astype(ml_dtypes.float8_e4m3fn)) * scale

    scales = [fp8_scale(float(one)) for one in np.geomspace(1, 2000, 100)]
    assert all(stored(1.0, scale) == 1.0 for scale in scales)
    assert stored(1.0, 6.5 / 448) != 1.0  # the largest value's own scale does not


@pytest.mark.parametrize("weight", ["half", "tensor", "channel"])
def test_quantise_stores_input_and_weight_as_e4m3(weight: WeightScales) -> None:
    graph = half_graph("swin")
    path = "layers.0.mlp.2"
    node = next(one for one in graph.graph.node if one.name == f"{path}/MatMul")
    before = {one.name: one for one in graph.graph.initializer}[node.input[1]]
    values = numpy_helper.to_array(before).astype(np.float32)
    quantise(graph, [Fp8Product(path, 20.0, weight)])
    onnx.checker.check_model(graph, full_check=True)
    assert quantised_scales(graph) == {path: fp8_scale(20.0)}
    assert quantised_weights(graph) == ({} if weight == "half" else {path: weight})
    assert precision_of(graph) == ("fp8" if weight == "half" else "fp8-weights")
    named = {one.name: one for one in graph.graph.initializer}
    if weight == "half":
        assert before.name in named
        return
    assert before.name not in named
    scale = numpy_helper.to_array(named[f"{path}/weight_fp8_scale"]).astype(np.float32)
    assert scale.shape == (() if weight == "tensor" else (values.shape[1],))
    stored = np.frombuffer(named[f"{path}/weight_fp8"].raw_data, ml_dtypes.float8_e4m3fn)
    back = stored.astype(np.float32).reshape(values.shape) * scale
    np.testing.assert_allclose(back, values, rtol=2.0**-4, atol=float(scale.max()) * 2.0**-10)


def test_quantise_of_the_residual_stream_is_refused() -> None:
    graph = half_graph("swinv2")
    with pytest.raises(ExportError, match=r"layers\.0\.attention\.qkv reads the residual stream"):
        quantise(graph, [Fp8Product("layers.0.attention.qkv", 4.0)])
    with pytest.raises(ExportError, match="no product of a weight"):
        quantise(graph, [Fp8Product("layers.0.attention", 4.0)])


def test_quantise_at_an_opset_without_fp8_scales_is_refused() -> None:
    with pytest.raises(ExportError, match="opset is 17, and FP8 needs 19"):
        quantise(half_graph("swin", opset=17), [Fp8Product("layers.0.mlp.2", 4.0)])


def quantised() -> onnx.ModelProto:
    graph = half_graph("notebook")
    largest = {"layers.0.mlp.2": 3.0, "layers.1.mlp.2": 30.0}
    quantise(graph, [Fp8Product(path, size) for path, size in largest.items()])
    record_scales(graph, largest, images=32)
    return graph


def test_calibration_of_reads_back_what_was_recorded() -> None:
    record = calibration_of(quantised())
    assert record is not None
    assert record["images"] == 32
    assert record["scales"] == quantised_scales(quantised())
    assert calibration_of(half_graph("notebook")) is None


@pytest.mark.parametrize("fault", ["10 x", "0.1 x", "swapped", "uneven", "no node", "no record"])
def test_calibration_of_other_scales_than_the_record_is_refused(fault: str) -> None:
    graph = quantised()
    scales = [one for one in graph.graph.initializer if one.name.endswith("/fp8_scale")]
    assert len(scales) == 2
    if fault.endswith("x"):
        value = numpy_helper.to_array(scales[1]) * np.float16(fault.split()[0])
        scales[1].CopyFrom(numpy_helper.from_array(value.astype(np.float16), scales[1].name))
    elif fault == "swapped":
        first, second = (one.raw_data for one in scales)
        scales[0].raw_data, scales[1].raw_data = second, first
    elif fault == "uneven":  # rounded at half the scale at which values are brought back
        rounds = next(one for one in graph.graph.node if scales[1].name in one.input)
        assert rounds.op_type == "QuantizeLinear"
        other = (numpy_helper.to_array(scales[1]) / 2).astype(np.float16)
        rounds.input[1] = "half"
        graph.graph.initializer.append(numpy_helper.from_array(other, "half"))
    elif fault == "no node":
        product = next(one for one in graph.graph.node if one.name == "layers.1.mlp.2/MatMul")
        product.input[0] = product.input[0].removesuffix("/fp8_back")
    else:
        record = calibration_of(graph)
        assert record is not None
        del record["largest"]["layers.1.mlp.2"]
        helper.set_model_props(graph, {CALIBRATION: json.dumps(record)})
    with pytest.raises(FileError, match="the FP8 scale of layers"):
        calibration_of(graph)


def foreign(*, constants: str = "initializers", count: int = 1, weight: bool = False) -> ModelProto:
    """A layer that reads FP8, as other tools write it: scales in nodes, one a channel, no zero."""
    scales = numpy_helper.from_array(np.full((32,)[: count - 1], 0.5, np.float16), "scale")
    zeros = TensorProto(
        name="zero", data_type=TensorProto.FLOAT8E4M3FN, dims=scales.dims, raw_data=bytes(count)
    )
    held, nodes = [scales, zeros], []
    inputs = ["values", "scale", "zero"]
    if constants == "nodes":
        nodes = [helper.make_node("Constant", [], [one.name], value=one) for one in held]
    rounds = helper.make_node("QuantizeLinear", inputs, ["rounded"], name="fc/Q")
    if constants == "no zero":
        del rounds.input[2]
        rounds.attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT8E4M3FN))
        held.remove(zeros)
    back = helper.make_node("DequantizeLinear", ["rounded", "scale"], ["back"], name="fc/DQ")
    stored = TensorProto(
        name="stored", data_type=zeros.data_type, dims=(32, 4), raw_data=bytes(32 * 4)
    )
    loose = helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"], name="fc/W")
    plain = numpy_helper.from_array(np.ones((32, 4), np.float16), "weight")
    product = helper.make_node("MatMul", ["back", "weight"], ["result"], name="fc/MatMul")
    body = helper.make_graph(
        [*nodes, rounds, back, *([loose] if weight else []), product],
        "foreign",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT16, ("B", 32))],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT16, ("B", 4))],
        [*([] if constants == "nodes" else held), stored if weight else plain],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("constants", ["initializers", "nodes", "no zero"])
@pytest.mark.parametrize("count", [1, 32], ids=["one scale", "a channel"])
@pytest.mark.parametrize("weight", [False, True], ids=["half", "weights"])
def test_quantised_scales_of_another_tool_s_graph_are_found(
    constants: str, count: int, weight: bool
) -> None:
    graph = foreign(constants=constants, count=count, weight=weight)
    onnx.checker.check_model(graph, full_check=True)
    scales = quantised_scales(graph)
    assert list(scales) == ["fc"]
    assert scales["fc"] == 0.5 if count == 1 else np.isnan(scales["fc"])
    kind = "tensor" if count == 1 else "channel"
    assert quantised_weights(graph) == ({"fc": kind} if weight else {})
    assert precision_of(graph) == ("fp8-weights" if weight else "fp8")


def test_quantised_scales_of_8_bit_integers_are_none() -> None:
    graph = foreign()
    zero = next(one for one in graph.graph.initializer if one.name == "zero")
    zero.data_type = TensorProto.INT8
    assert quantised_scales(graph) == {}
    assert precision_of(graph) == "fp16"
