"""The structure of a graph apart from its large weights.

Whatever looks at nodes, shapes and names works on a structure: a copy of the graph whose large
weights have a name, a type and dimensions, and no values. ONNX's checker and shape inference take
no Python object but a serialised copy, read it, and give another one back: four times the weights.
Serialising takes twice the weights, so a file is written weight by weight.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper

FLOATS = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.FLOAT8E4M3FN,
)
LARGE = 1024  # values from which a tensor counts as a weight; shapes and axes are smaller
GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
# Errors that ONNX raises for an operator that it does not know, and for a node that does not fit
# its operator: the last four if types do not fit, or are not given.
NOT_INFERRED = (
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
NAMED_BY_INITIALIZERS = 4  # IR version from which an initializer need not be an input


def is_weight(tensor: TensorProto) -> bool:
    """Tell whether a tensor holds at least ``LARGE`` real numbers; indices are structure."""
    return tensor.data_type in FLOATS and math.prod(tensor.dims) >= LARGE


def without_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the structure of a graph, a copy without the values of its weights."""
    structure = onnx.ModelProto()
    _copy_fields(graph, structure, but="graph")
    _copy_fields(graph.graph, structure.graph, but="initializer")
    for tensor in graph.graph.initializer:
        if is_weight(tensor):
            structure.graph.initializer.append(bare(tensor))
        else:
            structure.graph.initializer.append(tensor)
    return structure


def bare(tensor: TensorProto) -> TensorProto:
    """Return a tensor with the name, type and dimensions of ``tensor``, and no values."""
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def replace_nodes(body: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give a graph other nodes, of which some may be its own."""
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del body.node[:]
    body.node.extend(copied)


def serialized(graph: onnx.ModelProto) -> Iterator[bytes]:
    """Yield the bytes of a graph's ONNX file, weight by weight.

    A Protocol Buffers message is its fields in any order, each after its number and, for a message
    inside, its length (protobuf.dev/programming-guides/encoding). Here the graph comes last, and in
    it the initializers.
    """
    rest, body = onnx.ModelProto(), onnx.GraphProto()
    _copy_fields(graph, rest, but="graph")
    _copy_fields(graph.graph, body, but="initializer")
    start = body.SerializeToString()
    heads = [_head(INITIALIZER, tensor.ByteSize()) for tensor in graph.graph.initializer]
    sizes = (tensor.ByteSize() for tensor in graph.graph.initializer)
    yield rest.SerializeToString()
    yield _head(GRAPH, len(start) + sum(map(len, heads)) + sum(sizes))
    yield start
    for head, tensor in zip(heads, graph.graph.initializer, strict=True):
        yield head
        yield tensor.SerializeToString()


def _head(number: int, size: int) -> bytes:
    """Return the bytes before a field that is a message: its number, wire type 2 and length."""
    head = bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def check_graph(graph: onnx.ModelProto, *, full: bool) -> None:
    """Run ONNX's checker on the structure of a graph, and on each weight by itself.

    Args:
        graph: Any graph.
        full: True to infer the shapes too, and compare them with those that are given.

    Raises:
        onnx.checker.ValidationError: If the graph is not valid.
        onnx.shape_inference.InferenceError: If its shapes do not fit.
    """
    for tensor in graph.graph.initializer:
        if is_weight(tensor):
            onnx.checker.check_tensor(tensor)
    onnx.checker.check_model(_weights_as_inputs(graph), full_check=full)


def infer_shapes(graph: onnx.ModelProto) -> None:
    """Write the shapes that ONNX infers, strictly, into a graph.

    Raises:
        onnx.shape_inference.InferenceError: If shapes or types do not fit.
    """
    inferred = onnx.shape_inference.infer_shapes(
        _weights_as_inputs(graph), check_type=True, strict_mode=True
    ).graph
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(inferred.value_info)
    del graph.graph.output[:]
    graph.graph.output.extend(inferred.output)


def inferred_values(graph: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the types of all values that ONNX infers, as far as it knows the operators.

    Raises:
        onnx.shape_inference.InferenceError: If types do not fit.
    """
    body = onnx.shape_inference.infer_shapes(_weights_as_inputs(graph)).graph
    return [*body.input, *body.value_info, *body.output]


def _weights_as_inputs(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the structure of a graph as a graph of its own, its weights turned into inputs.

    A graph of an IR version before ``NAMED_BY_INITIALIZERS`` is returned as it is.
    """
    if graph.ir_version < NAMED_BY_INITIALIZERS:
        return graph
    structure = without_weights(graph)
    body = structure.graph
    known = {value.name for value in body.input}
    kept = [tensor for tensor in body.initializer if not is_weight(tensor)]
    for tensor in body.initializer:
        if is_weight(tensor) and tensor.name not in known:
            body.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del body.initializer[:]
    body.initializer.extend(kept)
    return structure


def _copy_fields(source: Message, target: Message, *, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


def drop_unread(body: onnx.GraphProto, names: Collection[str]) -> None:
    """Delete those weights among ``names`` that no node of a graph reads any more."""
    read = {name for node in body.node for name in node.input}
    for index in reversed(range(len(body.initializer))):
        name = body.initializer[index].name
        if name in names and name not in read:
            del body.initializer[index]
