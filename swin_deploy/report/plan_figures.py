"""The figures of a kernel plan, as reports hold them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from exporters.plan import Kernel, KernelPlan
from exporters.plan.totals import BlockTotal, block_totals
from exporters.spec import Batch, Count, Share

HEAVIEST = 10


@dataclass(frozen=True)
class PlanFigures:
    """The kernels of an engine at one batch, and their totals.

    Attributes:
        kernels: Number of kernels that the engine launches.
        attention_blocks: Number of attention blocks in the model.
        fused_attention: Number of kernels that compute a whole attention block.
        bytes_moved: Bytes that all kernels read and write in one launch.
        bytes_moved_per_image: ``bytes_moved`` divided by the batch.
        floor_bytes: Fewest bytes that such kernels can move; null if it is not known.
        floor_ratio: ``bytes_moved`` over ``floor_bytes``; null if it is not known.
        flops: Operations of all matrix products; null if they are not known.
        unsized_products: Number of matrix products whose operations are not counted.
        bytes_by_type: ``bytes_moved`` by type of element: FP32, FP16, BF16, INT64, ...
        half_byte_share: Share of the bytes that are in half precision.
        half_kernel_share: Share of the kernels with most of their bytes in half precision.
        kernel_types: Number of kernels of each layer type, most first.
        kernel_kinds: Number of kernels of each kind, most first.
        batch: Number of images in a launch.
        flavor: TensorRT flavour that planned the kernels.
        version: Version of that flavour.
        range_kernels: Number of kernels of the engine itself; null unless it takes a range of
            batches.
        range_fused_attention: Number of fused attention kernels among those; null as above.
        float32_compute: Names of attention and GEMM kernels that read float32 against the request.
        lost_float32: Modules that the graph keeps in float32 and the builder does not.
        blocks: Parts of the model in their order.
        heaviest: Kernels that move most bytes, heaviest first.
        launches: Kernels in launch order.
    """

    kernels: Count
    attention_blocks: Count
    fused_attention: Count
    bytes_moved: Count
    bytes_moved_per_image: float
    floor_bytes: Count | None
    floor_ratio: float | None
    flops: Count | None
    unsized_products: Count
    bytes_by_type: dict[str, Count]
    half_byte_share: Share
    half_kernel_share: Share
    kernel_types: dict[str, Count]
    kernel_kinds: dict[str, Count]
    batch: Batch
    flavor: str
    version: str
    range_kernels: Count | None
    range_fused_attention: Count | None
    float32_compute: tuple[str, ...]
    lost_float32: tuple[str, ...]
    blocks: tuple[BlockTotal, ...]
    heaviest: tuple[Kernel, ...]
    launches: tuple[Kernel, ...]


def plan_figures(plan: KernelPlan) -> PlanFigures:
    """Return the figures of a plan."""
    own: dict[str, Any] = {
        "kernels": plan.kernel_count,
        "floor_bytes": plan.floor_bytes or None,
        "flops": plan.flops if plan.blocks else None,
        "blocks": block_totals(plan),
        "heaviest": tuple(plan.heaviest(HEAVIEST)),
        "launches": plan.kernels,
    }
    names = (field.name for field in fields(PlanFigures))
    return PlanFigures(**{n: own[n] if n in own else getattr(plan, n) for n in names})
