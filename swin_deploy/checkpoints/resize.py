"""Other image and window sizes than the checkpoint's: interpolate positions and V1's tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporters.errors import ConfigError
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
        resize: Function of a table [(2 * old - 1)**2, heads] and the new window's side in tokens,
            that gives [(2 * new - 1)**2, heads].
    """

    words: str
    resize: Callable[[Tensor, int], Tensor]


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

    Raises:
        ConfigError: If a window is no square, for which the libraries have several ways.
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
        if not windows[1].is_square:
            raise ConfigError(
                f"stage {index + 1} would have windows of {windows[1]} tokens, and the position "
                f"bias tables of {windows[0]} are brought to squares only; use a larger image"
            )
        old, new = (2 * window.rows - 1 for window in windows)
        for block in range(before.depth):
            name = f"layers.{index}.blocks.{block}.{BIAS_TABLE}"
            state[name] = rule.resize(state[name], windows[1].rows)
        steps[f"{old} x {old} interpolated to {new} x {new}, {rule.words}"] = None
    return [f"position bias tables of {step}" for step in steps]


def bicubic(table: Tensor, window_size: int) -> Tensor:
    """Interpolate a table [(2 * old - 1)**2, heads] as the authors do (their ``load_pretrained``).

    Returns:
        [(2 * window_size - 1)**2, heads].
    """
    from torch.nn import functional as F

    old, new = round(len(table) ** 0.5), 2 * window_size - 1
    grid = table.T.reshape(1, -1, old, old)
    wider = F.interpolate(grid, size=(new, new), mode="bicubic")
    return wider.reshape(-1, new * new).T.contiguous()


BICUBIC = TableResize("bicubic", bicubic)
