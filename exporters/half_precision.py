"""Write half precision into an ONNX graph.

Every weight and activation becomes float16 or bfloat16, but for the modules that the export or the
caller names as float32 (``FLOAT32_MODULES``), and for what must stay so in anybody's graph
(``float32_uses``); LayerNormalization keeps its statistics in float32 (its ``stash_type``), as ONNX
Runtime and TensorRT both do. A cast of data to float32 becomes one to the half type.

This converter was chosen by measurement (``scripts/compare_half``): it gives the numbers of
exporting the ``.half()`` module, needs the file alone, and names what float16 cannot hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 by name once it is loaded
import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import ExportError
from exporters.float32_uses import (
    Float32Uses,
    captured,
    float32_uses,
    float_constants,
    inner_graphs,
)
from exporters.int8 import is_int8
from exporters.norm_folding import FACTOR, WEIGHT, balanced, fold_norms
from exporters.precisions import HALVES, PRECISIONS, REDUCED, PrecisionTraits
from exporters.quantisation import fp8_form
from exporters.spec import Precision
from exporters.text_files import parse_json, typed
from exporters.weights import replace_nodes, without_weights

FLOAT32_MODULES = "float32_modules"  # metadata: paths of modules that stay float32
FLOAT32_ASKED = "float32_asked"  # those among them that the caller named, not the model
ZERO = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
HALF_TYPES = tuple(PRECISIONS[name].onnx_type for name in REDUCED)
# The contractions that deploy models write as Einsum, as a product of tensors with their axes so:
# left and right, and what becomes of the result.
IN_PLACE = (0, 1, 2, 3)
CONTRACTIONS = {
    "qbhd,kbhd->bhqk": ((1, 2, 0, 3), (1, 2, 3, 0), IN_PLACE),
    "bhqk,kbhd->qbhd": (IN_PLACE, (1, 2, 0, 3), (2, 0, 1, 3)),
}


def precision_of(graph: onnx.ModelProto) -> Precision:
    """Return the precision of most weights, without those of modules kept in float32 on purpose.

    A graph that stores values or weights in FP8 is of that precision, and one of products in 8-bit
    integers is int8, whatever else they hold.

    Raises:
        FileError: If the metadata that names these modules is damaged.
    """
    stored = fp8_form(graph)
    if stored:
        return stored
    if is_int8(graph):
        return "int8"
    kept = _kept_nodes(graph)
    aside = {name for node in graph.graph.node if node.name in kept for name in node.input}
    names: dict[int, Precision] = {PRECISIONS[name].onnx_type: name for name in ("fp32", *HALVES)}
    sizes = dict.fromkeys(PRECISIONS, 0)
    for tensor in graph.graph.initializer:
        if tensor.data_type in names and tensor.name not in aside:
            sizes[names[tensor.data_type]] += int(np.prod(tensor.dims))
    return max(sizes, key=lambda name: sizes[name])


def float32_modules(graph: onnx.ModelProto, key: str = FLOAT32_MODULES) -> tuple[str, ...]:
    """List the modules whose own nodes stay float32 in a half-precision form of the graph.

    Args:
        graph: The graph.
        key: Key of its metadata: ``FLOAT32_MODULES`` for all, ``FLOAT32_ASKED`` for those that
            the caller named.

    Returns:
        Paths of the modules; empty if the metadata has none.

    Raises:
        FileError: If the metadata is damaged.
    """
    props = {entry.key: entry.value for entry in graph.metadata_props}
    where = f"the metadata {key}"
    return tuple(typed(parse_json(props.get(key, "[]"), where=where), list[str], where=where))


def to_half(
    graph: onnx.ModelProto,
    *,
    io_precision: Precision,
    precision: Precision = "fp16",
    keep: Iterable[str] = (),
) -> onnx.ModelProto:
    """Make a copy of a float32 graph in a smaller precision.

    Args:
        graph: A float32 graph, ours or another tool's.
        io_precision: Precision of inputs and outputs; ``fp32`` adds one cast at each.
        precision: Precision of weights and activations, one of ``HALVES``.
        keep: Paths of modules whose own nodes stay float32, added to those that the graph names.

    Raises:
        ExportError: If a weight lies beyond the precision's range, no module to keep is in the
            graph, or the graph casts to half precision itself or has a form that the precision
            lacks.
    """
    traits = PRECISIONS[precision]
    half = _inlined(without_weights(graph))
    body = half.graph
    _keep(half, tuple(keep))
    if not traits.einsum:
        _spell_out_einsum(body)
    _name_nodes(body)
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    made, folded = fold_norms(half, tensors, traits, kept=_kept_nodes(half))
    centred = {f"{path}.{WEIGHT}" for path in folded}
    _stay_float32(half, [f"{path}.{FACTOR}" for path in folded])
    sources = {name: (name, tensor) for name, tensor in (tensors | made).items()}
    for node, tensor in float_constants(body).items():
        body.initializer.append(tensor)
        sources[tensor.name] = (node, tensor)
    uses = float32_uses(half, _kept_nodes(half), traits)
    wide = _own_weights(body, uses)
    for one in body.node:
        _halve_node(one, uses, traits)
    for target in body.initializer:
        label, source = sources[wide.get(target.name, target.name)]
        if target.name in wide:
            _copy_values(source, target)
        else:
            _halve(source, target, label, traits, centred=target.name in centred)
    body.ClearField("value_info")
    _fence(body, uses, set(wide), traits.onnx_type)
    if io_precision == "fp32":
        _add_casts(body, traits.onnx_type)
    else:
        for value in _float_edges(body):
            value.type.tensor_type.elem_type = traits.onnx_type
    return half


def _inlined(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without functions of its own: they become the nodes that they stand for."""
    return onnx.inliner.inline_local_functions(graph) if graph.functions else graph


def _name_nodes(body: onnx.GraphProto) -> None:
    """Give a name to each node that has none, or another's."""
    seen: set[str] = set()
    for index, node in enumerate(body.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_node{index}"
        seen.add(node.name)


def _keep(graph: onnx.ModelProto, modules: tuple[str, ...]) -> None:
    """Add those of ``modules`` that own a node to the float32 modules in the graph's metadata.

    Raises:
        ExportError: If none of them owns a node.
    """
    owners = {_module(node) for node in graph.graph.node}
    found = [name for name in modules if name in owners]
    if modules and not found:
        raise ExportError(
            f"no node of the graph belongs to {modules[0]}, so it cannot stay float32; "
            "swin-deploy precision lists what can"
        )
    if found:
        _stay_float32(graph, found)
        _set_metadata(graph, FLOAT32_ASKED, found)


def _stay_float32(graph: onnx.ModelProto, modules: Sequence[str]) -> None:
    """Add modules to the float32 modules in a graph's metadata."""
    if modules:
        known = float32_modules(graph)
        _set_metadata(graph, FLOAT32_MODULES, list(dict.fromkeys((*known, *modules))))


def _set_metadata(graph: onnx.ModelProto, key: str, names: list[str]) -> None:
    props = {entry.key: entry.value for entry in graph.metadata_props}
    helper.set_model_props(graph, props | {key: json.dumps(names)})


def _module(node: onnx.NodeProto) -> str:
    return node.name.rpartition("/")[0]


def _kept_nodes(graph: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes that stay float32: the own nodes of the float32 modules."""
    modules = set(float32_modules(graph))
    return {node.name for node in graph.graph.node if _module(node) in modules}


def _own_weights(body: onnx.GraphProto, uses: Float32Uses) -> dict[str, str]:
    """Give float32 uses weights of their own, and return each one's former name by its name.

    A weight that is used in half precision too is copied.
    """
    floats = {t.name: t for t in body.initializer if t.data_type == TensorProto.FLOAT}
    shared = {
        name
        for node in body.node
        for index, name in enumerate(node.input)
        if not uses.takes(node, index)
    }
    shared |= {value.name for value in body.output}
    wide: dict[str, str] = {}

    def own(name: str) -> str:
        mine = f"{name}/float" if name in shared else name
        if mine != name and mine not in wide:
            body.initializer.append(floats[name])
            body.initializer[-1].name = mine
        wide[mine] = name
        return mine

    for node in body.node:
        for index, name in enumerate(node.input):
            if name in floats and uses.takes(node, index):
                node.input[index] = own(name)
        if node.name in uses.nodes:
            _rename_inside(node, {name: own(name) for name in captured(node) if name in floats})
    return wide


def _rename_inside(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Rename values in the graphs that a node holds."""
    for graph in inner_graphs(node):
        for inner in graph.node:
            inner.input[:] = [names.get(name, name) for name in inner.input]
            _rename_inside(inner, names)
        for value in graph.output:
            value.name = names.get(value.name, value.name)


def _fence(body: onnx.GraphProto, uses: Float32Uses, weights: set[str], half: int) -> None:
    """Cast what enters a float32 use to float32, and what leaves one to the half type.

    Args:
        body: The graph, its weights and nodes already in half precision.
        uses: The uses that stay float32.
        weights: Names of the weights that are float32 still.
        half: The half type.
    """
    made = {name for node in body.node if node.name in uses.nodes for name in node.output}
    wide = weights | (made & uses.floats)
    narrow = uses.floats - wide
    taken = {node.name for node in body.node}
    nodes: list[onnx.NodeProto] = []
    cast: dict[tuple[str, bool], str] = {}

    def brought(node: onnx.NodeProto, name: str, *, enters: bool) -> str:
        if name not in (narrow if enters else wide):
            return name
        if (name, enters) not in cast:
            cast[name, enters] = f"{name}/{'float' if enters else 'half'}"
            label = f"{_module(node) if enters else name}/Cast_{len(cast)}"
            label = f"{label}_{'float' if enters else 'half'}" if label in taken else label
            to = TensorProto.FLOAT if enters else half
            ends = ([name], [cast[name, enters]])
            nodes.append(helper.make_node("Cast", *ends, name=label, to=to))
        return cast[name, enters]

    for node in body.node:
        if node.op_type != "Cast":  # which takes any type
            for index, name in enumerate(node.input):
                node.input[index] = brought(node, name, enters=uses.takes(node, index))
        inside = {name: brought(node, name, enters=True) for name in captured(node)}
        _rename_inside(node, {name: new for name, new in inside.items() if new != name})
        nodes.append(node)
    replace_nodes(body, nodes)


def _spell_out_einsum(body: onnx.GraphProto) -> None:
    """Replace Einsum by Transpose and MatMul: ONNX's Einsum does not take bfloat16."""
    nodes: list[onnx.NodeProto] = []
    for node in body.node:
        nodes += _product(node) if node.op_type == "Einsum" else [node]
    replace_nodes(body, nodes)


def _product(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    equation = next(entry.s.decode() for entry in node.attribute if entry.name == "equation")
    orders = CONTRACTIONS.get(equation.replace(" ", ""))
    if orders is None:
        raise ExportError(
            f"{node.name} contracts {equation}, and ONNX's Einsum takes no bfloat16; "
            "use float16 or float32 for this graph"
        )
    *sides, result = orders
    (output,) = node.output
    nodes: list[onnx.NodeProto] = []

    def turned(source: str, target: str, order: tuple[int, ...]) -> None:
        name = f"{node.name}_Transpose_{len(nodes)}"
        nodes.append(helper.make_node("Transpose", [source], [target], name=name, perm=order))

    factors = list(node.input)
    for index, order in enumerate(sides):
        if order != IN_PLACE:
            factors[index] = f"{output}/{index}"
            turned(node.input[index], factors[index], order)
    product = output if result == IN_PLACE else f"{output}/product"
    nodes.append(helper.make_node("MatMul", factors, [product], name=f"{node.name}_MatMul"))
    if result != IN_PLACE:
        turned(product, output, result)
    return nodes


def _halve_node(node: onnx.NodeProto, uses: Float32Uses, traits: PrecisionTraits) -> None:
    """Bring what a node says of its own type to half precision, if it computes in that."""
    if node.op_type == "Cast":
        _halve_cast(node, uses, traits)
    if node.name not in uses.nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 zeros
            node.attribute.append(helper.make_attribute("value", ZERO))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _halve(attribute.t, attribute.t, node.name, traits)


def _halve_cast(node: onnx.NodeProto, uses: Float32Uses, traits: PrecisionTraits) -> None:
    """Let a cast to float32 be one to the half type; raises ``ExportError`` for one to half."""
    for entry in node.attribute:
        if entry.name == "to" and entry.i in HALF_TYPES:
            raise ExportError(
                f"the graph casts to half precision by itself ({node.name}): its precision is "
                "mixed already; give a plain float32 ONNX file"
            )
        if entry.name == "to" and entry.i == TensorProto.FLOAT and node.name not in uses.nodes:
            entry.i = traits.onnx_type


def _float_edges(body: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the graph's float32 inputs and outputs."""
    edges = (*body.input, *body.output)
    return [value for value in edges if value.type.tensor_type.elem_type == TensorProto.FLOAT]


def _copy_values(source: onnx.TensorProto, target: onnx.TensorProto) -> None:
    name = target.name
    target.CopyFrom(source)
    target.name = name


def _halve(
    source: onnx.TensorProto,
    target: onnx.TensorProto,
    name: str,
    traits: PrecisionTraits,
    *,
    centred: bool = False,
) -> None:
    """Give ``target`` the values of ``source``: float32 in the half type, others as they are.

    Args:
        source: The values.
        target: The tensor to write, of any name.
        name: Name for errors.
        traits: The half precision.
        centred: Whether the columns sum to zero, and must do so when they are rounded.
    """
    if source.data_type != TensorProto.FLOAT:
        _copy_values(source, target)
        return
    values = _within(numpy_helper.to_array(source), traits)
    finite = values if not _is_mask(values) else values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0.0))
    if not largest <= traits.largest:
        raise ExportError(
            f"{name} holds {largest:.4g}, beyond the {traits.largest:.6g} of {traits.dtype}; "
            "use float32 for this model"
        )
    half = balanced(values, traits) if centred else values.astype(traits.dtype)
    kind, data = traits.onnx_type, half.tobytes()
    target.CopyFrom(TensorProto(name=target.name, data_type=kind, dims=half.shape, raw_data=data))


def _within(values: NDArray[np.float32], traits: PrecisionTraits) -> NDArray[np.float32]:
    """Bring numbers that stand for a limit, and not for a measure, to the precision's own.

    1. In masks the least and the largest float32 are the least and the largest of any type.
    2. A lone number above 0 that would become 0 keeps something apart from 0: a divisor, a
       logarithm's argument. It becomes the least number above 0.
    """
    if _is_mask(values):  # 1
        return np.where(np.isinf(values), values, values.clip(-traits.largest, traits.largest))
    least = traits.smallest_normal * 2 * traits.roundoff
    if values.size == 1 and 0 < abs(values.item()) < least:  # 2
        return np.full_like(values, np.copysign(least, values.item()))
    return values


def _is_mask(values: NDArray[np.float32]) -> bool:
    """Tell whether values are zeros and float32's own limits alone."""
    limits = np.isinf(values) | (np.abs(values) == np.finfo(np.float32).max)
    return bool(np.all(limits | (values == 0)))


def _add_casts(body: onnx.GraphProto, half: int) -> None:
    """Cast float32 inputs to the half type after them, and outputs back before them."""
    renamed = {value.name: f"{value.name}/half" for value in _float_edges(body)}
    front: list[onnx.NodeProto] = []
    back: list[onnx.NodeProto] = []
    for node in body.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    inputs = {value.name for value in body.input}
    for tensor in body.initializer:  # an output may be a weight
        if tensor.name not in inputs:
            tensor.name = renamed.get(tensor.name, tensor.name)
    for values, casts, to in (
        (body.input, front, half),
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
