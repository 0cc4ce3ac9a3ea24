"""The deploy model's modules in the layout of CPU runtimes: tokens [B, N, C], windows outside.

They compute what the modules of ``swin_deploy.deploy.model`` do, whose names and weights they keep;
modules that no layout concerns are the same. Slot ``w * n + p`` has place ``p`` of window ``w``, so
that the tokens of a window are one block of memory: a CPU's matrix products want their operands so,
and copy any others first. For the same reason contractions are transpositions and matrix products,
and q, k and v, with their weights, are apart.

Letters in shapes are those of ``swin_deploy.deploy.model``.
"""

from __future__ import annotations

from torch import Tensor, nn

from swin_deploy.deploy.fold_parts import linear
from swin_deploy.deploy.model import (
    CosineNormalize,
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


class CpuQkv(nn.Module):
    """``WindowAttention.qkv`` as three linear layers, which write q, k and v without a split.

    Args:
        qkv: Linear layer from C to 3C channels; its weights are copied.
    """

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        biases = (None, None, None) if qkv.bias is None else qkv.bias.chunk(3)
        parts = zip(qkv.weight.chunk(3), biases, strict=True)  # [3C, C] -> three of [C, C]
        self.query, self.key, self.value = (linear(*part) for part in parts)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return self.query(tokens), self.key(tokens), self.value(tokens)


class CpuSplitHeads(SplitHeads):
    """The split of q, k and v, [B, N, C] each, into heads: [B * num_windows, num_heads, n, d].

    Args:
        heads: The split in the deploy model's layout.
    """

    def __init__(self, heads: SplitHeads) -> None:
        head_dim, area = heads.dim // heads.num_heads, heads.windows[1]
        super().__init__(heads.num_heads, head_dim, windows=heads.windows)
        self.qkv_shape = (-1, area, heads.num_heads, head_dim)

    def forward(self, *qkv: Tensor) -> tuple[Tensor, ...]:
        # three of [B, N, C] -> [B * nW, n, h, d] -> [B * nW, h, n, d]
        return tuple(part.reshape(self.qkv_shape).transpose(1, 2) for part in qkv)


class CpuSplitCosineHeads(CpuSplitHeads):
    """``CpuSplitHeads`` for V2: queries and keys of length one, queries times the temperature.

    Args:
        heads: The split in the deploy model's layout.
    """

    lengths: tuple[int, ...] = (-1, 1, 1)  # heads stand before tokens when they are scaled

    def __init__(self, heads: SplitCosineHeads) -> None:
        super().__init__(heads)
        scales = (one.reshape(self.lengths) for one in heads.normalize.scale.chunk(2))  # [h, 1, 1]
        self.normalize_query, self.normalize_key = map(CosineNormalize, scales)

    def forward(self, *qkv: Tensor) -> tuple[Tensor, ...]:
        query, key, value = super().forward(*qkv)  # [B, N, C] -> [B * nW, h, n, d] each
        return self.normalize_query(query, query), self.normalize_key(key, key), value


class CpuEqualSplitCosineHeads(CpuSplitCosineHeads):
    """``CpuSplitCosineHeads`` of as many heads as a window has tokens, which it scales first.

    OpenVINO 2026.4.1 loses the transpositions of heads and tokens, in float32 and with a fixed
    batch (relative L2 up to 0.9), unless all four stand next to the attention's products. Remove
    when it gives the same for both spellings.
    """

    lengths = (-1, 1)

    def forward(self, *qkv: Tensor) -> tuple[Tensor, ...]:
        # three of [B, N, C] -> [B * nW, n, h, d]
        query, key, value = (part.reshape(self.qkv_shape) for part in qkv)
        query, key = self.normalize_query(query, query), self.normalize_key(key, key)
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
        query, key, value = self.heads(*self.qkv(tokens))  # [B, N, C] -> [B * nW, h, n, d] each
        scores = self.bias(query @ key.transpose(-2, -1))  # [B * nW, h, n, n]
        mixed = scores.softmax(dim=-1) @ value  # [B * nW, h, n, d]
        # [B * nW, h, n, d] -> [B * nW, n, h, d] -> [B, N, C]
        return self.proj(mixed.transpose(1, 2).reshape(self.tokens))
