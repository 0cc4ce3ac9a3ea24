"""Names of classes and their indices in a model: the logit of each folder or label."""

from __future__ import annotations

import functools
import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import ConfigError, FileError
from exporters.text_files import listed, parse_json, read_text, shortened
from swin_deploy.config import ASSETS
from swin_deploy.config.assumptions import Assumption
from swin_deploy.images.tag_list import read_tags

# Synsets and words of WordNet, one class a line, in the order of the logits. The 22k order is that
# of the authors' data/imagenet22k_dataset.py: sorted synsets, of which two without images give
# their places to the last two; it agrees with their data/map22kto1k.txt for all but one class.
PUBLISHED = {
    1000: ("ImageNet-1k", ASSETS / "imagenet_1k.txt"),
    21841: ("ImageNet-22k", ASSETS / "imagenet_22k.txt.gz"),
}
IMAGENET_CLASSES = 1000
MAX_DIGITS = 18
MOST_CLASSES = 1 << 20
SYNSET_LINE = re.compile(r"(n\d{8})\s+(.+)")  # "n01440764 tench, Tinca tinca"
PLACEHOLDER = re.compile(r"LABEL_\d+", re.IGNORECASE)  # written by transformers without names


@dataclass(frozen=True)
class ClassNames:
    """The names of a model's classes.

    Attributes:
        names: Names of each class, the one to show first; empty for a class without one.
        source: Name of the place that they come from, for messages and reports.
        asked: Whether the user gave them; names in the data must then be among them.
    """

    names: tuple[tuple[str, ...], ...]
    source: str
    asked: bool = False

    @functools.cached_property
    def indices(self) -> dict[str, tuple[int, ...]]:
        """Indices of each name; several if several classes have the same name."""
        found: dict[str, tuple[int, ...]] = {}
        for index, names in enumerate(self.names):
            for name in dict.fromkeys(names):
                found[name] = (*found.get(name, ()), index)
        return found

    @property
    def shown(self) -> tuple[str, ...]:
        """First name of each class; empty for a class without one."""
        return tuple(names[0] if names else "" for names in self.names)

    def find(self, names: Sequence[str]) -> dict[str, int] | None:
        """Return the index of each name; None unless each is known and of one class.

        Names are compared as they are; if that fails, without regard to case, ``_`` and ``-``.
        """
        for key in (str, _folded):
            known: dict[str, set[int]] = {}
            for name, indices in self.indices.items():
                known.setdefault(key(name), set()).update(indices)
            found = [known.get(key(name), set()) for name in names]
            if all(len(indices) == 1 for indices in found):
                return {name: min(one) for name, one in zip(names, found, strict=True)}
        return None


def _folded(name: str) -> str:
    return " ".join(re.sub(r"[_-]", " ", name).casefold().split())


@dataclass(frozen=True)
class ClassOrder:
    """The index of each class in the data.

    Attributes:
        indices: Index of each class name.
        rule: Rule by which the indices were found, for reports.
        assumptions: Assumptions about the order; empty if the data or the model settle it.
    """

    indices: dict[str, int]
    rule: str
    assumptions: tuple[Assumption, ...] = ()


def read_class_names(path: Path, num_classes: int) -> ClassNames:
    """Read the names of a model's classes from a text, JSON or CSV file.

    1. Text: one name a line, in the order of the model's indices. A line such as ``n01440764
       tench, Tinca tinca`` is known by its synset and by its words.
    2. JSON list: names, or lists of names of one class, in that order.
    3. JSON object, index to name or names (``id2label``, also inside a ``config.json``, or
       Keras' ``imagenet_class_index.json``), or name to index (torchvision's ``class_to_idx``).
    4. CSV with a column ``name``: a tag a row, in that order (``read_tags``).

    Args:
        path: Path of the file.
        num_classes: Number of classes of the model.

    Raises:
        FileError: If the file cannot be read or has none of these forms.
        ConfigError: If it names another number of classes.
    """
    pairs, whole = _pairs(path)
    found = max((index for _, index in pairs), default=-1) + 1
    if found > num_classes or (whole and found != num_classes) or not pairs:
        raise ConfigError(
            f"class file {path} names {found} classes, the model gives {num_classes}; give the "
            "file of this model"
        )
    names: list[list[str]] = [[] for _ in range(num_classes)]
    for name, index in pairs:
        names[index].append(name)
    return ClassNames(tuple(map(tuple, names)), str(path), asked=True)


def _pairs(path: Path) -> tuple[list[tuple[str, int]], bool]:
    """Return names with their indices, and whether the file must name every class."""
    if path.suffix.lower() == ".csv":
        return [(name, index) for index, name in enumerate(read_tags(path))], True
    text = read_text(path)
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return _from_json(text, path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [(name, index) for index, line in enumerate(lines) for name in _line_names(line)]
    return pairs, True


def class_names_of(
    labels: Mapping[int, tuple[str, ...]], num_classes: int, *, source: str
) -> ClassNames | None:
    """Return the names in a checkpoint's own files, or None if they are absent or placeholders.

    Args:
        labels: Names of each index.
        num_classes: Number of classes of the model; names of further indices are ignored.
        source: Name of the place that they come from.
    """
    named = {name for index, names in labels.items() if index < num_classes for name in names}
    if not named or all(PLACEHOLDER.fullmatch(name) for name in named):
        return None
    return ClassNames(tuple(labels.get(index, ()) for index in range(num_classes)), source)


def order_classes(
    names: Sequence[str], *, num_classes: int, known: ClassNames | None, place: str
) -> ClassOrder:
    """Find the index of each class name in the data.

    1. All names are among the model's class names: their indices there. If only some are, or
       none of a list that the user gave, that is an error.
    2. There are as many names as the model has classes: sorted order, as torchvision's
       ``ImageFolder``.
    3. There are fewer names, all numbers: the numbers are the indices.
    4. There are fewer names, all ImageNet-1k synsets, and 1,000 classes: ImageNet's order.

    Args:
        names: The distinct names, sorted.
        num_classes: Number of classes of the model.
        known: The model's class names, or None.
        place: Name of the place where the names are, for messages.

    Raises:
        ConfigError: If the indices are not known, or one is beyond the model's classes.
    """
    found = None if known is None else _by_names(names, known, place)
    if known is not None and found is not None:  # 1
        return ClassOrder(found, f"class names as listed in {known.source}")
    if len(names) == num_classes:  # 2
        return _sorted_order(names, known)
    if names and all(name.isdecimal() for name in names):  # 3
        return ClassOrder(
            number_indices(names, num_classes=num_classes, place=place),
            "class names are the model's indices",
        )
    synsets = imagenet_synsets() if num_classes == IMAGENET_CLASSES else ()
    if len(names) < num_classes and set(names) <= set(synsets):  # 4
        places = {name: index for index, name in enumerate(synsets)}
        return ClassOrder({name: places[name] for name in names}, "ImageNet-1k synsets")
    raise ConfigError(_unknown_order(names, num_classes, known, place))


def imagenet_synsets() -> tuple[str, ...]:
    """Return the 1,000 synsets of ImageNet-1k, in the order of the logits."""
    return tuple(names[-1] for names in published_class_names(IMAGENET_CLASSES).names)


@functools.cache
def published_class_names(num_classes: int) -> ClassNames:
    """Return the names of ImageNet's classes, for the heads of published models.

    Args:
        num_classes: Number of classes, 1,000 or 21,841.

    Returns:
        Names of each class: its words as one text, each of them alone, and its synset.
    """
    title, path = PUBLISHED[num_classes]
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    pairs = (line.split(" ", 1) for line in text.splitlines())
    names = tuple(
        tuple(dict.fromkeys((words, *words.split(", "), synset))) for synset, words in pairs
    )
    return ClassNames(names, title)


def _by_names(names: Sequence[str], known: ClassNames, place: str) -> dict[str, int] | None:
    """Return the indices by the model's class names; None if none of these is in the data."""
    found = known.find(names)
    if found is not None:
        return found
    missing = [name for name in names if known.find([name]) is None]
    if len(missing) == len(names) and not known.asked:
        return None
    name = missing[0]
    several = known.indices.get(name, ())
    problem = f"names {len(several)} classes" if several else "is not"
    remedy = "write it there as it is in the data, once" if known.asked else "give --classes FILE"
    raise ConfigError(
        f"class {shortened(name)!r} of {place} {problem} in {known.source} "
        f"({listed(known.shown)}); {remedy}"
    )


def _unknown_order(
    names: Sequence[str], num_classes: int, known: ClassNames | None, place: str
) -> str:
    theirs = "" if known is None else f" (its names: {listed(known.shown)})"
    return (
        f"{place} has {len(names)} classes ({listed(list(names))}), the model gives "
        f"{num_classes}{theirs}: which is which is not known; give --classes FILE with the model's "
        "class names in its order, or name the classes by index"
    )


def number_indices(names: Iterable[str], *, num_classes: int, place: str) -> dict[str, int]:
    """Return the index of each name, which is that index written as a number.

    Args:
        names: Numbers in decimal digits.
        num_classes: Number of classes of the model.
        place: Name of the place where the names are, for messages.

    Raises:
        ConfigError: If an index is beyond the model's classes.
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


def _sorted_order(names: Sequence[str], known: ClassNames | None) -> ClassOrder:
    """Return the sorted order; an assumption, unless the names are the indices or all synsets."""
    indices = {name: index for index, name in enumerate(names)}
    rule = "class names in sorted order, as torchvision's ImageFolder"
    if all(name.isdecimal() and int(name) == index for name, index in indices.items()):
        return ClassOrder(indices, rule)
    if known is None and list(names) == list(imagenet_synsets()):
        return ClassOrder(indices, rule)
    order = listed([f"{name} = {index}" for name, index in indices.items()])
    reason = "sorted as torchvision's ImageFolder sorts them: nothing says the model's order"
    if known is not None:
        reason = f"sorted: they are not the names in {known.source} ({listed(known.shown)})"
    elif all(name.isdecimal() for name in names):
        reason = "sorted as text, as torchvision's ImageFolder does: not the numbers themselves"
    return ClassOrder(indices, rule, (Assumption("class order", order, reason, "--classes FILE"),))


def _line_names(line: str) -> list[str]:
    synset = SYNSET_LINE.fullmatch(line)
    return [synset[2], synset[1], line] if synset else [line]


def _from_json(text: str, path: Path) -> tuple[list[tuple[str, int]], bool]:
    """Return names with their indices, and whether the file must name every class."""
    values = parse_json(text, where=f"class file {path}")
    try:
        if isinstance(values, dict) and isinstance(values.get("id2label"), dict):
            values = values["id2label"]
        if isinstance(values, list):
            return _named(enumerate(values)), True
        if values and all(type(index) is int and index >= 0 for index in values.values()):
            return _named((index, name) for name, index in values.items()), False
        return _named((int(index), names) for index, names in values.items()), False
    except (ValueError, TypeError, AttributeError) as err:
        raise FileError(
            f"class file {path} is no list of names, and no object from index to name or name to "
            "index; write one name a line instead"
        ) from err


def _named(entries: Iterable[tuple[int, Any]]) -> list[tuple[str, int]]:
    pairs = []
    for index, names in entries:
        several = [names] if isinstance(names, str) else list(names)
        if not 0 <= index < MOST_CLASSES or not all(isinstance(name, str) for name in several):
            raise ValueError(names)
        pairs += [(name, index) for name in several]
    return pairs
