"""The least work of a graph: operations of its matrix products, and bytes at the floor.

The floor is the fewest bytes that this set of kernels can move: a matrix product with everything
elementwise that follows it, one kernel for a whole attention, and a norm. Then

- a matrix product reads its input once, however many share it, and its weights, and writes its
  output;
- attention reads queries, keys and values, and writes its output: no scores;
- a norm reads and writes; after another norm it is in the same kernel and only writes; one whose
  deviation alone is used, a number a token, only reads;
- a residual is read by the kernel that adds it;
- what is rounded to 8 bits is written and read so, and weights stored so are read so;
- reshapes, transposes, shifts, casts, activations, biases and masks cost nothing.

In units of tokens * channels, a Swin block comes to 26: 16 for its four matrix products, 4 for
attention, 4 for two norms, 2 for two residuals; to 25 with the norm before its MLP folded into it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import onnx
from onnx import helper

from exporters.plan.values import Value

PRODUCTS = ("MatMul", "Gemm", "Einsum", "Conv")
NORMS = ("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization")
SQUARES = ("Pow", "Mul")  # of which a norm that is spelt out takes the mean
POOLS = ("GlobalAveragePool", "ReduceMean")
STANDARD = ("", "ai.onnx")  # domains whose operators these are


@dataclass
class Work:
    """The least work of nodes, by the key of the node.

    Attributes:
        flops: Number of operations of matrix products, two for each multiply-accumulate.
        floor_bytes: Fewest bytes that its kernel moves for it.
        attention: Keys of the nodes that end an attention block, in order.
        unsized: Number of matrix products of unknown shapes.
    """

    flops: Counter[str] = field(default_factory=Counter)
    floor_bytes: Counter[str] = field(default_factory=Counter)
    attention: list[str] = field(default_factory=list)
    unsized: int = 0


@dataclass
class _Flow:
    """For each tensor, the tensor it comes from through free operations (reshape, activation).

    Attributes:
        values: Shape and item size of each value.
        root: The value that a value is a view, a cast or an activation of.
        origin: Kind of node that made the root: ``input``, ``product``, ``norm``, ``softmax`` or
            empty for any other.
        made_by: The node that made a value.
        readers: Number of nodes that read a value.
        read: Roots that a matrix product has read.
        rounded: Roots that are rounded to 8 bits.
    """

    values: dict[str, Value]
    root: dict[str, str] = field(default_factory=dict)
    origin: defaultdict[str, str] = field(default_factory=lambda: defaultdict(str))
    made_by: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: Counter[str] = field(default_factory=Counter)
    read: set[str] = field(default_factory=set)
    rounded: set[str] = field(default_factory=set)

    def changing(self, node: onnx.NodeProto) -> list[str]:
        """List the inputs of a node that are not the same for all images."""
        return [n for n in node.input if n and not self.value(n).constant]

    def value(self, name: str) -> Value:
        return self.values.get(name, Value())

    def stored_bytes(self, name: str) -> int:
        """Count the bytes of what a product reads, before DequantizeLinear brings it back."""
        made_by = self.made_by.get(name)
        is_back = made_by is not None and made_by.op_type == "DequantizeLinear"
        return self.value(made_by.input[0] if made_by and is_back else name).bytes

    def start(self, name: str, origin: str) -> None:
        """Make ``name`` a root."""
        self.root[name], self.origin[name] = name, origin

    def follow(self, node: onnx.NodeProto, source: str) -> None:
        """Make a node's outputs views of ``source``."""
        for name in node.output:
            self.root[name] = self.root.get(source, source)
            self.origin[name] = self.origin[source]


def node_key(node: onnx.NodeProto) -> str:
    """Return the name of a node in a builder's log, which also names nodes without a name."""
    return str(node.name or f"node_of_{node.output[0]}")


def count_work(graph: onnx.ModelProto, values: dict[str, Value]) -> Work:
    """Count operations and bytes at the floor of a graph, node by node.

    Args:
        graph: Any graph; attention is a Softmax between two matrix products, or one node, also
            where it is the same for all images.
        values: Values of the graph, from ``infer_values``.
    """
    work, flow = Work(), _Flow(values)
    for entry in graph.graph.input:
        flow.start(entry.name, "input")
    for node in graph.graph.node:
        flow.readers.update(set(node.input))
    for node in graph.graph.node:
        changing = flow.changing(node)
        if changing:
            _visit(node, changing, flow, work)
        else:
            _visit_constant(node, flow, work)
        flow.made_by |= dict.fromkeys(node.output, node)
    return work


def _visit(node: onnx.NodeProto, changing: list[str], flow: _Flow, work: Work) -> None:
    if node.domain not in STANDARD:
        flow.follow(node, changing[0])
    elif node.op_type in PRODUCTS and len(node.input) > 1:
        _visit_product(node, flow, work)
    elif node.op_type == "Attention":
        _visit_attention(node, flow, work)
    elif node.op_type == "Softmax":
        flow.start(node.output[0], "softmax")
    elif node.op_type in NORMS or _squared(node, flow):
        _visit_norm(node, flow, work)
    elif _is_residual(node, changing, flow):
        _visit_residual(node, changing, flow, work)
    else:
        _drop_pooled_output(node, flow, work)
        _round_output(node, flow, work)
        normed = [name for name in changing if flow.origin[name] == "norm"]
        flow.follow(node, (normed or changing)[0])


def _visit_constant(node: onnx.NodeProto, flow: _Flow, work: Work) -> None:
    """Count an attention that is the same for all images; it needs neither operations nor bytes.

    The queries of a decoder attend to each other before they have seen an image, and TensorRT-RTX
    1.7.1 computes that at each launch.
    """
    origins = [flow.origin[name] for name in node.input]
    if node.op_type == "Attention" or (node.op_type in PRODUCTS and "softmax" in origins):
        work.attention.append(node_key(node))
    if node.op_type in (*PRODUCTS, "Attention"):
        flow.start(node.output[0], "product")
    elif "product" in origins and node.op_type == "Softmax":
        flow.start(node.output[0], "softmax")
    elif any(origins):
        flow.follow(node, next(name for name in node.input if flow.origin[name]))


def _visit_product(node: onnx.NodeProto, flow: _Flow, work: Work) -> None:
    key, operands = node_key(node), list(node.input[:2])
    flops = product_flops(node, flow.values)
    if flops is None:
        work.unsized += 1
    work.flops[key] += flops or 0
    weights = [name for name in operands if flow.value(name).constant]
    if weights:
        work.floor_bytes[key] += _input_bytes(operands, flow)
        work.floor_bytes[key] += flow.stored_bytes(weights[0]) + flow.value(node.output[0]).bytes
    else:
        _visit_half_attention(node, operands, flow, work)
    flow.start(node.output[0], "product")


def _input_bytes(operands: list[str], flow: _Flow) -> int:
    """Count the bytes of a weighted product's activation; 0 if another product has read it."""
    (name, *_) = [name for name in operands if not flow.value(name).constant]
    root = flow.root.get(name, name)
    if root in flow.read:
        return 0
    flow.read.add(root)
    return flow.stored_bytes(root if flow.origin[name] == "input" else name)


def _visit_half_attention(
    node: onnx.NodeProto, operands: list[str], flow: _Flow, work: Work
) -> None:
    """Count a product of two activations: it ends an attention after a softmax, else begins one."""
    key = node_key(node)
    others = [name for name in operands if flow.origin[name] != "softmax"]
    work.floor_bytes[key] += sum(flow.value(name).bytes for name in others)
    if len(others) < len(operands):
        work.attention.append(key)
        work.floor_bytes[key] += flow.value(node.output[0]).bytes


def _visit_attention(node: onnx.NodeProto, flow: _Flow, work: Work) -> None:
    key = node_key(node)
    query, key_name, value = (flow.value(name) for name in node.input[:3])
    output = flow.value(node.output[0])
    work.attention.append(key)
    work.floor_bytes[key] += query.bytes + key_name.bytes + value.bytes + output.bytes
    flow.start(node.output[0], "product")
    if query.shape is None or key_name.shape is None or output.shape is None:
        work.unsized += 1
        return
    scores = math.prod(query.shape) + math.prod(output.shape)
    work.flops[key] += 2 * scores * key_name.shape[-2]


def _visit_norm(node: onnx.NodeProto, flow: _Flow, work: Work) -> None:
    squared = _squared(node, flow)
    if squared is not None and flow.readers[squared] == 1:
        _visit_deviation(node, squared, flow, work)
        return
    source = node.input[0]
    behind_another = flow.origin[source] == "norm"
    work.floor_bytes[node_key(node)] += flow.value(source).bytes * (1 if behind_another else 2)
    flow.start(node.output[0], "norm")


def _visit_deviation(node: onnx.NodeProto, squared: str, flow: _Flow, work: Work) -> None:
    """Count the tokens that a deviation is of; what it writes, a number a token, is not counted."""
    root = flow.root.get(squared, squared)
    if flow.origin[root] != "norm":
        work.floor_bytes[node_key(node)] += flow.value(root).bytes
    flow.start(node.output[0], "")


def _squared(node: onnx.NodeProto, flow: _Flow) -> str | None:
    """Return what a LayerNorm of several nodes takes the mean square of; None for other nodes."""
    made_by = flow.made_by.get(node.input[0]) if node.op_type == "ReduceMean" else None
    return made_by.input[0] if made_by and made_by.op_type in SQUARES else None


def _is_residual(node: onnx.NodeProto, changing: list[str], flow: _Flow) -> bool:
    """Tell whether a node adds two values of one shape that have different roots."""
    if node.op_type != "Add" or len(changing) != 2:
        return False
    one, other = changing
    return flow.root.get(one) != flow.root.get(other) and (
        flow.value(one).shape == flow.value(other).shape
    )


def _visit_residual(node: onnx.NodeProto, changing: list[str], flow: _Flow, work: Work) -> None:
    """Count the other summand, which the kernel of the branch, a product or a norm, reads."""
    origins = {flow.origin[name] for name in changing}
    work.floor_bytes[node_key(node)] += flow.value(node.output[0]).bytes
    in_norm = "norm" in origins and "product" not in origins
    flow.start(node.output[0], "norm" if in_norm else "")


def _drop_pooled_output(node: onnx.NodeProto, flow: _Flow, work: Work) -> None:
    """Subtract the output of a norm before the mean over all tokens, which need not be written."""
    source = node.input[0] if node.input else ""
    root = flow.root.get(source, source)
    norm = flow.made_by.get(root)
    if norm is None or norm.op_type not in NORMS:
        return
    if node.op_type in POOLS and not _reduces_rows(node, flow):
        work.floor_bytes[node_key(norm)] -= flow.value(root).bytes


def _round_output(node: onnx.NodeProto, flow: _Flow, work: Work) -> None:
    """Subtract what the kernel before a QuantizeLinear saves, which writes the rounded values."""
    if node.op_type != "QuantizeLinear":
        return
    root = flow.root.get(node.input[0], node.input[0])
    made_by, whole = flow.made_by.get(root), flow.value(root)
    if made_by is None or made_by.op_type not in (*PRODUCTS, *NORMS, "Attention"):
        return
    if root not in flow.rounded and whole.item_bytes:
        flow.rounded.add(root)
        left = flow.value(node.output[0]).item_bytes
        saved = whole.bytes * (whole.item_bytes - left) // whole.item_bytes
        work.floor_bytes[node_key(made_by)] -= saved


def _reduces_rows(node: onnx.NodeProto, flow: _Flow) -> bool:
    """Tell whether a mean is that of each token's channels, as at the start of a norm."""
    shape = flow.value(node.input[0]).shape
    return shape is not None and flow.value(node.output[0]).shape == (*shape[:-1], 1)


def product_flops(node: onnx.NodeProto, values: dict[str, Value]) -> int | None:
    """Count the operations of a matrix product or a convolution.

    Args:
        node: A MatMul, Gemm, Einsum or Conv.
        values: Values of the graph, from ``infer_values``.

    Returns:
        Number of operations, two for each multiply-accumulate; None if shapes are not known, or
        for an Einsum with an ellipsis.
    """
    one, other = (values.get(name, Value()).shape for name in node.input[:2])
    result = values.get(node.output[0], Value()).shape
    if not one or not other or (result is None and node.op_type != "Einsum"):
        return None
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Einsum":
        sizes = _einsum_sizes(attributes["equation"].decode(), (one, other))
        return None if sizes is None else 2 * math.prod(sizes.values())
    summed = one[-1]
    if node.op_type == "Gemm" and attributes.get("transA"):
        summed = one[0]
    elif node.op_type == "Conv":
        summed = math.prod(other[1:])
    return 2 * summed * math.prod(result or ())


def _einsum_sizes(equation: str, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int] | None:
    """Return the size of each index; None for an ellipsis, or if the ranks do not fit."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if [len(term) for term in terms] != [len(shape) for shape in shapes] or "." in equation:
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        sizes |= zip(term, shape, strict=True)
    return sizes
