"""FP8 storage of what products read: QuantizeLinear and DequantizeLinear, named by module path.

A value that a product reads is rounded to FP8 (E4M3) at a fixed scale and brought back, so that the
kernel before it writes one byte a value and the product's kernel reads that; the product itself,
its weight and all else stay half. The weight may be FP8 as well: then the product is computed in
FP8. The residual stream is never rounded: its errors would add up over the blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import ExportError, FileError
from exporters.precisions import PRECISIONS
from exporters.spec import FP8_OPSET, Precision
from exporters.text_files import listed, parse_json, typed
from exporters.weights import drop_unread, replace_nodes

FP8 = PRECISIONS["fp8"]
MOVES = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Split", "Transpose"})
ROUNDED, BACK = "fp8", "fp8_back"  # last words of the names of quantised values
CALIBRATION = "calibration"  # metadata: what the scales follow from
WeightScales = Literal["half", "tensor", "channel"]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class LinearProduct:
    """A product of data with a weight of two axes: a linear layer, without its bias.

    Attributes:
        node: Name of the node.
        path: Path of the module that the node belongs to, such as ``layers.0.mlp.2``.
        data: Name of the value that the product reads.
        weight: Name of the weight.
    """

    node: str
    path: str
    data: str
    weight: str


@dataclass(frozen=True)
class Fp8Product:
    """A product to quantise.

    Attributes:
        path: Path of its module.
        largest: The largest absolute value that it reads: FP8's largest value stands for it.
        weight: Scales of its weight in FP8: one of the whole ``tensor`` or one of each output
            ``channel``; ``half`` leaves the weight in half precision.
    """

    path: str
    largest: float
    weight: WeightScales = "half"


def linear_products(graph: onnx.ModelProto) -> tuple[LinearProduct, ...]:
    """List the products of data with a weight, in the graph's order.

    Args:
        graph: A graph whose nodes are named by module; the structure without weights is enough.
    """
    weights = {one.name for one in graph.graph.initializer if len(one.dims) == 2}
    return tuple(
        LinearProduct(node.name, _module(node), node.input[0], node.input[1])
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and node.input[1] in weights
        and node.input[0] not in weights
    )


def products_at(graph: onnx.ModelProto, paths: Collection[str]) -> tuple[LinearProduct, ...]:
    """List the products of the modules at ``paths``, in the graph's order.

    Raises:
        ExportError: If a module has no product in the graph.
    """
    found = tuple(one for one in linear_products(graph) if one.path in paths)
    missing = sorted(set(paths) - {one.path for one in found})
    if missing:
        raise ExportError(
            f"the graph has no product of a weight at {listed(missing[:3])}; give an ONNX file "
            "that swin-deploy exported from the model"
        )
    return found


def quantise(graph: onnx.ModelProto, products: Sequence[Fp8Product]) -> None:
    """Let products of a half-precision graph read FP8, in place.

    Args:
        graph: The graph, with its weights.
        products: The products to quantise.

    Raises:
        ExportError: If the graph's opset has no Q/DQ with half scales, a product is not there, or
            one reads the residual stream.
    """
    require_opset(graph)
    asked = {one.path: one for one in products}
    sites = {one.node: one for one in products_at(graph, asked)}
    for one in sites.values():
        _refuse_residual(graph.graph, one)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in graph.graph.node:
        site = sites.get(node.name)
        if site is not None:
            product, kind = asked[site.path], weights[site.weight].data_type
            pair = _storage(site, product, kind)
            if f"{site.data}/{BACK}" not in made:
                made.add(f"{site.data}/{BACK}")
                nodes += pair.nodes
                graph.graph.initializer.extend(pair.tensors)
            node.input[0] = f"{site.data}/{BACK}"
            if product.weight != "half":
                back = _weight(node, site, weights[site.weight], per=product.weight)
                nodes += back.nodes
                graph.graph.initializer.extend(back.tensors)
                node.input[1] = back.nodes[0].output[0]
        nodes.append(node)
    replace_nodes(graph.graph, nodes)
    drop_unread(graph.graph, {one.weight for one in sites.values()})


def require_opset(graph: onnx.ModelProto) -> None:
    """Refuse a graph of an opset without Q/DQ of half scales; raises ``ExportError``."""
    found = max(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx"))
    if found < FP8_OPSET:
        raise ExportError(
            f"its opset is {found}, and FP8 needs {FP8_OPSET} at least (QuantizeLinear with half "
            f"scales); export it again with --opset {FP8_OPSET}"
        )


def quantised_scales(graph: onnx.ModelProto) -> dict[str, float]:
    """Return the scale of what each quantised product reads, by the path of its module.

    Args:
        graph: Any graph; the structure without weights is enough.

    Returns:
        The scales; NaN for a product whose values are rounded and brought back by two, or that
        are not one constant number, as in other tools' files.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    values = _constants(graph)
    rounded = {node.output[0]: node for node in graph.graph.node if _rounds(node, values)}
    found = {}
    for node in graph.graph.node:
        back = makers.get(node.input[0]) if node.op_type in ("MatMul", "Gemm") else None
        if back is not None and back.op_type == "DequantizeLinear" and back.input[0] in rounded:
            scales = {_number(values.get(one.input[1])) for one in (rounded[back.input[0]], back)}
            found[_module(node)] = scales.pop() if len(scales) == 1 else math.nan
    return found


def _constants(graph: onnx.ModelProto) -> dict[str, TensorProto]:
    """Return the initializers and what Constant nodes hold, by name: other tools write either."""
    found = {tensor.name: tensor for tensor in graph.graph.initializer}
    held = [node for node in graph.graph.node if node.op_type == "Constant"]
    return found | {
        node.output[0]: one.t for node in held for one in node.attribute if one.name == "value"
    }


def _rounds(node: onnx.NodeProto, values: Mapping[str, TensorProto]) -> bool:
    """Tell whether a node rounds to FP8, by the type of its zero point or, without one, its own."""
    if node.op_type != "QuantizeLinear":
        return False
    kinds = [values[name].data_type for name in node.input[2:] if name in values]
    kinds += [entry.i for entry in node.attribute if entry.name == "output_dtype"]
    return FP8.onnx_type in kinds


def _number(tensor: TensorProto | None) -> float:
    """Return the number that a tensor holds; NaN for no tensor, and for one of several numbers."""
    if tensor is None or math.prod(tensor.dims) != 1:
        return math.nan
    return float(numpy_helper.to_array(tensor).reshape(()))


def quantised_weights(graph: onnx.ModelProto) -> dict[str, WeightScales]:
    """Return the kind of scales of each product whose weight is FP8, by the path of its module."""
    values = _constants(graph)
    stored = {name for name, one in values.items() if one.data_type == FP8.onnx_type}
    backs: dict[str, WeightScales] = {
        node.output[0]: "tensor" if not _dims(values.get(node.input[1])) else "channel"
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    return {
        _module(node): backs[node.input[1]]
        for node in graph.graph.node
        if len(node.input) > 1 and node.input[1] in backs
    }


def _dims(tensor: TensorProto | None) -> Sequence[int]:
    return tensor.dims if tensor is not None else ()


def fp8_form(graph: onnx.ModelProto) -> Precision | None:
    """Return the precision of a graph that rounds values or weights to FP8; None for others."""
    values = _constants(graph)
    is_stored = any(one.data_type == FP8.onnx_type for one in values.values())
    if not is_stored and not any(_rounds(node, values) for node in graph.graph.node):
        return None
    return "fp8-weights" if quantised_weights(graph) else "fp8"


def record_scales(graph: onnx.ModelProto, largest: Mapping[str, float], **facts: object) -> None:
    """Write into a graph's metadata what its scales follow from; ``calibration_of`` reads it back.

    Args:
        graph: The quantised graph.
        largest: The largest absolute value that each quantised product reads, by path.
        facts: Further facts about the calibration, as JSON values.
    """
    props = {entry.key: entry.value for entry in graph.metadata_props}
    record = json.dumps({**facts, "largest": dict(largest)})
    helper.set_model_props(graph, props | {CALIBRATION: record})


def calibration_of(graph: onnx.ModelProto) -> dict[str, Any] | None:
    """Return the record of a graph's calibration, with the scale of each product by path.

    Returns:
        The facts of ``record_scales`` and ``scales``; None without a record, as in other tools'
        files.

    Raises:
        FileError: If the record is damaged, or the graph has other scales than those of the record.
    """
    props = {entry.key: entry.value for entry in graph.metadata_props}
    if CALIBRATION not in props:
        return None
    where = f"the metadata {CALIBRATION}"
    record = typed(parse_json(props[CALIBRATION], where=where), dict[str, Any], where=where)
    largest = typed(record.get("largest"), dict[str, float], where=f"{where}: largest")
    scales = quantised_scales(graph)
    wrong = [path for path in (*largest, *scales) if not _fits(path, largest, scales)]
    if wrong:
        path = wrong[0]
        raise FileError(
            f"{where}: the FP8 scale of {path} is {_told(scales.get(path))}, and its "
            f"calibration's largest value is {largest.get(path, 'not there')}, 448 times the scale "
            "at most; export the model again"
        )
    return record | {"scales": scales}


def _told(scale: float | None) -> str:
    if scale is None:
        return "not there"
    return "not one number" if math.isnan(scale) else str(scale)


def _fits(path: str, largest: Mapping[str, float], scales: Mapping[str, float]) -> bool:
    if path not in largest or path not in scales:
        return False
    return scales[path] == fp8_scale(largest[path])


def fp8_scale(largest: float) -> float:
    """Return the power of two at which FP8's largest value stands for ``largest``, or for more.

    Powers of two hold what FP8 has exactly, such as the constant 1 that carries the bias of qkv: at
    another scale it was off by up to a sixteenth, in every token alike. They cost one of FP8's 18
    powers of two of range at most. Scales below float16's normal numbers, of values that are nearly
    0, are the least of those.
    """
    wanted = max(largest / FP8.largest, PRECISIONS["fp16"].smallest_normal)
    mantissa, exponent = math.frexp(wanted)  # wanted = mantissa * 2**exponent, from 0.5 below 1
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def weight_scales(values: Floats, per: WeightScales, *, channel: int) -> tuple[Floats, Floats]:
    """Return the scales of a weight of two axes, and the same to divide the weight by.

    Args:
        values: The weight.
        per: Scales to compute: one of the whole ``tensor``, or one of each output ``channel``.
        channel: Axis of the output channels.
    """
    largest = np.abs(values).max(axis=None if per == "tensor" else 1 - channel)
    scales = np.vectorize(fp8_scale, otypes=[np.float32])(largest)
    return scales, scales if per == "tensor" else np.expand_dims(scales, 1 - channel)


def _refuse_residual(body: onnx.GraphProto, site: LinearProduct) -> None:
    """Refuse a product that reads the residual stream, which sums of two computed values make."""
    makers = {name: node for node in body.node for name in node.output}
    constants = {tensor.name for tensor in body.initializer}
    name = site.data
    while True:
        sums = [node for node in body.node if node.op_type == "Add" and name in node.input]
        if any(not constants.intersection(node.input) for node in sums):
            raise ExportError(
                f"{site.path} reads the residual stream, whose rounding would add up over the "
                "blocks; leave it in half precision"
            )
        maker = makers.get(name)
        if maker is None or maker.op_type not in MOVES:
            return
        name = maker.input[0]


@dataclass(frozen=True)
class _Made:
    nodes: list[onnx.NodeProto]
    tensors: list[TensorProto]


def _storage(site: LinearProduct, product: Fp8Product, kind: int) -> _Made:
    """Return the nodes that round what a product reads, and bring it back to the half type."""
    name = f"{site.data}/{ROUNDED}"
    scale, zero = f"{name}_scale", f"{name}_zero"
    label = f"{site.path}/QuantizeLinear"
    nodes = [
        helper.make_node("QuantizeLinear", [site.data, scale, zero], [name], name=label),
        helper.make_node(
            "DequantizeLinear",
            [name, scale, zero],
            [f"{site.data}/{BACK}"],
            name=f"{site.path}/DequantizeLinear",
        ),
    ]
    value = np.array(fp8_scale(product.largest))
    return _Made(nodes, [_half(scale, value, kind), _zeros(zero, ())])


def _weight(
    node: onnx.NodeProto,
    site: LinearProduct,
    tensor: TensorProto,
    *,
    per: WeightScales,
) -> _Made:
    """Return the node that brings a weight in FP8 back to the half type, and its constants."""
    turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
    values = numpy_helper.to_array(tensor).astype(np.float32)
    channel = 0 if turned else 1
    scales, spread = weight_scales(values, per, channel=channel)
    rounded = (values / spread).clip(-FP8.largest, FP8.largest).astype(FP8.dtype)
    name = f"{site.path}/weight_{ROUNDED}"
    stored = TensorProto(
        name=name, data_type=FP8.onnx_type, dims=values.shape, raw_data=rounded.tobytes()
    )
    back = helper.make_node(
        "DequantizeLinear",
        [name, f"{name}_scale", f"{name}_zero"],
        [f"{site.path}/weight_{BACK}"],
        name=f"{site.path}/DequantizeLinear_weight",
    )
    if per == "channel":
        back.attribute.append(helper.make_attribute("axis", channel))
    tensors = [stored, _half(f"{name}_scale", scales, tensor.data_type)]
    return _Made([back], [*tensors, _zeros(f"{name}_zero", np.shape(scales))])


def _half(name: str, values: Floats, kind: int) -> TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return numpy_helper.from_array(np.asarray(values).astype(dtype), name)


def _zeros(name: str, shape: tuple[int, ...]) -> TensorProto:
    size = int(np.prod(shape, dtype=int))
    return TensorProto(name=name, data_type=FP8.onnx_type, dims=shape, raw_data=bytes(size))


def _module(node: onnx.NodeProto) -> str:
    return node.name.rpartition("/")[0]
