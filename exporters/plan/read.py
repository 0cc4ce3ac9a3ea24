"""Read the plan of an engine from the builder's log.

The builder prints its engine layer information when the profiling verbosity is DETAILED and the
logger takes verbose messages; both TensorRT flavours use the same lines. No GPU is needed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import replace

import onnx

from exporters.errors import BuildError
from exporters.plan.blocks import fill_forward, group_kernel, group_nodes
from exporters.plan.float32 import lost_float32, unwanted_float32
from exporters.plan.fp8 import lost_fp8
from exporters.plan.kernels import Block, Kernel, KernelPlan, element_type, sum_bytes
from exporters.plan.values import infer_values
from exporters.plan.work import Work, count_work, node_key
from exporters.precisions import HALVES, PRECISIONS

# Our element types by the builder's; types that are not here have the same name in capitals.
OWN_NAMES = {
    traits.plan_type: element_type(name)
    for name, traits in PRECISIONS.items()
    if not traits.carrier
}
ITEM_BYTES = {
    "Int64": 8, "Int32": 4, "Int8": 1, "UInt8": 1, "Bool": 1, "FP8": 1, "E8M0": 1, "Int4": 0.5,
    "FP4": 0.5, **{traits.plan_type: traits.bytes for traits in PRECISIONS.values()},
}  # fmt: skip
HALF_TYPES = tuple(map(element_type, HALVES))
LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), (?P<rest>.*)$")
# TensorRT 10 writes "Format/Datatype: Half", TensorRT 11 and RTX "Datatype: Half, Format: ...".
TENSOR = re.compile(
    r"\{ Name: (?P<name>[^{}]*?), Dimensions: \[(?P<dims>[^\]]*)\],"
    r"[^{}]*?(?:Format/)?Datatype: (?P<type>[^,}]*?) *[,}]"
)
ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# Names that the builder makes begin with an underscore; others come from the ONNX graph, where a
# module may be called mha too.
ATTENTION_NAME = re.compile(r"^_\w*?(?<![a-z])f?mha(?![a-z])", re.IGNORECASE)
GEMM_NAME = re.compile(
    r"^__myl_\w*?(?:Fc|MatMul|Gemm|Conv)(?![a-z])|(?i:gemm|matmul|matrix_?multiply)"
)
GEMM_TYPE = re.compile(r"gemm|matmul|matrix_?multiply|conv|correlation", re.IGNORECASE)
# The builder's name of a kernel lists its steps: __myl_ReshGathCastMeanSub_myl0_7.
STEPS = re.compile(r"^__myl_([A-Za-z]+)")
STEP = re.compile(r"[A-Z][a-z]*")
COPY_STEPS = frozenset(
    ("Cast", "Conc", "Gath", "Move", "Pad", "Repl", "Resh", "Scat", "Slic", "Tran")
)
REDUCING_STEPS = frozenset(("Max", "Maxr", "Mean", "Min", "Minr", "Prod", "Sum", "Sumr"))
COPY_OPS = frozenset({
    "Cast", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
REDUCING_OPS = re.compile(r"Norm|Softmax|Reduce|Pool")
COPY_TYPES = ("Reformat", "NoOp", "Shuffle", "Slice", "Constant")  # of full TensorRT
HOST_TYPES = ("shape_call", "signal", "wait")  # steps of the plan that launch no kernel
SIZE_TYPES = ("reshape", "cast")  # nor do these where they make one size ("hvar": host variable)
OPAQUE_NAME = "{ForeignNode["  # a part of the network that the builder did not list in detail


def read_plan(
    messages: list[str], batch: int, *, source: tuple[onnx.ModelProto, str, str]
) -> KernelPlan:
    """Read the plan in a builder's log messages.

    Args:
        messages: Messages of the builder, at verbose severity and DETAILED profiling verbosity.
        batch: Number of images that sizes are given for.
        source: The graph, the flavour and its version.

    Raises:
        BuildError: If the log has no layer information, or lists a part of the network without its
            kernels.
    """
    graph, flavor, version = source
    found = [message for message in messages if "LayerType: " in message]
    operators = {node_key(node): node.op_type for node in graph.graph.node}
    kernels = tuple(_read_kernels(found[-1], operators)) if found else ()
    if not kernels or any(kernel.name.startswith(OPAQUE_NAME) for kernel in kernels):
        raise BuildError(
            f"{flavor} {version} did not list its kernels, so the engine's precision cannot be "
            "proved; use a TensorRT release from 10.10 on"
        )
    work = count_work(graph, infer_values(graph, batch))
    groups = group_nodes(graph, work)
    kernels = _place(_give_work(kernels, work), groups, work)
    return KernelPlan(
        batch=batch,
        attention_blocks=len(work.attention),
        kernels=kernels,
        flavor=flavor,
        version=version,
        float32_compute=unwanted_float32(kernels, graph),
        lost_float32=lost_float32(kernels, graph),
        lost_fp8=lost_fp8(kernels, graph),
        blocks=_blocks(kernels, groups, work),
        unsized_products=work.unsized,
    )


def count_attention(graph: onnx.ModelProto) -> int:
    """Count the attention blocks in an ONNX graph.

    A block is a Softmax between two matrix products, or an Attention node.
    """
    return len(count_work(graph, infer_values(graph, 1)).attention)


def _give_work(kernels: tuple[Kernel, ...], work: Work) -> tuple[Kernel, ...]:
    """Return the kernels with their operations; each product counts once, where it is computed.

    Several kernels may name a node, such as one that finishes what another began.
    """
    owner: dict[str, int] = {}
    for index, kernel in enumerate(kernels):
        for node in kernel.onnx_nodes:
            first = owner.setdefault(node, index)
            if not _computes(kernels[first]) and _computes(kernel):
                owner[node] = index
    flops: Counter[int] = Counter()
    for node, index in owner.items():
        flops[index] += work.flops[node]
    return tuple(replace(kernel, flops=flops[index]) for index, kernel in enumerate(kernels))


def _computes(kernel: Kernel) -> bool:
    return kernel.kind in ("attention", "gemm")


def _place(kernels: tuple[Kernel, ...], groups: dict[str, str], work: Work) -> tuple[Kernel, ...]:
    """Return the kernels with their blocks; one of unknown nodes gets the block before it."""
    told = (group_kernel(kernel.onnx_nodes, groups, work.flops) for kernel in kernels)
    placed = zip(kernels, fill_forward(told), strict=True)
    return tuple(replace(kernel, block=block) for kernel, block in placed)


def _blocks(kernels: tuple[Kernel, ...], groups: dict[str, str], work: Work) -> tuple[Block, ...]:
    """List the parts of the model in the graph's order that launch kernels or need bytes."""
    floor: Counter[str] = Counter()
    for node, size in work.floor_bytes.items():
        floor[groups[node]] += size
    attention = Counter(groups[node] for node in work.attention)
    launching = {kernel.block for kernel in kernels}
    return tuple(
        Block(name, attention[name], floor[name])
        for name in dict.fromkeys(groups.values())
        if name in launching or floor[name]
    )


def _read_kernels(layers: str, operators: dict[str, str]) -> Iterator[Kernel]:
    for line in layers.splitlines():
        layer = LAYER.match(line.strip())
        if layer and not _on_host(layer):
            yield _read_kernel(layer, operators)


def _on_host(layer: re.Match[str]) -> bool:
    """Tell whether a step only signals, or only makes a size that is open in a range of batches."""
    if layer["type"] in SIZE_TYPES:
        tensors = list(TENSOR.finditer(layer["rest"]))
        return all((t["dims"].strip(), t["type"]) == ("1", "Int64") for t in tensors)
    return layer["type"] in HOST_TYPES


def _read_kernel(layer: re.Match[str], operators: dict[str, str]) -> Kernel:
    body, _, outputs = layer["rest"].partition("Outputs: ")
    _, _, constants = body.partition("Constants: ")
    read, written = (list(TENSOR.finditer(part)) for part in (body, outputs))
    wide = tuple(
        tensor["name"]
        for tensor in read
        if _element(tensor) == "FP32" and _tensor_bytes(tensor) > PRECISIONS["fp32"].bytes
    )
    moved = sum_bytes({_element(tensor): _tensor_bytes(tensor)} for tensor in (*read, *written))
    nodes = tuple(ONNX_NODE.findall(outputs))
    computed = tuple(operators[node] for node in nodes if node in operators)
    return Kernel(
        name=layer["name"],
        kind=_kind(layer, computed),
        layer_type=layer["type"],
        bytes_moved=sum(moved.values()),
        half_bytes=sum(moved.get(name, 0) for name in HALF_TYPES),
        float32_inputs=wide,
        onnx_nodes=nodes,
        float32_constants=tuple(name for name in wide if f"{{ Name: {name}," in constants),
        bytes_written=sum(map(_tensor_bytes, written)),
        operators=computed,
        bytes_by_type=moved,
        fp8_inputs=tuple(tensor["name"] for tensor in read if _element(tensor) == "FP8"),
    )


def _kind(layer: re.Match[str], operators: tuple[str, ...]) -> str:
    name, layer_type = layer["name"], layer["type"]
    if layer_type in COPY_TYPES:  # full TensorRT names a copy after the layer that it feeds
        return "copy"
    if ATTENTION_NAME.search(name):
        return "attention"
    if GEMM_TYPE.search(layer_type) or GEMM_NAME.search(name):
        return "gemm"
    listed = STEPS.match(name)
    if listed:
        return _kind_of_steps(set(STEP.findall(listed[1])), COPY_STEPS, REDUCING_STEPS)
    reducing = {operator for operator in operators if REDUCING_OPS.search(operator)}
    return _kind_of_steps(set(operators), COPY_OPS, reducing)


def _kind_of_steps(steps: set[str], copying: frozenset[str], reducing: Set[str]) -> str:
    if steps and steps <= copying:
        return "copy"
    return "norm" if steps & reducing else "elementwise"


def _element(tensor: re.Match[str]) -> str:
    return OWN_NAMES.get(tensor["type"], tensor["type"].upper())


def _tensor_bytes(tensor: re.Match[str]) -> int:
    """Compute a tensor's bytes from shape and type; sizes that are left open (-1) count as one."""
    dims = [max(1, int(size)) for size in tensor["dims"].split(",") if size]
    return int(math.prod(dims) * ITEM_BYTES.get(tensor["type"], 1))
