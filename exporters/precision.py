"""Write half precision into an ONNX graph.

Every weight and activation becomes float16, but for the modules that the export named as float32
(``FLOAT32_MODULES``); LayerNormalization keeps its statistics in float32 (its ``stash_type``), as
ONNX Runtime and TensorRT both do.

This converter was chosen by measurement (``scripts/compare_half``): it gives the numbers of
exporting the ``.half()`` module, needs the file alone, and names what float16 cannot hold.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import ExportError
from exporters.spec import Precision

FLOAT16_MAX = 65504.0
FLOAT32_MODULES = "float32_modules"  # metadata: paths of modules that stay float32


def precision_of(graph: onnx.ModelProto) -> Precision:
    """``fp16`` if most weights are float16, else ``fp32``."""
    sizes = {TensorProto.FLOAT16: 0, TensorProto.FLOAT: 0}
    for tensor in graph.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def to_half(graph: onnx.ModelProto, *, io_precision: Precision) -> onnx.ModelProto:
    """A float16 copy of a float32 graph.

    Args:
        graph: A float32 graph without casts of its own.
        io_precision: ``fp32`` keeps inputs and outputs float32, with one cast at each.

    Raises:
        ExportError: If a weight lies beyond float16's range, or the graph casts by itself.
    """
    half = onnx.ModelProto()
    half.CopyFrom(graph)
    body = half.graph
    kept = _float32_nodes(half)
    wide = {name for node in body.node if node.name in kept for name in node.input}
    halved = {name for node in body.node if node.name not in kept for name in node.input}
    for node in body.node:
        if node.name not in kept:
            _halve_node(node)
    for tensor in body.initializer:
        if tensor.name in halved or tensor.name not in wide:
            _halve(tensor, tensor.name)
    body.ClearField("value_info")
    if io_precision == "fp32":
        _add_casts(body)
    else:
        for value in _float_edges(body):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    _fence(body, kept)
    return half


def _float32_nodes(graph: onnx.ModelProto) -> set[str]:
    """Names of the nodes that stay float32: those of the modules that the export named."""
    props = {entry.key: entry.value for entry in graph.metadata_props}
    modules = tuple(json.loads(props.get(FLOAT32_MODULES, "[]")))
    return {node.name for node in graph.graph.node if node.name.rpartition("/")[0] in modules}


def _fence(body: onnx.GraphProto, kept: set[str]) -> None:
    """Cast what enters the kept nodes to float32, and what leaves them to float16."""
    inside = {name for node in body.node if node.name in kept for name in node.output}
    wide = {tensor.name for tensor in body.initializer if tensor.data_type != TensorProto.FLOAT16}
    nodes: list[onnx.NodeProto] = []
    cast: dict[str, str] = {}
    for node in body.node:
        for index, name in enumerate(node.input):
            enters = node.name in kept and name not in inside and name not in wide
            leaves = node.name not in kept and name in inside
            if not (name and (enters or leaves)):
                continue
            to = TensorProto.FLOAT if enters else TensorProto.FLOAT16
            if name not in cast:
                cast[name] = f"{name}/{'float' if enters else 'half'}"
                module = node.name.rpartition("/")[0] if enters else name
                label = f"{module}/Cast_{len(cast)}"
                nodes.append(helper.make_node("Cast", [name], [cast[name]], name=label, to=to))
            node.input[index] = cast[name]
        nodes.append(node)
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del body.node[:]
    body.node.extend(copied)


def _halve_node(node: onnx.NodeProto) -> None:
    if node.op_type == "Cast":
        raise ExportError(
            f"the graph casts by itself ({node.name}): its precision is mixed already; "
            "give a plain float32 ONNX file"
        )
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _halve(attribute.t, node.name)


def _float_edges(body: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The graph's float32 inputs and outputs."""
    edges = (*body.input, *body.output)
    return [value for value in edges if value.type.tensor_type.elem_type == TensorProto.FLOAT]


def _halve(tensor: onnx.TensorProto, name: str) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FLOAT16_MAX:
        raise ExportError(
            f"{name} holds {largest:.4g}, beyond the {FLOAT16_MAX:.0f} of float16; "
            "use float32 for this model"
        )
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def _add_casts(body: onnx.GraphProto) -> None:
    """Cast float32 inputs to float16 behind them, and outputs back to float32 before them."""
    renamed = {value.name: f"{value.name}/half" for value in _float_edges(body)}
    front: list[onnx.NodeProto] = []
    back: list[onnx.NodeProto] = []
    for node in body.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for values, casts, to in (
        (body.input, front, TensorProto.FLOAT16),
        (body.output, back, TensorProto.FLOAT),
    ):
        for value in values:
            if value.name in renamed:
                ends = (value.name, renamed[value.name])
                source, target = ends if casts is front else ends[::-1]
                name = f"{value.name}/Cast"
                casts.append(helper.make_node("Cast", [source], [target], name=name, to=to))
    nodes = [*front, *body.node, *back]
    del body.node[:]
    body.node.extend(nodes)
