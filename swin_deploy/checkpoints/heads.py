"""The classifier of a checkpoint, whatever its name and its form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints.dialect import EncoderTensors
from swin_deploy.checkpoints.head_layers import (
    Candidate,
    Part,
    candidates_of,
    is_usual,
    joined_candidate,
    only_trains,
    parts_inside,
    parts_outside,
)
from swin_deploy.checkpoints.infer_config import ConfigRequest
from swin_deploy.config import HeadActivation
from swin_deploy.config.assumptions import Assumption
from swin_deploy.config.swin import MOST_STAGES

OPTION, ACTIVATION_OPTION = "--head", "--head-activation"
FEATURES = "the features before any classifier"


@dataclass(frozen=True)
class OwnHead:
    """The classifier of a file whose form is not the library's own.

    Attributes:
        layers: Full names in the file of its linear layers, first to last, without ``.weight``.
        activation: Activation between two layers.
    """

    layers: tuple[str, ...]
    activation: HeadActivation = "none"


@dataclass(frozen=True)
class TakenHead:
    """A checkpoint's tensors with its classifier under the library's names, or without one.

    Attributes:
        named: The encoder's tensors, and those of the classifier.
        own: The classifier if its form is not the library's own; else None.
        beside: Full names of tensors that the library's own model would not have.
        sizes: Fields of ``SwinConfig`` that the classifier shows.
        comparable: Whether a ``config.json`` of the library says the classes of this classifier.
        notes: Notes on what was taken and what was left aside.
        assumptions: Choices that neither the file nor the user made.
    """

    named: EncoderTensors
    own: OwnHead | None = None
    beside: frozenset[str] = frozenset()
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    comparable: bool = True
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()


@dataclass(frozen=True)
class _Found:
    """Everything in a file that may be a classifier, or may change what reaches it.

    Attributes:
        inside: Modules under the encoder's prefix.
        outside: Modules next to the encoder, without those that only train.
        candidates: Classifiers that they may be.
        joined: The library's classifier with the layer after it, if the two fit.
    """

    inside: list[Part]
    outside: list[Part]
    candidates: list[Candidate]
    joined: Candidate | None

    @property
    def parts(self) -> list[Part]:
        """All modules, those under the encoder's prefix first."""
        return self.inside + self.outside

    def weight(self, layer: str) -> Tensor:
        """Return the weight [out, in] of a layer."""
        return next(part.weights[layer] for part in self.parts if layer in part.weights)

    def described(self) -> str:
        """Return the modules that look like classifiers, with the reason why one is not taken."""
        shown = [p for p in self.parts if p.inside or is_usual(p) or self._in(p)]
        return "; ".join(self._words(part) for part in shown)

    def _in(self, part: Part) -> list[str]:
        """Return the names of the classifiers that a module may be."""
        return [one.name for one in self.candidates if set(one.layers) <= set(part.weights)]

    def _words(self, part: Part) -> str:
        if self._in(part):
            return listed(self._in(part))
        if part.others:
            others = [f"{name} {list(part.tensors[name].shape)}" for name in part.others]
            return f"{part.root} is not linear layers alone ({listed(others)})"
        shapes = [f"{name} {list(weight.shape)}" for name, weight in part.weights.items()]
        return f"{part.root} does not fit the features ({listed(shapes)})"


def take_head(
    named: EncoderTensors, tensors: Mapping[str, Tensor], asked: ConfigRequest
) -> TakenHead:
    """Find the classifier of a checkpoint, and give it the library's own names.

    1. The library's own classifier, and nothing else that looks like one: as it is.
    2. The user names one: that one.
    3. One candidate, and nothing that may stand between it and the encoder: that one; an assumption
       if it is not where the library has its own.
    4. Several, or none that can be expressed: none, so that the model gives its features; an
       assumption that names them, unless the user asks for another output than logits.

    Args:
        named: The encoder's tensors in their dialect.
        tensors: All tensors of the file, by name.
        asked: The user's requests.

    Raises:
        CheckpointError: If the classifier that the user names is not there or of another form.
        ConfigError: If logits are asked for and there is no classifier, or an activation and the
            classifier does not have two layers.
    """
    found = _find(named, tensors)
    if asked.head is None and _is_librarys(named, found):
        _refuse_activation(asked)
        return TakenHead(named)  # 1
    taken = _only_one(found) if asked.head is None else _named_by(found, asked.head)
    if taken is None:
        _refuse_activation(asked)
        return _without(named, found, asked)  # 4
    return _with(named, found, taken, asked)


def _is_librarys(named: EncoderTensors, found: _Found) -> bool:
    """Tell whether the classifier is the library's own, and nothing else looks like one.

    Its shapes are compared with the model's later.
    """
    own = {named.full(named.names(f"head.{end}")[0]) for end in ("weight", "bias")}
    usual = any(is_usual(part) for part in found.outside)
    return named.has("head.weight") and _beside(found) <= own and not usual


def _find(named: EncoderTensors, tensors: Mapping[str, Tensor]) -> _Found:
    norm = named.find("norm.weight")
    channels = 0 if norm is None else norm.numel()
    inside = parts_inside(named, channels)
    outside = [part for part in parts_outside(named, tensors) if not only_trains(part)]
    candidates = [one for part in inside + outside for one in candidates_of(part, channels)]
    if not channels:  # a detector's encoder has no norm before a classifier
        return _Found(inside, [], [], None)
    return _Found(inside, outside, candidates, joined_candidate(inside, outside, channels))


def _named_by(found: _Found, name: str) -> Candidate:
    """Return the classifier that the user names: whole, or by one of its layers.

    Raises:
        CheckpointError: If there is none of this name, or several.
    """

    def under(layer: str) -> bool:
        return layer == name or layer.startswith(f"{name}.")

    every = [*found.candidates, *([found.joined] if found.joined else [])]
    fitting = [one for one in every if all(map(under, one.layers))]
    fitting = fitting or [one for one in every if any(map(under, one.layers))]
    if len(fitting) == 1:
        return fitting[0]
    there = found.described() or "no classifier"
    kind = "several classifiers" if fitting else "no classifier of one or two linear layers"
    raise CheckpointError(
        f"{OPTION} {shortened(name)} names {kind}; the file has {there}; give the whole name of "
        "one, or leave it out"
    )


def _only_one(found: _Found) -> Candidate | None:
    """Return the one classifier that the file can mean; None if it can mean several, or none."""
    joined, one = found.joined, found.candidates[0] if len(found.candidates) == 1 else None
    if joined is not None and len(found.parts) == len(joined.layers):
        return joined
    if one is None or not one.sure:
        return None
    own = [part for part in found.parts if one.layers[0] in part.weights]
    others = [part for part in found.parts if part not in own]
    if one.inside:
        others = [part for part in others if part.inside or is_usual(part)]
    return None if others else one


def _refuse_activation(asked: ConfigRequest) -> None:
    if asked.head_activation is not None:
        raise ConfigError(
            f"{ACTIVATION_OPTION} {asked.head_activation} stands between the two layers of a "
            "classifier, and this model has none of two layers; leave it out"
        )


def _with(
    named: EncoderTensors, found: _Found, taken: Candidate, asked: ConfigRequest
) -> TakenHead:
    """Return the tensors with a classifier under the library's own names."""
    activation, assumed = _activation(taken, asked)
    ours = ("head.",) if len(taken.layers) == 1 else ("head.fc1.", "head.fc2.")
    wanted = [named.full(named.names(f"{start}weight")[0]) for start in ours]
    layers = [f"{layer}.weight" for layer in taken.layers]
    others = [part for part in found.parts if not set(part.weights) & set(taken.layers)]
    usual = wanted == layers and len(layers) == 1
    if usual and not any(part.inside for part in others):
        return TakenHead(named)  # 1
    tensors = {name: one for part in found.parts for name, one in part.tensors.items()}
    kept = {
        named.names(start + end)[0]: tensors[f"{layer}.{end}"]
        for start, layer in zip(ours, taken.layers, strict=True)
        for end in ("weight", "bias")
        if f"{layer}.{end}" in tensors
    }
    used = {f"{layer}.{end}" for layer in taken.layers for end in ("weight", "bias")}
    sizes = {"head_hidden": len(found.weight(taken.layers[0])), "head_activation": activation}
    return TakenHead(
        _replaced(named, found, kept, used),
        own=OwnHead(taken.layers, activation),
        beside=_beside(found),
        sizes=sizes if len(ours) == 2 else {},
        comparable=taken.inside,
        notes=(*_taken_notes(found, taken, activation), *_left(found, used)),
        assumptions=(*assumed, *_assumed(taken, asked)),
    )


def _activation(
    taken: Candidate, asked: ConfigRequest
) -> tuple[HeadActivation, tuple[Assumption, ...]]:
    """Return what stands between two layers, which no file of weights says."""
    if len(taken.layers) == 1:
        _refuse_activation(asked)
        return "none", ()
    if asked.head_activation is not None:
        return asked.head_activation, ()
    if not _wants_logits(asked):
        return "none", ()
    first, last = taken.layers
    numbers = [name.rpartition(".")[2] for name in taken.layers]
    touching = all(map(str.isdecimal, numbers)) and int(numbers[1]) - int(numbers[0]) == 1
    assumed: HeadActivation = "none" if taken.joined or touching else "relu"
    reason = "the usual one: weights do not tell it"
    if taken.joined:
        reason = f"as if {last} took what {first} gives: weights do not tell it"
    elif touching:
        reason = "as one layer has the number after the other's: weights do not tell it"
    choices = "|".join(get_args(HeadActivation))
    value = f"{assumed} between {first} and {last}"
    return assumed, (
        Assumption("head activation", value, reason, f"{ACTIVATION_OPTION} {choices}"),
    )


def _assumed(taken: Candidate, asked: ConfigRequest) -> tuple[Assumption, ...]:
    """Return the assumption that a module of the user's own takes the features as they are."""
    if taken.inside or taken.joined or asked.head is not None or not _wants_logits(asked):
        return ()
    reason = "on the features as they are: the weights do not tell what runs before it"
    option = f"{OPTION} {taken.layers[-1]} or --outputs features"
    return (Assumption("head", taken.name, reason, option),)


def _wants_logits(asked: ConfigRequest) -> bool:
    return asked.output in (None, "logits")


def _taken_notes(found: _Found, taken: Candidate, activation: str) -> list[str]:
    count = len(found.weight(taken.layers[-1]))
    classes = f"{count} {'class' if count == 1 else 'classes'}"
    if len(taken.layers) == 1:
        return [f"head: {taken.name}, {classes}"]
    hidden = len(found.weight(taken.layers[0]))
    between = f"{hidden} channels" + ("" if activation == "none" else f" and {activation}")
    return [f"head: {taken.name}, {between} between them, {classes}"]


def _without(named: EncoderTensors, found: _Found, asked: ConfigRequest) -> TakenHead:
    """Return the tensors without a classifier, so that the model gives its features.

    Raises:
        ConfigError: If logits are asked for.
    """
    there = found.described()
    names = "|".join(name for one in found.candidates for name in one.layers[-1:])
    if asked.output == "logits":
        remedy = f"name it with {OPTION} {names}" if names else "use --outputs features"
        raise ConfigError(
            f"output logits needs a classifier of one or two linear layers on the features; the "
            f"file has {there or 'none'}; {remedy}"
        )
    if not there:
        return TakenHead(named)
    assumed: tuple[Assumption, ...] = ()
    maps = any(named.has(f"norm{stage}.weight") for stage in range(MOST_STAGES))
    if asked.output is None and named.has("norm.weight") and not maps:
        reason = f"as the file does not say which classifier follows them: it has {there}"
        if not found.candidates:
            reason = f"as no classifier of one or two linear layers follows them: {there}"
        option = f"{OPTION} {names}, or --outputs features" if names else "--outputs features"
        assumed = (Assumption("output", FEATURES, reason, option),)
    return TakenHead(
        _replaced(named, found, {}, set()),
        beside=_beside(found),
        comparable=False,
        notes=tuple(_left(found, set())),
        assumptions=assumed,
    )


def _replaced(
    named: EncoderTensors, found: _Found, kept: dict[str, Tensor], used: set[str]
) -> EncoderTensors:
    """Return the tensors with a classifier in the place of all that may be one."""
    gone = _beside(found)
    tensors = {name: one for name, one in named.tensors.items() if named.full(name) not in gone}
    outside = tuple(name for name in named.outside if name not in used)
    return dataclasses.replace(named, tensors=tensors | kept, outside=outside)


def _beside(found: _Found) -> frozenset[str]:
    return frozenset(name for part in found.inside for name in part.tensors)


def _left(found: _Found, used: Iterable[str]) -> list[str]:
    """Return a note on tensors under the encoder's prefix that are not used; empty without any."""
    left = sorted(_beside(found) - set(used))
    return [f"left aside, as no part of the model: {listed(left)}"] if left else []
