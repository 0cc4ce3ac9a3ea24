"""Checks of what a caller gives: values that Click checks for the commands."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from exporters.errors import ConfigError
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.outputs import ending_problem
from swin_deploy.report.results import Report

Value = TypeVar("Value", bound=LoadedModel | Report)
StrPath = str | os.PathLike[str]
MAX_COUNT = 1 << 16


def derived(kind: type[Value], value: LoadedModel | Report) -> Value:
    """Return a value with the methods of a class that is derived from its own."""
    return kind(**{one.name: getattr(value, one.name) for one in dataclasses.fields(value)})


def require_known(what: str, value: object, known: Collection[object]) -> None:
    """Refuse a value that is none of those known.

    Raises:
        ConfigError: With those that are known.
    """
    if value not in known:
        shown = ", ".join(str(one) for one in known if one is not None)
        raise ConfigError(f"{what} {value!r} is not known; use one of {shown}")


def require_options(asked: Collection[str], known: Collection[str]) -> None:
    """Refuse a misspelt option, which would be passed over.

    Raises:
        ConfigError: With those that are known.
    """
    for name in asked:
        require_known("option", name, sorted(known))


def require_count(what: str, value: object) -> None:
    """Refuse what is not a number of images.

    Raises:
        ConfigError: If it is not a whole number from 1 to ``MAX_COUNT``.
    """
    if type(value) is not int or not 0 < value <= MAX_COUNT:
        raise ConfigError(f"{what} {value!r}: whole numbers from 1 to {MAX_COUNT:,} are needed")


def require_ending(path: Path, kind: tuple[str, tuple[str, ...]]) -> None:
    """Refuse a name that would have the next step take the file for something else.

    Raises:
        ConfigError: If the name has another ending than files of this kind.
    """
    problem = ending_problem(path, kind)
    if problem:
        raise ConfigError(problem)
