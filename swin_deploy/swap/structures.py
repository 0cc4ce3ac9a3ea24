"""The tensors in a model's inputs and outputs, whatever dict, list or object holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

MOST_DEPTH = 8


def named_tensors(value: object, name: str = "") -> dict[str, Tensor]:
    """Return every tensor in a value, by the way to it.

    Dicts and dataclasses have the names of their entries, lists numbers, and images with masks
    (GroundingDINO's ``NestedTensor``) ``tensors`` and ``mask``; the parts of a name are joined by
    underscores. A name that is taken already gets an underscore more.

    Args:
        value: A tensor, or any structure of dicts, lists and objects around some.
        name: Name of a tensor that stands alone, and start of the names of the others.
    """
    found: dict[str, Tensor] = {}
    for path, tensor in _walk(value, ()):
        words = [word for word in (name, *path) if word]
        key = "_".join(words) or "output"
        while key in found:  # {"a": {"b": ...}, "a_b": ...}
            key += "_"
        found[key] = tensor
    return found


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:  # noqa: ANN401
    if isinstance(value, Tensor):
        yield path, value
    elif len(path) < MOST_DEPTH:
        for key, inner in _entries(value):
            yield from _walk(inner, (*path, key))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any structure
    if isinstance(value, Mapping):
        yield from ((str(key), inner) for key, inner in value.items())
    elif dataclasses.is_dataclass(value):
        yield from ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
    elif isinstance(value, list | tuple):
        yield from ((str(index), inner) for index, inner in enumerate(value))
    elif is_masked(value):
        yield from (("tensors", value.tensors), ("mask", value.mask))


def is_masked(value: object) -> bool:
    """Tell whether a value is a batch of images, or a map, with the mask of their pads."""
    return isinstance(getattr(value, "tensors", None), Tensor) and hasattr(value, "mask")
