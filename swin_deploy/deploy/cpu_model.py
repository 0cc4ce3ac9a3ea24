"""The deploy model's modules in the layout of CPU runtimes: tokens [B, N, C], windows outside.

They compute what the modules of ``swin_deploy.deploy.model`` do, whose names and weights they keep;
modules that no layout concerns are the same. Slot ``w * n + p`` has place ``p`` of window ``w``, so
that the tokens of a window are one block of memory: a CPU's matrix products want their operands so,
and copy any others first. Contractions are transpositions and matrix products for the same reason.

Letters in shapes are those of ``swin_deploy.deploy.model``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swin_deploy.deploy.model import (
    MergeGather,
    SplitCosineHeads,
    SplitHeads,
    WindowAttention,
)


class CpuMergeGather(MergeGather):
    """A gather from tokens [B, N, C] to [B, M, 4, C]: the four that each token is merged from."""

    axis = 1

    def forward(self, tokens: Tensor) -> Tensor:
        merged = (-1, len(self.index) // 4, 4, tokens.shape[-1])
        # [B, N, C] -> [B, 4 * M, C] -> [B, M, 4, C]
        return tokens.index_select(self.axis, self.index).reshape(merged)


class CpuSplitHeads(SplitHeads):
    """The split of [B, N, 3C] into q, k and v, [B * num_windows, num_heads, n, d] each.

    Args:
        heads: The split in the deploy model's layout.
    """

    def __init__(self, heads: SplitHeads) -> None:
        head_dim, area = heads.dim // heads.num_heads, heads.windows[1]
        super().__init__(heads.num_heads, head_dim, windows=heads.windows)
        self.qkv_shape = (-1, area, 3, heads.num_heads, head_dim)

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        # [B, N, 3C] -> [B * nW, n, 3, h, d] -> [3, B * nW, h, n, d] -> three of [B * nW, h, n, d]
        return qkv.reshape(self.qkv_shape).permute(2, 0, 3, 1, 4).unbind(0)


class CpuSplitCosineHeads(CpuSplitHeads):
    """``CpuSplitHeads`` for V2: queries and keys of length one, queries times the temperature.

    Args:
        heads: The split in the deploy model's layout; its normalisation is shared.
    """

    def __init__(self, heads: SplitCosineHeads) -> None:
        super().__init__(heads)
        self.normalize = heads.normalize
        self.qkv_shape = (-1, heads.windows[1], 3 * heads.num_heads, heads.heads[-1])

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        parts = [2 * self.num_heads, self.num_heads]
        # [B, N, 3C] -> [B * nW, n, 3h, d] -> [B * nW, n, 2h, d] and [B * nW, n, h, d]
        both, value = torch.split(qkv.reshape(self.qkv_shape), parts, dim=2)
        query, key = torch.split(self.normalize(both, both), self.num_heads, dim=2)
        # [B * nW, n, h, d] -> [B * nW, h, n, d]
        return tuple(part.transpose(1, 2) for part in (query, key, value))


class CpuWindowBias(nn.Module):
    """A bias that differs by window and is added to scores [B * num_windows, num_heads, n, n].

    Args:
        bias: Additive constant, [num_windows, num_heads or 1, n, n].
        num_heads: Number of attention heads.
    """

    bias: Tensor

    def __init__(self, bias: Tensor, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        count, _, area, _ = bias.shape
        self.by_window = (-1, count, num_heads, area, area)
        self.flat = (-1, num_heads, area, area)

    def forward(self, scores: Tensor) -> Tensor:
        scores = scores.reshape(self.by_window) + self.bias  # -> [B, nW, h, n, n]
        return scores.reshape(self.flat)  # -> [B * nW, h, n, n]


class CpuWindowAttention(WindowAttention):
    """``WindowAttention`` over tokens [B, N, C], window by window."""

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.heads(self.qkv(tokens))  # [B, N, C] -> [B * nW, h, n, d] each
        scores = self.bias(query @ key.transpose(-2, -1))  # [B * nW, h, n, n]
        mixed = self.by_token(scores.softmax(dim=-1) @ value)  # [B * nW, h, n, d] -> [..., n, h, d]
        return self.proj(mixed.reshape(self.tokens))  # -> [B, N, C]

    def by_token(self, mixed: Tensor) -> Tensor:
        """Return [B * num_windows, num_heads, n, d] with tokens before heads."""
        return mixed.transpose(1, 2)


class CpuEqualWindowAttention(CpuWindowAttention):
    """``CpuWindowAttention`` of as many heads as a window has tokens, with a spelling of its own.

    OpenVINO 2026.4.1 loses the transposition of the heads where both axes have the same length, in
    float32 and with a fixed batch (relative L2 up to 0.9); with an axis for windows it does not.
    Remove when OpenVINO gives the same for both spellings.
    """

    def by_token(self, mixed: Tensor) -> Tensor:
        by_window = (-1, self.heads.windows[0], *mixed.shape[1:])
        return mixed.reshape(by_window).transpose(2, 3)  # -> [B, nW, h, n, d] -> [B, nW, n, h, d]
