"""Shapes of an ONNX graph's values at one batch, by the ONNX standard's own shape inference.

Graphs of PyTorch's older exporter compute their shapes with Shape, Gather, Concat and the like;
these small values are computed too, node by node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporters.weights import NOT_INFERRED

# Errors that ONNX's evaluator raises for a node that cannot be computed.
NOT_COMPUTED = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
                ValueError)  # fmt: skip
SMALL = 256  # most values in a tensor that a shape is computed from
SHAPE_OPS = frozenset({
    "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal",
    "Expand", "Floor", "Gather", "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul",
    "Neg", "Not", "Or", "Range", "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


@dataclass(frozen=True)
class Value:
    """The facts known about one value.

    Attributes:
        shape: Sizes of its dimensions; None if they are not known.
        item_bytes: Size of one item, in bytes; 0 if its type is not known.
        constant: True if it is the same for all images, so that a builder computes it once.
    """

    shape: tuple[int, ...] | None = None
    item_bytes: int = 0
    constant: bool = False

    @property
    def bytes(self) -> int:
        """Size of the value, in bytes; 0 if it is not known."""
        return math.prod(self.shape) * self.item_bytes if self.shape is not None else 0


@dataclass
class _Known:
    """The facts known after the nodes so far: types, small contents and names of constants."""

    types: dict[str, TypeProto]
    contents: dict[str, TensorProto]
    constants: set[str]


def infer_values(graph: onnx.ModelProto, batch: int) -> dict[str, Value]:
    """Infer shape, item size and constancy of each value of a graph at one batch.

    Args:
        graph: Any graph.
        batch: Number of images that inputs of a dynamic batch hold.

    Returns:
        Each value by its name; values of unknown operators are missing.
    """
    known = _edges(graph.graph, batch)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    for node in graph.graph.node:
        known.types.update(_output_types(node, known, opsets))
        contents = _compute(node, known, opsets)
        known.contents.update(contents)
        if contents or all(name in known.constants for name in node.input if name):
            known.constants.update(node.output)
    return {name: _value(kind, name in known.constants) for name, kind in known.types.items()}


def _edges(body: onnx.GraphProto, batch: int) -> _Known:
    """Return the facts about the inputs, at ``batch`` images, and the initializers."""
    known = _Known({}, {}, set())
    for entry in body.input:
        kind = TypeProto()
        kind.CopyFrom(entry.type)
        dims = kind.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = batch
        known.types[entry.name] = kind
    for tensor in body.initializer:
        known.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        known.constants.add(tensor.name)
        if math.prod(tensor.dims) <= SMALL:
            known.contents[tensor.name] = tensor
    return known


def _output_types(
    node: onnx.NodeProto, known: _Known, opsets: dict[str, int]
) -> dict[str, TypeProto]:
    """Infer the types of a node's outputs; none for an operator that ONNX does not know."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        return onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            {name: known.types.get(name, TypeProto()) for name in node.input if name},
            {name: known.contents[name] for name in node.input if name in known.contents},
            opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()],
        )
    except NOT_INFERRED:
        return {}


def _compute(node: onnx.NodeProto, known: _Known, opsets: dict[str, int]) -> dict[str, TensorProto]:
    """Compute a node's outputs if they follow from small contents or from a shape, else none."""
    if node.op_type == "Shape":
        return _shape_of(node, known)
    inputs = [name for name in node.input if name]
    if node.op_type not in SHAPE_OPS or not all(name in known.contents for name in inputs):
        return {}
    if any(_items(known.types.get(name)) > SMALL for name in node.output):
        return {}
    feeds = {name: numpy_helper.to_array(known.contents[name]) for name in inputs}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
    except NOT_COMPUTED:
        return {}
    pairs = zip(node.output, results, strict=False)
    return {name: numpy_helper.from_array(np.asarray(result), name) for name, result in pairs}


def _shape_of(node: onnx.NodeProto, known: _Known) -> dict[str, TensorProto]:
    shape = _dimensions(known.types.get(node.input[0]))
    if shape is None:
        return {}
    ends = {entry.name: entry.i for entry in node.attribute}
    picked = shape[ends.get("start", 0) : ends.get("end", len(shape))]
    return {node.output[0]: numpy_helper.from_array(np.array(picked, np.int64), node.output[0])}


def _dimensions(kind: TypeProto | None) -> tuple[int, ...] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if _all_sized(dims) else None


def _all_sized(dims: Iterable[onnx.TensorShapeProto.Dimension]) -> bool:
    return all(dim.HasField("dim_value") for dim in dims)


def _items(kind: TypeProto | None) -> int:
    """Count the items of a tensor; 0 if its shape is not known."""
    shape = _dimensions(kind)
    return 0 if shape is None else math.prod(shape)


def _value(kind: TypeProto, constant: bool) -> Value:
    item = kind.tensor_type.elem_type
    known = item not in (TensorProto.UNDEFINED, TensorProto.STRING)
    size = helper.tensor_dtype_to_np_dtype(item).itemsize if known else 0
    return Value(_dimensions(kind), size, constant)
