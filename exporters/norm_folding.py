"""Fold the norm before an MLP into the MLP's first layer, in half precision.

LayerNorm and the linear layer behind it are ``((x - mean) / sd * gain + shift) @ W + b``. The mean
may leave by the weights, whose columns then sum to zero, and ``1 / sd`` may wait until the product
is done: ``(x @ centred) * (1 / sd) + bias``. The normalised tokens are then never written to
memory, and TensorRT reads the tokens once for ``1 / sd``, one number a token, which it applies
where the product adds its bias.

Two things keep this as exact as the norm in its own place. The rounded columns of ``centred`` sum
to zero too (``balanced``), or a mean common to all channels would come through with the rounding
errors of a whole column. And ``centred`` is divided by a power of two, which ``1 / sd`` makes up
for, so that no product is beyond float16's range while the tokens are within it: for any tokens
where the factor's own range allows it, and up to a deviation of ``SAFE_DEVIATION`` elsewhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from exporters.float32_uses import captured
from exporters.precisions import PrecisionTraits
from exporters.weights import bare, is_weight, replace_nodes

FACTOR = "factor"  # submodule of the linear layer that computes 1 / sd, in float32
WEIGHT, BIAS = "centred_weight", "moved_bias"  # of the linear layer that a norm was folded into
NORM = "norm_before_mlp"  # last word of the path of the norms that are folded
SAFE_DEVIATION = 4096.0  # of a token's channels: 256 of them with one at 65504, the others at 0
BALANCING = 16  # weights of a column that make up for its rounding errors
COLUMNS = 256  # balanced at a time, for the memory that sorting takes
AXES_AS_INPUT = 18  # opset from which ReduceMean takes its axes as an input

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class FoldedNorm:
    """The constants of a norm and a linear layer as one product.

    Attributes:
        weight: Weights, [C, K], whose columns sum to zero; ``balanced`` rounds them.
        bias: Bias, [K].
        scale: Power of two over the standard deviation: the factor of a token.
        eps: Number added to the variance.
    """

    weight: Floats
    bias: Floats
    scale: float
    eps: float


def fold_norm(
    *,
    gain: Floats,
    shift: Floats,
    eps: float,
    weight: Floats,
    bias: Floats,
    traits: PrecisionTraits,
) -> FoldedNorm | None:
    """Fold a norm's constants into those of the linear layer behind it, in float64.

    Args:
        gain: Factor of each normalised channel, [C].
        shift: Number added to each, [C].
        eps: Number added to the variance.
        weight: Weights of the linear layer, [C, K].
        bias: Its bias, [K].
        traits: Precision that the constants will be rounded to.

    Returns:
        The constants; None if a value is not finite, or no power of two keeps both the factor of a
        constant token, which a small ``eps`` makes large, and the products in the precision's
        range.
    """
    if not all(np.isfinite(values).all() for values in (gain, shift, weight, bias)):
        return None  # whoever rounds them names them
    centred = weight.astype(np.float64)  # [C, K], the one copy: weights may be large
    moved = bias.astype(np.float64) + shift.astype(np.float64) @ centred
    centred *= gain.astype(np.float64)[:, None]
    centred -= centred.mean(axis=0)
    # By Cauchy and Schwarz |x @ centred| <= sd * sqrt(C) * |column|, and no sd is beyond the range.
    gauge = math.sqrt(len(centred)) * float(np.linalg.norm(centred, axis=0).max(initial=0.0))
    wanted = math.ceil(math.log2(gauge)) if gauge > 1 else 0
    most = math.floor(math.log2(traits.largest * math.sqrt(eps))) if eps > 0 else -1
    powers = min(wanted, most)
    if powers < 0 or SAFE_DEVIATION * gauge / 2.0**powers > traits.largest:
        return None
    centred /= 2.0**powers
    return FoldedNorm(centred, moved, 2.0**powers, eps)


def balanced(weight: Floats, traits: PrecisionTraits) -> NDArray[np.generic]:
    """Round weights whose columns sum to zero so that the rounded columns do too.

    The smallest weights of a column, which have the finest steps, share the rounding errors of all.

    Args:
        weight: Weights, [C, K], each column of sum zero.
        traits: Precision to round to.

    Returns:
        The rounded weights, [C, K], in the precision's type.
    """
    rounded = weight.astype(traits.dtype)
    for start in range(0, weight.shape[1], COLUMNS):
        some = slice(start, start + COLUMNS)
        _balance(weight[:, some], rounded[:, some])
    return rounded


def _balance(weight: Floats, rounded: NDArray[np.generic]) -> None:
    """Change the smallest weights of each rounded column, in place, so that its sum is zero."""
    smallest = np.argsort(np.abs(weight), axis=0, kind="stable")[:BALANCING]
    columns = np.arange(weight.shape[1])
    missing = -rounded.astype(np.float64).sum(axis=0)
    for turn, rows in enumerate(smallest):
        now = rounded[rows, columns].astype(np.float64)
        new = (now + missing / (len(smallest) - turn)).astype(rounded.dtype)
        missing -= new.astype(np.float64) - now
        rounded[rows, columns] = new


@dataclass(frozen=True)
class _Site:
    """A norm before an MLP and the first layer of the MLP, as nodes of a graph.

    Attributes:
        norm: The norm.
        product: The product.
        total: The sum with the bias.
        weight: Name of the weights.
        turned: Whether the weights are [K, C], which a Transpose turns.
        bias: Name of the bias.
    """

    norm: onnx.NodeProto
    product: onnx.NodeProto
    total: onnx.NodeProto
    weight: str
    turned: bool
    bias: str

    @property
    def path(self) -> str:
        """The path of the linear layer."""
        return self.product.name.rpartition("/")[0]

    @property
    def eps(self) -> float:
        """Number added to the variance."""
        return next((entry.f for entry in self.norm.attribute if entry.name == "epsilon"), 1e-5)

    @property
    def constants(self) -> tuple[Hashable, ...]:
        """Whatever the constants of the folded form follow from."""
        return (*self.norm.input[1:], self.weight, self.turned, self.bias, self.eps)


def fold_norms(
    graph: onnx.ModelProto,
    sources: Mapping[str, onnx.TensorProto],
    traits: PrecisionTraits,
    *,
    kept: set[str],
) -> tuple[dict[str, onnx.TensorProto], tuple[str, ...]]:
    """Fold the norms before the MLPs of a float32 graph into the MLPs, in place.

    Args:
        graph: A float32 graph; its weights may lack their values.
        sources: Initializers with their values, by name.
        traits: Precision that the graph will be brought to.
        kept: Names of the nodes that stay float32; a norm among them, or before them, is not
            folded.

    Returns:
        Initializers of the folded form with their values, by name; and paths of the linear layers
        that a norm was folded into: their weights have the name
        ``WEIGHT`` and are to be rounded by ``balanced``, and their submodule ``FACTOR`` must stay
        float32.
    """
    body = graph.graph
    by_input = graph.opset_import[0].version >= AXES_AS_INPUT
    replaced: dict[str, list[onnx.NodeProto]] = {}
    made: dict[str, onnx.TensorProto] = {}
    folded: list[str] = []
    owners: dict[tuple[Hashable, ...], str] = {}  # a model at two sizes has its weights once
    for site in _sites(body):
        if kept & {site.norm.name, site.product.name, site.total.name}:
            continue
        if site.constants not in owners:
            constants = _fold_site(site, sources, traits)
            if constants is None:
                continue
            owners[site.constants] = site.path
            tensors = _folded_tensors(site.path, constants)
            made |= {tensor.name: tensor for tensor in tensors}
            body.initializer.extend(bare(one) if is_weight(one) else one for one in tensors)
        nodes = _folded_nodes(site, owners[site.constants], axes_as_input=by_input)
        replaced |= {site.norm.name: [], site.product.name: nodes, site.total.name: []}
        folded.append(site.path)
    if folded:
        replace_nodes(body, [new for node in body.node for new in replaced.get(node.name, [node])])
        _drop_unused(body, {node.name for node in _turns(body).values()})
    return made, tuple(folded)


def norms_before_mlps(graph: onnx.ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the norms before MLPs of a graph.

    Args:
        graph: A graph of any precision.

    Returns:
        Paths of the linear layers that a norm was folded into, and paths of the norms that stand
        apart.
    """
    modules = [(node.op_type, node.name.rpartition("/")[0]) for node in graph.graph.node]
    factors = [path for kind, path in modules if kind == "Sqrt" and is_factor(path)]
    norms = [path for kind, path in modules if kind == "LayerNormalization"]
    return (
        tuple(path.removesuffix(f".{FACTOR}") for path in factors),
        tuple(path for path in norms if _is_before_mlp(path)),
    )


def is_factor(path: str) -> bool:
    """Tell whether a module is the factor of a folded norm."""
    return path.endswith(f".{FACTOR}")


def _is_before_mlp(path: str) -> bool:
    return f".{path}".endswith(f".{NORM}")


def _drop_unused(body: onnx.GraphProto, turns: set[str]) -> None:
    """Delete the weights that no node, branch of a node or output takes, turned ones too.

    Args:
        body: The graph.
        turns: Names of the nodes that turn weights.
    """
    outputs = {value.name for value in body.output}
    used = outputs | {name for node in body.node for name in (*node.input, *captured(node))}
    kept = [node for node in body.node if node.name not in turns or node.output[0] in used]
    if len(kept) < len(body.node):
        replace_nodes(body, kept)
    used = outputs | {name for node in body.node for name in (*node.input, *captured(node))}
    for index in reversed(range(len(body.initializer))):
        if body.initializer[index].name not in used:
            del body.initializer[index]


def _turns(body: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the nodes that swap the two axes of weights, by their output."""
    weights = {tensor.name for tensor in body.initializer if len(tensor.dims) == 2}
    return {
        node.output[0]: node
        for node in body.node
        if node.op_type == "Transpose" and node.input[0] in weights and _swaps(node)
    }


def _swaps(node: onnx.NodeProto) -> bool:
    """Tell whether a Transpose swaps two axes, which it does without ``perm``."""
    return all(list(entry.ints) == [1, 0] for entry in node.attribute if entry.name == "perm")


def _sites(body: onnx.GraphProto) -> list[_Site]:
    constants = {tensor.name for tensor in body.initializer}
    turns = _turns(body)
    uses = Counter(name for node in body.node for name in node.input)
    uses.update(value.name for value in body.output)
    users = {name: node for node in body.node for name in node.input}

    def only_user(node: onnx.NodeProto, op: str) -> onnx.NodeProto | None:
        user = users.get(node.output[0])
        return user if user and user.op_type == op and uses[node.output[0]] == 1 else None

    sites = []
    for norm in body.node:
        path = norm.name.rpartition("/")[0]
        if norm.op_type != "LayerNormalization" or not _is_before_mlp(path):
            continue
        product = only_user(norm, "MatMul")
        total = only_user(product, "Add") if product else None
        if product is None or total is None:
            continue
        turn = turns.get(product.input[1])
        weight = product.input[1] if turn is None else turn.input[0]
        bias = [name for name in total.input if name in constants]
        if weight in constants and len(bias) == 1:
            sites.append(_Site(norm, product, total, weight, turn is not None, bias[0]))
    return sites


def _fold_site(
    site: _Site, sources: Mapping[str, onnx.TensorProto], traits: PrecisionTraits
) -> FoldedNorm | None:
    values = [numpy_helper.to_array(sources[name]) for name in (*site.norm.input[1:], site.bias)]
    shift = values[1] if len(values) > 2 else np.zeros_like(values[0])
    weight = numpy_helper.to_array(sources[site.weight])
    return fold_norm(
        gain=values[0],
        shift=shift,
        eps=site.eps,
        weight=weight.T if site.turned else weight,
        bias=values[-1],
        traits=traits,
    )


def _folded_tensors(path: str, folded: FoldedNorm) -> list[onnx.TensorProto]:
    """Return the constants of the linear layer at ``path``."""
    return [
        _tensor(f"{path}.{WEIGHT}", folded.weight),
        _tensor(f"{path}.{BIAS}", folded.bias),
        _tensor(f"{path}.{FACTOR}.scale", folded.scale),
        _tensor(f"{path}.{FACTOR}.eps", folded.eps),
        numpy_helper.from_array(np.array([-1]), f"{path}.{FACTOR}.axes"),
    ]


def _folded_nodes(site: _Site, owner: str, *, axes_as_input: bool) -> list[onnx.NodeProto]:
    """Return the nodes that take the place of a site's nodes.

    Args:
        site: The site.
        owner: Path of the linear layer whose constants they take.
        axes_as_input: Whether ReduceMean has its axes as an input.
    """
    path, tokens = site.path, site.norm.input[0]
    label = f"{path}.{FACTOR}"
    constant = f"{owner}.{FACTOR}"
    nodes: list[onnx.NodeProto] = []

    def node(op: str, inputs: list[str], name: str = "", output: str = "") -> str:
        name = name or f"{label}/{op}_{len(nodes)}"
        output = output or f"{name}/result"
        nodes.append(helper.make_node(op, inputs, [output], name=name))
        if op == "ReduceMean" and not axes_as_input:
            nodes[-1].attribute.append(helper.make_attribute("axes", [-1]))
        return output

    def mean(values: str) -> str:  # [N, B, C] -> [N, B, 1]
        return node("ReduceMean", [values, *([f"{constant}.axes"] if axes_as_input else [])])

    apart = node("Sub", [tokens, mean(tokens)])
    variance = mean(node("Mul", [apart, apart]))
    deviation = node("Sqrt", [node("Add", [variance, f"{constant}.eps"])])
    factor = node("Div", [f"{constant}.scale", deviation])
    product = node("MatMul", [tokens, f"{owner}.{WEIGHT}"], site.product.name)
    scaled = node("Mul", [product, factor], f"{path}/Mul")
    node("Add", [scaled, f"{owner}.{BIAS}"], site.total.name, site.total.output[0])
    return nodes


def _tensor(name: str, values: Floats | float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)
