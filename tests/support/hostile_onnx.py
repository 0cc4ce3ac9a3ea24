"""Changes to an honest ONNX graph that no exporter makes."""

import itertools
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto], object]


def _first(graph: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.graph.node if node.op_type == operator)


def heaviest(graph: onnx.ModelProto) -> TensorProto:
    return max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))


def _subgraph(*, endless: bool) -> onnx.NodeProto:
    """A Loop that runs once, or for 2^62 turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    count = "turns" if endless else "one"
    return helper.make_node("Loop", [count, "", "images"], ["looped"], body=body, name="Loop")


def _loop(graph: onnx.ModelProto, *, endless: bool) -> None:
    for name, value in (("turns", 1 << 62), ("one", 1)):
        graph.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    for node in graph.graph.node:
        node.input[:] = ["looped" if name == "images" else name for name in node.input]
    graph.graph.node.insert(0, _subgraph(endless=endless))


def _constant_of(graph: onnx.ModelProto, items: int, operator: str = "ConstantOfShape") -> None:
    """A value of so many items, added to the first weight's."""
    shape = numpy_helper.from_array(np.array([items], np.int64), "vast_shape")
    graph.graph.initializer.append(shape)
    if operator == "ConstantOfShape":
        made = helper.make_node(operator, ["vast_shape"], ["vast"], name="vast")
    else:
        graph.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nought"))
        made = helper.make_node(operator, ["nought", "vast_shape"], ["vast"], name="vast")
    summed = helper.make_node("ReduceMax", ["vast"], ["top"], name="top", keepdims=0)
    last = graph.graph.output[0].name
    for node in graph.graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
    graph.graph.node.extend([made, summed, helper.make_node("Add", ["before", "top"], [last])])


def _nested(depth: int) -> onnx.NodeProto:
    node = helper.make_node("Identity", ["images"], ["deepest"])
    for level in range(depth):
        body = helper.make_graph([node], f"g{level}", [], [])
        node = helper.make_node("If", ["images"], [f"if{level}"])
        node.attribute.append(helper.make_attribute("then_branch", body))
    return node


def _function(graph: onnx.ModelProto) -> None:
    """A function that calls itself."""
    called = helper.make_node("Own", ["x"], ["y"], domain="own")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    graph.functions.append(helper.make_function("own", "Own", ["x"], ["y"], [called], opsets))
    graph.opset_import.append(helper.make_opsetid("own", 1))
    graph.graph.node.insert(0, helper.make_node("Own", ["images"], ["unused"], domain="own"))


def _many_nodes(graph: onnx.ModelProto, count: int) -> None:
    names = ["images", *(f"n{index}" for index in range(count))]
    for source, target in itertools.pairwise(names):
        graph.graph.node.append(helper.make_node("Relu", [source], [target]))


def _renamed(graph: onnx.ModelProto, new: str) -> None:
    for node in graph.graph.node:
        node.name = new


def _twice(graph: onnx.ModelProto) -> None:
    graph.graph.node.append(graph.graph.node[5])


def _cycle(graph: onnx.ModelProto) -> None:
    first, last = graph.graph.node[0], graph.graph.node[-1]
    first.input[0] = last.output[0]


def _foreign(graph: onnx.ModelProto, operator: str, domain: str) -> None:
    node = _first(graph, operator)
    node.domain = domain
    graph.opset_import.append(helper.make_opsetid(domain, 1))


def _foreign_of_nothing(graph: onnx.ModelProto) -> None:
    _foreign(graph, "MatMul", "own")
    graph.graph.node.append(helper.make_node("Gather", [], ["z"], domain="own"))


def _name_sides(graph: onnx.ModelProto) -> None:
    for side in graph.graph.input[0].type.tensor_type.shape.dim:
        side.dim_param = "s"


def _gather(graph: onnx.ModelProto, value: int) -> None:
    """An index that is not there."""
    name = _first(graph, "Gather").input[1]
    tensor = next(one for one in graph.graph.initializer if one.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))


CHANGES: dict[str, Change] = {
    "no nodes": lambda g: g.graph.ClearField("node"),
    "no inputs": lambda g: g.graph.ClearField("input"),
    "no outputs": lambda g: g.graph.ClearField("output"),
    "no initializers": lambda g: g.graph.ClearField("initializer"),
    "no opset": lambda g: g.ClearField("opset_import"),
    "no graph": lambda g: g.ClearField("graph"),
    "opset 0": lambda g: setattr(g.opset_import[0], "version", 0),
    "opset 10^9": lambda g: setattr(g.opset_import[0], "version", 10**9),
    "opset -1": lambda g: setattr(g.opset_import[0], "version", -1),
    "opset twice": lambda g: g.opset_import.append(helper.make_opsetid("", 9)),
    "ir version 0": lambda g: setattr(g, "ir_version", 0),
    "ir version 2^62": lambda g: setattr(g, "ir_version", 1 << 62),
    "input of type 99": lambda g: setattr(g.graph.input[0].type.tensor_type, "elem_type", 99),
    "input of type 8": lambda g: setattr(g.graph.input[0].type.tensor_type, "elem_type", 8),
    "input of type 7": lambda g: setattr(g.graph.input[0].type.tensor_type, "elem_type", 7),
    "input of type 0": lambda g: setattr(g.graph.input[0].type.tensor_type, "elem_type", 0),
    "input without a type": lambda g: g.graph.input[0].ClearField("type"),
    "input that is a sequence": lambda g: g.graph.input[0].type.sequence_type.elem_type.CopyFrom(
        g.graph.output[0].type
    ),
    "input without a shape": lambda g: g.graph.input[0].type.tensor_type.ClearField("shape"),
    "input of one dimension": lambda g: g.graph.input[0].type.tensor_type.shape.ClearField("dim"),
    "input twice": lambda g: g.graph.input.append(g.graph.input[0]),
    "another input": lambda g: g.graph.input.append(helper.make_tensor_value_info("more", 1, [1])),
    "output twice": lambda g: g.graph.output.append(g.graph.output[0]),
    "output that is not made": lambda g: setattr(g.graph.output[0], "name", "nowhere"),
    "batch of 2^40": lambda g: setattr(
        g.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1 << 40
    ),
    "batch of 65537": lambda g: setattr(
        g.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", (1 << 16) + 1
    ),
    "batch of -5": lambda g: setattr(
        g.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -5
    ),
    "batch of 0": lambda g: setattr(g.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 0),
    "side of 2^40": lambda g: setattr(
        g.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 40
    ),
    "side of 2^30": lambda g: setattr(
        g.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 30
    ),
    "side of 0": lambda g: setattr(g.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 0),
    "sides with names": _name_sides,
    "weight of type 99": lambda g: setattr(heaviest(g), "data_type", 99),
    "weight of type 0": lambda g: setattr(heaviest(g), "data_type", 0),
    "weight of text": lambda g: setattr(heaviest(g), "data_type", 8),
    "weight of complex": lambda g: setattr(heaviest(g), "data_type", 14),
    "weight of FP4": lambda g: setattr(heaviest(g), "data_type", 23),
    "weight of float64": lambda g: setattr(heaviest(g), "data_type", 11),
    "weight of 2^40": lambda g: heaviest(g).dims.extend([1 << 40]),
    "weight of 2^62 x 2^62 x 0": lambda g: heaviest(g).dims.extend([1 << 62, 1 << 62, 0]),
    "weight of -1": lambda g: heaviest(g).dims.extend([-1, -1]),
    "weight of 100 dimensions": lambda g: heaviest(g).dims.extend([1] * 100),
    "weight without data": lambda g: heaviest(g).ClearField("raw_data"),
    "weight with both data": lambda g: heaviest(g).float_data.extend([1.0]),
    "weight cut": lambda g: setattr(heaviest(g), "raw_data", heaviest(g).raw_data[:-3]),
    "weight without a name": lambda g: setattr(heaviest(g), "name", ""),
    "weight twice": lambda g: g.graph.initializer.append(heaviest(g)),
    "weight in a segment": lambda g: setattr(heaviest(g).segment, "begin", 5),
    "weights not finite": lambda g: setattr(
        heaviest(g), "raw_data", b"\x00\x00\xc0\x7f" * (len(heaviest(g).raw_data) // 4)
    ),
    "weights beyond float16": lambda g: setattr(
        heaviest(g), "raw_data", b"\x00\x00\x80\x7e" * (len(heaviest(g).raw_data) // 4)
    ),
    "sparse weight": lambda g: g.graph.sparse_initializer.add(),
    "gather of 10^9": lambda g: _gather(g, 10**9),
    "gather of -10^9": lambda g: _gather(g, -(10**9)),
    "names all equal": lambda g: _renamed(g, "same/Add"),
    "names empty": lambda g: _renamed(g, ""),
    "names of a million dots": lambda g: setattr(g.graph.node[3], "name", "." * 1_000_000 + "/x"),
    "names of a million slashes": lambda g: setattr(g.graph.node[3], "name", "a/" * 500_000),
    "names of a million letters": lambda g: setattr(
        g.graph.node[3], "name", "x" * 1_000_000 + "/MatMul"
    ),
    "names with escapes": lambda g: setattr(
        g.graph.node[3], "name", "\x1b[31m\n\u202e<script>/MatMul"
    ),
    "node twice": _twice,
    "cycle": _cycle,
    "operator that does not exist": lambda g: setattr(g.graph.node[3], "op_type", "Nonsense"),
    "operator without a name": lambda g: setattr(g.graph.node[3], "op_type", ""),
    "node without inputs": lambda g: g.graph.node[3].ClearField("input"),
    "node without outputs": lambda g: g.graph.node[3].ClearField("output"),
    "node without attributes": lambda g: [n.ClearField("attribute") for n in g.graph.node],
    "node with 10,000 inputs": lambda g: g.graph.node[3].input.extend(["images"] * 10_000),
    "foreign matrix product": lambda g: _foreign(g, "MatMul", "com.example"),
    "foreign einsum": lambda g: _foreign(g, "Einsum", "com.example"),
    "foreign softmax": lambda g: _foreign(g, "Softmax", "com.example"),
    "foreign gather": lambda g: _foreign(g, "Gather", "com.example"),
    "foreign norm": lambda g: _foreign(g, "LayerNormalization", "com.microsoft"),
    "foreign node of nothing": _foreign_of_nothing,
    "einsum of odd words": lambda g: setattr(_first(g, "Einsum").attribute[0], "s", b"\xff\xfe"),
    "einsum of a million letters": lambda g: setattr(
        _first(g, "Einsum").attribute[0], "s", b"a" * 1_000_000 + b",b->ab"
    ),
    "reshape to 2^62": lambda g: g.graph.initializer.append(
        numpy_helper.from_array(
            np.array([1 << 62, 1 << 62], np.int64), _first(g, "Reshape").input[1]
        )
    ),
    "cast inside": lambda g: g.graph.node.append(
        helper.make_node("Cast", ["images"], ["cast"], to=10)
    ),
    "cast to 99": lambda g: g.graph.node.append(
        helper.make_node("Cast", ["images"], ["cast"], to=99)
    ),
    "constant of type 99": lambda g: g.graph.node.append(
        helper.make_node("Constant", [], ["c"], value=TensorProto(data_type=99, dims=[1 << 40]))
    ),
    "loop of one turn": lambda g: _loop(g, endless=False),
    "loop without end": lambda g: _loop(g, endless=True),
    "value of 2^40": lambda g: _constant_of(g, 1 << 40),
    "value of 2^31": lambda g: _constant_of(g, 1 << 31),
    "expanded to 2^40": lambda g: _constant_of(g, 1 << 40, "Expand"),
    "expanded to 2^31": lambda g: _constant_of(g, 1 << 31, "Expand"),
    "subgraphs 30 deep": lambda g: g.graph.node.append(_nested(30)),
    "function that calls itself": _function,
    "100,000 nodes": lambda g: _many_nodes(g, 100_000),
    "19,000 nodes": lambda g: _many_nodes(g, 19_000),
    "training info": lambda g: g.training_info.add(),
    "scopes of deep brackets": lambda g: [
        g.graph.node[i].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="[" * 100_000)
        for i in range(3)
    ],
    "doc of 10 MB": lambda g: setattr(g, "doc_string", "x" * 10_000_000),
}
