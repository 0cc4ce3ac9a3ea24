"""The names that are nearest to another one, for messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from exporters.text_files import listed

MOST_COMPARED = 40  # names that are compared letter by letter
MOST_LETTERS = 200  # letters of each of them
SOUGHT = 8  # missing names that others are looked for
NEAR = 3  # names that a message gives
OTHER_NUMBERS = 0.2  # likeness that names with other numbers lose
NUMBER = re.compile(r"[0-9]+")
LIKE = 0.6  # the least share of letters that two names have in common


def nearest_first(name: str, others: Collection[str]) -> list[str]:
    """Return other names by their likeness to a name, the most alike first.

    Args:
        name: The name.
        others: The names to sort; past the first ``MOST_COMPARED`` only the parts between dots
            count.
    """
    parts = set(name.split("."))
    by_parts = sorted(others, key=lambda one: (-len(parts & set(one.split("."))), len(one), one))
    near, rest = by_parts[:MOST_COMPARED], by_parts[MOST_COMPARED:]
    return sorted(near, key=lambda one: -_likeness(name, one)) + rest


def missing_keys(missing: Sequence[str], present: Collection[str], *others: str) -> str:
    """Say which names are missing, and which of those that are there are nearest to them.

    Args:
        missing: Names that are not there, at least one.
        present: Names that are there.
        others: Other problems in words, which come between the two.
    """
    near: dict[str, None] = {}
    for name in sorted(missing)[:SOUGHT]:
        first = nearest_first(name, present)[:1]
        near |= dict.fromkeys(one for one in first if _likeness(name, one) >= LIKE)
    said = [f"missing keys: {listed(sorted(missing))}", *others]
    return "; ".join([*said, f"nearest present: {listed(list(near)[:NEAR])}"] if near else said)


def _likeness(name: str, other: str) -> float:
    """Return how alike two names are, up to 1: the share of letters in common, in order.

    Names that differ in their numbers are of other blocks or layers, and are less alike.
    """
    first, second = name[-MOST_LETTERS:], other[-MOST_LETTERS:]
    share = difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
    return share if NUMBER.findall(first) == NUMBER.findall(second) else share - OTHER_NUMBERS
