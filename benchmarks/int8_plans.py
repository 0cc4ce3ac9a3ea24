"""Plan a Swin-T with linear layers in 8-bit or 4-bit integers in TensorRT-RTX, without a GPU.

    python -m benchmarks.int8_plans [--depths 2,2] [--batch N]

A plan does not depend on values, so every scale is the same. Each form is a row: what is quantised,
kernels, bytes moved, fused attention and the size of the engine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.engine.to_engine import build_engine
from exporters.errors import DeployError
from exporters.half_precision import to_half
from exporters.quantisation import LinearProduct, linear_products
from exporters.spec import BatchProfile, EngineOptions, ExportSpec
from exporters.to_onnx import export_onnx
from exporters.weights import replace_nodes
from swin_deploy.config import variant
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference

OPSET = 21  # the first with blocks
BLOCK = 32  # weights of an input's axis that share a scale
SCALE = np.float16(0.05)


@dataclass(frozen=True)
class Form:
    """A way to quantise the linear layers inside the stages.

    Attributes:
        title: Name of the row.
        bits: Bits of a weight.
        layers: Last words of the modules' paths; none for all.
        reads: True if what a product reads is quantised, too.
        per: Weights that share a scale.
    """

    title: str
    bits: Literal[4, 8] = 8
    layers: tuple[str, ...] = ()
    reads: bool = True
    per: Literal["tensor", "channel", "block"] = "channel"


FORMS = (
    Form("int8, every linear layer, a scale an output"),
    Form("int8, every linear layer, a scale a weight", per="tensor"),
    Form("int8, qkv and merges, a scale a weight", layers=("qkv", "linear"), per="tensor"),
    Form("int8, weights alone", reads=False),
    Form("int4, weights alone, blocks of 32", bits=4, reads=False, per="block"),
)


def half_graph(depths: tuple[int, ...]) -> onnx.ModelProto:
    """Return the float16 graph of a Swin-T with these depths."""
    whole = variant("swin_tiny_patch4_window7_224")
    heads = whole.num_heads[: len(depths)]
    config = dataclasses.replace(whole, depths=depths, num_heads=heads)
    torch_model = fold(build_reference(config).eval())
    spec = ExportSpec((3, *config.image), config.output_names, opset=OPSET)
    return to_half(
        export_onnx(torch_model, spec, metadata={}), io_precision="fp32", precision="fp16"
    )


def quantise(graph: onnx.ModelProto, form: Form) -> int:
    """Quantise products of a graph in place, and return their number."""
    sites = {
        one.node: one
        for one in linear_products(graph)
        if one.path.startswith("layers.")
        and (not form.layers or one.path.rpartition(".")[2] in form.layers)
    }
    shapes = {one.name: tuple(one.dims) for one in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        site = sites.get(node.name)
        if site is not None:
            if form.reads:
                nodes += _read(graph, site)
                node.input[0] = f"{site.path}/data_back"
            turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
            nodes.append(
                _weight(graph, site, form, shapes[site.weight], channel=0 if turned else 1)
            )
            node.input[1] = f"{site.path}/weight_back"
        nodes.append(node)
    replace_nodes(graph.graph, nodes)
    return len(sites)


def _read(graph: onnx.ModelProto, site: LinearProduct) -> list[onnx.NodeProto]:
    scale, zero, name = (f"{site.path}/data_{one}" for one in ("scale", "zero", "int8"))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(SCALE), scale))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
    make = helper.make_node
    return [
        make("QuantizeLinear", [site.data, scale, zero], [name], name=f"{site.path}/Quantize"),
        make("DequantizeLinear", [name, scale, zero], [f"{site.path}/data_back"]),
    ]


def _weight(
    graph: onnx.ModelProto,
    site: LinearProduct,
    form: Form,
    shape: tuple[int, ...],
    *,
    channel: int,
) -> onnx.NodeProto:
    """Add a weight of drawn integers with its scales, and return the node that brings it back."""
    kind, name = (TensorProto.INT4 if form.bits == 4 else TensorProto.INT8), f"{site.path}/weight"
    most = 2 ** (form.bits - 1) - 1
    drawn = np.random.default_rng(0).integers(-most, most + 1, shape)
    scales: dict[str, tuple[int, ...]] = {"tensor": (), "channel": (shape[channel],)}
    blocks = tuple(one if at == channel else one // BLOCK for at, one in enumerate(shape))
    spread = np.full(scales.get(form.per, blocks), SCALE)
    graph.graph.initializer.append(helper.make_tensor(name, kind, shape, drawn.ravel().tolist()))
    graph.graph.initializer.append(numpy_helper.from_array(spread, f"{name}_scale"))
    back = helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [f"{name}_back"])
    if form.per != "tensor":
        axis = channel if form.per == "channel" else 1 - channel
        back.attribute.append(helper.make_attribute("axis", axis))
    if form.per == "block":
        back.attribute.append(helper.make_attribute("block_size", BLOCK))
    return back


def row(title: str, make: Callable[[], tuple[onnx.ModelProto, int]], batch: int) -> str:
    """Plan a graph, and return its row of the table; a failure is a row, too."""
    try:
        graph, count = make()
        options = EngineOptions("tensorrt-rtx")
        built = build_engine(graph, BatchProfile(batch, batch, batch), options=options)
    except DeployError as err:
        return f"| {title} | {err} |"
    plan = built.plan
    return (
        f"| {title} | {count} | {plan.kernel_count} | {plan.bytes_moved / 1e6:,.1f} | "
        f"{plan.fused_attention} of {plan.attention_blocks} | {len(built.data) / 1e6:.1f} |"
    )


def main(arguments: Sequence[str]) -> int:
    """Print the table, a row at a time."""
    parser = argparse.ArgumentParser(prog="benchmarks.int8_plans", description="Plan integers.")
    parser.add_argument("--depths", default="2,2", help="blocks of each stage")
    parser.add_argument("--batch", type=int, default=8)
    asked = parser.parse_args(arguments)
    depths = tuple(int(one) for one in asked.depths.split(","))
    half = half_graph(depths).SerializeToString()

    def graph_of(form: Form | None) -> tuple[onnx.ModelProto, int]:
        graph = onnx.ModelProto.FromString(half)
        return graph, quantise(graph, form) if form else 0

    sys.stdout.write("| form | products | kernels | MB | attention fused | engine MB |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | --- | ---: |\n")
    for form in (None, *FORMS):
        title = form.title if form else "float16"
        sys.stdout.write(row(title, functools.partial(graph_of, form), asked.batch) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
