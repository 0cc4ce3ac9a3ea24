"""The windows that the tables and buffers of a file belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.dialect import EncoderTensors
from swin_deploy.checkpoints.infer_sizes import first_of_stage
from swin_deploy.checkpoints.resize import BIAS_TABLE
from swin_deploy.config import MOST, Size
from swin_deploy.config.windows import offsets, relative_position_index

COORDS_TABLE = "attn.relative_coords_table"
INDEX = "attn.relative_position_index"


@dataclass(frozen=True)
class WindowTable:
    """The tensors of a stage that depend on its window.

    Attributes:
        name: Name of the first one in the file.
        shape: Shape of it.
        candidates: Windows that it may belong to, the one nearest to a square first.
        exact: The only window that it may belong to, which a saved index or saved coordinates
            tell; else None.
    """

    name: str
    shape: tuple[int, ...]
    candidates: tuple[Size, ...]
    exact: Size | None

    @property
    def window(self) -> Size | None:
        """The exact window, else the square one, as libraries read their files; None without."""
        square = [one for one in self.candidates if one.is_square]
        return self.exact or next(iter(square), None)

    def fits(self, window: Size) -> bool:
        """Tell whether the tensors may belong to a window."""
        return window == self.exact if self.exact else window in self.candidates


def window_tables(named: EncoderTensors, sizes: dict[str, Any]) -> tuple[WindowTable, ...] | None:
    """Find what shows the window of each stage.

    Args:
        named: The encoder's tensors in their dialect.
        sizes: Fields of ``SwinConfig``; ``depths`` is read.

    Returns:
        One for each stage; None if a stage has nothing that shows it.

    Raises:
        CheckpointError: If a tensor belongs to no window.
    """
    found = [_table(named, stage, depth) for stage, depth in enumerate(sizes["depths"])]
    tables = tuple(one for one in found if one is not None)
    return tables if len(tables) == len(found) else None


def _table(named: EncoderTensors, stage: int, depth: int) -> WindowTable | None:
    """Find what shows the window of a stage, whose table counts before an index."""
    parts = {
        part: found
        for part in (BIAS_TABLE, COORDS_TABLE, INDEX)
        if (found := first_of_stage(named, stage, depth, part)) is not None
    }
    if not parts:
        return None
    part, (name, tensor) = next(iter(parts.items()))
    candidates = _windows_of(_count(tensor, is_table=part != INDEX))
    if not candidates:
        raise CheckpointError(
            f"wrong shapes: {name} is {list(tensor.shape)}, which belongs to no window"
        )
    coords, index = (parts.get(one, ("", None))[1] for one in (COORDS_TABLE, INDEX))
    told = [one for one in candidates if _is_of(one, coords, index)]
    return WindowTable(name, tuple(tensor.shape), candidates, told[0] if len(told) == 1 else None)


def _count(tensor: Tensor, *, is_table: bool) -> int:
    """Count the offsets of a window, of which an index of [n, n] pairs numbers every one."""
    if not is_table:
        return int(tensor.max()) + 1 if tensor.numel() else 0
    return tensor.numel() // max(1, tensor.shape[-1]) if tensor.ndim else 0


def _windows_of(count: int) -> tuple[Size, ...]:
    """Return the windows with so many offsets, the one nearest to a square first."""
    sides = range(1, min(count, 2 * MOST["window_size"]) + 1, 2)
    pairs = [(rows, count // rows) for rows in sides if count % rows == 0]
    windows = [Size((rows + 1) // 2, (columns + 1) // 2) for rows, columns in pairs if columns % 2]
    allowed = [one for one in windows if max(one) <= MOST["window_size"]]
    return tuple(sorted(allowed, key=lambda one: (max(one) / min(one), one)))


def _is_of(window: Size, coords: Tensor | None, index: Tensor | None) -> bool:
    """Tell whether saved coordinates or a saved index are those of a window."""
    if coords is not None and coords.ndim > 2:  # [1, 2 * rows - 1, 2 * columns - 1, 2]
        return tuple(coords.shape[-3:-1]) == tuple(offsets(window))
    if index is None or index.numel() != window.area**2:
        return False
    return bool((index.reshape(window.area, -1) == relative_position_index(window)).all())


def shown_windows(tables: tuple[WindowTable, ...] | None) -> tuple[Size, ...] | None:
    """Return the windows that tables show by themselves: exact ones and squares.

    A library that cuts windows to a map may leave a rectangle where the image is one: beside
    squares, a table of a window that is cut along one axis is taken for the widest square.

    Args:
        tables: The tables of each stage, or None.

    Returns:
        Window of each stage, before it is cut to a map; None if a stage does not show it.
    """
    found = [one.window for one in tables or ()]
    widest = max((one for one in found if one and one.is_square), default=None)
    windows = [
        own or (widest if widest and is_cut(table, widest) else None)
        for own, table in zip(found, tables or (), strict=True)
    ]
    known = tuple(one for one in windows if one)
    return known if known and len(known) == len(windows) else None


def is_cut(table: WindowTable, window: Size) -> bool:
    """Tell whether a table may belong to a window after a cut along one axis."""
    return any(
        one != window
        and one.rows <= window.rows
        and one.columns <= window.columns
        and (one.rows == window.rows or one.columns == window.columns)
        for one in table.candidates
    )
