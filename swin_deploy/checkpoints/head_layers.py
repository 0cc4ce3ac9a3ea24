"""The modules next to an encoder's layers, and those of them that may be its classifier."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from swin_deploy.checkpoints.dialect import EncoderTensors, encoder_modules
from swin_deploy.checkpoints.known import DIALECTS

# Names that people give to a classifier and its parts. A weight without a bias under one of them
# is a linear layer; under any other it may be the centres of a loss (ArcFace) or an embedding.
USUAL = re.compile(
    r"(?:.*_)?(?:heads?|fc|classifier|classif|cls|linear|logits?|out|output|predictor|dense)"
    r"(?:_?\d+|_head|_layer)?",
    re.IGNORECASE,
)
# Modules that only training or measuring uses.
TRAINING = re.compile(
    r"(?:.*_)?(?:criterion|criteria|loss|losses|loss_fn|loss_func|metrics?|acc|accuracy)(?:_.*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """A module next to an encoder's layers.

    Attributes:
        root: Full name in the file.
        tensors: Tensors by full name.
        inside: Whether it is under the encoder's own prefix, as a library's own classifier is.
    """

    root: str
    tensors: dict[str, Tensor]
    inside: bool

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights [out, in] of linear layers by the layer's name, in the order of the names."""
        found = {
            name.removesuffix(".weight"): tensor
            for name, tensor in self.tensors.items()
            if name.endswith(".weight") and tensor.ndim == 2 and tensor.numel()
        }
        return dict(sorted(found.items(), key=lambda layer: _natural(layer[0])))

    @property
    def others(self) -> list[str]:
        """Names of tensors that are not of a linear layer."""
        shapes = {f"{name}.bias": weight.shape[:1] for name, weight in self.weights.items()}
        return [
            name
            for name, tensor in self.tensors.items()
            if name.removesuffix(".weight") not in self.weights and shapes.get(name) != tensor.shape
        ]

    def has_bias(self, layer: str) -> bool:
        """Tell whether a linear layer has a bias."""
        return f"{layer}.bias" in self.tensors


@dataclass(frozen=True)
class Candidate:
    """One or two linear layers that may be the classifier.

    Attributes:
        layers: Full names in the file, first to last, without ``.weight``.
        inside: Whether the last layer is under the encoder's own prefix.
        sure: Whether its name says a linear layer, not something else with such a weight.
        joined: Whether the layers are of two modules: the library's classifier, and one after it.
    """

    layers: tuple[str, ...]
    inside: bool
    sure: bool = True
    joined: bool = False

    @property
    def name(self) -> str:
        """The layers in words."""
        return " and ".join(self.layers)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def parts_inside(named: EncoderTensors, channels: int) -> list[Part]:
    """Return the modules under the encoder's prefix that are none of its own and may be a head.

    A module that has neither a usual name nor a layer from the encoder's features is not among
    them, nor is a bias without a weight: both are unknown.

    Args:
        named: The encoder's tensors in their dialect.
        channels: Number of channels of its features.
    """
    own = encoder_modules(named.dialect)
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in named.tensors.items():
        root, dot, _ = name.partition(".")
        if dot and root not in own and not _is_lone_bias(name, named.tensors):
            found.setdefault(root, {})[name] = tensor
    return [
        Part(
            named.full(root), {named.full(name): one for name, one in tensors.items()}, inside=True
        )
        for root, tensors in found.items()
        if _may_be_head(root, tensors, channels)
    ]


def parts_outside(named: EncoderTensors, tensors: Mapping[str, Tensor]) -> list[Part]:
    """Return the modules next to the encoder, without those of other encoders.

    What stands under the start of the names of an encoder around this one is the other's.

    Args:
        named: The encoder's tensors in their dialect.
        tensors: All tensors of the file, by name.
    """
    found: dict[str, dict[str, Tensor]] = {}
    around = tuple(start for start in _starts(named.outside) if named.prefix.startswith(start))
    for name in named.outside:
        if name.startswith(around):
            continue
        above = _common(named.prefix, name)
        root = above + name.removeprefix(above).partition(".")[0]
        found.setdefault(root, {})[name] = tensors[name]
    return [Part(root, one, inside=False) for root, one in found.items() if not _has_encoder(one)]


def _common(prefix: str, name: str) -> str:
    """Return the longest part of the encoder's prefix, up to a dot, that a name starts with."""
    steps = prefix.removesuffix(".").split(".")
    above = ("".join(f"{step}." for step in steps[:count]) for count in range(len(steps), 0, -1))
    return next((start for start in above if name.startswith(start)), "")


def _has_encoder(names: Iterable[str]) -> bool:
    return bool(_starts(names))


def _starts(names: Iterable[str]) -> set[str]:
    """Return the starts of the names of every encoder."""
    known = list(names)
    return {start for dialect in DIALECTS for start in dialect.prefixes(known)}


def _is_lone_bias(name: str, names: Iterable[str]) -> bool:
    start = name.removesuffix("bias")
    return name.endswith(".bias") and not any(n.startswith(start) and n != name for n in names)


def _may_be_head(root: str, tensors: Mapping[str, Tensor], channels: int) -> bool:
    fits = any(one.ndim == 2 and one.shape[1] == channels for one in tensors.values())
    return fits or USUAL.fullmatch(root) is not None


def is_usual(part: Part) -> bool:
    """Tell whether people give such a name to a classifier."""
    return USUAL.fullmatch(part.root.rpartition(".")[2]) is not None


def only_trains(part: Part) -> bool:
    """Tell whether only training or measuring uses a module, by its name."""
    return TRAINING.fullmatch(part.root.rpartition(".")[2]) is not None


def candidates_of(part: Part, channels: int) -> list[Candidate]:
    """Return the classifiers of features that a module may be, each of one linear layer or two.

    1. Two layers that follow one another: one classifier.
    2. One layer, or several that all take the features: as many classifiers.
    3. A module with anything else in it, such as a norm: none.

    Args:
        part: The module.
        channels: Number of channels of the features.
    """
    weights = part.weights
    if part.others or not weights:
        return []
    if len(weights) == 2:
        for first, last in (list(weights), list(weights)[::-1]):
            taken, given = weights[first].shape[1], weights[first].shape[0]
            if taken == channels and weights[last].shape[1] == given:
                return [Candidate((first, last), part.inside)]
    if any(weight.shape[1] != channels for weight in weights.values()):
        return []
    return [Candidate((name,), part.inside, _says_linear(part, name)) for name in weights]


def _says_linear(part: Part, layer: str) -> bool:
    """Tell whether a layer is linear for certain: by its bias, or by the usual names alone."""
    words = [part.root.rpartition(".")[2], *layer.removeprefix(part.root).split(".")]
    usual = all(word.isdecimal() or USUAL.fullmatch(word) for word in words if word)
    return part.has_bias(layer) or usual


def joined_candidate(inside: list[Part], outside: list[Part], channels: int) -> Candidate | None:
    """Return the library's own classifier with the layer after it, in a model around the library's.

    Args:
        inside: The modules under the encoder's prefix.
        outside: The modules next to the encoder.
        channels: Number of channels of the features.

    Returns:
        The two layers; None unless there is exactly one such pair.
    """
    firsts = [(p, name) for p in inside for name in p.weights if len(p.weights) == 1]
    lasts = [(p, name) for p in outside for name in p.weights if len(p.weights) == 1]
    found = [
        Candidate((first, last), inside=False, joined=True)
        for one, first in firsts
        for other, last in lasts
        if not one.others
        and not other.others
        and one.weights[first].shape[1] == channels
        and other.weights[last].shape[1] == one.weights[first].shape[0]
    ]
    return found[0] if len(found) == 1 else None
