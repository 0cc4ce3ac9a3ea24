"""The fields that a training script left next to the weights, each by its spellings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from exporters.text_files import shortened
from swin_deploy.checkpoints.dialect import SideFiles
from swin_deploy.checkpoints.limits import unusable
from swin_deploy.checkpoints.objects import Held
from swin_deploy.config import Size

# Keys of what training scripts save next to the weights, in the order in which they count; any
# other dict without tensors counts after them, then the file's own keys.
PLACES = ("args", "config", "hyper_parameters", "hparams", "cfg", "opt")
MODULE = "module"  # the attributes of a module that was pickled whole
TOP = ""  # the file's own keys
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
WINDOWS = ("window_size", "pretrained_window_sizes")
# Fields whose value is named where it cannot be read.
NAMED = ("img_size", "mean", "std", "crop_pct")
TEXTS = ("model", "interpolation")
# Numbers in a text: "224", "[0.5, 0.5, 0.5]", "3 224 224", "800x1344".
NUMBERS = re.compile(r"[\[(\s]*-?[\d.]+(?:e-?\d+)?(?:[\s,x;]+-?[\d.]+(?:e-?\d+)?)*[\s,\])]*")
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
MOST_TEXT = 200  # characters of a text with numbers
MOST_VALUES = 100  # numbers of a field
MOST_SIDE = 1 << 16  # pixels
MOST_CHANNELS = 16  # of an image size in three numbers
MOST_NUMBER = 1e6  # of mean and std


@dataclass(frozen=True)
class Said:
    """One value that a training script left.

    Attributes:
        value: The value, of the type of its field.
        origin: Place of the value, such as ``config.DATA.IMG_SIZE of ckpt.pth``.
        place: Key of the dict in the file that has it; empty for the file's own keys.
    """

    value: Any
    origin: str
    place: str = ""


def kept_beside(values: object) -> dict[str, Any]:
    """Return what stands next to the weights in a file and may say how they are used.

    Args:
        values: Content of the file.
    """
    if not isinstance(values, dict):
        return {}
    names = (*PLACES, *METAS, *LISTS)
    kept = {name: values[name] for name in names if not isinstance(values.get(name), Tensor | None)}
    kept |= {name: one for name, one in values.items() if name not in kept and _is_place(name, one)}
    spelt = {name for names in SPELLINGS.values() for name in names}
    own = {name: one for name, one in values.items() if name in spelt and _is_no_tensor(one)}
    modules = [one for one in (values, *values.values()) if isinstance(one, Held) and one.about]
    return kept | {TOP: own} | ({MODULE: modules[0].about} if modules else {})


def _is_place(name: object, value: object) -> bool:
    """Tell whether a value of a file may hold fields: a dict by name, without tensors."""
    if not isinstance(name, str) or not isinstance(value, dict) or name in (MODULE, TOP):
        return False
    return all(map(_is_no_tensor, value.values()))


def _is_no_tensor(value: object) -> bool:
    return not isinstance(value, Tensor)


def said_by(files: SideFiles) -> dict[str, Said]:
    """Read the fields that a training script left, by name.

    Args:
        files: Content of what stands next to the weights.
    """
    return {
        name: found for name in SPELLINGS if (found := next(_spelt(name, files), None)) is not None
    }


def unread_by(files: SideFiles) -> list[str]:
    """Return a note on each field that a script left and whose value cannot be read.

    Args:
        files: Content of what stands next to the weights.
    """
    said = said_by(files)
    return [
        f"{name} {shortened(one.value)}: {one.origin}: not used, not a value of it"
        for name in NAMED
        if name not in said
        for one in list(_given(name, files))[:1]
    ]


def _spelt(name: str, files: SideFiles) -> Iterator[Said]:
    """Yield the values of a field in every place and spelling, if their type is right."""
    for one in _given(name, files):
        value = _typed(name, one.value)
        if value is not None:
            yield Said(value, one.origin, one.place)


def _given(name: str, files: SideFiles) -> Iterator[Said]:
    """Yield what stands in every place and spelling of a field, whatever it is; nothing empty.

    A place's own keys come first, then those of the dicts in it (``cfg.data.img_size``), if all
    of them that have the field say the same.
    """
    others = [place for place in files.training if place not in (*PLACES, MODULE, TOP)]
    for place in (*PLACES, MODULE, *others, TOP):
        values = files.training.get(place)
        if not isinstance(values, dict):
            continue
        kind = "SWINV2" if under(values, "MODEL.TYPE") == "swinv2" else "SWIN"
        for spelling in SPELLINGS[name]:
            for path in _paths(values, spelling.format(kind=kind), place):
                value = under(values, path)
                origin = f"{place}.{path} of {files.training_file}".removeprefix(".")
                yield Said(value, origin, place)


def _paths(values: dict[Any, Any], path: str, place: str) -> list[str]:
    """Return the one path of a field in a place, direct or in a dict of it; none without one."""
    if not _is_empty(under(values, path)):
        return [path]
    if place in (TOP, MODULE) or "." in path:
        return []
    inner = {
        f"{key}.{path}": one[path]
        for key, one in values.items()
        if _is_place(key, one) and "." not in key and path in one
    }
    found = {key: value for key, value in inner.items() if not _is_empty(value)}
    return list(found)[:1] if len(set(map(repr, found.values()))) == 1 else []


def _is_empty(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    if isinstance(value, Tensor):
        return not value.numel()
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def under(values: Any, path: str) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return the value at a path of keys in dicts in dicts; None without one.

    Args:
        values: Content of a file, or a part of it.
        path: Keys, with dots between them.
    """
    for key in path.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _typed(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return a value as its field has it; None if it is of another type or out of range."""
    if name in TEXTS:
        return value if isinstance(value, str) and value else None
    if name == "crop":
        return value if isinstance(value, bool) else None
    value = _numbers(value)
    if name == "crop_pct":
        return float(value) if _is_number(value) and 0 < value <= 1 else None
    if name in ("mean", "std"):
        return _by_channel(name, value)
    return _sizes(name, value)


def _numbers(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return numbers that stand in a text, an array or a tensor; other values as they are."""
    if isinstance(value, Tensor) and value.numel() <= MOST_VALUES and not unusable({"": value}):
        value = value.flatten().tolist() if value.ndim else value.item()
    if isinstance(value, str):
        if len(value) > MOST_TEXT or not NUMBERS.fullmatch(value.strip().lower()):
            return None
        found = [float(one) for one in NUMBER.findall(value.lower())]
        value = found[0] if len(found) == 1 else found
    return [_whole(one) for one in value] if isinstance(value, tuple | list) else _whole(value)


def _whole(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return a number without a fraction as an integer; other values as they are."""
    is_whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return int(value) if is_whole else value


def _by_channel(name: str, value: Any) -> tuple[float, ...] | None:  # noqa: ANN401
    """Return a mean or a deviation by channel; None if it is none."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not 0 < len(values) < MOST_VALUES or not all(map(_is_number, values)):
        return None
    return None if name == "std" and min(values) <= 0 else values


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -MOST_NUMBER <= value <= MOST_NUMBER  # false for NaN, too


def _sizes(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return one size, or those of each stage; a square image or window is its side."""
    if _is_side(value):
        return None if name in ("depths", "num_heads", "pretrained_window_sizes") else value
    if not isinstance(value, tuple | list) or not 0 < len(value) < MOST_VALUES:
        return None
    if name in WINDOWS:
        value = [_pair(one) or one for one in value]
    if not all(_is_side(one) or one == 0 or isinstance(one, Size) for one in value):
        return None
    if name == "img_size":
        return _image(value)
    if name == "patch_size":
        return value[0] if len(set(value)) == 1 else None
    return tuple(value)


def _pair(value: object) -> Size | None:
    """Return rows and columns of a window; None if a value is something else."""
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_side, value)):
        return Size(value[0], value[1])
    return None


def _image(value: list[int] | tuple[int, ...]) -> int | tuple[int, int] | None:
    """Return an image side, or rows and columns, in pixels; channels may stand at either end."""
    if len(value) == 3:
        value = value[:2] if value[2] <= MOST_CHANNELS < value[0] else value[1:]
    if min(value) <= 0:
        return None
    if len(set(value)) == 1:
        return value[0]
    return (value[0], value[1]) if len(value) == 2 else None


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_SIDE
