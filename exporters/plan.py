"""The kernels of a built engine: counts, fused attention, bytes moved, share in half precision.

The builder prints its engine layer information when the profiling verbosity is DETAILED and the
logger takes verbose messages; both TensorRT flavours use the same lines. No GPU is needed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """One kernel as the builder listed it.

    Attributes:
        name: The builder's name for it.
        kind: ``attention`` (fused), ``gemm`` or ``other``.
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
    """

    batch: int
    attention_blocks: int
    kernels: tuple[Kernel, ...]
    flavor: str
    version: str

    @property
    def fused_attention(self) -> int:
        """Kernels that compute a whole attention block."""
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

    @property
    def float32_compute(self) -> list[Kernel]:
        """Attention and GEMM kernels that read float32: none, where half precision was asked."""
        return [k for k in self.kernels if k.kind != "other" and k.float32_inputs]
