"""A small network for the stand-in of TensorRT, what it gives, and what closing must leave."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from cuda_stand_in import World
from numpy.typing import NDArray
from onnx import TensorProto, helper
from trt_stand_in import session_of


def graph_of(*, pixels: bool = False, half: bool = False) -> bytes:
    """A small network of images [B, 3, 4, 4] or pixels [B, 4, 4, 3], with two outputs."""
    kind, row = (TensorProto.UINT8, [4, 4, 3]) if pixels else (TensorProto.FLOAT, [3, 4, 4])
    given = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weights = np.random.default_rng(1).standard_normal((48, 5), np.float32) / 48
    nodes = [
        helper.make_node("Cast", ["images"], ["plain"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["plain"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        helper.make_node("Cast", ["product"], ["logits"], to=given),
        helper.make_node("Cast", ["flat"], ["tokens"], to=given),
    ]
    values = [helper.make_tensor_value_info("logits", given, ["batch", 5])]
    values.append(helper.make_tensor_value_info("tokens", given, ["batch", 48]))
    taken = [helper.make_tensor_value_info("images", kind, ["batch", *row])]
    constants = [onnx.numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "small", taken, values, constants)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


GRAPH = graph_of()


def images(batch: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((batch, 3, 4, 4), dtype=np.float32)


def expected(given: NDArray[Any], graph: bytes = GRAPH) -> list[NDArray[np.float32]]:
    """What ONNX Runtime gives."""
    return [one.astype(np.float32) for one in session_of(graph).run(None, {"images": given})]


def assert_right(
    outputs: Iterable[NDArray[np.float32]], given: NDArray[Any], graph: bytes = GRAPH
) -> None:
    """Equal bit for bit, every output."""
    for actual, wanted in zip(outputs, expected(given, graph), strict=True):
        np.testing.assert_array_equal(actual, wanted)


def assert_closed(world: World) -> None:
    """Everything was let go of, in the right order."""
    assert world.crashes == []
    if not world.is_empty():
        gc.collect()  # slow, and needed where an exception's frames are a circle
    assert world.is_empty(), world.needs
