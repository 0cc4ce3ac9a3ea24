"""Kernels of a plan summed by part of the model, and the parts of two plans in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from exporters.errors import BuildError
from exporters.plan.kernels import Block, Kernel, KernelPlan, sum_bytes


@dataclass(frozen=True)
class BlockTotal:
    """The kernels of one part of the model.

    Attributes:
        name: Name of the part.
        attention: Number of attention blocks in it.
        kernels: Number of kernels.
        bytes_moved: Number of bytes that they read and write.
        floor_bytes: Fewest bytes that such kernels can move.
        flops: Number of operations of their matrix products.
        bytes_by_kind: The ``bytes_moved`` by kind of kernel.
        bytes_by_type: The ``bytes_moved`` by type of element; empty in a plan of an older release.
    """

    name: str
    attention: int
    kernels: int
    bytes_moved: int
    floor_bytes: int
    flops: int
    bytes_by_kind: dict[str, int]
    bytes_by_type: dict[str, int]

    @property
    def floor_ratio(self) -> float | None:
        """``bytes_moved`` over the floor; None for a part whose floor is 0."""
        return self.bytes_moved / self.floor_bytes if self.floor_bytes else None


@dataclass(frozen=True)
class BlockPair:
    """The same part of two plans.

    Attributes:
        first: The part in the first plan; None if that has no such part.
        second: The part in the second plan; None if that has no such part.
    """

    first: BlockTotal | None
    second: BlockTotal | None

    @property
    def more_bytes(self) -> int:
        """Number of bytes that the second moves more than the first."""
        moved = [total.bytes_moved if total else 0 for total in (self.first, self.second)]
        return moved[1] - moved[0]


def require_blocks(plan: KernelPlan) -> None:
    """Raise BuildError unless a plan has parts of the model, operations and the floor."""
    if not plan.blocks:
        raise BuildError(
            "the plan was made by an older release, without blocks, operations and minimum; build "
            "the engine again, or give its ONNX file"
        )


def block_totals(plan: KernelPlan) -> tuple[BlockTotal, ...]:
    """Sum the kernels of each part of a plan, in the model's order."""
    return tuple(_total([block], plan.kernels) for block in plan.blocks)


def plan_total(plan: KernelPlan) -> BlockTotal:
    """Sum the kernels of all parts of a plan, as one part called ``all``."""
    return replace(_total(plan.blocks, plan.kernels), name="all")


def block_pairs(first: KernelPlan, second: KernelPlan) -> tuple[BlockPair, ...]:
    """Match the parts of two plans by their place among the attention blocks.

    Names differ between libraries, so all parts between two attention blocks count as one.

    Args:
        first: Kernel plan of one engine.
        second: Kernel plan of the other engine, of the same model.

    Returns:
        The pairs, in the model's order.
    """
    sides = [_by_place(plan) for plan in (first, second)]
    places = sorted({place for side in sides for place in side})
    return tuple(BlockPair(*(side.get(place) for side in sides)) for place in places)


def _by_place(plan: KernelPlan) -> dict[tuple[int, bool], BlockTotal]:
    """Sum parts by the number of attention blocks before them and whether they hold one."""
    placed: dict[tuple[int, bool], list[Block]] = {}
    passed = 0
    for block in plan.blocks:
        placed.setdefault((passed, bool(block.attention)), []).append(block)
        passed += block.attention
    return {place: _total(blocks, plan.kernels) for place, blocks in placed.items()}


def _total(blocks: Sequence[Block], kernels: Iterable[Kernel]) -> BlockTotal:
    names = [block.name for block in blocks]
    own = [kernel for kernel in kernels if kernel.block in names]
    by_kind: Counter[str] = Counter()
    for kernel in own:
        by_kind[kernel.kind] += kernel.bytes_moved
    return BlockTotal(
        name=", ".join(names),
        attention=sum(block.attention for block in blocks),
        kernels=len(own),
        bytes_moved=sum(by_kind.values()),
        floor_bytes=sum(block.floor_bytes for block in blocks),
        flops=sum(kernel.flops for kernel in own),
        bytes_by_kind=dict(by_kind),
        bytes_by_type=sum_bytes(kernel.bytes_by_type for kernel in own),
    )
