"""What a caller gives, with the checks that Click does for the commands, and gets."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from exporters.errors import ConfigError
from swin_deploy.artifacts.outputs import ending_problem
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.report.results import Report

Value = TypeVar("Value", bound=LoadedModel | Report)
StrPath = str | os.PathLike[str]
MAX_COUNT = 1 << 16


@dataclass(frozen=True)
class Artifact:
    """A file that was made.

    Attributes:
        path: Its place.
        manifest: The content of the JSON file beside it: what it was made from and with.
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False)


def derived(kind: type[Value], value: LoadedModel | Report) -> Value:
    """Return a value as an instance of a class derived from its own, with the same fields.

    Args:
        kind: The derived class, without fields of its own.
        value: The value.
    """
    return kind(**{one.name: getattr(value, one.name) for one in dataclasses.fields(value)})


def path_of(given: StrPath) -> Path:
    """Return a caller's text or path as a ``Path``.

    Raises:
        ConfigError: If it is not a path, is empty, or has a NUL.
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given) or "\0" in str(given):
        raise ConfigError(f"{given!r} is not the path of a file or folder")
    return Path(given)


def require_known(what: str, value: object, known: Collection[object]) -> None:
    """Refuse an unknown value.

    Args:
        what: Name of the argument, for the message.
        value: The value.
        known: The values that are allowed.

    Raises:
        ConfigError: If the value is not among them; the message lists them.
    """
    if value not in known:
        shown = ", ".join(str(one) for one in known if one is not None)
        raise ConfigError(f"{what} {value!r} is not known; use one of {shown}")


def require_options(asked: Collection[str], known: Collection[str]) -> None:
    """Refuse a misspelt option, which would be ignored otherwise.

    Args:
        asked: Names of the options given.
        known: Names of the options that exist.

    Raises:
        ConfigError: If a name is unknown; the message lists those that exist.
    """
    for name in asked:
        require_known("option", name, sorted(known))


def require_whole(what: str, value: object, *, least: int = 1, most: int = MAX_COUNT) -> None:
    """Refuse a value that is not a whole number in a range.

    Args:
        what: Name of the argument, for the message.
        value: The value.
        least: The smallest number allowed.
        most: The largest number allowed.

    Raises:
        ConfigError: If the value is not an integer in the range; the message has the range.
    """
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{what} {value!r}: whole numbers from {least} to {most:,} are needed")


def require_ending(path: Path, kind: tuple[str, tuple[str, ...]]) -> None:
    """Refuse a file name whose ending belongs to another kind of file.

    Args:
        path: The file to write.
        kind: Name of the kind and its endings, such as ``ONNX_ENDINGS``.

    Raises:
        ConfigError: If the name has another ending than files of this kind.
    """
    problem = ending_problem(path, kind)
    if problem:
        raise ConfigError(problem)
