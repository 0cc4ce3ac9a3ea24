"""Other image and window sizes than the checkpoint's: interpolate V1's position bias tables."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.errors import ConfigError
from swin_deploy.checkpoints.infer_config import effective_windows
from swin_deploy.checkpoints.infer_sizes import BIAS_TABLE
from swin_deploy.config import SwinConfig


def resize_tables(
    state: dict[str, Tensor], own: SwinConfig, wanted: SwinConfig, *, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Bring V1's position bias tables to other windows, as the source's library does.

    Args:
        state: In our names.
        own: The config of ``state``.
        wanted: The config to bring it to.
        source: timm interpolates linearly on a widening grid, the authors bicubically.

    Returns:
        The new state, and what was done, in words.

    Raises:
        ConfigError: If a window is no square, for which the libraries have several ways.
    """
    if own.family != "swin":
        return state, []
    resized = dict(state)
    steps: dict[str, None] = {}
    windows = zip(effective_windows(own), effective_windows(wanted), strict=True)
    for stage, (old, new) in enumerate(windows):
        if old == new:
            continue
        if not new.is_square:
            raise ConfigError(
                f"stage {stage + 1} would have windows of {new} tokens, and the checkpoint's "
                f"position bias tables of {old} are brought to squares only; use a larger image"
            )
        for block in range(own.depths[stage]):
            name = f"layers.{stage}.blocks.{block}.{BIAS_TABLE}"
            table = state[name]
            resized[name] = (
                widening(table, new.rows) if source == "timm" else bicubic(table, new.rows)
            )
        way = "linear on timm's widening grid" if source == "timm" else "bicubic"
        before, after = 2 * old.rows - 1, 2 * new.rows - 1
        steps[f"{before} x {before} interpolated to {after} x {after}, {way}"] = None
    return resized, [f"position bias tables of {step}" for step in steps]


def bicubic(table: Tensor, window_size: int) -> Tensor:
    """Interpolate a table [(2 * old - 1)**2, heads] as the authors do (their ``load_pretrained``).

    Returns:
        [(2 * window_size - 1)**2, heads].
    """
    old, new = round(len(table) ** 0.5), 2 * window_size - 1
    grid = table.T.reshape(1, -1, old, old)
    wider = F.interpolate(grid, size=(new, new), mode="bicubic")
    return wider.reshape(-1, new * new).T.contiguous()


def widening(table: Tensor, window_size: int) -> Tensor:
    """Interpolate a table [(2 * old - 1)**2, heads] as timm does (``resize_rel_pos_bias_table``).

    The old entries are laid out in geometric progression from the centre, so that small offsets
    keep their biases; between them the new ones are linear.

    Returns:
        [(2 * window_size - 1)**2, heads].
    """
    old, new = round(len(table) ** 0.5), 2 * window_size - 1
    along = _linear_weights(torch.tensor(_widening_points(old, new)), new)
    grid = table.T.reshape(-1, old, old).double()
    return (along @ grid @ along.T).reshape(-1, new * new).T.float().contiguous()


def _widening_points(old: int, new: int) -> list[float]:
    """Positions of the old entries: the ratio by which their steps grow is found by bisection."""
    left, right, ratio = 1.01, 1.5, 1.0
    while right - left > 1e-6:
        ratio = (left + right) / 2.0
        if (1.0 - ratio ** (old // 2)) / (1.0 - ratio) > new // 2:
            right = ratio
        else:
            left = ratio
    distances: list[float] = []
    current = 1.0
    for step in range(old // 2):
        distances.append(current)
        current += ratio ** (step + 1)
    return [-distance for distance in reversed(distances)] + [0.0] + distances


def _linear_weights(points: Tensor, new: int) -> Tensor:
    """What each old entry has in each new one, [new, old], float64; constant past the ends."""
    wanted = torch.arange(new, dtype=torch.float64) - new // 2
    points = points.double()
    wanted = wanted.clamp(min=float(points[0]), max=float(points[-1]))
    right = torch.bucketize(wanted, points).clamp(1, len(points) - 1)
    share = (wanted - points[right - 1]) / (points[right] - points[right - 1])
    weights = torch.zeros(new, len(points), dtype=torch.float64)
    weights.scatter_(1, right[:, None], share[:, None])
    weights.scatter_(1, right[:, None] - 1, 1 - share[:, None])
    return weights
