"""The kernels of an engine as values: their bytes, operations and parts of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from exporters.errors import BuildError, FileError
from exporters.precisions import carrier_of
from exporters.spec import Batch, Count, Precision
from exporters.text_files import listed, typed

KINDS = ("attention", "gemm", "norm", "elementwise", "copy")


def element_type(precision: Precision) -> str:
    """Return the element type of a precision, as ``bytes_by_type`` names it: ``FP16``."""
    return precision.upper()


def sum_bytes(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum the bytes by element type of several kernels; the type with most bytes comes first."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())


@dataclass(frozen=True)
class Kernel:
    """One kernel as the builder listed it.

    Attributes:
        name: Name that the builder gave it.
        kind: ``attention`` (fused), ``gemm`` (convolutions too), ``norm`` (LayerNorm, softmax and
            other reductions), ``elementwise``, or ``copy`` (values moved or cast, none computed).
        layer_type: The builder's layer type: ``gemm``, ``kgen``, ``runtime_fusion``, ...
        bytes_moved: Size of all inputs, constants and outputs, in bytes, from shapes and types.
        half_bytes: The part of ``bytes_moved`` in types of two bytes: float16 and bfloat16.
        float32_inputs: Inputs and constants of more than one value in float32.
        onnx_nodes: Names of the ONNX nodes that it computes.
        float32_constants: The constants among ``float32_inputs``.
        bytes_written: The part of ``bytes_moved`` in outputs.
        flops: Number of operations of its matrix products, two for each multiply-accumulate.
        block: Name of the part of the model that it belongs to.
        operators: Operators of ``onnx_nodes``.
        bytes_by_type: The ``bytes_moved`` by type of element: ``FP32``, ``FP16``, ``INT64``, ...;
            none in a plan of an older release.
        fp8_inputs: Inputs and constants in FP8.
    """

    name: str
    kind: str
    layer_type: str
    bytes_moved: Count
    half_bytes: Count
    float32_inputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    float32_constants: tuple[str, ...] = ()
    bytes_written: Count = 0
    flops: Count = 0
    block: str = ""
    operators: tuple[str, ...] = ()
    bytes_by_type: dict[str, Count] = field(default_factory=dict)
    fp8_inputs: tuple[str, ...] = ()

    @property
    def bytes_read(self) -> int:
        """Size of its inputs and constants, in bytes."""
        return self.bytes_moved - self.bytes_written


@dataclass(frozen=True)
class Block:
    """A part of the model: a block around its attention, or what lies between two of them.

    Attributes:
        name: Path of its module, or its position if the graph has no module paths.
        attention: Number of attention blocks in it.
        floor_bytes: Fewest bytes that its kernels can move (``exporters.plan.work``).
    """

    name: str
    attention: Count
    floor_bytes: Count


@dataclass(frozen=True)
class KernelPlan:
    """The kernels of an engine at one batch, with figures about them.

    Attributes:
        batch: Number of images in a launch, for which shapes and bytes hold.
        attention_blocks: Number of attention blocks in the ONNX graph.
        kernels: Kernels in launch order.
        flavor: TensorRT flavour that planned them.
        version: Version of the flavour.
        float32_compute: Names of the attention and GEMM kernels that read float32, but for those of
            modules that the graph keeps in float32: none if half precision was asked for and
            delivered.
        range_kernels: Number of kernels of an engine that takes a range of batches, else None; the
            builder leaves their sizes open, so ``kernels`` are then those of ``batch`` alone.
        range_fused_attention: Number of fused attention kernels among them, else None.
        lost_float32: Paths of the modules that the graph keeps in float32 and the builder does not.
        blocks: Parts of the model in its order; none in a plan of an older release, which has
            neither operations nor the floor.
        unsized_products: Number of matrix products whose shapes the graph does not give, so that
            their operations are not counted.
        lost_fp8: Paths of the modules whose products read FP8 in the graph, and in no kernel.
    """

    batch: Batch
    attention_blocks: Count
    kernels: tuple[Kernel, ...]
    flavor: str
    version: str
    float32_compute: tuple[str, ...] = ()
    range_kernels: Count | None = None
    range_fused_attention: Count | None = None
    lost_float32: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    unsized_products: Count = 0
    lost_fp8: tuple[str, ...] = ()

    @property
    def kernel_count(self) -> int:
        """Number of kernels that the engine launches."""
        return len(self.kernels) if self.range_kernels is None else self.range_kernels

    @property
    def fused_attention(self) -> int:
        """Number of kernels of the engine that compute a whole attention block."""
        if self.range_fused_attention is not None:
            return self.range_fused_attention
        return sum(kernel.kind == "attention" for kernel in self.kernels)

    @property
    def bytes_moved(self) -> int:
        """Number of bytes that all kernels read and write in one launch of ``batch`` images."""
        return sum(kernel.bytes_moved for kernel in self.kernels)

    @property
    def bytes_moved_per_image(self) -> float:
        """``bytes_moved`` divided by the batch."""
        return self.bytes_moved / self.batch

    @property
    def flops(self) -> int:
        """Number of operations of all matrix products in one launch of ``batch`` images."""
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def floor_bytes(self) -> int:
        """Fewest bytes that kernels of this set can move; 0 if it is not known."""
        return sum(block.floor_bytes for block in self.blocks)

    @property
    def floor_ratio(self) -> float | None:
        """``bytes_moved`` over the floor; None if the floor is not known."""
        return self.bytes_moved / self.floor_bytes if self.floor_bytes else None

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """``bytes_moved`` by type of element; empty in a plan of an older release."""
        return sum_bytes(kernel.bytes_by_type for kernel in self.kernels)

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
        """Number of kernels of each layer type, most first."""
        return dict(Counter(kernel.layer_type for kernel in self.kernels).most_common())

    @property
    def kernel_kinds(self) -> dict[str, int]:
        """Number of kernels of each kind, most first."""
        return dict(Counter(kernel.kind for kernel in self.kernels).most_common())

    @property
    def fp8_products(self) -> int:
        """Number of kernels that compute a matrix product of values in FP8."""
        return sum(kernel.kind == "gemm" and bool(kernel.fp8_inputs) for kernel in self.kernels)

    def heaviest(self, count: int) -> list[Kernel]:
        """Return the ``count`` kernels that move most bytes, heaviest first."""
        return sorted(self.kernels, key=lambda kernel: -kernel.bytes_moved)[:count]

    def wrong_products(self, precision: Precision) -> tuple[str, ...]:
        """Name the attention and GEMM kernels with no tensor in ``precision`` and no float32 input.

        In FP8 it is float16 that they must have: all of them write it, or read it.

        Kernels without ``bytes_by_type``, of an older release, are skipped.
        """
        return tuple(
            kernel.name
            for kernel in self.kernels
            if kernel.kind in ("attention", "gemm")
            and kernel.bytes_by_type
            and not kernel.float32_inputs
            and element_type(carrier_of(precision)) not in kernel.bytes_by_type
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON values, which ``from_dict`` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KernelPlan:
        """Read a plan from ``to_dict`` or from JSON; one of an older release has no blocks.

        Raises:
            BuildError: If fields are missing or unknown, or of another type or range.
        """
        try:
            plan = typed(values, cls, where="the plan")
        except FileError as err:
            raise BuildError(f"not a kernel plan ({err}); build the engine again") from err
        unknown = sorted(set(values) - {one.name for one in fields(cls)})
        if unknown:
            raise BuildError(
                f"not a kernel plan (unknown: {listed(unknown)}); build the engine again"
            )
        return plan

    def with_range(self, engine: KernelPlan) -> KernelPlan:
        """Return this plan, at one batch, as that of an engine which takes a range of batches.

        Args:
            engine: The plan of the engine itself, in which sizes are open.
        """
        wide = dict.fromkeys((*self.float32_compute, *engine.float32_compute))
        return replace(
            self,
            float32_compute=tuple(wide),
            range_kernels=engine.kernel_count,
            range_fused_attention=engine.fused_attention,
            lost_float32=tuple(dict.fromkeys((*self.lost_float32, *engine.lost_float32))),
            lost_fp8=tuple(dict.fromkeys((*self.lost_fp8, *engine.lost_fp8))),
        )
