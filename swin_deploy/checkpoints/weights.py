"""The choice among a file's weights: the raw ones, averaged ones, or those under a key."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.checkpoints.known import DIALECTS
from swin_deploy.checkpoints.nearest_names import nearest_first
from swin_deploy.checkpoints.not_weights import OPTIMIZER, training_kind
from swin_deploy.checkpoints.objects import Held
from swin_deploy.checkpoints.plain_names import (
    PLAIN_WRAPPER,
    WRAPPERS,
    without_counters,
    without_wrappers,
)
from swin_deploy.checkpoints.roles import told_roles
from swin_deploy.checkpoints.timm import WEIGHTS_KEYS
from swin_deploy.config.assumptions import Assumption

EMA, RAW = "ema", "raw"
OPTION, ENCODER_OPTION = "--weights", "--encoder"
# Keys of state dicts in files of training scripts, in order of preference.
ORDER = (
    *WEIGHTS_KEYS,
    "ema_state_dict",
    "model_state_dict_ema",
    "ema",
    "averaged_model",
    "teacher",
    "model_state_dict",
    "module",  # DeepSpeed
    "net",
    "network",
    "model_state",
    "weights",
    "params",  # BasicSR
)
# Words in a key or prefix that say that its weights are an average over training.
AVERAGED = frozenset({"ema", "avg", "average", "averaged", "polyak", "shadow", "swa", "teacher"})
SAVE_WEIGHTS = "save the weights alone: torch.save(model.state_dict(), path)"
MOST_DEPTH = 5  # dicts in dicts that are looked into
MOST_DICTS = 10_000
PLAIN = (bool, int, float, str, Held)  # values that may stand among weights


@dataclass(frozen=True)
class Encoder:
    """One set of weights in a file.

    Attributes:
        key: Keys that lead to its dict, joined by dots; empty for the file itself.
        prefix: Start of its names in that dict.
        dialect: The first dialect that its names fit; None if none is recognised.
        averaged: True if it is an average over training.
        why: Reason to take it by default; empty without a particular one.
    """

    key: str
    prefix: str = ""
    dialect: Dialect | None = None
    averaged: bool = False
    why: str = ""

    @property
    def name(self) -> str:
        """The key with the prefix, as ``--weights`` takes it."""
        return ".".join(filter(None, (self.key, self.prefix.removesuffix("."))))


@dataclass(frozen=True)
class Chosen:
    """The weights that are taken from a file.

    Attributes:
        encoder: Place of the weights in the file.
        name: The shortest name that tells them from the others; empty for the file itself.
        tensors: All tensors of their dict by name, without counters and wrappers.
        notes: Notes on what was taken and what was ignored.
        assumptions: The choice, if the user did not make it.
        inner: Starts of the names of other encoders among those of this one.
    """

    encoder: Encoder
    name: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    inner: tuple[str, ...] = ()


def choose_weights(
    values: object, where: str, *, wanted: str | None = None, encoder: str | None = None
) -> Chosen:
    """Choose the weights to load from a file.

    1. Without a request and with one set of weights, that one.
    2. With several, the one that the source's library or training script evaluates: averaged
       weights before raw ones, then the usual keys; the choice is an assumption.
    3. With a request, the one that it names.

    Args:
        values: Content of a weights file: a dict of tensors, or dicts and lists around some.
        where: Name of the file, for messages.
        wanted: ``ema``, ``raw``, or the name of a set of weights.
        encoder: Start of the names of the encoder that is meant, where a dict has several.

    Raises:
        CheckpointError: If there are no tensors by name, no such weights, or several and none of
            them is the usual one.
    """
    dicts = _dicts_by_key(values, where)
    every = _encoders(dicts, values)
    if not any(one.dialect for one in every):
        _refuse_other_content(values, where, is_empty=not every)
    fitting = _under(_fitting(every, wanted, where), encoder, where)  # 3
    taken, assumed = _usual(fitting, where)  # 1 and 2
    found = dicts[taken.key]
    name = taken.name if sum(one.key == taken.key for one in every) > 1 else taken.key
    notes = [] if assumed or not name else [_taken_note(taken, name, every)]
    if found.aside:
        notes.append(f"left aside what is no weight: {listed(found.aside)}")
    return Chosen(taken, name, found.tensors, tuple(notes), tuple(assumed), _inner(taken, every))


@dataclass(frozen=True)
class _Found:
    """A dict with tensors: those, the names of its other values, and whether these are plain.

    Numbers, texts and None are plain; a state dict has no others.
    """

    tensors: dict[str, Tensor]
    aside: list[str]
    is_plain: bool


def _inner(taken: Encoder, every: list[Encoder]) -> tuple[str, ...]:
    """Return the prefixes of other encoders whose names start with the taken one's prefix."""
    return tuple(
        one.prefix
        for one in every
        if one.key == taken.key
        and one.prefix != taken.prefix
        and one.prefix.startswith(taken.prefix)
    )


def _dicts_by_key(values: object, where: str) -> dict[str, _Found]:
    """Return every dict with tensors by its key.

    Raises:
        CheckpointError: If two have the same key, as ``{"a.b": ...}`` and ``{"a": {"b": ...}}``.
    """
    dicts: dict[str, _Found] = {}
    for key, value in _state_dicts(values):
        if key in dicts:
            raise CheckpointError(
                f"{where} has two sets of weights {shortened(key)}; {SAVE_WEIGHTS}"
            )
        dicts[key] = _plain(value)
    return dicts


def _state_dicts(values: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every dict that holds tensors, all by name, with its key."""
    looked_at = 0
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), values)])
    while waiting and looked_at < MOST_DICTS:
        path, value = waiting.popleft()
        looked_at += 1
        if isinstance(value, dict) and _has_tensors(value):
            yield ".".join(path), value
        if len(path) < MOST_DEPTH:
            inner = [pair for pair in _items(value) if isinstance(pair[1], dict | list | tuple)]
            room = max(0, MOST_DICTS - len(waiting))
            waiting += [((*path, str(key)), one) for key, one in inner[:room]]


def _items(value: object) -> Iterable[tuple[object, object]]:
    """Return what a dict or a list holds, by name or number; nothing of an optimizer's state."""
    if not isinstance(value, dict):
        return enumerate(value) if isinstance(value, list | tuple) else ()
    if value.keys() >= OPTIMIZER or not all(type(key) in (str, int) for key in value):
        return ()
    return value.items()


def _has_tensors(values: dict[Any, object]) -> bool:
    """Tell whether a dict holds tensors, and all by name."""
    return all(isinstance(key, str) for key in values) and any(
        isinstance(value, Tensor) for value in values.values()
    )


def _plain(values: dict[str, object]) -> _Found:
    """Return the tensors of a dict without wrappers, and the names of its other values."""
    every = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    tensors, counters = without_counters(every)
    bare = without_wrappers(tensors)
    others = {name: value for name, value in values.items() if name not in every}
    plain = all(value is None or isinstance(value, PLAIN) for value in others.values())
    named = {bare[name]: value for name, value in tensors.items()}
    return _Found(named, [*counters, *others], plain)


def _encoders(dicts: dict[str, _Found], values: object) -> list[Encoder]:
    """Find the sets of weights that are a Swin's; if none is, all state dicts, largest first."""
    told = told_roles(values)
    found: dict[tuple[str, str], Encoder] = {}
    for key, one in dicts.items():
        for dialect, prefix in _places(one.tensors):
            averaged, why = told.get(key, (None, ""))
            if averaged is None:
                averaged = bool(AVERAGED & set(re.split(r"[^a-z]+", f"{key}.{prefix}".lower())))
            found.setdefault((key, prefix), Encoder(key, prefix, dialect, averaged, why))
    plain = [key for key, one in dicts.items() if one.is_plain]
    largest_first = sorted(plain, key=lambda key: -len(dicts[key].tensors))
    return list(found.values()) or [Encoder(key) for key in largest_first]


def _places(tensors: dict[str, Tensor]) -> Iterator[tuple[Dialect, str]]:
    """Yield dialect and prefix of every encoder in a dict."""
    for dialect in DIALECTS:
        for prefix in dialect.prefixes(tensors):
            yield dialect, prefix


def _fitting(every: list[Encoder], wanted: str | None, where: str) -> list[Encoder]:
    """Return the sets of weights that a request may mean.

    Raises:
        CheckpointError: If there are none.
    """
    if wanted is None:
        return every
    found = [one for one in every if wanted and wanted in (one.key, one.name)]
    if not found and wanted in (EMA, RAW):
        found = [one for one in every if one.averaged == (wanted == EMA)]
    if found:
        return found
    kind = {EMA: "averaged weights", RAW: "raw weights"}.get(wanted, f"weights {shortened(wanted)}")
    names = [one.name for one in every if one.name]
    there, choose = f"it has {listed(names)}", f"choose with {OPTION}, or leave it out"
    if not names:
        there, choose = "its only ones are under no key", f"leave {OPTION} out"
    raise CheckpointError(f"{where} has no {kind}: {there}; {choose}")


def _under(fitting: list[Encoder], start: str | None, where: str) -> list[Encoder]:
    """Return the encoders whose names start as a request says.

    Raises:
        CheckpointError: If there are none.
    """
    if start is None or not any(one.dialect for one in fitting):
        return fitting
    bare = ".".join(part for part in start.split(".") if part not in {*WRAPPERS, ""})
    starts = {bare, bare.removeprefix(f"{PLAIN_WRAPPER}."), start.removesuffix(".")}
    found = [one for one in fitting if one.prefix.removesuffix(".") in starts]
    found = found or [
        one for one in fitting if one.prefix.startswith(tuple(f"{s}." for s in starts if s))
    ]
    if found:
        return found
    prefixes = dict.fromkeys(one.prefix.removesuffix(".") for one in fitting)
    near = nearest_first(start, [prefix for prefix in prefixes if prefix])
    there = f"it has {listed(near)}" if near else "its only one's names have no prefix"
    choose = (
        f"choose with {shortened(shlex.join([ENCODER_OPTION, near[0]]))}, or leave it out"
        if near
        else "leave it out"
    )
    raise CheckpointError(f"{where} has no encoder {shortened(start)}: {there}; {choose}")


def _usual(fitting: Sequence[Encoder], where: str) -> tuple[Encoder, list[Assumption]]:
    """Choose the set of weights that is evaluated by default.

    Raises:
        CheckpointError: If there are several and none is the usual one.
    """
    if len(fitting) == 1:
        return fitting[0], []
    averaged = [one for one in fitting if one.averaged]
    taken = min(averaged or fitting, key=_rank)
    if taken.dialect and _is_doubtful(taken, averaged or fitting):
        names = listed([one.name or "one under no key" for one in fitting])
        choices = listed(_choices(fitting), between=" or ")
        raise CheckpointError(
            f"{where} holds {len(fitting)} encoders: {names}; say which with {choices}"
        )
    others = listed([one.name or "those under no key" for one in fitting if one is not taken])
    kind = ", the averaged ones" if taken.averaged else ""
    value = f"{taken.name or 'those under no key'}{kind} (the file has {others}, too)"
    return taken, [Assumption("weights", value, _reason(taken), OPTION)]


def _is_doubtful(taken: Encoder, among: Sequence[Encoder]) -> bool:
    """Tell whether nothing speaks for one of several sets of weights more than for another.

    Raw ones under the same usual key are of several models (``fold0.model``, ``fold1.model``).
    """
    best = [one for one in among if _rank(one) == _rank(taken)]
    if not taken.averaged and (_rank(taken) == len(ORDER) or len(best) > 1):
        return True
    return sum(one.key == taken.key for one in among) > 1


def _choices(fitting: Sequence[Encoder]) -> list[str]:
    """Return the options that choose each of several sets of weights, to be copied."""
    several_keys = len({one.key for one in fitting}) > 1
    several_prefixes = len({one.prefix for one in fitting}) > 1
    choices = []
    for one in fitting:
        words = [OPTION, one.key] if several_keys and one.key else []
        if several_prefixes or not words:
            words += [ENCODER_OPTION, one.prefix.removesuffix(".")]
        choices.append(shlex.join(words))
    return choices


def _rank(encoder: Encoder) -> int:
    last = encoder.key.rpartition(".")[2]
    return ORDER.index(last) if last in ORDER else len(ORDER)


def _reason(taken: Encoder) -> str:
    if taken.why:
        return taken.why
    habit = taken.dialect.usual_weights(taken.key, taken.averaged) if taken.dialect else ""
    if habit:
        return habit
    if taken.averaged:
        return "as training scripts that average evaluate and ship the average"
    return "the usual key"


def _taken_note(taken: Encoder, name: str, every: list[Encoder]) -> str:
    kind = ", which are averaged" if taken.averaged else ""
    others = [one.name for one in every if one is not taken and one.name]
    more = f"; left aside: {listed(others)}" if others else ""
    return f"weights under {name}{kind}{more}"


def _refuse_other_content(values: object, where: str, *, is_empty: bool) -> None:
    """Refuse what holds no weights, by the content of the innermost dict under the usual keys.

    Raises:
        CheckpointError: If it is the state of training, or ``is_empty``: if it has no tensors.
    """
    for _ in range(MOST_DEPTH):
        if isinstance(values, dict):
            inner = [values[key] for key in ORDER if isinstance(values.get(key), dict)]
            values = inner[0] if inner else values
    told = training_kind(values) if isinstance(values, dict) else ""
    if told:
        raise CheckpointError(f"{where} holds {told}")
    if not is_empty:
        return
    if not isinstance(values, dict):
        what = f"a {type(values).__name__}, not a dict of tensors"
    elif not values:
        what = "no tensors"
    else:
        others = [_shown(key) for key, one in values.items() if not _is_named_tensor(key, one)]
        what = f"values that are not tensors by name: {listed(others)}"
    raise CheckpointError(f"{where} holds {what}; {SAVE_WEIGHTS}")


def _shown(key: object) -> str:
    """Return a key for a message; keys may be numbers of any length, or tuples of anything."""
    return key if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _is_named_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)
