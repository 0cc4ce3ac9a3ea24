"""Other image and window sizes than the checkpoint's: interpolate V1's position bias tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swin_deploy.config import SwinConfig

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
    """Bring V1's position bias tables to other windows, as the source's library does.

    Args:
        state: State dict in our names.
        own: The config of ``state``.
        wanted: The config to bring it to.
        rule: The library's interpolation.

    Returns:
        The new state dict, and notes on what was done.
    """
    if own.family != "swin":
        return state, []
    resized = dict(state)
    steps: dict[str, None] = {}
    for index, (before, after) in enumerate(zip(own.stages, wanted.stages, strict=True)):
        old, new = (2 * stage.window_size - 1 for stage in (before, after))
        if old == new:
            continue
        for block in range(before.depth):
            name = f"layers.{index}.blocks.{block}.{BIAS_TABLE}"
            resized[name] = rule.resize(state[name], after.window_size)
        steps[f"{old} x {old} interpolated to {new} x {new}, {rule.words}"] = None
    return resized, [f"position bias tables of {step}" for step in steps]


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
