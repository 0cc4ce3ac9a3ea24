"""Models exported by several tests, traces made once a run, and small graphs made by hand."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import build_reference
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import to_onnx
from exporters.spec import ExportSpec
from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import VARIANTS, SwinConfig, notebook_config
from swin_deploy.deploy.fold import fold

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx-cu13 is not installed",
)

CONFIGS: dict[str, SwinConfig] = {
    # One stage, four windows, one block shifted: quick to trace.
    "blocks": notebook_config(img_size=56, embed_dim=32, depths=(2,)),
    "digits": VARIANTS["notebook-digits"],
    "swin-t": VARIANTS["notebook-swin-t"],
}
METADATA = {"model": "a name", "config": '{"img_size": 56}'}
OPSETS = range(17, 24)


@functools.cache
def deploy_model(name: str) -> nn.Module:
    """The deploy model: trained weights for digits, random ones for the others."""
    if name == "blocks":
        return fold(build_reference(CONFIGS[name]))
    return fold(load_model(f"notebook-{name}").reference)


def spec_of(name: str, **choices: Any) -> ExportSpec:  # noqa: ANN401 - its fields
    """What to export of a model of ``CONFIGS``."""
    return ExportSpec((3, *CONFIGS[name].image), CONFIGS[name].output_names, **choices)


def exported(name: str, **choices: Any) -> onnx.ModelProto:  # noqa: ANN401 - as above
    """``export_onnx`` of a model."""
    return to_onnx.export_onnx(deploy_model(name), spec_of(name, **choices), metadata=METADATA)


TRACE = to_onnx._trace  # before it is patched
OWN_MODULES = ("swin_deploy.", "torch.nn.")


def trace_once(model: nn.Module, spec: ExportSpec, *, folder: Path) -> onnx.ModelProto:
    """PyTorch's trace, the slow part of an export: once a test run for a model, then from a file.

    Other modules than this project's and PyTorch's are always traced: their code is not in the key.

    Args:
        model: A model to export.
        spec: What to export; precision and metadata come after the trace.
        folder: The place of the traces, which the processes of a test run share.
    """
    key = _trace_key(model, spec)
    if key is None:
        return TRACE(model, spec)
    path = folder / f"{key}.onnx"
    if path.exists():
        return onnx.load_from_string(path.read_bytes())
    graph = TRACE(model, spec)
    with contextlib.suppress(OSError):  # a test may have filled the disk
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(graph.SerializeToString())
        partial.rename(path)
    return graph


def _trace_key(model: nn.Module, spec: ExportSpec) -> str | None:
    """Digest of everything that a trace depends on; ``None`` where that is not known."""
    opset = max(spec.opset, to_onnx.EXPORTER_MINIMUM_OPSET)
    names = (spec.input_name, spec.input_type, spec.output_names)
    digest = hashlib.sha256(repr((names, spec.input_shape, spec.batch, opset)).encode())
    for name, module in model.named_modules():
        kind = type(module)
        if not kind.__module__.startswith(OWN_MODULES) or module._forward_hooks:
            return None
        values = repr({key: value for key, value in vars(module).items() if key[0] != "_"})
        if " at 0x" in values:
            return None
        digest.update(repr((name, kind, kind.forward.__code__.co_code, values)).encode())
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        digest.update(repr((name, value.dtype, value.shape, value.stride())).encode())
        digest.update(value.detach().numpy().tobytes())
    return digest.hexdigest()


def copy_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def run_onnx(graph: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph on ONNX Runtime's CPU provider; skips where it is not installed."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def make_graph(
    *nodes: onnx.NodeProto,
    inputs: dict[str, Sequence[int | str]] | None = None,
    outputs: dict[str, Sequence[int | str]] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A float32 graph made by hand; by default from ``images`` to ``y``, [batch, 3, 8, 8] each."""
    shape = ("batch", 3, 8, 8)

    def edges(shapes: dict[str, Sequence[int | str]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in shapes.items()
        ]

    body = helper.make_graph(
        nodes,
        "made by hand",
        edges(inputs or {"images": shape}),
        edges(outputs or {"y": shape}),
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8)


def in_float32(
    half: onnx.ModelProto, original: onnx.ModelProto, picked: Callable[[str], bool]
) -> onnx.ModelProto:
    """The float16 graph with the picked nodes in float32, casts around them.

    Args:
        half: A float16 graph.
        original: The float32 graph that it was made from, for the weights.
        picked: Says of a node's name whether the node is to be in float32.
    """
    graph = copy_of(half)
    graph.graph.ClearField("value_info")
    weights = {tensor.name: tensor for tensor in original.graph.initializer}
    inside = {name for node in half.graph.node if picked(node.name) for name in node.output}
    outside = {name for node in half.graph.node if not picked(node.name) for name in node.input}
    nodes: list[onnx.NodeProto] = []
    ready: set[str] = set()
    for node in graph.graph.node:
        if not picked(node.name):
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if weights.get(name, TensorProto(data_type=1)).data_type != TensorProto.FLOAT:
                continue  # an index
            wide = f"{name}/float"
            node.input[index] = wide
            if name not in inside and wide not in ready:
                ready.add(wide)
                if name in weights:
                    graph.graph.initializer.append(weights[name])
                    graph.graph.initializer[-1].name = wide
                else:
                    nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
        outputs = list(node.output)
        node.output[:] = [f"{name}/float" for name in outputs]
        nodes.append(node)
        nodes.extend(
            helper.make_node("Cast", [f"{name}/float"], [name], to=TensorProto.FLOAT16)
            for name in outputs
            if name in outside
        )
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def write_doubler(
    path: Path, *, batch: str | int = "batch", outputs: int = 1, dtype: int = TensorProto.FLOAT
) -> Path:
    """Twice the images, by hand, as often as there are outputs."""
    shape = [batch, 3, 2, 2]
    names = [f"out{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "images"], [name]) for name in names],
        "twice",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, shape) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
