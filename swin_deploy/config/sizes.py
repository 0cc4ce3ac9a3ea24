"""Sizes of images, token maps, windows and shifts, as rows and columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from exporters.errors import ConfigError
from exporters.text_files import shortened

MOST_SIDE = 1 << 16  # pixels, of any step
# The largest side that a message proposes: pictures may be resized to more before a crop, up to 8/7
# of it by the libraries' rules.
MOST_PROPOSED = MOST_SIDE * 7 // 8


class Size(NamedTuple):
    """Rows and columns, in pixels for an image, in tokens for a token map, a window or a shift.

    The text of a size is one number for a square, ``224``, and two for a rectangle, ``224x448``.
    """

    rows: int
    columns: int

    @classmethod
    def square(cls, side: int) -> Size:
        """Return the size of a square of a side."""
        return cls(side, side)

    @classmethod
    def of(cls, given: int | tuple[int, int]) -> Size:
        """Return the size of a square from its side, or of a rectangle from rows and columns."""
        return cls.square(given) if isinstance(given, int) else cls(*given)

    @property
    def area(self) -> int:
        """Number of pixels or tokens."""
        return self.rows * self.columns

    @property
    def is_square(self) -> bool:
        """Whether it has as many rows as columns."""
        return self.rows == self.columns

    @property
    def plain(self) -> int | Size:
        """The size as configs and JSON spell it: a square as its side."""
        return self.rows if self.is_square else self

    @property
    def sides(self) -> str:
        """Both sides in words, of a square too: ``64x64``."""
        return f"{self.rows}x{self.columns}"

    def __str__(self) -> str:
        return str(self.rows) if self.is_square else self.sides


NONE = Size(0, 0)
SAME_RATIO = 1e-9  # difference of two logarithms of a ratio, from rounding
MOST_DIGITS = len(str(MOST_SIDE))


def read_size(text: str) -> int | Size | None:
    """Read a size as users write it: ``224``, or rows and columns as in ``800x1344``.

    Returns:
        The side, or the size of a rectangle; None if the text is neither.
    """
    parts = text.strip().lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() and len(p) <= MOST_DIGITS for p in parts):
        return None
    sides = [int(part) for part in parts]
    return Size(sides[0], sides[-1]).plain if 0 < min(sides) <= max(sides) <= MOST_SIDE else None


def rounded_up(size: int | tuple[int, int], multiple: int) -> int | Size:
    """Return an image size with both sides rounded up to a multiple.

    Args:
        size: Side in pixels, or rows and columns.
        multiple: Number of pixels.

    Raises:
        ConfigError: If ``size`` is no size, or ``multiple`` not a whole number from 1 up.
    """
    if type(multiple) is not int or not 0 < multiple <= MOST_SIDE:
        raise ConfigError(
            f"pad_to {shortened(repr(multiple))}: a number of pixels from 1 to {MOST_SIDE:,} is "
            "needed, such as 32"
        )
    return Size(*(math.ceil(side / multiple) * multiple for side in whole_size(size))).plain


def rounded_note(size: int | tuple[int, int], multiple: int) -> str:
    """Return a note on ``rounded_up`` of an image size, with both sizes."""
    before, after = whole_size(size), Size.of(rounded_up(size, multiple))
    if before == after:
        return f"image size {before}: multiples of {multiple} already"
    return f"image size {before} padded to {after}, multiples of {multiple}, below and on the right"


def whole_size(given: Any) -> Size:  # noqa: ANN401 - checked here
    """Return rows and columns of an image size that is given by a caller.

    Raises:
        ConfigError: If it is neither a side nor rows and columns, from 1 up.
    """
    size = spelt(given, "img_size")
    if isinstance(size, int) and size > 0:
        return Size.square(size)
    if isinstance(size, Size) and min(size) > 0:
        return size
    raise ConfigError(
        f"img_size {shortened(repr(given))}: a side in pixels, or rows and columns, is needed"
    )


# A window for all stages, a side or rows and columns; or one for each stage.
Windows = int | tuple[int | tuple[int, int], ...]


def stage_windows(given: Windows, stages: int) -> tuple[Size, ...]:
    """Return the window of each stage.

    Args:
        given: A side; rows and columns, which two numbers alone are, as in timm; or a side or rows
            and columns for each stage.
        stages: Number of stages.

    Raises:
        ConfigError: If ``given`` is something else, or has another number of stages.
    """
    several = isinstance(given, tuple | list) and given and not _is_pair(given)
    each: list[Any] = list(given) if several else [given]  # type: ignore[arg-type]  # as checked
    if len(each) == 1:
        each *= stages
    if len(each) != stages or not all(isinstance(one, int) or _is_pair(one) for one in each):
        raise ConfigError(
            f"window size {_as_given(given)}: give one for all stages, such as 7 or 8x6, or one "
            f"for each of the {stages} stages, such as {','.join(['7'] * stages)}"
        )
    return tuple(Size.of(one if isinstance(one, int) else tuple(one)) for one in each)


def one_for_all(windows: tuple[Size, ...]) -> int | tuple[Size, ...]:
    """Return the windows of stages as configs spell them: equal squares as their side."""
    return windows[0].rows if len(set(windows)) == 1 and windows[0].is_square else windows


def _is_pair(given: Any) -> bool:  # noqa: ANN401 - a value of the user
    whole = isinstance(given, tuple | list) and all(isinstance(one, int) for one in given)
    return whole and len(given) == 2


def windows_text(windows: Any) -> str:  # noqa: ANN401 - a value of the user
    """Return windows as ``--window-size`` takes them: ``7``, ``8x6``, ``8x6,4x7,7,7``."""
    if isinstance(windows, int) or _is_pair(windows):
        return str(Size.of(windows if isinstance(windows, int) else tuple(windows)))
    if not isinstance(windows, tuple | list):
        return shortened(windows)
    each = [windows_text(one) for one in windows]
    return each[0] if len(each) > 2 and len(set(each)) == 1 else ",".join(each)


def _as_given(windows: Any) -> str:  # noqa: ANN401 - a value of the user
    """Return windows in words, equal ones each by itself: their number is what is wrong."""
    if isinstance(windows, tuple | list) and not _is_pair(windows):
        return shortened(",".join(map(windows_text, windows)))
    return windows_text(windows)


def read_windows(text: str) -> Windows | None:
    """Read window sizes as users write them: ``7``, ``8x6``, or one for each stage between commas.

    Returns:
        A side, rows and columns, or a size for each stage; None if the text is none of these.
    """
    sizes = [read_size(part) for part in text.split(",")]
    known = tuple(Size.of(size) for size in sizes if size is not None)
    if len(known) != len(sizes):
        return None
    return known[0].plain if len(known) == 1 else known


def nearest(sizes: Iterable[int], img_size: int, count: int) -> tuple[int, ...]:
    """Return the ``count`` sizes that are nearest to an image size, nearest first."""
    return tuple(sorted(sizes, key=lambda size: (abs(size - img_size), size))[:count])


def near_rectangles(sides: Sequence[Iterable[int]], image: Size, count: int = 4) -> list[Size]:
    """Return the ``count`` rectangles of given rows and columns that are nearest to an image."""
    pairs = itertools.starmap(Size, itertools.product(*sides))
    return sorted(pairs, key=lambda size: math.dist(size, image))[:count]


def sizes_remedy(sizes: Sequence[int | Size]) -> str:
    """Return the remedy for an image size that cannot be tiled, in words: the sizes that can."""
    if not sizes:
        return f"no size up to {MOST_SIDE:,} can be tiled; use other windows"
    return f"use one of {', '.join(map(str, sizes))}, ..."


def spelt(given: Any, field: str) -> Any:  # noqa: ANN401 - a value that is checked later
    """Return a pair as a size, or as its side if both are equal; any other value as it is.

    Args:
        given: A side, or a tuple of rows and columns.
        field: Name of the field, for the message.

    Raises:
        ConfigError: If ``given`` is a tuple of another length than 2.
    """
    if not isinstance(given, tuple):
        return given
    if len(given) != 2 or not all(isinstance(one, int) for one in given):
        raise ConfigError(f"{field} {shortened(given)}: a size is one side, or rows and columns")
    return Size(*given).plain


def numbers(value: Any) -> Iterator[Any]:  # noqa: ANN401 - a field of any type
    """Yield the numbers in a field: one, one for each stage, or two for a size."""
    if isinstance(value, tuple):
        for one in value:
            yield from numbers(one)
    else:
        yield value


def size_for(picture: Size, sizes: Sequence[Size]) -> Size:
    """Return the size that a picture is best prepared for.

    1. Those of the nearest ratio of rows to columns are left.
    2. The smallest of them that holds the picture is taken; 3. else the largest.

    Args:
        picture: Rows and columns of the picture.
        sizes: Sizes to choose from, at least one.
    """
    slant = math.log(picture.rows / picture.columns)
    far = {size: abs(math.log(size.rows / size.columns) - slant) for size in sizes}
    near = [size for size in sizes if far[size] <= min(far.values()) + SAME_RATIO]
    near.sort(key=lambda size: size.area)
    holding = [s for s in near if s.rows >= picture.rows and s.columns >= picture.columns]
    return (holding or near[-1:])[0]
