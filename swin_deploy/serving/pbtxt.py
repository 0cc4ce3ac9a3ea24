"""Protocol Buffers' text form, which Triton's configurations are in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from swin_deploy.serving.served import Tensor

TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "object": "TYPE_STRING",
}


class Word(str):
    """A text that is written without quotes: the name of an enumeration's value."""

    __slots__ = ()


def edge(tensor: Tensor) -> dict[str, Any]:
    """Return the message of an input or output of a model."""
    return {
        "name": tensor.name,
        "data_type": Word(TYPES[tensor.type]),
        "dims": list(tensor.dims),
    }


def to_pbtxt(message: Mapping[str, Any]) -> str:
    """Return a message in text form.

    Args:
        message: Fields by name: mappings are messages, lists repeat the field, and None is left
            out.
    """
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(one, indent + "  ")
                yield f"{indent}}}"
            elif one is not None:
                yield f"{indent}{name}: {_scalar(one)}"


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Return a text in quotes; JSON's escapes of letters above ASCII are not read, so they stay."""
    plain = "".join(one if one.isprintable() or one in "\n\t" else " " for one in text)
    return json.dumps(plain, ensure_ascii=False)
