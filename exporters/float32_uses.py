"""The parts of a graph that stay float32 in its half-precision form, whoever made the graph.

A value stays float32 where half precision would change its meaning, or where ONNX has no half form:

1. Arithmetic that follows from neither the inputs nor a weight, and is of counts, or ends as one:
   positions, scales and sizes. A builder computes it once, and float16 does not count beyond 2048.
   Masks are not of counts: kernels read them beside the data, and so in its type.
2. Operators that ONNX defines for float32 alone, name their type in ``dtype``, or hold graphs
   (``If``, ``Loop``). Matrix products are not among them: half precision is for these.
3. Single inputs: the scales of ``Resize``, and its region.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, TensorProto, helper

from exporters.errors import ExportError
from exporters.precisions import PrecisionTraits
from exporters.weights import NOT_INFERRED, inferred_values, replace_nodes

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
COUNTS = frozenset({"CumSum", "Range"})
SHAPES = frozenset({"Shape", "Size"})  # their outputs follow from shapes, whatever the values are
WHOLE = frozenset(
    getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)
)
# Operators whose result is float32 unless they name another type.
MAKE_FLOAT32 = frozenset(
    {
        "BlackmanWindow",
        "HammingWindow",
        "HannWindow",
        "MelWeightMatrix",
        "RandomNormal",
        "RandomUniform",
    }
)
FEW = 16  # most values of a constant of shape arithmetic; pads have two a dimension
SINGLE_INPUTS = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True)
class Float32Uses:
    """The values and uses of a graph that stay float32.

    Attributes:
        nodes: Names of the nodes that compute in float32.
        opset: Version of ONNX's operators.
        floats: Names of the values that are float32 in the graph as it came.
    """

    nodes: frozenset[str]
    opset: int
    floats: set[str] = field(repr=False)

    def takes(self, node: onnx.NodeProto, index: int) -> bool:
        """Tell whether a node reads its input of this index in float32."""
        return node.name in self.nodes or index in _single_inputs(node.op_type, self.opset)


def float32_uses(graph: onnx.ModelProto, named: set[str], traits: PrecisionTraits) -> Float32Uses:
    """Find what stays float32 in a half-precision form of a graph.

    Args:
        graph: A float32 graph; each node has a name of its own.
        named: Names of the nodes that stay float32 because somebody asked for it.
        traits: The facts of the half precision.

    Raises:
        ExportError: If the types in the graph do not fit each other.
    """
    types = _types(graph)
    floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    domains = {entry.domain: entry.version for entry in graph.opset_import}
    opset = domains.get("", domains.get("ai.onnx", 1))
    nodes = named | {
        node.name
        for node in graph.graph.node
        if node.op_type not in PRODUCTS
        and (_names_type(node) or _lacks(node, floats, opset, f"tensor({traits.dtype})"))
    }
    uses = Float32Uses(frozenset(nodes), opset, floats)
    counting = _counting(graph.graph, types, uses)
    return dataclasses.replace(uses, nodes=uses.nodes | counting)


def captured(node: onnx.NodeProto) -> list[str]:
    """Return the names of values that the graphs inside a node take from around it."""
    found: list[str] = []
    for graph in inner_graphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        used = [name for inner in graph.node for name in (*inner.input, *captured(inner))]
        used += [value.name for value in graph.output]
        found += [name for name in used if name and name not in own]
    return list(dict.fromkeys(found))


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds: the branches of ``If``, the body of ``Loop``."""
    for entry in node.attribute:
        if entry.type == AttributeProto.GRAPH:
            yield entry.g
        yield from entry.graphs


def _types(graph: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of each value, as far as it is known."""
    try:
        values = inferred_values(graph)
    except NOT_INFERRED as err:
        reason = " ".join(str(err).split())[:200]
        raise ExportError(f"the types in the graph do not fit each other: {reason}") from err
    types = {one.name: one.type.tensor_type.elem_type for one in values}
    return types | {one.name: one.data_type for one in graph.graph.initializer}


def _apart(body: onnx.GraphProto, floats: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes whose float32 values follow from no input and no weight, in order."""
    data = {value.name for value in body.input}
    weights = [one for one in body.initializer if math.prod(one.dims) > FEW]
    data |= {one.name for one in weights if one.name in floats}
    found: list[onnx.NodeProto] = []
    for node in body.node:
        from_data = any(name in data for name in (*node.input, *captured(node)))
        if node.op_type in PRODUCTS or (from_data and node.op_type not in SHAPES):
            data.update(node.output)
        elif any(name in floats for name in (*node.input, *node.output)):
            found.append(node)
    return found


def _counting(body: onnx.GraphProto, types: dict[str, int], uses: Float32Uses) -> frozenset[str]:
    """Return the names of the nodes apart from the data that compute with counts.

    1. Whatever follows from a count, from whole numbers or steps of a range, if the data take it:
       positions. A ``Where`` makes a mask of it, which is not one.
    2. Whatever a count follows from, or what must be float32.
    """
    apart = _apart(body, uses.floats)
    counts: set[str] = set()
    for node in apart:
        begins = node.op_type in COUNTS or (
            node.op_type == "Cast" and types.get(node.input[0], 0) in WHOLE
        )
        if node.op_type != "Where" and (begins or any(name in counts for name in node.input)):
            counts.update(name for name in node.output if name in uses.floats)
    inside = {id(node) for node in apart}
    taken: set[str] = set()
    wanted: set[str] = set()
    for node in body.node:
        if id(node) not in inside and node.op_type != "Where":
            taken.update(node.input)
        wanted.update(name for index, name in enumerate(node.input) if uses.takes(node, index))
    found: set[str] = set()
    for node in reversed(apart):
        positions = any(name in counts and name in taken for name in node.output)  # 1
        ends = node.op_type == "Cast" and types.get(node.output[0], 0) in WHOLE  # 2
        if positions or ends or any(name in wanted for name in node.output):
            found.add(node.name)
            wanted.update(node.input)
    return frozenset(found)


def _names_type(node: onnx.NodeProto) -> bool:
    """Tell whether a node holds graphs, or names float32 as its result in ``dtype``."""
    names = {entry.name: entry for entry in node.attribute}
    named = names.get("dtype") or names.get("output_datatype")
    if named is None:
        return node.op_type in MAKE_FLOAT32 or next(inner_graphs(node), None) is not None
    return bool(named.i == TensorProto.FLOAT)


def _lacks(node: onnx.NodeProto, floats: set[str], opset: int, type_name: str) -> bool:
    """Tell whether an operator has a float32 value that ONNX allows in no other precision."""
    if node.domain not in ("", "ai.onnx"):
        return False
    inputs, outputs = _forms(node.op_type, opset)
    single = _single_inputs(node.op_type, opset)
    read = [
        _form(inputs, index)
        for index, name in enumerate(node.input)
        if name in floats and index not in single
    ]
    made = [_form(outputs, index) for index, name in enumerate(node.output) if name in floats]
    return any(form and type_name not in form for form in (*read, *made))


def _form(forms: tuple[frozenset[str], ...], index: int) -> frozenset[str]:
    """Return the types of one place; the last one's are those of all after it."""
    return forms[min(index, len(forms) - 1)] if forms else frozenset()


@functools.cache
def _forms(
    op_type: str, opset: int
) -> tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]]:
    """Return the types that an operator allows in each input and output; none if not known."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return (), ()
    inputs = tuple(frozenset(one.types) for one in schema.inputs)
    return inputs, tuple(frozenset(one.types) for one in schema.outputs)


@functools.cache
def _single_inputs(op_type: str, opset: int) -> frozenset[int]:
    """Return the indices of inputs that are float32 whatever the others are."""
    inputs, _ = _forms(op_type, opset)
    fixed = {index for index, form in enumerate(inputs) if form == {"tensor(float)"}}
    # A lone type of all inputs is not one of a single input.
    single = frozenset(fixed) if len(fixed) < len(inputs) else frozenset()
    return single | SINGLE_INPUTS.get(op_type, frozenset())


def float_constants(body: onnx.GraphProto) -> dict[str, TensorProto]:
    """Take the float32 constants out of the nodes of a graph; return each by its node's name."""
    found: dict[str, TensorProto] = {}
    others: list[onnx.NodeProto] = []
    for node in body.node:
        tensor = _constant(node)
        if tensor is None:
            others.append(node)
        else:
            tensor.name = node.output[0]
            found[node.name] = tensor
    if found:
        replace_nodes(body, others)
    return found


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    """Return the float32 tensor that a Constant gives; None for other nodes and types."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    entry = next(iter(node.attribute), None)
    if entry is None:
        return None
    if entry.name == "value_float":
        return helper.make_tensor("", TensorProto.FLOAT, [], [entry.f])
    if entry.name == "value_floats":
        return helper.make_tensor("", TensorProto.FLOAT, [len(entry.floats)], entry.floats)
    if entry.name == "value" and entry.t.data_type == TensorProto.FLOAT:
        return TensorProto.FromString(entry.t.SerializeToString())
    return None
