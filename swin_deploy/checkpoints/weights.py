"""The choice among a file's weights: the raw ones, averaged ones, or those under a key."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.checkpoints.known import DIALECTS
from swin_deploy.checkpoints.objects import Held
from swin_deploy.checkpoints.timm import WEIGHTS_KEYS
from swin_deploy.config.assumptions import Assumption

EMA, RAW = "ema", "raw"
OPTION = "--weights"
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
    "model_state",
    "weights",
)
# Words in a key or prefix that say that its weights are an average over training.
AVERAGED = frozenset({"ema", "avg", "average", "averaged", "swa", "teacher"})
# Names that averaging adds to a state dict (PyTorch, timm, MMEngine, ema-pytorch).
COUNTERS = frozenset({"n_averaged", "num_updates", "decay", "step", "steps", "updates", "initted"})
DATA_PARALLEL_PREFIX = "module."
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
        tensors: All tensors of their dict by name, without counters.
        notes: Notes on what was taken and what was ignored.
        assumptions: The choice, if the user did not make it.
    """

    encoder: Encoder
    name: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()


def choose_weights(values: object, where: str, *, wanted: str | None = None) -> Chosen:
    """Choose the weights to load from a file.

    1. Without a request and with one set of weights, that one.
    2. With several, the one that the source's library or training script evaluates: averaged
       weights before raw ones, then the usual keys; the choice is an assumption.
    3. With a request, the one that it names.

    Args:
        values: Content of a weights file: a dict of tensors, or dicts around some.
        where: Name of the file, for messages.
        wanted: ``ema``, ``raw``, or the name of a set of weights.

    Raises:
        CheckpointError: If there are no tensors by name, no such weights, or several and none of
            them is the usual one.
    """
    dicts = dict(_state_dicts(values))
    if not dicts:
        raise _no_tensors(values, where)
    every = _encoders({key: tensors for key, (tensors, _) in dicts.items()}, values)
    fitting = _fitting(every, wanted, where)  # 3
    taken, assumed = _usual(fitting, where)  # 1 and 2
    tensors, aside = dicts[taken.key]
    name = taken.name if sum(one.key == taken.key for one in every) > 1 else taken.key
    notes = [] if assumed or not name else [_taken_note(taken, name, every)]
    if aside:
        notes.append(f"left aside what is no weight: {listed(aside)}")
    return Chosen(taken, name, tensors, tuple(notes), tuple(assumed))


def _state_dicts(values: object) -> Iterator[tuple[str, tuple[dict[str, Tensor], list[str]]]]:
    """Yield every dict of tensors by name: its key, its tensors, and the names of other values."""
    looked_at = 0
    waiting: deque[tuple[tuple[str, ...], dict[str, Any]]] = deque()
    if isinstance(values, dict):
        waiting.append(((), values))
    while waiting and looked_at < MOST_DICTS:
        path, value = waiting.popleft()
        looked_at += 1
        if not all(isinstance(key, str) for key in value):
            continue
        if _holds_tensors(value):
            yield ".".join(path), _without_counters(value)
        elif len(path) < MOST_DEPTH:
            inner = [(key, one) for key, one in value.items() if isinstance(one, dict)]
            room = max(0, MOST_DICTS - len(waiting))
            waiting += [((*path, key), one) for key, one in inner[:room]]


def _holds_tensors(values: dict[str, object]) -> bool:
    """Tell whether a dict holds tensors by name, and otherwise only numbers, texts and None."""
    others = [value for value in values.values() if not isinstance(value, Tensor)]
    plain = all(value is None or isinstance(value, PLAIN) for value in others)
    return plain and len(others) < len(values)


def _without_counters(values: dict[str, object]) -> tuple[dict[str, Tensor], list[str]]:
    tensors: dict[str, Tensor] = {}
    aside: list[str] = []
    for name, value in values.items():
        if isinstance(value, Tensor) and not (name in COUNTERS and value.numel() == 1):
            tensors[name] = value
        else:
            aside.append(name)
    if all(name.startswith(DATA_PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(DATA_PARALLEL_PREFIX): one for name, one in tensors.items()}
    return tensors, aside


def _encoders(dicts: dict[str, dict[str, Tensor]], values: object) -> list[Encoder]:
    """Find the sets of weights that are a Swin's; return every dict of tensors if none is."""
    told = _told_roles(values)
    found: dict[tuple[str, str], Encoder] = {}
    for key, tensors in dicts.items():
        for dialect, prefix in _places(tensors):
            averaged, why = told.get(key, (None, ""))
            if averaged is None:
                averaged = bool(AVERAGED & set(re.split(r"[^a-z]+", f"{key}.{prefix}".lower())))
            found.setdefault((key, prefix), Encoder(key, prefix, dialect, averaged, why))
    return list(found.values()) or [Encoder(key) for key in dicts]


def _places(tensors: dict[str, Tensor]) -> Iterator[tuple[Dialect, str]]:
    """Yield dialect and prefix of every encoder in a dict."""
    for dialect in DIALECTS:
        for prefix in dialect.prefixes(tensors):
            yield dialect, prefix


def _told_roles(values: object) -> dict[str, tuple[bool, str]]:
    """Return the roles of keys with misleading names: averaged or not, and who saves them so."""
    if not isinstance(values, dict) or "state_dict" not in values:
        return {}
    if "current_model_state" in values:
        why = "where Lightning's WeightAveraging saves the average"
        return {"state_dict": (True, why), "current_model_state": (False, "")}
    averages, meta = values.get("ema_state_dict"), values.get("meta")
    marks = ("message_hub" in values, "steps" in _names(averages))
    if averages is not None and (any(marks) or "mmengine_version" in _names(meta)):
        # MMEngine swaps the two when it saves: "the original model parameters are actually saved
        # in ema field" (mmengine/hooks/ema_hook.py).
        why = "where MMEngine's EMAHook saves the average"
        return {"state_dict": (True, why), "ema_state_dict": (False, "")}
    return {}


def _names(values: object) -> set[object]:
    return set(values) if isinstance(values, dict) else set()


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
    there = f"it has {listed(names)}" if names else "its only ones are under no key"
    raise CheckpointError(f"{where} has no {kind}: {there}; choose with {OPTION}, or leave it out")


def _usual(fitting: Sequence[Encoder], where: str) -> tuple[Encoder, list[Assumption]]:
    """Choose the set of weights that is evaluated by default.

    Raises:
        CheckpointError: If there are several and none is the usual one.
    """
    if len(fitting) == 1:
        return fitting[0], []
    averaged = [one for one in fitting if one.averaged]
    taken = min(averaged or fitting, key=_rank)
    if not averaged and _rank(taken) == len(ORDER) and taken.dialect:
        names = listed([one.name for one in fitting])
        raise CheckpointError(
            f"{where} holds {len(fitting)} encoders: {names}; say which with {OPTION}"
        )
    others = listed([one.name or "those under no key" for one in fitting if one is not taken])
    kind = ", the averaged ones" if taken.averaged else ""
    value = f"{taken.name or 'those under no key'}{kind} (the file has {others}, too)"
    return taken, [Assumption("weights", value, _reason(taken), OPTION)]


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


def _no_tensors(values: object, where: str) -> CheckpointError:
    """Make the error that names the content of the innermost dict under the usual keys."""
    for _ in range(MOST_DEPTH):
        if isinstance(values, dict):
            inner = [values[key] for key in ORDER if isinstance(values.get(key), dict)]
            values = inner[0] if inner else values
    if not isinstance(values, dict):
        what = f"a {type(values).__name__}, not a dict of tensors"
    elif not values:
        what = "no tensors"
    else:
        others = [_shown(key) for key, one in values.items() if not _is_named_tensor(key, one)]
        what = f"values that are not tensors by name: {listed(others)}"
    return CheckpointError(f"{where} holds {what}; {SAVE_WEIGHTS}")


def _shown(key: object) -> str:
    """Return a key for a message; keys may be numbers of any length, or tuples of anything."""
    return key if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _is_named_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)
