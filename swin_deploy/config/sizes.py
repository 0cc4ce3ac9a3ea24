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
    return Size(sides[0], sides[-1]).plain if min(sides) > 0 else None


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
