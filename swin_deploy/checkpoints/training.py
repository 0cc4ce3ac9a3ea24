"""The hints that a training script left next to the weights, and what becomes of each.

timm and others save their ``args``, the authors' code its ``config``, Lightning its
``hyper_parameters``, OpenMMLab its ``meta``; a module that was pickled whole has attributes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from exporters.errors import ConfigError
from exporters.text_files import shortened
from swin_deploy.checkpoints.dialect import CheckpointHints, EncoderTensors, SideFiles
from swin_deploy.checkpoints.infer_config import SHOWN
from swin_deploy.checkpoints.infer_sizes import shown_img_size, shown_windows
from swin_deploy.checkpoints.objects import Held
from swin_deploy.config import VARIANTS, SwinConfig
from swin_deploy.config.names import find_variant
from swin_deploy.images.preprocessing import INTERPOLATIONS, Preprocessing, Rule

# Keys of what training scripts save next to the weights, in the order in which they count.
PLACES = ("args", "config", "hyper_parameters", "hparams", "cfg", "opt")
MODULE = "module"  # the attributes of a module that was pickled whole
LISTS = ("class_names", "classes", "class_to_idx", "idx_to_class")
METAS = ("meta", "dataset_meta")
# Spellings of each field, with dots between the keys of dicts in dicts.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "model": ("model", "model_name", "arch", "MODEL.NAME"),
    "img_size": ("img_size", "image_size", "input_size", "val_crop_size", "DATA.IMG_SIZE",
                 "pretrained_cfg.input_size", "config.image_size"),
    "num_classes": ("num_classes", "nb_classes", "MODEL.NUM_CLASSES"),
    "window_size": ("window_size", "MODEL.{kind}.WINDOW_SIZE", "config.window_size"),
    "embed_dim": ("embed_dim", "MODEL.{kind}.EMBED_DIM"),
    "depths": ("depths", "MODEL.{kind}.DEPTHS"),
    "num_heads": ("num_heads", "MODEL.{kind}.NUM_HEADS"),
    "patch_size": ("patch_size", "MODEL.{kind}.PATCH_SIZE"),
    "pretrained_window_sizes": ("pretrained_window_sizes", "MODEL.{kind}.PRETRAINED_WINDOW_SIZES",
                                "config.pretrained_window_sizes"),
    "mean": ("mean", "pretrained_cfg.mean"),
    "std": ("std", "pretrained_cfg.std"),
    "crop_pct": ("crop_pct", "pretrained_cfg.crop_pct"),
    "interpolation": ("interpolation", "DATA.INTERPOLATION", "pretrained_cfg.interpolation"),
    "crop": ("TEST.CROP",),
}  # fmt: skip
SIZES = ("embed_dim", "depths", "num_heads", "patch_size", "num_classes")
PICTURES = ("mean", "std", "interpolation", "crop_pct", "crop")
# Fields that leave nothing to guess: timm's, and the authors', whose mean and std are fixed.
WHOLE = ({"mean", "std", "interpolation", "crop_pct"}, {"interpolation", "crop"})
MOST_SIDE = 1 << 16  # pixels
MOST_CLASSES = 1 << 20
MOST_NUMBER = 1e6  # of mean and std
MOST_DIGITS = 9  # of an index of a class


@dataclass(frozen=True)
class Said:
    """One value that a training script left.

    Attributes:
        value: The value, of the type of its field.
        origin: Place of the value, such as ``config.DATA.IMG_SIZE of ckpt.pth``.
    """

    value: Any
    origin: str


def kept_beside(values: object) -> dict[str, Any]:
    """Return what stands next to the weights in a file and may say how they are used.

    Args:
        values: Content of the file.
    """
    if not isinstance(values, dict):
        return {}
    names = (*PLACES, *METAS, *LISTS, "arch")
    kept = {name: values[name] for name in names if not isinstance(values.get(name), Tensor | None)}
    modules = [one for one in (values, *values.values()) if isinstance(one, Held) and one.about]
    return kept | ({MODULE: modules[0].about} if modules else {})


def said_by(files: SideFiles) -> dict[str, Said]:
    """Read the fields that a training script left, by name.

    Args:
        files: Content of what stands next to the weights.
    """
    return {
        name: found for name in SPELLINGS if (found := next(_spelt(name, files), None)) is not None
    }


def _spelt(name: str, files: SideFiles) -> Iterator[Said]:
    """Yield the values of a field in every place and spelling, if their type is right."""
    for place in (*PLACES, MODULE):
        values = files.training.get(place)
        if not isinstance(values, dict):
            continue
        kind = "SWINV2" if _under(values, "MODEL.TYPE") == "swinv2" else "SWIN"
        for spelling in SPELLINGS[name]:
            path = spelling.format(kind=kind)
            value = _typed(name, _under(values, path))
            if value is not None:
                yield Said(value, f"{place}.{path} of {files.training_file}")
    if name == "model" and isinstance(files.training.get("arch"), str):
        yield Said(files.training["arch"], f"arch of {files.training_file}")


def _under(values: Any, path: str) -> Any:  # noqa: ANN401 - whatever a file holds
    for key in path.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _typed(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return a value as its field has it; None if it is of another type or out of range."""
    if isinstance(value, Tensor):
        return None
    if name in ("model", "interpolation"):
        return value if isinstance(value, str) and value else None
    if name == "crop":
        return value if isinstance(value, bool) else None
    if name == "crop_pct":
        return float(value) if _is_number(value) and 0 < value <= 1 else None
    if name in ("mean", "std"):
        numbers = tuple(value) if isinstance(value, tuple | list) else ()
        return numbers if numbers and len(numbers) < 100 and all(map(_is_number, numbers)) else None
    return _sizes(name, value)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -MOST_NUMBER <= value <= MOST_NUMBER  # false for NaN, too


def _sizes(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return one size, or those of each stage; a square image or window is its side."""
    if _is_side(value):
        return None if name in ("depths", "num_heads", "pretrained_window_sizes") else value
    if not isinstance(value, tuple | list) or not 0 < len(value) < 100:
        return None
    if not all(_is_side(one) or one == 0 for one in value):
        return None
    if name == "img_size":
        value = value[-2:]
    square = len(set(value)) == 1
    if name in ("img_size", "patch_size"):
        return value[0] if square else None
    return tuple(value)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_SIDE


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
    said |= _of_model(said, sizes, notes)
    windows = shown_windows(named, sizes)
    facts = _with_windows(facts, said, windows=windows, notes=notes)
    shown = shown_img_size(named, sizes, windows)
    if "img_size" not in said or (shown is None and facts.img_size is not None):
        return facts, notes
    size = said["img_size"]
    if shown is not None:
        notes += [_unused("img_size", size, shown)] if shown != size.value else []
    elif problem := _misfit(sizes, windows or facts.window_size, size.value):
        notes.append(f"img_size {size.value}: {size.origin}: not used, {problem}")
    else:
        notes.append(f"img_size {size.value}: {size.origin}")
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
    windows: tuple[int, ...] | None,
    notes: list[str],
) -> CheckpointHints:
    """Take the windows of V2 from a hint if neither weights nor files show them."""
    if "window_size" not in said:
        return facts
    window = said["window_size"]
    if windows is not None:
        # Some may be narrower than was asked for: windows shrink to the map of a later stage.
        asked = window.value if isinstance(window.value, tuple) else (window.value,)
        notes += [_unused("window_size", window, windows)] if max(windows) != max(asked) else []
        return facts
    if facts.window_size is not None:
        return facts
    notes.append(f"window_size {_words(window.value)}: {window.origin}")
    facts = dataclasses.replace(facts, window_size=window.value)
    before = said.get("pretrained_window_sizes")
    if before is None or facts.pretrained_window_sizes is not None:
        return facts
    notes.append(f"pretrained_window_sizes {_words(before.value)}: {before.origin}")
    return dataclasses.replace(facts, pretrained_window_sizes=before.value)


def _misfit(sizes: dict[str, Any], windows: Any, img_size: int) -> str:  # noqa: ANN401
    """Return the reason why an image size does not go with the windows; empty if it does."""
    if windows is None:
        return ""
    try:
        SwinConfig(**sizes, window_size=windows, img_size=img_size)
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
    changes = {name: said[name].value for name in ("mean", "std", "interpolation") if name in said}
    if "interpolation" in changes and changes["interpolation"] not in INTERPOLATIONS:
        del changes["interpolation"], said["interpolation"]
    if not said:
        return None
    places = sorted({one.origin.partition(".")[0] for one in said.values()})
    origin = f"{' and '.join(places)} of {files.training_file}"
    crop, ratio = said.get("crop"), said.get("crop_pct")

    def at(side: int) -> Preprocessing:
        steps = base.at(side)
        values = {
            name: value * len(steps.mean) if len(value) == 1 else value
            for name, value in changes.items()
        }
        return dataclasses.replace(steps, **values, **_resize(side, crop, ratio), origin=origin)

    whole = any(said.keys() >= fields for fields in WHOLE)
    if whole or not base.guess:
        return Rule(at)
    return Rule(at, f"{', '.join(said)} of {origin}, the rest {base.guess}")


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
            yield f"{place}.{name} of {files.training_file}", _under(kept.get(place), name)


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
