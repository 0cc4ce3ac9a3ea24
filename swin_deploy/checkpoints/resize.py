"""Other image and window sizes than the checkpoint's: interpolate positions and V1's tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swin_deploy.checkpoints.positions import POSITIONS, placed
from swin_deploy.config import Size, SwinConfig

if TYPE_CHECKING:
    from torch import Tensor

BIAS_TABLE = "attn.relative_position_bias_table"


@dataclass(frozen=True)
class TableResize:
    """A library's interpolation of position bias tables.

    Attributes:
        words: Name of the method, for notes.
        resize: Function of a table [offsets(old).area, heads], its window and the new one, that
            gives [offsets(new).area, heads].
    """

    words: str
    resize: Callable[[Tensor, Size, Size], Tensor]


def resize_tables(
    state: dict[str, Tensor], own: SwinConfig, wanted: SwinConfig, *, rule: TableResize
) -> tuple[dict[str, Tensor], list[str]]:
    """Bring V1's position bias tables to other windows, and absolute positions to the image.

    The tables are brought there as the source's library does.

    Args:
        state: State dict in our names.
        own: The config of ``state``.
        wanted: The config to bring it to.
        rule: The library's interpolation.

    Returns:
        The new state, and what was done, in words.
    """
    resized = dict(state)
    notes: list[str] = []
    if wanted.absolute_positions:
        before, after = Size(*state[POSITIONS].shape[2:]), wanted.stages[0].resolution
        resized[POSITIONS] = placed(state[POSITIONS], after)
        if before != after:
            notes.append(f"absolute positions of {before} tokens interpolated to {after}, bicubic")
    if own.family == "swin":
        notes += _resize_biases(resized, own, wanted, rule=rule)
    return resized, notes


def _resize_biases(
    state: dict[str, Tensor], own: SwinConfig, wanted: SwinConfig, *, rule: TableResize
) -> list[str]:
    """Bring V1's tables in a state dict to other windows; return what was done, in words."""
    steps: dict[str, None] = {}
    for index, (before, after) in enumerate(zip(own.stages, wanted.stages, strict=True)):
        windows = before.window_size, after.window_size
        if windows[0] == windows[1]:
            continue
        old, new = ("{} x {}".format(*_offsets(window)) for window in windows)
        for block in range(before.depth):
            name = f"layers.{index}.blocks.{block}.{BIAS_TABLE}"
            state[name] = rule.resize(state[name], *windows)
        steps[f"{old} interpolated to {new}, {rule.words}"] = None
    return [f"position bias tables of {step}" for step in steps]


def _offsets(window: Size) -> tuple[int, int]:
    """Return the rows and columns of a window's table."""
    return 2 * window.rows - 1, 2 * window.columns - 1


def bicubic(table: Tensor, before: Size, after: Size) -> Tensor:
    """Interpolate a table [offsets(before).area, heads] as the authors do.

    Source: their ``load_pretrained``, whose windows are squares.

    Args:
        table: Biases of the offsets of a window, rows first.
        before: Window size of the table.
        after: Window size that is wanted.

    Returns:
        [offsets(after).area, heads].
    """
    from torch.nn import functional as F

    grid = table.T.reshape(1, -1, *_offsets(before))
    wider = F.interpolate(grid, size=_offsets(after), mode="bicubic")
    # [1, heads, rows, columns] -> [offsets, heads]
    return wider.flatten(2).squeeze(0).T.contiguous()


BICUBIC = TableResize("bicubic", bicubic)
