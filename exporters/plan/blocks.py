"""The part of the model that an ONNX node belongs to, from module paths or from its position.

Paths come from the new PyTorch exporter's records of scopes, or from names: ours
(``layers.0.attention/Softmax``) and the old exporter's (``/layers/layers.0/blocks/blocks.1/attn/
MatMul``). A block is the shortest path that holds one attention only; so it is found in any
transformer, whatever its modules are called. Nodes outside are named by the shortest path that
holds no block: ``patch_embed``, ``layers.1.downsample``, ``head``.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Sequence

import onnx

from exporters.plan.work import Work, node_key

SCOPES = "pkg.torch.onnx.name_scopes"
MOST_RECORD = 10_000  # letters; a dozen scopes of a hundred letters is much
Path = tuple[str, ...]


def group_nodes(graph: onnx.ModelProto, work: Work) -> dict[str, str]:
    """Return the name of the part of the model of each node, by the node's key; none is skipped.

    Args:
        graph: Any graph.
        work: The work of its nodes, of which the attention blocks are used.
    """
    paths = {node_key(node): _path(node) for node in graph.graph.node}
    blocks = _block_paths([paths[key] for key in work.attention])
    if not blocks:
        return _by_position(list(paths), work.attention)
    outer = {block[:length] for block in blocks for length in range(len(block))}
    names = {key: _first_outside(path, outer) for key, path in paths.items()}
    return _filled(names)


def group_kernel(nodes: Sequence[str], groups: dict[str, str], flops: Counter[str]) -> str:
    """Find the part of the model that a kernel belongs to: that of its products, or of most nodes.

    Args:
        nodes: Keys of the ONNX nodes that it computes.
        groups: Name of the part by node key, from ``group_nodes``.
        flops: Number of operations by node key.

    Returns:
        Name of the part; empty if none of its nodes is known.
    """
    products = [groups[node] for node in nodes if node in groups and flops[node]]
    votes = Counter(products or [groups[node] for node in nodes if node in groups])
    if not votes:
        return ""
    order = list(dict.fromkeys(groups.values()))
    return max(votes, key=lambda name: (votes[name], order.index(name)))


def fill_forward(names: Iterable[str]) -> list[str]:
    """Replace each empty name by the one before it, or, at the start, by the first one there is."""
    listed = list(names)
    last = next(filter(None, listed), "")
    filled = []
    for name in listed:
        last = name or last
        filled.append(last)
    return filled


def _path(node: onnx.NodeProto) -> Path:
    """Return the path of the module that a node belongs to; empty if it is not known."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = _scopes(entry.value)
            return tuple(scopes[-2].split(".")) if len(scopes) > 1 and scopes[-2] else ()
    parts: list[str] = []
    for part in filter(None, node.name.split("/")[:-1]):
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return tuple(".".join(parts).split(".")) if parts else ()


def _scopes(text: str) -> list[str]:
    if len(text) > MOST_RECORD:
        return []
    try:
        return [str(scope) for scope in ast.literal_eval(text)]
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return []


def _block_paths(paths: list[Path]) -> list[Path]:
    """Return the block's path of each attention, or no paths if two attentions have equal ones.

    A block's path is the shortest one that holds no other attention. A stage with one block would
    be taken whole, so all paths get the length of the longest.
    """
    depths = [_depth(path, paths) for path in paths]
    if not paths or 0 in depths:
        return []
    return [path[: max(depths)] for path in paths]


def _depth(path: Path, paths: list[Path]) -> int:
    """Return the length of the shortest start of ``path`` that no other has; 0 without one."""
    for length in range(1, len(path) + 1):
        if sum(other[:length] == path[:length] for other in paths) == 1:
            return length
    return 0


def _first_outside(path: Path, outer: set[Path]) -> str:
    for length in range(1, len(path) + 1):
        if path[:length] not in outer:
            return ".".join(path[:length])
    return ""


def _by_position(keys: list[str], ends: list[str]) -> dict[str, str]:
    """Group nodes into parts that end with an attention each, and one after the last of them."""
    groups, passed = {}, 0
    for key in keys:
        last = passed == len(ends)
        groups[key] = f"after attention {passed}" if last else f"to attention {passed + 1}"
        passed += key in ends
    return groups


def _filled(names: dict[str, str]) -> dict[str, str]:
    return dict(zip(names, fill_forward(names.values()), strict=True))
