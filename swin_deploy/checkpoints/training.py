"""The hints that a training script left next to the weights, and what becomes of each.

timm and others save their ``args``, the authors' code its ``config``, Lightning its
``hyper_parameters``, OpenMMLab its ``meta``; a module that was pickled whole has attributes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from exporters.errors import ConfigError
from exporters.text_files import shortened
from swin_deploy.checkpoints.dialect import CheckpointHints, EncoderTensors, SideFiles
from swin_deploy.checkpoints.infer_sizes import shown_img_size
from swin_deploy.checkpoints.own_windows import Clues, are_of, as_built, geometry_of
from swin_deploy.checkpoints.training_fields import (
    LISTS,
    METAS,
    MODULE,
    PLACES,
    Said,
    said_by,
    under,
    unread_by,
)
from swin_deploy.checkpoints.variants import SHOWN
from swin_deploy.checkpoints.window_tables import WindowTable, shown_windows, window_tables
from swin_deploy.config import VARIANTS, SwinConfig
from swin_deploy.config.names import find_variant
from swin_deploy.config.sizes import Size, one_for_all, stage_windows
from swin_deploy.images.preprocessing import (
    INTERPOLATIONS,
    Preprocessing,
)
from swin_deploy.images.rules import Rule

SIZES = ("embed_dim", "depths", "num_heads", "patch_size", "num_classes")
PICTURES = ("mean", "std", "interpolation", "crop_pct", "crop")
# Fields that leave nothing to guess: timm's, and the authors', whose mean and std are fixed.
WHOLE = ({"mean", "std", "interpolation", "crop_pct"}, {"interpolation", "crop"})
LEVELS = 255.0  # the largest pixel
MOST_CLASSES = 1 << 20
MOST_DIGITS = 9  # of an index of a class


def with_training(
    facts: CheckpointHints, files: SideFiles, named: EncoderTensors, sizes: dict[str, Any]
) -> tuple[CheckpointHints, list[str]]:
    """Complete facts with the hints of a training script that the weights do not contradict.

    1. The weights and ``config.json`` decide what they show; a hint that says otherwise is named.
    2. A window or an image size that they do not show is taken from the hint, else from the model
       that it names, if that has the sizes of the weights.

    Args:
        facts: Facts of the files next to the weights.
        files: Content of what stands next to the weights.
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig`` that the weights show.

    Returns:
        The completed facts, and notes on every hint that was used or contradicts the weights.
    """
    said = said_by(files)
    notes = [
        _unused(name, said[name], sizes[name])
        for name in SIZES
        if name in said and _differ(said[name].value, sizes[name], name)
    ]
    notes += unread_by(files)
    said |= _of_model(said, sizes, notes)
    tables = window_tables(named, sizes)
    shown = shown_img_size(named, sizes, shown_windows(tables))
    hinted = said["img_size"].value if "img_size" in said else None
    fields = sizes | geometry_of(named.dialect, sizes, facts)
    clues = Clues(fields, shown or facts.img_size or hinted)
    facts = _with_windows(facts, said, tables=tables, clues=clues, notes=notes)
    if "img_size" not in said or (shown is None and facts.img_size is not None):
        return facts, notes
    size = said["img_size"]
    words = f"img_size {Size.of(size.value)}: {size.origin}"
    if shown is not None:
        same = Size.of(shown) == Size.of(size.value)
        notes += [] if same else [f"{words}: not used, the weights have {Size.of(shown)}"]
    elif problem := _misfit(named, sizes, facts, tables=tables, img_size=size.value):
        notes.append(f"{words}: not used, {problem}")
    else:
        notes.append(words)
        facts = dataclasses.replace(facts, img_size=size.value)
    return facts, notes


def _words(value: Any) -> str:  # noqa: ANN401 - of any field
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _differ(said: Any, shown: Any, name: str) -> bool:  # noqa: ANN401 - of any field
    """Tell whether a hint contradicts the weights; a backbone has lost the head of its training."""
    return said != shown and not (name == "num_classes" and not shown)


def _unused(name: str, said: Said, shown: object) -> str:
    value = _words(said.value)
    return f"{name} {value}: {said.origin}: not used, the weights have {_words(shown)}"


def _of_model(said: dict[str, Said], sizes: dict[str, Any], notes: list[str]) -> dict[str, Said]:
    """Return the sizes of the model that is named and that the weights do not show."""
    if "model" not in said:
        return {}
    model = said["model"]
    name = find_variant(model.value)
    if name is None:
        return {}
    known = VARIANTS[name]
    if any(getattr(known, one) != sizes[one] for one in SHOWN):
        notes.append(f"{model.origin} is {name}: not used, the weights have other sizes")
        return {}
    fields = ("img_size", "window_size", "pretrained_window_sizes")
    origin = f"{model.origin}, {shortened(model.value)}"
    found = {one: Said(getattr(known, one), origin) for one in fields if one not in said}
    return {one: hint for one, hint in found.items() if hint.value}


def _with_windows(
    facts: CheckpointHints,
    said: dict[str, Said],
    *,
    tables: tuple[WindowTable, ...] | None,
    clues: Clues,
    notes: list[str],
) -> CheckpointHints:
    """Take the windows from a hint if neither weights nor files show them.

    A hint decides, too, between a square and a rectangle whose tables are as large.
    """
    if "window_size" not in said:
        return facts
    window = said["window_size"]
    try:
        windows = stage_windows(window.value, len(clues.fields["depths"]))
    except ConfigError as err:
        notes.append(f"window_size {_words(window.value)}: {window.origin}: not used, {err}")
        return facts
    shown = shown_windows(tables)
    if tables and shown and not _are_others(tables, (windows, shown), clues):
        # Some may be narrower than was asked for: windows shrink to the map of a later stage.
        same = _widest(shown) == _widest(windows)
        notes += [] if same else [_unused("window_size", window, shown)]
        return facts
    if facts.window_size is not None:
        return facts
    notes.append(f"window_size {_words(one_for_all(windows))}: {window.origin}")
    facts = dataclasses.replace(facts, window_size=windows)
    before = said.get("pretrained_window_sizes")
    if before is None or facts.pretrained_window_sizes is not None:
        return facts
    notes.append(f"pretrained_window_sizes {_words(before.value)}: {before.origin}")
    return dataclasses.replace(facts, pretrained_window_sizes=before.value)


def _are_others(
    tables: tuple[WindowTable, ...], both: tuple[tuple[Size, ...], tuple[Size, ...]], clues: Clues
) -> bool:
    """Tell whether tables may be of the first windows as well as of the second, which differ."""
    said, shown = (as_built(windows, clues) for windows in both)
    return are_of(tables, both[0], clues) and said != shown


def _widest(windows: tuple[Size, ...]) -> Size:
    """Return the most rows and the most columns of windows."""
    return Size(*map(max, zip(*windows, strict=True)))


def _misfit(
    named: EncoderTensors,
    sizes: dict[str, Any],
    facts: CheckpointHints,
    *,
    tables: tuple[WindowTable, ...] | None,
    img_size: int | tuple[int, int],
) -> str:
    """Return the reason why an image size does not go with the windows; empty if it does."""
    each = shown_windows(tables) or facts.window_size
    if each is None:
        return ""
    fields = sizes | geometry_of(named.dialect, sizes, facts)
    try:
        windows = stage_windows(each, len(sizes["depths"]))
        SwinConfig(**fields, window_size=windows, img_size=img_size)
    except ConfigError as err:
        return str(shortened(err))
    return ""


def training_rule(files: SideFiles, base: Rule) -> Rule | None:
    """Return the rule of a library with the values that a training script left.

    Args:
        files: Content of what stands next to the weights.
        base: The library's own rule for this model.

    Returns:
        The rule, a guess where the script left some values only; None if it left none.
    """
    said = {name: one for name, one in said_by(files).items() if name in PICTURES}
    changes = _of_unit(
        {name: said[name].value for name in ("mean", "std", "interpolation") if name in said}
    )
    if "interpolation" in changes and changes["interpolation"] not in INTERPOLATIONS:
        del changes["interpolation"], said["interpolation"]
    if not said:
        return None
    places = sorted({one.place for one in said.values()} - {""})
    origin = f"{' and '.join(places)} of {files.training_file}" if places else files.training_file
    crop, ratio = said.get("crop"), said.get("crop_pct")

    def at(side: int) -> Preprocessing:
        steps = base.at(side)
        values = _for_each_channel(changes, len(steps.mean))
        return dataclasses.replace(steps, **values, **_resize(side, crop, ratio), origin=origin)

    whole = any(said.keys() >= fields for fields in WHOLE)
    if whole or not base.guess:
        return Rule(at)
    return Rule(at, f"{', '.join(said)} of {origin}, the rest {base.guess}")


def _of_unit(values: dict[str, Any]) -> dict[str, Any]:
    """Return mean and std of pixels from 0 to 1; above 1 they are of pixels from 0 to 255."""
    given = [name for name in ("mean", "std") if name in values]
    if max((abs(one) for name in given for one in values[name]), default=0) <= 1:
        return values
    return values | {name: tuple(one / LEVELS for one in values[name]) for name in given}


def _for_each_channel(values: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return mean and std with a number for each channel, left out if theirs do not agree."""
    given = [name for name in ("mean", "std") if name in values]
    counts = {len(values[name]) for name in given} - {1}
    if len(given) == 1:
        counts.add(channels)
    if len(counts) > 1:
        return {name: value for name, value in values.items() if name not in given}
    count = next(iter(counts), channels)
    return values | {
        name: values[name] * (count if len(values[name]) == 1 else 1) for name in given
    }


def _resize(side: int, crop: Said | None, ratio: Said | None) -> dict[str, Any]:
    """Return the fields of a resize to an image side, in pixels; none if nothing says it."""
    if crop is not None:  # the authors' TEST.CROP
        if not crop.value:
            return {"resize": side, "resize_mode": "squash"}
        return {"resize": int((256 / 224) * side), "resize_mode": "shortest"}
    if ratio is not None:
        return {"resize": math.floor(side / ratio.value), "resize_mode": "shortest"}
    return {}


def training_classes(files: SideFiles, num_classes: int) -> tuple[dict[int, tuple[str, ...]], str]:
    """Read the names of classes that a training script left, and their place.

    Args:
        files: Content of what stands next to the weights.
        num_classes: Number of classes of the model.

    Returns:
        Names by index, and the place; empty if there are none, or another number of them.
    """
    for place, values in _class_lists(files):
        names = _names(values)
        if names and sorted(names) == list(range(num_classes)):
            return {index: (name,) for index, name in names.items()}, place
    return {}, ""


def _class_lists(files: SideFiles) -> Iterator[tuple[str, Any]]:
    kept = files.training
    for name in LISTS:
        yield f"{name} of {files.training_file}", kept.get(name)
    for place in (*METAS, *PLACES, MODULE):
        for name in ("CLASSES", *LISTS, "id2label", "config.id2label"):
            yield f"{place}.{name} of {files.training_file}", under(kept.get(place), name)


def _names(values: Any) -> dict[int, str]:  # noqa: ANN401 - whatever a file holds
    """Return names by index from a list, from index to name, or from name to index."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(values, tuple | list):
        pairs = list(enumerate(values))
    elif isinstance(values, dict):
        pairs = [(one, key) if isinstance(one, int) else (key, one) for key, one in values.items()]
    found = {_index(index): name for index, name in pairs[:MOST_CLASSES] if isinstance(name, str)}
    return found if len(found) == len(pairs) else {}


def _index(value: Any) -> int:  # noqa: ANN401 - whatever a file holds
    """Return the index of a class, as a number or as text; -1 if it is none."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) <= MOST_DIGITS else -1
    return value if isinstance(value, int) else -1
