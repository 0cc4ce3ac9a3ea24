"""Products that read FP8 in a graph, looked for in the kernels.

A builder may bring values back to half before they are written: then the bytes are not saved. So a
product counts only if a kernel that computes it reads FP8.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx

from exporters.quantisation import quantised_scales

if TYPE_CHECKING:
    from exporters.plan.kernels import Kernel

PRODUCTS = ("MatMul", "Gemm")


def lost_fp8(kernels: Iterable[Kernel], graph: onnx.ModelProto) -> tuple[str, ...]:
    """Name the modules whose product reads FP8 in the graph, and in no kernel.

    Args:
        kernels: Kernels of the engine.
        graph: The graph that the engine was built from.

    Returns:
        Paths of the modules, in the graph's order.
    """
    quantised = quantised_scales(graph)
    products = {
        node.name: node.name.rpartition("/")[0]
        for node in graph.graph.node
        if node.op_type in PRODUCTS
    }
    shown = {
        name
        for kernel in kernels
        if kernel.kind == "gemm" and kernel.fp8_inputs
        for name in kernel.onnx_nodes
    }
    return tuple(
        dict.fromkeys(
            path for name, path in products.items() if path in quantised and name not in shown
        )
    )
