"""Stochastic depth, which all reference models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """The dropout of a residual branch for whole samples in training; the identity in evaluation.

    Source: "Deep Networks with Stochastic Depth", arXiv 1603.09382, per sample ("row" mode).

    Args:
        probability: Probability that a sample's branch is dropped.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return branch
        survival = 1.0 - self.probability
        shape = [branch.shape[0]] + [1] * (branch.ndim - 1)  # [B, 1, ...]
        kept = torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(survival)
        return branch * kept / survival


def drop_path_rates(depths: tuple[int, ...], last: float) -> list[list[float]]:
    """Return the drop probability of each block by stage, growing linearly from 0 to ``last``."""
    total = sum(depths)
    rates = iter(last * block / max(1, total - 1) for block in range(total))
    return [[next(rates) for _ in range(depth)] for depth in depths]
