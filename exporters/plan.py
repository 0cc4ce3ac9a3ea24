"""The kernels of a built engine: counts, fused attention, bytes moved, share in half precision.

The builder prints its engine layer information when the profiling verbosity is DETAILED and the
logger takes verbose messages; both TensorRT flavours use the same lines. No GPU is needed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx

from exporters.errors import BuildError

ITEM_BYTES = {
    "Float": 4, "Half": 2, "BFloat16": 2, "Int64": 8, "Int32": 4, "Int8": 1, "UInt8": 1,
    "Bool": 1, "FP8": 1, "E8M0": 1, "Int4": 0.5, "FP4": 0.5,
}  # fmt: skip
HALF_TYPES = ("Half", "BFloat16")
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
COPY_TYPE = "Reformat"  # full TensorRT names it after the layer that it feeds
HOST_TYPES = ("shape_call", "signal", "wait")  # steps of the plan that launch no kernel
OPAQUE_NAME = "{ForeignNode["  # a part of the network that the builder did not list in detail


@dataclass(frozen=True)
class Kernel:
    """One kernel as the builder listed it.

    Attributes:
        name: The builder's name for it.
        kind: ``attention`` (fused), ``gemm`` (convolutions too) or ``other``.
        layer_type: The builder's layer type: ``gemm``, ``kgen``, ``runtime_fusion``, ...
        bytes_moved: Size of all inputs, constants and outputs, by shape and type.
        half_bytes: The part of ``bytes_moved`` in float16 or bfloat16.
        float32_inputs: Inputs and constants of more than one value in float32.
        onnx_nodes: Names of the ONNX nodes it computes.
    """

    name: str
    kind: str
    layer_type: str
    bytes_moved: int
    half_bytes: int
    float32_inputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]


@dataclass(frozen=True)
class KernelPlan:
    """The kernels of an engine at one batch, and what can be said of them.

    Attributes:
        batch: Images a launch, for which shapes and bytes hold.
        attention_blocks: Attention blocks in the ONNX graph.
        kernels: In launch order.
        flavor: TensorRT flavour that planned them.
        version: Its version.
        float32_compute: Attention and GEMM kernels that read float32: none, where half precision
            was asked for and delivered.
        range_kernels: Kernels of the engine itself, where it takes a range of batches; the builder
            leaves their sizes open, so ``kernels`` then are those of ``batch`` alone.
        range_fused_attention: The fused attention kernels among them.
    """

    batch: int
    attention_blocks: int
    kernels: tuple[Kernel, ...]
    flavor: str
    version: str
    float32_compute: tuple[str, ...] = ()
    range_kernels: int | None = None
    range_fused_attention: int | None = None

    @property
    def kernel_count(self) -> int:
        """Kernels that the engine launches."""
        return len(self.kernels) if self.range_kernels is None else self.range_kernels

    @property
    def fused_attention(self) -> int:
        """Kernels of the engine that compute a whole attention block."""
        if self.range_fused_attention is not None:
            return self.range_fused_attention
        return sum(kernel.kind == "attention" for kernel in self.kernels)

    @property
    def bytes_moved(self) -> int:
        """Bytes that all kernels read and write in one launch of ``batch`` images."""
        return sum(kernel.bytes_moved for kernel in self.kernels)

    @property
    def bytes_moved_per_image(self) -> float:
        """``bytes_moved`` divided by the batch."""
        return self.bytes_moved / self.batch

    @property
    def half_byte_share(self) -> float:
        """Share of the bytes that are in half precision, 0 to 1."""
        return sum(kernel.half_bytes for kernel in self.kernels) / max(1, self.bytes_moved)

    @property
    def half_kernel_share(self) -> float:
        """Share of the kernels with most of their bytes in half precision, 0 to 1."""
        half = sum(2 * kernel.half_bytes > kernel.bytes_moved for kernel in self.kernels)
        return half / max(1, len(self.kernels))

    @property
    def kernel_types(self) -> dict[str, int]:
        """Kernels of each layer type, most first."""
        return dict(Counter(kernel.layer_type for kernel in self.kernels).most_common())

    def heaviest(self, count: int) -> list[Kernel]:
        """The kernels that move most bytes, heaviest first."""
        return sorted(self.kernels, key=lambda kernel: -kernel.bytes_moved)[:count]

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON values; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KernelPlan:
        """A plan from ``to_dict`` or from JSON.

        Raises:
            BuildError: If fields are missing or unknown.
        """
        try:
            kernels = tuple(Kernel(**_tuples(kernel)) for kernel in values["kernels"])
            return cls(**{**_tuples(values), "kernels": kernels})
        except (KeyError, TypeError, AttributeError) as err:
            raise BuildError(f"not a kernel plan ({err}); build the engine again") from err

    def with_range(self, engine: KernelPlan) -> KernelPlan:
        """This plan, at one batch, as that of an engine which takes a range of batches.

        Args:
            engine: The plan of the engine itself, its sizes open.
        """
        wide = dict.fromkeys((*self.float32_compute, *engine.float32_compute))
        return replace(
            self,
            float32_compute=tuple(wide),
            range_kernels=engine.kernel_count,
            range_fused_attention=engine.fused_attention,
        )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def read_plan(
    messages: list[str], batch: int, *, source: tuple[onnx.ModelProto, str, str]
) -> KernelPlan:
    """The plan in a builder's log messages.

    Args:
        messages: What the builder logged, at verbose severity and DETAILED profiling verbosity.
        batch: The batch it built for.
        source: The graph, the flavour and its version.

    Raises:
        BuildError: If the log holds no layer information.
    """
    graph, flavor, version = source
    found = [message for message in messages if "LayerType: " in message]
    kernels = tuple(_read_kernels(found[-1])) if found else ()
    if not kernels or any(kernel.name.startswith(OPAQUE_NAME) for kernel in kernels):
        raise BuildError(
            f"{flavor} {version} did not list its kernels, so the engine's precision cannot be "
            "proved; use a TensorRT release from 10.10 on"
        )
    wide = tuple(k.name for k in kernels if k.kind != "other" and k.float32_inputs)
    return KernelPlan(batch, count_attention(graph), kernels, flavor, version, wide)


def count_attention(graph: onnx.ModelProto) -> int:
    """Attention blocks in an ONNX graph: Softmax between two matrix products, or Attention."""
    return sum(node.op_type in ("Softmax", "Attention") for node in graph.graph.node)


def _read_kernels(layers: str) -> Iterator[Kernel]:
    for line in layers.splitlines():
        layer = LAYER.match(line.strip())
        if layer and layer["type"] not in HOST_TYPES:
            yield _read_kernel(layer)


def _read_kernel(layer: re.Match[str]) -> Kernel:
    body, _, outputs = layer["rest"].partition("Outputs: ")
    moved = half = 0
    for tensor in TENSOR.finditer(layer["rest"]):
        size = _tensor_bytes(tensor)
        moved += size
        half += size if tensor["type"] in HALF_TYPES else 0
    wide = tuple(
        tensor["name"]
        for tensor in TENSOR.finditer(body)
        if tensor["type"] == "Float" and _tensor_bytes(tensor) > ITEM_BYTES["Float"]
    )
    return Kernel(
        name=layer["name"],
        kind=_kind(layer),
        layer_type=layer["type"],
        bytes_moved=moved,
        half_bytes=half,
        float32_inputs=wide,
        onnx_nodes=tuple(ONNX_NODE.findall(outputs)),
    )


def _kind(layer: re.Match[str]) -> str:
    if layer["type"] == COPY_TYPE:
        return "other"
    if ATTENTION_NAME.search(layer["name"]):
        return "attention"
    if GEMM_TYPE.search(layer["type"]) or GEMM_NAME.search(layer["name"]):
        return "gemm"
    return "other"


def _tensor_bytes(tensor: re.Match[str]) -> int:
    """Size by shape and type; sizes that the builder left open (-1) count as one."""
    dims = [max(1, int(size)) for size in tensor["dims"].split(",") if size]
    return int(math.prod(dims) * ITEM_BYTES.get(tensor["type"], 1))
