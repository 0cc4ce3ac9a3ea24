"""Modules that a half-precision graph keeps in float32, looked for in the kernels.

A builder may undo casts: TensorRT-RTX 1.7.1 does so around a lone product. So a module counts as
float32 only if a kernel that computes it reads float32, and a product in float32 is wanted only if
its module is one of those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import onnx

from exporters.half_precision import float32_modules

if TYPE_CHECKING:
    from exporters.plan.kernels import Kernel

PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "Conv", "Attention"})
# Nodes whose kernel must show float32: products, and the sums of a residual stream. The others, and
# a scalar added to the statistics of a norm, may lie in registers that the builder does not list.
CHECKED_OPS = PRODUCTS | {"Add"}


def unwanted_float32(kernels: Iterable[Kernel], graph: onnx.ModelProto) -> tuple[str, ...]:
    """Name the attention and GEMM kernels that read float32 without the graph asking for it.

    A kernel that computes products in half precision and adds them to a float32 stream reads that
    stream, but none of its weights, in float32: it is not among them.

    Args:
        kernels: Kernels of the engine.
        graph: The graph that the engine was built from.

    Returns:
        Names of the kernels, in launch order.

    Raises:
        FileError: If the graph's metadata about float32 modules is damaged.
    """
    kept = frozenset(float32_modules(graph))
    types = {node.name: node.op_type for node in graph.graph.node}
    return tuple(
        kernel.name
        for kernel in kernels
        if kernel.kind in ("attention", "gemm")
        and kernel.float32_inputs
        and not _wanted(kernel, kept, types)
    )


def _wanted(kernel: Kernel, kept: frozenset[str], types: Mapping[str, str]) -> bool:
    if kernel.kind == "attention" or not any(_module(name) in kept for name in kernel.onnx_nodes):
        return False
    products = [name for name in kernel.onnx_nodes if types.get(name) in PRODUCTS]
    return all(_module(name) in kept for name in products) or not kernel.float32_constants


def lost_float32(kernels: Iterable[Kernel], graph: onnx.ModelProto) -> tuple[str, ...]:
    """Name the modules kept in float32 with a product or sum that no float32 kernel computes.

    A float32 kernel is one that reads at least one float32 tensor.

    Args:
        kernels: Kernels of the engine.
        graph: The graph that the engine was built from.

    Returns:
        Paths of the modules, in the graph's order.

    Raises:
        FileError: If the graph's metadata about float32 modules is damaged.
    """
    kept = frozenset(float32_modules(graph))
    scalars = {tensor.name for tensor in graph.graph.initializer if not tensor.dims}
    asked = {
        node.name: _module(node.name)
        for node in graph.graph.node
        if node.op_type in CHECKED_OPS
        and _module(node.name) in kept
        and not scalars.intersection(node.input)
    }
    shown = {name for kernel in kernels if kernel.float32_inputs for name in kernel.onnx_nodes}
    return tuple(dict.fromkeys(module for name, module in asked.items() if name not in shown))


def _module(node: str) -> str:
    return node.rpartition("/")[0]
