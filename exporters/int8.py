"""Products in 8-bit integers: QuantizeLinear and DequantizeLinear, named by module path.

What a product reads becomes unsigned integers at a fixed scale and zero point; its weight becomes
signed integers from -127 to 127, at one scale for each output. ONNX Runtime's CPU provider and
OpenVINO run a product of two DequantizeLinear as one of integers, with a float32 result; all else
stays float32. Unsigned inputs and signed weights are what VNNI multiplies: ONNX Runtime 1.31 brings
signed inputs to that form first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.quantisation import LinearProduct, products_at
from exporters.weights import check_graph, drop_unread, infer_shapes, replace_nodes

LEVELS = 255  # steps of an unsigned 8-bit integer
LARGEST_WEIGHT = 127  # not -128 on the other side: weights have no zero point
# Products that read integers as they are: ONNX's, and those that ONNX Runtime's quantisation adds.
INTEGER_PRODUCTS = {
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm"),
}
INTEGERS, BACK = "int8", "int8_back"  # last words of the names of quantised values


@dataclass(frozen=True)
class Affine:
    """Unsigned 8-bit integers as numbers: ``(integer - zero_point) * scale``.

    Attributes:
        scale: Size of one step.
        zero_point: Integer that stands for 0, from 0 to 255.
    """

    scale: float
    zero_point: int


def quantise_products(graph: onnx.ModelProto, scales: Mapping[str, Affine]) -> None:
    """Let products of a float32 graph multiply 8-bit integers, in place.

    Args:
        graph: The graph, with its weights.
        scales: The integers that each product reads, by the path of its module.

    Raises:
        ExportError: If a module has no product in the graph.
    """
    sites = {one.node: one for one in products_at(graph, scales)}
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()

    def add(new: list[onnx.NodeProto], constants: list[TensorProto]) -> None:
        if new[-1].output[0] not in made:  # two products may share data or a weight
            made.add(new[-1].output[0])
            nodes.extend(new)
            graph.graph.initializer.extend(constants)

    for node in graph.graph.node:
        site = sites.get(node.name)
        if site is not None:
            add(*_rounded_data(site, scales[site.path]))
            turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
            add(*_integer_weight(site, weights[site.weight], channel=0 if turned else 1))
            node.input[0], node.input[1] = f"{site.data}/{BACK}", f"{site.weight}/{BACK}"
        nodes.append(node)
    replace_nodes(graph.graph, nodes)
    drop_unread(graph.graph, {one.weight for one in sites.values()})
    del graph.graph.value_info[:]
    check_graph(graph, full=True)
    infer_shapes(graph)


def quantised_products(graph: onnx.ModelProto) -> dict[str, Affine]:
    """Return what each product of integers reads, by the path of its module.

    Args:
        graph: Any graph; the structure without weights is enough.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    values = {tensor.name: tensor for tensor in graph.graph.initializer}
    found = {}
    for node in graph.graph.node:
        backs = [makers.get(name) for name in node.input[:2]] if node.op_type == "MatMul" else []
        pair = [one for one in backs if one is not None and one.op_type == "DequantizeLinear"]
        if len(pair) == 2 and all(name in values for name in pair[0].input[1:3]):
            scale, zero = (numpy_helper.to_array(values[name]) for name in pair[0].input[1:3])
            found[node.name.rpartition("/")[0]] = Affine(float(scale), int(zero))
    return found


def is_int8(graph: onnx.ModelProto) -> bool:
    """Tell whether weights of a graph, ours or another tool's, are 8-bit integers.

    They are signed or not, and brought back by DequantizeLinear or multiplied as they are.
    """
    types = (TensorProto.INT8, TensorProto.UINT8)
    stored = {one.name for one in graph.graph.initializer if one.data_type in types}
    return any(name in stored for node in graph.graph.node for name in _integers_read(node))


def _integers_read(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of a node that may be weights in integers."""
    if node.op_type == "DequantizeLinear":
        return list(node.input[:1])
    return list(node.input) if node.op_type in INTEGER_PRODUCTS else []


def integer_weights(
    values: NDArray[np.float32], *, channel: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights as integers, and the scale of each output.

    Args:
        values: Weights of two axes.
        channel: Axis of the outputs; an output of zeros alone has scale 1.
    """
    largest = np.abs(values).max(axis=1 - channel)
    scales = np.where(largest > 0, largest / LARGEST_WEIGHT, 1.0).astype(np.float32)
    steps = values / np.expand_dims(scales, 1 - channel)
    return np.rint(steps).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8), scales


def _rounded_data(
    site: LinearProduct, affine: Affine
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Return the nodes that round what a product reads, and their constants."""
    name = f"{site.data}/{INTEGERS}"
    constants = [f"{name}_scale", f"{name}_zero"]
    ends = ([site.data], [name]), ([name], [f"{site.data}/{BACK}"])
    nodes = [
        helper.make_node(op, [*given, *constants], made, name=f"{site.path}/{op}")
        for op, (given, made) in zip(("QuantizeLinear", "DequantizeLinear"), ends, strict=True)
    ]
    scale, zero = np.array(affine.scale, np.float32), np.array(affine.zero_point, np.uint8)
    return nodes, [
        numpy_helper.from_array(scale, constants[0]),
        numpy_helper.from_array(zero, constants[1]),
    ]


def _integer_weight(
    site: LinearProduct, tensor: TensorProto, *, channel: int
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Return the node that brings a weight back from integers, and its constants."""
    integers, scales = integer_weights(numpy_helper.to_array(tensor), channel=channel)
    name = f"{site.weight}/{INTEGERS}"
    names = [name, f"{name}_scale", f"{name}_zero"]
    label = f"{site.path}/DequantizeLinear_weight"
    back = helper.make_node(
        "DequantizeLinear", names, [f"{site.weight}/{BACK}"], name=label, axis=channel
    )
    tensors = [
        numpy_helper.from_array(integers, names[0]),
        numpy_helper.from_array(scales, names[1]),
        numpy_helper.from_array(np.zeros(scales.shape, np.int8), names[2]),
    ]
    return [back], tensors
