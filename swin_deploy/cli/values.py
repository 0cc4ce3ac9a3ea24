"""Values of options: paths, batches, times and lists of numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import click

from exporters.errors import FileError
from exporters.spec import BatchProfile
from exporters.text_files import shortened
from swin_deploy.config.sizes import MOST_SIDE, Size, Windows, read_size, read_windows, rounded_up

MOST_NAME, MOST_PATH = 255, 4095  # bytes, on every file system in use
MAX_SECONDS = 86_400
MAX_BATCH = 1 << 16  # the largest batch that the exporter is told to expect


class FilePath(click.Path):
    """Type of a path whose names a file system can hold, so that no later look-up fails on it."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Return the path.

        Raises:
            FileError: If a name in it has more than 255 bytes, all of it more than 4095, or it
                has a NUL.
        """
        path = Path(value)
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        if longest > MOST_NAME or len(os.fsencode(path)) > MOST_PATH or "\0" in str(path):
            raise FileError(f"{shortened(path)} is no name that a file can have; check the path")
        return path


FILE = FilePath()


class ImageSize(click.ParamType[int | Size]):
    """Type of an image size in pixels: one side, or rows and columns as in ``800x1344``."""

    name = "SIDE|HxW"

    def convert(
        self, value: str | int | Size, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Size:
        """Return the side of a square, or the size of a rectangle."""
        size = read_size(value) if isinstance(value, str) else value
        if size is None:
            self.fail(
                f"{shortened(repr(value))} is neither a side in pixels such as 224 nor rows and "
                f"columns such as 800x1344, each from 1 to {MOST_SIDE:,}",
                param,
                ctx,
            )
        return size


IMAGE_SIZE = ImageSize()


def each_once(
    _: click.Context, __: click.Parameter, sizes: tuple[int | Size, ...]
) -> tuple[int | Size, ...]:
    """Refuse an image size that is given twice; a click callback."""
    for place, size in enumerate(sizes):
        if size in sizes[:place]:
            raise click.BadParameter(f"{size} is given twice; give each size once")
    return sizes


def only_one(
    _: click.Context, __: click.Parameter, sizes: tuple[int | Size, ...]
) -> int | Size | None:
    """Return the size of a command that takes one; a click callback that refuses several."""
    if len(sizes) > 1:
        given = ", ".join(map(str, sizes))
        raise click.BadParameter(f"this command takes one size, and {given} are given")
    return sizes[0] if sizes else None


def require_apart(sizes: Iterable[int | Size], pad_to: int | None) -> None:
    """Refuse image sizes that are the same after they are rounded up; raises ``UsageError``."""
    found: dict[int | Size, int | Size] = {}
    for size in sizes if pad_to else ():
        other = found.setdefault(rounded_up(size, pad_to or 1), size)
        if other != size:
            raise click.UsageError(
                f"--image-size {other} and {size} are both {rounded_up(size, pad_to or 1)} with "
                f"--pad-to {pad_to}; give one of them"
            )


class WindowSize(click.ParamType[Windows]):
    """Type of window sizes in tokens, such as ``7``, ``8x6``, or ``8x6,4x7,7,7`` by stage."""

    name = "SIDE|HxW|BY,STAGE"

    def convert(
        self, value: str | Windows, param: click.Parameter | None, ctx: click.Context | None
    ) -> Windows:
        """Return one side, rows and columns, or a size for each stage."""
        windows = read_windows(value) if isinstance(value, str) else value
        if windows is None:
            self.fail(
                f"{shortened(repr(value))} is neither a side in tokens such as 7, rows and columns "
                "such as 8x6, nor one of these for each stage such as 8x6,4x7,7,7",
                param,
                ctx,
            )
        return windows


WINDOW_SIZE = WindowSize()


def batch_range(_: click.Context, __: click.Parameter, value: str | None) -> BatchProfile | None:
    """Read ``N`` or ``MIN,OPT,MAX`` as a batch profile; a click callback."""
    if value is None:
        return None
    numbers = _numbers(value)
    if len(numbers) not in (1, 3):
        raise click.BadParameter(f"{value!r} is not a batch such as 8, or a range such as 1,8,32")
    low, optimum, high = numbers * 3 if len(numbers) == 1 else numbers
    if not low <= optimum <= high:
        raise click.BadParameter(f"{value!r} is not in the order minimum,optimum,maximum")
    return BatchProfile(low, optimum, high)


def fixed_or_dynamic(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """Read ``dynamic`` as None, or a number of images; a click callback."""
    if value == "dynamic":
        return None
    numbers = _numbers(value)
    if len(numbers) != 1:
        raise click.BadParameter(f"{value!r} is neither 'dynamic' nor a number of images")
    return numbers[0]


def batch_list(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """Read batch sizes such as ``1,2,3,7``, in the order given; a click callback."""
    numbers = _numbers(value)
    if not numbers:
        raise click.BadParameter(f"{value!r} is not a list of batches such as 1,8")
    return tuple(numbers)


def duration(_: click.Context, __: click.Parameter, value: float) -> float:
    """Check a time, from a second to a day; a click callback."""
    if not 1 <= value <= MAX_SECONDS:  # false for NaN too, which click.FloatRange lets through
        raise click.BadParameter(f"{value} is not in the range 1<=x<={MAX_SECONDS}")
    return value


def _numbers(text: str) -> list[int]:
    """Read numbers from 1 to ``MAX_BATCH`` between commas; empty if the text is not such a list."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= len(str(MAX_BATCH)) for part in parts):
        return []
    numbers = [int(part) for part in parts]
    return numbers if all(0 < number <= MAX_BATCH for number in numbers) else []


def number_list(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Read finite numbers between commas, such as ``0.485,0.456``; a click callback."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406")
    return numbers


def finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Check that a number is finite; a click callback."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


def color(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    """Read three pixel levels such as ``255,255,255``; a click callback."""
    if value is None:
        return None
    levels = [part.strip() for part in value.split(",")]
    if len(levels) != 3 or not all(one.isdecimal() and len(one) <= 3 for one in levels):
        raise click.BadParameter(f"{value!r} is not a colour such as 255,255,255")
    red, green, blue = map(int, levels)
    if max(red, green, blue) > 255:
        raise click.BadParameter(f"{value!r} has a level above 255")
    return red, green, blue


def crop_share(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Check a share, above 0 and at most 1; a click callback."""
    if value is not None and not 0 < value <= 1:  # false for NaN too
        raise click.BadParameter(f"{value} is not in the range 0<x<=1")
    return value
