"""The products of a graph that quantisation may change, by the modules that they belong to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx

from exporters.errors import ExportError
from exporters.text_files import listed


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


def linear_products(graph: onnx.ModelProto) -> tuple[LinearProduct, ...]:
    """List the products of data with a weight, in the graph's order.

    Args:
        graph: A graph whose nodes are named by module; the structure without weights is enough.
    """
    weights = {one.name for one in graph.graph.initializer if len(one.dims) == 2}
    return tuple(
        LinearProduct(node.name, node.name.rpartition("/")[0], node.input[0], node.input[1])
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
