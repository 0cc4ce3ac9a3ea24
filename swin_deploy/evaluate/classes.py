"""Names of classes to the model's indices: which folder or label is which logit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import ConfigError, FileError
from swin_deploy.config import ASSETS

IMAGENET_SYNSETS = ASSETS / "imagenet_synsets.txt"  # WordNet's names, in the order of the logits
MAX_DIGITS = 18
SYNSET_LINE = re.compile(r"(n\d{8})\s+(.+)")  # "n01440764 tench, Tinca tinca"


@dataclass(frozen=True)
class ClassList:
    """The model's classes by name.

    Attributes:
        source: The file, for messages.
        indices: Name to index; to several where the file gives one name to several classes.
    """

    source: str
    indices: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ClassOrder:
    """The index of each class in the data.

    Attributes:
        indices: Name to index.
        rule: How the indices were found, for reports.
        doubt: What may be wrong with that, or an empty string.
    """

    indices: dict[str, int]
    rule: str
    doubt: str = ""


def read_classes(path: Path, num_classes: int) -> ClassList:
    """The names of a model's classes, from a text or JSON file.

    1. Text: one name a line, in the order of the model's indices. A line such as ``n01440764
       tench, Tinca tinca`` is known by its synset and by its words.
    2. JSON list: names, or lists of names of one class, in that order.
    3. JSON object, index to name or names (``id2label``, also inside a ``config.json``, or
       Keras' ``imagenet_class_index.json``), or name to index (torchvision's ``class_to_idx``).

    Raises:
        FileError: If the file cannot be read or is none of these.
        ConfigError: If it is of another number of classes.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is no UTF-8 text"
        raise FileError(
            f"class file {path} cannot be read ({reason}); give a text or JSON file of class names"
        ) from err
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        pairs, whole = _from_json(text, path)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        pairs = [(name, index) for index, line in enumerate(lines) for name in _line_names(line)]
        whole = True
    found = max((index for _, index in pairs), default=-1) + 1
    if found > num_classes or (whole and found != num_classes) or not pairs:
        raise ConfigError(
            f"class file {path} names {found} classes, the model gives {num_classes}; give the "
            "file of this model"
        )
    indices: dict[str, tuple[int, ...]] = {}
    for name, index in pairs:
        indices[name] = tuple(sorted({*indices.get(name, ()), index}))
    return ClassList(str(path), indices)


def order_classes(
    names: Sequence[str], *, num_classes: int, listed: ClassList | None, place: str
) -> ClassOrder:
    """The index of each class name in the data.

    1. With ``--classes``, by that file.
    2. As many names as the model has classes: in sorted order, as torchvision's ``ImageFolder``.
    3. Fewer names, all numbers: the numbers are the indices.
    4. Fewer names, all ImageNet-1k synsets, and a model of 1000 classes: in ImageNet's order.

    Args:
        names: The distinct names, sorted.
        num_classes: Of the model.
        listed: What ``--classes`` says, or None.
        place: Where the names are, for messages.

    Raises:
        ConfigError: If the indices are not known, or one is not the model's.
    """
    if listed is not None:  # 1
        return ClassOrder(
            {name: _listed_index(name, listed, place) for name in names},
            f"class names as listed in {listed.source}",
        )
    if len(names) == num_classes:  # 2
        return _sorted_order(names)
    if names and all(name.isdecimal() for name in names):  # 3
        return ClassOrder(
            number_indices(names, num_classes=num_classes, place=place),
            "class names are the model's indices",
        )
    synsets = IMAGENET_SYNSETS.read_text(encoding="utf-8").split() if num_classes == 1000 else []
    if len(names) < num_classes and set(names) <= set(synsets):  # 4
        known = {name: index for index, name in enumerate(synsets)}
        return ClassOrder({name: known[name] for name in names}, "ImageNet-1k synsets")
    raise ConfigError(
        f"{place} has {len(names)} classes, the model gives {num_classes}: which is which is not "
        "known; give --classes FILE with the model's class names in its order, or name the classes "
        "by index"
    )


def number_indices(names: Iterable[str], *, num_classes: int, place: str) -> dict[str, int]:
    """Indices written as numbers.

    Raises:
        ConfigError: If one is beyond the model's classes.
    """
    indices = {}
    for name in names:
        if len(name) > MAX_DIGITS or int(name) >= num_classes:
            raise ConfigError(
                f"{place} has class {name[:40]}, the model's indices go from 0 to "
                f"{num_classes - 1}; give the --checkpoint that fits, or --classes FILE"
            )
        indices[name] = int(name)
    return indices


def _sorted_order(names: Sequence[str]) -> ClassOrder:
    indices = {name: index for index, name in enumerate(names)}
    rule = "class names in sorted order, as torchvision's ImageFolder"
    wrong = [name for name in names if name.isdecimal() and int(name) != indices[name]]
    if not all(name.isdecimal() for name in names) or not wrong:
        return ClassOrder(indices, rule)
    return ClassOrder(
        indices,
        rule,
        doubt=f"class {wrong[0]} is index {indices[wrong[0]]} in sorted order, as torchvision's "
        "ImageFolder has it; if the numbers are the model's indices, give --classes FILE with one "
        "number a line",
    )


def _listed_index(name: str, listed: ClassList, place: str) -> int:
    found = listed.indices.get(name, ())
    if len(found) == 1:
        return found[0]
    problem = f"names {len(found)} classes" if found else "is not"
    raise ConfigError(
        f"class {name!r} of {place} {problem} in {listed.source}; write it there as it is in the "
        "data, once"
    )


def _line_names(line: str) -> tuple[str, ...]:
    match = SYNSET_LINE.fullmatch(line)
    return (line,) if match is None else (line, *match.groups())


def _from_json(text: str, path: Path) -> tuple[list[tuple[str, int]], bool]:
    """Names with their indices, and whether every class must be there."""
    try:
        values = json.loads(text)
        if isinstance(values, dict) and isinstance(values.get("id2label"), dict):
            values = values["id2label"]
        if isinstance(values, list):
            return _named(enumerate(values)), True
        if values and all(type(index) is int and index >= 0 for index in values.values()):
            return list(values.items()), False
        return _named((int(index), names) for index, names in values.items()), False
    except (ValueError, TypeError, AttributeError, RecursionError) as err:
        raise FileError(
            f"class file {path} is no list of names, and no object from index to name or name to "
            "index; write one name a line instead"
        ) from err


def _named(entries: Iterable[tuple[int, Any]]) -> list[tuple[str, int]]:
    pairs = []
    for index, names in entries:
        several = [names] if isinstance(names, str) else list(names)
        if index < 0 or not all(isinstance(name, str) for name in several):
            raise ValueError(names)
        pairs += [(name, index) for name in several]
    return pairs
