"""Tables that fit the width of the terminal: in columns if no word is cut, else one block a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich import table as rich_table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

EDGES = 2  # columns of the terminal before and after a table with headers
GAP = 2  # columns of the terminal between two of a table
LONGEST_WORD = 28  # characters that columns make room for; longer names of kernels are broken
CODE_WIDTHS = (12, 40)  # least and most characters of names that may be shortened


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        header: Name of the column; empty for none.
        wraps: True if cells may be broken into several lines, between words.
        shortens: True if long cells are shortened, with an ellipsis.
        right: True if cells are aligned to the right.
        style: Rich style of its cells.
        widest: Maximum number of characters in a line; None for no limit.
    """

    header: str = ""
    wraps: bool = True
    shortens: bool = False
    right: bool = False
    style: str = ""
    widest: int | None = None


@dataclass(frozen=True)
class Grid:
    """A table that Rich renders for the width of the terminal.

    Attributes:
        columns: Columns of the table.
        rows: Cells of each row; the first one names the row.
    """

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Text, ...]]

    @property
    def _headed(self) -> bool:
        return any(column.header for column in self.columns)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, laid out for the width in ``options``."""
        widths = self._widths(options.max_width)
        yield self._side_by_side(widths) if widths else self._stacked()

    def _widths(self, most: int) -> list[int]:
        """Return the width of each column that cuts no word; empty if the sum is over ``most``."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        pairs = list(zip(self.columns, cells, strict=True))
        least = [_least(column, inside) for column, inside in pairs]
        widths = [max(low, _most(*pair)) for low, pair in zip(least, pairs, strict=True)]
        room = most - GAP * (len(widths) - 1) - (EDGES if self._headed else 0)
        if sum(least) > room:
            return []
        while sum(widths) > room:
            spare = [width - low for width, low in zip(widths, least, strict=True)]
            widths[spare.index(max(spare))] -= 1
        return widths

    def _side_by_side(self, widths: list[int]) -> RenderableType:
        headed = self._headed
        table = rich_table.Table(
            box=box.SIMPLE_HEAD if headed else None,
            show_header=headed,
            show_edge=headed,
            padding=(0, GAP, 0, 0) if not headed else (0, GAP - 1, 0, 0),
            pad_edge=False,
        )
        for column, width in zip(self.columns, widths, strict=True):
            table.add_column(
                _header(column),
                width=width,
                justify="right" if column.right else "left",
                overflow="ellipsis" if column.shortens else "fold",
                no_wrap=column.shortens or not column.wraps,
                style=column.style,
            )
        for row in self.rows:
            table.add_row(*row)
        return table

    def _stacked(self) -> RenderableType:
        """Lay out one block a row: its name, then each other cell with its column's header."""
        blocks: list[RenderableType] = []
        for name, *others in self.rows:
            blocks.append(Text(name.plain, style="bold"))
            for column, cell in zip(self.columns[1:], others, strict=True):
                if cell.plain.strip() not in ("", "-"):
                    start = Text(f"{column.header}: ", style="dim") if column.header else Text()
                    blocks.append(Padding(start + cell, (0, 0, 0, 2)))
        return Group(*blocks)


def _header(column: Column) -> str:
    """Return the header, with one word a line for a column whose cells do not wrap."""
    return column.header if column.wraps else column.header.replace(" ", "\n")


def _least(column: Column, cells: Sequence[Text]) -> int:
    """Return the smallest width at which no word is cut."""
    header = max(map(cell_len, column.header.split()), default=0)
    if column.shortens:
        return max(header, min(CODE_WIDTHS[0], _most(column, cells)))
    texts = [cell.plain for cell in cells]
    parts = [part for text in texts for part in text.split(None if column.wraps else "\n")]
    longest = max([header, *map(cell_len, parts)])
    return min(longest, LONGEST_WORD) if column.wraps else longest


def _most(column: Column, cells: Sequence[Text]) -> int:
    """Return the width at which no cell is broken, up to the column's limit."""
    lines = [line for cell in cells for line in cell.plain.split("\n")]
    widest = max([cell_len(column.header) if column.wraps else 0, *map(cell_len, lines)])
    limit = CODE_WIDTHS[1] if column.shortens else column.widest
    return widest if limit is None else min(limit, widest)
