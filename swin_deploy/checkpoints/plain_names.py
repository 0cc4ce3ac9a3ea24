"""Names and values of weights without what wrappers and pruning put around them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch import Tensor

from exporters.text_files import listed

# Attributes that only wrappers have: torch.compile, FSDP (of PyTorch and of fairscale), activation
# checkpoints, Lightning's strategies, Opacus.
WRAPPERS = frozenset(
    {
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_module",
    }
)
# DataParallel, AveragedModel and timm's ModelEma call it so, and so may a model of one's own: it is
# a wrapper where nothing else stands next to it.
PLAIN_WRAPPER = "module"
# Names that averaging adds to a state dict (PyTorch, timm, MMEngine, ema-pytorch).
COUNTERS = frozenset({"n_averaged", "num_updates", "decay", "step", "steps", "updates", "initted"})
# Names that a profiler (thop) adds to every module.
PROFILED = frozenset({"total_ops", "total_params"})
MOST_PARTS = 64  # parts of a name up to which wrappers are looked for
PRUNED, MASK = "_orig", "_mask"  # ends of the names of torch.nn.utils.prune


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Take the parts that wrappers add out of names, wherever they stand.

    Args:
        names: Names of tensors; the counters of averages may stand next to ``module``.

    Returns:
        Each name to its name without wrappers. No two are the same: a wrapper stays where a name
        without it is there, too.
    """
    known = list(names)
    children = _children(known)
    bare = {name: _bare(name, children) for name in known}
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in known}


def _children(names: list[str]) -> dict[str, set[str]]:
    """Return the parts of names by the parts before them."""
    children: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split(".", MOST_PARTS)
        for at, part in enumerate(parts):
            children[".".join(parts[:at])].add(part)
    return children


def _bare(name: str, children: dict[str, set[str]]) -> str:
    parts = name.split(".", MOST_PARTS)
    kept = [
        part
        for at, part in enumerate(parts[:-1])
        if not _is_wrapper(".".join(parts[:at]), part, children)
    ]
    return ".".join([*kept, parts[-1]])


def _is_wrapper(parent: str, part: str, children: dict[str, set[str]]) -> bool:
    if part == PLAIN_WRAPPER:
        return children[parent] <= {part} | COUNTERS
    inside = children[f"{parent}.{part}" if parent else part]
    return part in WRAPPERS and not inside & children[parent]


def without_counters(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Leave out counters, which are single numbers.

    1. Those of averages: at the top, or next to ``module``.
    2. Those of a profiler: in any module.

    Args:
        tensors: Tensors by name.

    Returns:
        The other tensors, and the names that were left out.
    """
    averaged = {name.rpartition(f".{PLAIN_WRAPPER}.")[0] for name in tensors} | {""}
    aside = [
        name
        for name, tensor in tensors.items()
        if tensor.numel() == 1 and _is_counter(name, averaged)
    ]
    return {name: one for name, one in tensors.items() if name not in set(aside)}, aside


def _is_counter(name: str, averaged: set[str]) -> bool:
    parent, _, last = name.rpartition(".")
    return last in PROFILED or (last in COUNTERS and parent in averaged)  # 2, 1


def unpruned(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Multiply pruned weights by their masks, as ``torch.nn.utils.prune`` does when it runs.

    Args:
        tensors: Tensors by name; pruned ones are a pair of ``weight_orig`` and ``weight_mask``.

    Returns:
        The tensors under their usual names, and a note if there were such pairs.
    """
    pairs = {
        name.removesuffix(PRUNED): name.removesuffix(PRUNED) + MASK
        for name, value in tensors.items()
        if name.endswith(PRUNED) and _is_mask(tensors.get(name.removesuffix(PRUNED) + MASK), value)
    }
    pairs = {name: mask for name, mask in pairs.items() if name not in tensors}
    if not pairs:
        return tensors, []
    gone = {*pairs.values(), *(name + PRUNED for name in pairs)}
    whole = {name: value for name, value in tensors.items() if name not in gone}
    whole |= {name: tensors[name + PRUNED] * tensors[mask] for name, mask in pairs.items()}
    return whole, [f"pruned weights multiplied by their masks: {listed(list(pairs))}"]


def _is_mask(mask: Tensor | None, value: Tensor) -> bool:
    return mask is not None and mask.shape == value.shape
