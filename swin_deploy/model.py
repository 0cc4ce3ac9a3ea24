"""The deploy model: one architecture for every Swin family, over constants that ``fold`` computes.

It is inference only and export friendly: no einops, no ``torch.roll``, nothing dynamic but the
batch. Tokens stay in window order from the patch embedding to the last block, so that a shift or a
merge costs one ``index_select`` at most. The spellings of reshapes, splits and contractions were
chosen because TensorRT fuses them; another spelling of the same mathematics may not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SMALLEST_LENGTH = 1e-12  # of a query or key, as in torch.nn.functional.normalize


class Reorder(nn.Module):
    """Bring tokens [B, N, C] to another order with one gather.

    Args:
        index: [M], int64, with ``tokens[:, index]`` in the wanted order.
    """

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.index_select(1, self.index)


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to tokens [B, N, C] in window order, without a convolution.

    Args:
        linear: From the ``3 * patch_size**2`` values of a patch (channel, row, column) to C.
        resolution: Token map side.
        window_size: Window side of the first stage, in tokens.
        patch_size: Patch side, in pixels.
    """

    def __init__(
        self, linear: nn.Linear, *, resolution: int, window_size: int, patch_size: int
    ) -> None:
        super().__init__()
        grid = resolution // window_size
        self.linear = linear
        self.cells = (-1, 3, grid, window_size, patch_size, grid, window_size, patch_size)
        self.patches = (-1, resolution**2, 3 * patch_size**2)

    def forward(self, images: Tensor) -> Tensor:
        cells = images.reshape(self.cells).permute(0, 2, 5, 3, 6, 1, 4, 7)
        return self.linear(cells.reshape(self.patches))


class CosineNormalize(nn.Module):
    """Scale heads [B, num_heads, n, d] to length ``scale``, in float32 whatever the precision.

    In float16 the squares can overflow, and the smallest length that is told from 0 is 0 itself.

    Args:
        scale: [num_heads, 1, 1].
    """

    keep_float32 = True  # read by exporters: these nodes stay float32 in a float16 graph
    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())

    def forward(self, heads: Tensor) -> Tensor:
        wide = heads.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        unit = self.scale.float() / length.clamp(min=SMALLEST_LENGTH)
        return (wide * unit).to(heads.dtype)


class SplitHeads(nn.Module):
    """Take q, k and v, [B, num_heads, n, d] each, from [B, 3 * num_heads, n, d]."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return torch.split(qkv, self.num_heads, dim=1)

    def join(self, mixed: Tensor) -> Tensor:
        """Values after attention, back in the shape that they were split from."""
        return mixed


class SplitCosineHeads(SplitHeads):
    """``SplitHeads`` for V2: queries and keys of length one, queries times the temperature.

    Args:
        temperature: [num_heads, 1, 1].
    """

    def __init__(self, temperature: Tensor) -> None:
        super().__init__(len(temperature))
        self.normalize = CosineNormalize(torch.cat((temperature, torch.ones_like(temperature))))

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        query_key, value = torch.split(qkv, [2 * self.num_heads, self.num_heads], dim=1)
        query, key = torch.split(self.normalize(query_key), self.num_heads, dim=1)
        return query, key, value


class SplitSingleHead(SplitHeads):
    """A split of one head, with an image's windows in the place of heads.

    TensorRT-RTX 1.7.1 does not fuse attention over a single head when the batch is dynamic; over
    windows it does. Remove when a plan with one head is fused without.

    Args:
        split: Of one head.
        num_windows: Windows of an image.
        window_area: n, tokens of a window.
        head_dim: d, channels of the head.
    """

    def __init__(
        self, split: SplitHeads, *, num_windows: int, window_area: int, head_dim: int
    ) -> None:
        super().__init__(num_heads=1)
        self.single = split
        self.by_image = (-1, num_windows, window_area, head_dim)
        self.by_window = (-1, 1, window_area, head_dim)

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.reshape(self.by_image) for part in self.single(qkv))

    def join(self, mixed: Tensor) -> Tensor:
        return mixed.reshape(self.by_window)


class PositionBias(nn.Module):
    """Add a position bias to scores [B * num_windows, num_heads, n, n].

    Args:
        bias: [1, num_heads, n, n], the same for every window.
    """

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.bias


class GatheredPositionBias(nn.Module):
    """``PositionBias`` of a large window, gathered from its table in every call.

    The bias of a window of 16 x 16 tokens holds 68 times the values of its table. TensorRT-RTX
    1.7.1 does not fold this gather: one small kernel a block, for engines of half the size.

    Args:
        table: [num_heads, (2 * window_size - 1)**2].
        index: [n * n], int64; blocks of the same window share it.
    """

    table: Tensor
    index: Tensor

    def __init__(self, table: Tensor, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("index", index)
        area = math.isqrt(len(index))
        self.shape = (1, len(table), area, area)

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.table.index_select(1, self.index).reshape(self.shape)


class WindowMask(nn.Module):
    """Add a mask that differs by window to scores [B * num_windows, num_heads, n, n].

    One mask for all heads and, shared, for all blocks of a stage; TensorRT fuses both views.

    Args:
        mask: [1, num_windows, 1, n, n].
        num_heads: Attention heads.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.by_window = (-1, mask.shape[1], num_heads, *mask.shape[3:])
        self.flat = (-1, num_heads, *mask.shape[3:])

    def forward(self, scores: Tensor) -> Tensor:
        return (scores.reshape(self.by_window) + self.mask).reshape(self.flat)


class WindowAttention(nn.Module):
    """Self-attention inside windows, over tokens [B, N, C] in window order.

    Args:
        qkv: From C to 3C, rows q, k, v, each by head and channel; the score scale is in q.
        proj: From C, by head and channel, to C.
        bias: What is added to the scores: a position bias, a ``WindowMask``, or both in turn.
        heads: ``SplitHeads``, or V2's ``SplitCosineHeads``.
        window_area: n, tokens of a window.
        num_tokens: N, tokens of an image.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        proj: nn.Linear,
        *,
        bias: nn.Module,
        heads: SplitHeads,
        window_area: int,
        num_tokens: int,
    ) -> None:
        super().__init__()
        dim, num_heads = proj.out_features, heads.num_heads
        head_dim = proj.in_features // num_heads
        self.qkv = qkv
        self.heads = heads
        self.bias = bias
        self.proj_weight = nn.Parameter(
            proj.weight.detach().reshape(dim, num_heads, head_dim), requires_grad=False
        )
        self.proj_bias = nn.Parameter(proj.bias.detach().clone(), requires_grad=False)
        self.split = (-1, window_area, 3 * num_heads, head_dim)
        self.tokens = (-1, num_tokens, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).reshape(self.split).permute(0, 2, 1, 3)
        query, key, value = self.heads(qkv)
        scores = self.bias(query @ key.transpose(-1, -2))
        mixed = self.heads.join(scores.softmax(dim=-1) @ value)
        projected = torch.einsum("bhnd,chd->bnc", mixed, self.proj_weight)
        return (projected + self.proj_bias).reshape(self.tokens)


class SwinBlock(nn.Module):
    """Attention and MLP branches around residuals; a part that a family lacks is the identity.

    Args:
        order: Brings the stream to this block's window order.
        displace: Takes the attention branch's tokens from elsewhere than the residual's.
        attention: ``WindowAttention``.
        mlp: From C to C.
        norms: LayerNorms before attention, after attention, before the MLP, after the MLP.
    """

    def __init__(
        self,
        *,
        order: nn.Module,
        displace: nn.Module,
        attention: WindowAttention,
        mlp: nn.Module,
        norms: tuple[nn.Module, nn.Module, nn.Module, nn.Module],
    ) -> None:
        super().__init__()
        self.order = order
        self.displace = displace
        self.attention = attention
        self.mlp = mlp
        self.norm_before_attention, self.norm_after_attention = norms[:2]
        self.norm_before_mlp, self.norm_after_mlp = norms[2:]

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.order(tokens)
        branch = self.attention(self.norm_before_attention(self.displace(tokens)))
        tokens = tokens + self.norm_after_attention(branch)
        branch = self.mlp(self.norm_before_mlp(tokens))
        return tokens + self.norm_after_mlp(branch)


class PatchMerge(nn.Module):
    """Tokens [B, N, C] to [B, N / 4, 2C], into the window order of the next stage.

    Args:
        order: Puts the four neighbours of each merged token next to each other.
        linear: From 4C to 2C.
        norms: LayerNorms before and after the linear layer; one of them is the identity.
        num_tokens: N / 4.
    """

    def __init__(
        self,
        *,
        order: nn.Module,
        linear: nn.Linear,
        norms: tuple[nn.Module, nn.Module],
        num_tokens: int,
    ) -> None:
        super().__init__()
        self.order = order
        self.norm_before, self.norm_after = norms
        self.linear = linear
        self.merged = (-1, num_tokens, linear.in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        merged = self.order(tokens).reshape(self.merged)
        return self.norm_after(self.linear(self.norm_before(merged)))


class Features(nn.Module):
    """Tokens [B, N, C] to their mean [B, C]; the order of the tokens does not matter."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class StageMap(nn.Module):
    """Tokens [B, N, C] in raster order to a feature map [B, C, H, W]."""

    def __init__(self, dim: int, resolution: int) -> None:
        super().__init__()
        self.shape = (-1, dim, resolution, resolution)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(self.shape)


class DeployModel(nn.Module):
    """Images [B, 3, H, W] to one output or several.

    Args:
        embed: Images to tokens.
        layers: Blocks and merges, in turn.
        taps: By number of layers passed: what turns the tokens there into an output.
    """

    def __init__(
        self, embed: nn.Module, layers: list[nn.Module], taps: dict[int, nn.Module]
    ) -> None:
        super().__init__()
        self.embed = embed
        self.layers = nn.ModuleList(layers)
        self.taps = nn.ModuleDict({str(passed): tap for passed, tap in taps.items()})

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        tokens = self.embed(images)
        outputs = []
        for passed, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens)
            if str(passed) in self.taps:
                outputs.append(self.taps[str(passed)](tokens))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
