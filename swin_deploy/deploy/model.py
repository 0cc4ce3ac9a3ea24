"""The deploy model: one architecture for every Swin family, over constants that ``fold`` computes.

It is inference only and export friendly: no einops, no ``torch.roll``, nothing dynamic but the
batch. Tokens stay in window order from the patch embedding to the last block, so that a shift or a
merge costs one ``index_select`` at most. They are [N, B, C], the batch behind the tokens, and slot
``p * num_windows + w`` holds place ``p`` of window ``w``: the windows and heads of the whole batch
then lie one stride apart, and TensorRT's fused attention reads and writes them where they are. The
spellings of reshapes, splits and contractions were chosen because TensorRT fuses them; another
spelling of the same mathematics may not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

Rectangle = tuple[int, int]  # rows and columns; this file needs nothing but PyTorch
SMALLEST_LENGTH = 1e-12  # of a query or key, as in torch.nn.functional.normalize


class Reorder(nn.Module):
    """Bring tokens [N, B, C] to another order with one gather.

    Args:
        index: [M], int64, with ``tokens[index]`` in the wanted order.
    """

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.index_select(0, self.index)


class MergeGather(Reorder):
    """Tokens [N, B, C] to [N / 4, B, 4, C], the four that one token is merged from.

    Args:
        index: [N], int64, which puts the four next to each other.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        merged = (len(self.index) // 4, 4, -1, tokens.shape[-1])
        return super().forward(tokens).reshape(merged).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to tokens [N, B, C] in window order, without a convolution.

    Args:
        linear: From the ``3 * patch_size**2`` values of a patch (channel, row, column) to C.
        resolution: Size of the token map.
        window_size: Window size of the first stage, in tokens.
        patch_size: Patch side, in pixels.
    """

    def __init__(
        self, linear: nn.Linear, *, resolution: Rectangle, window_size: Rectangle, patch_size: int
    ) -> None:
        super().__init__()
        self.linear = linear
        (rows, columns), (height, width) = resolution, window_size
        self.patch_shape: tuple[int, ...] = (
            *(-1, 3),
            *(rows // height, height, patch_size),
            *(columns // width, width, patch_size),
        )
        self.patches = (rows * columns, -1, 3 * patch_size**2)

    def forward(self, images: Tensor) -> Tensor:
        patches = images.reshape(self.patch_shape).permute(3, 6, 2, 5, 0, 1, 4, 7)
        return self.linear(patches.reshape(self.patches))


class NormalizePixels(nn.Module):
    """Pixels of 0 to 255 with channels last to the range that the model was trained on, in float32.

    Spelt as pictures are normalised outside, operation by operation, so that the result is the same
    to the bit: pixels over ``levels``, minus the mean, over the deviation.

    Args:
        levels: Number of pixel levels in one unit, 1 over the factor of the preprocessing.
        mean: [3], what is subtracted of each channel.
        std: [3], what it is divided by then.
    """

    keep_float32 = True  # a mean of 0.485 * 255 has more digits than float16 keeps
    mean: Tensor
    std: Tensor

    def __init__(self, levels: float, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / self.levels - self.mean.float()) / self.std.float()


class PixelPatchEmbed(PatchEmbed):
    """Pixels [B, H, W, 3], uint8, to tokens [N, B, C] in window order.

    TensorRT runs the normalisation in the kernel that cuts the image into patches, which then reads
    a quarter of the bytes.

    Args:
        embed: The same for images that are normalised already; its layer is shared.
        normalize: What brings pixels to the range of those images.
    """

    def __init__(self, embed: PatchEmbed, normalize: NormalizePixels) -> None:
        nn.Module.__init__(self)
        self.normalize = normalize
        self.linear = embed.linear
        batch, channels, *axes = embed.patch_shape
        self.patch_shape = (batch, *axes, channels)
        self.patches = embed.patches

    def forward(self, pixels: Tensor) -> Tensor:
        images = self.normalize(pixels).to(self.linear.weight.dtype)
        # [B, grid, window, patch, grid, window, patch, 3] to place, window, batch, and the patch as
        # channel, row, column
        patches = images.reshape(self.patch_shape).permute(2, 5, 1, 4, 0, 7, 3, 6)
        return self.linear(patches.reshape(self.patches))


class CosineNormalize(nn.Module):
    """Scale heads [..., num_heads, d] to length ``scale``, in float32 whatever the precision.

    In float16 the squares can overflow, and the smallest length that is told from 0 is 0 itself.
    The lengths have an input of their own: where both are one tensor, TensorRT keeps its float32
    values for both uses, and moves them through memory twice.

    Args:
        scale: [num_heads, 1].
    """

    keep_float32 = True  # read by exporters: these nodes stay float32 in a float16 graph
    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())

    def forward(self, heads: Tensor, same_heads: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(same_heads.float(), dim=-1, keepdim=True)
        unit = self.scale.float() / length.clamp(min=SMALLEST_LENGTH)
        return (heads.float() * unit).to(heads.dtype)


class SplitHeads(nn.Module):
    """Take q, k and v, [n, num_windows * B, num_heads, d] each, from [N, B, 3C].

    One head comes as [n, num_windows, B, d]: TensorRT-RTX 1.7.1 does not fuse attention over a
    single head when the batch is dynamic; with images in the place of heads it does.

    Args:
        num_heads: Heads of each of the three.
        head_dim: d, channels of a head.
        windows: Windows of an image, and n, tokens of a window.
    """

    def __init__(self, num_heads: int, head_dim: int, *, windows: tuple[int, int]) -> None:
        super().__init__()
        count, area = windows
        self.dim = num_heads * head_dim
        self.qkv_shape = (area, -1, num_heads, head_dim)
        if num_heads == 1:
            self.qkv_shape = (area, count, -1, head_dim)

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.reshape(self.qkv_shape) for part in torch.split(qkv, self.dim, dim=-1))


class SplitCosineHeads(SplitHeads):
    """``SplitHeads`` for V2: queries and keys of length one, queries times the temperature.

    Args:
        temperature: [num_heads, 1, 1].
        head_dim: d, channels of a head.
        windows: Windows of an image, and n, tokens of a window.
    """

    def __init__(self, temperature: Tensor, head_dim: int, *, windows: tuple[int, int]) -> None:
        num_heads = len(temperature)
        super().__init__(num_heads, head_dim, windows=windows)
        scale = torch.cat((temperature, torch.ones_like(temperature)))
        self.normalize = CosineNormalize(scale.squeeze(-1))
        self.num_heads = num_heads
        self.heads = (windows[1], -1, 3 * num_heads, head_dim)
        self.query_key = (windows[1], -1, 2 * num_heads, head_dim)

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        parts = [2 * self.num_heads, self.num_heads]
        query_key, value = torch.split(qkv.reshape(self.heads), parts, dim=2)
        same = qkv[..., : 2 * self.dim].reshape(self.query_key)
        query, key = torch.split(self.normalize(query_key, same), self.num_heads, dim=2)
        return tuple(part.reshape(self.qkv_shape) for part in (query, key, value))


class PositionBias(nn.Module):
    """Add a position bias to scores [num_windows * B, num_heads, n, n].

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
        table: [num_heads, offsets]; see ``relative_position_index``.
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
    """Add a mask that differs by window to scores [num_windows * B, num_heads, n, n].

    One mask for all heads and, shared, for all blocks of a stage; TensorRT fuses both views.

    Args:
        mask: [num_windows, 1, 1, n, n].
        num_heads: Attention heads.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.by_window = (len(mask), -1, num_heads, *mask.shape[3:])
        self.flat = (-1, num_heads, *mask.shape[3:])

    def forward(self, scores: Tensor) -> Tensor:
        return (scores.reshape(self.by_window) + self.mask).reshape(self.flat)


class WindowAttention(nn.Module):
    """Self-attention inside windows, over tokens [N, B, C] in window order.

    Args:
        qkv: From C to 3C, rows q, k, v, each by head and channel; the score scale is in q. Without
            a bias, one product of three batches writes q, k and v where attention reads them.
        proj: From C, by head and channel, to C.
        bias: What is added to the scores: a position bias, a ``WindowMask``, or both in turn.
        heads: ``SplitHeads``, or V2's ``SplitCosineHeads``.
        num_tokens: N, tokens of an image.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        proj: nn.Linear,
        *,
        bias: nn.Module,
        heads: SplitHeads,
        num_tokens: int,
    ) -> None:
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.heads = heads
        self.bias = bias
        self.tokens = (num_tokens, -1, proj.in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.heads(self.qkv(tokens))
        scores = self.bias(torch.einsum("qbhd,kbhd->bhqk", query, key))
        mixed = torch.einsum("bhqk,kbhd->qbhd", scores.softmax(dim=-1), value)
        return self.proj(mixed.reshape(self.tokens))


class SwinBlock(nn.Module):
    """Compute ``x + attention(x)``, then ``x + mlp(x)``, over tokens [N, B, C].

    Parts that a family does not have are ``nn.Identity``.

    Args:
        reorder_before: Gather into this block's window order, or the identity.
        reorder_after: Gather into the next layer's token order. Only post-norm blocks (V2) have
            one: TensorRT fuses gather, norm and sum when the gather comes first.
        reorder_branch: Extra gather on the attention branch alone. The notebook rolls the branch
            forward and back by different amounts.
        attention: ``WindowAttention``.
        mlp: From C to C.
        norms: LayerNorms before attention, after attention, before the MLP, after the MLP.
    """

    def __init__(
        self,
        *,
        reorder_before: nn.Module,
        reorder_after: nn.Module,
        reorder_branch: nn.Module,
        attention: WindowAttention,
        mlp: nn.Sequential,
        norms: tuple[nn.Module, nn.Module, nn.Module, nn.Module],
    ) -> None:
        super().__init__()
        self.reorder_before = reorder_before
        self.reorder_after = reorder_after
        self.reorder_branch = reorder_branch
        self.attention = attention
        self.mlp = mlp
        self.norm_before_attention, self.norm_after_attention = norms[:2]
        self.norm_before_mlp, self.norm_after_mlp = norms[2:]

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.reorder_before(tokens)
        branch = self.attention(self.norm_before_attention(self.reorder_branch(tokens)))
        tokens = tokens + self.norm_after_attention(branch)
        branch = self.mlp(self.norm_before_mlp(tokens))
        return self.reorder_after(tokens) + self.norm_after_mlp(self.reorder_after(branch))


class PatchMerge(nn.Module):
    """Tokens [N, B, C] to [N / 4, B, 2C], into the window order of the next stage.

    Args:
        reorder_before: ``MergeGather``, or the identity where the block before leaves them so.
        linear: From 4C to 2C.
        norms: LayerNorms before and after the linear layer; one of them is the identity.
        num_tokens: N / 4.
    """

    def __init__(
        self,
        *,
        reorder_before: nn.Module,
        linear: nn.Linear,
        norms: tuple[nn.Module, nn.Module],
        num_tokens: int,
    ) -> None:
        super().__init__()
        self.reorder_before = reorder_before
        self.norm_before, self.norm_after = norms
        self.linear = linear
        self.merged = (num_tokens, -1, linear.in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        merged = self.reorder_before(tokens).reshape(self.merged)
        return self.norm_after(self.linear(self.norm_before(merged)))


class Features(nn.Module):
    """Tokens [N, B, C] to their mean [B, C]; the order of the tokens does not matter."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=0)


class BatchFirst(nn.Module):
    """Tokens [N, B, C] to [B, N, C]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(0, 1)


class StageMap(nn.Module):
    """Tokens [N, B, C] in raster order to a feature map [B, C, H, W]."""

    def __init__(self, dim: int, resolution: Rectangle) -> None:
        super().__init__()
        self.shape = (-1, dim, *resolution)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.permute(1, 2, 0).reshape(self.shape)


class DeployModel(nn.Module):
    """Images [B, 3, H, W] to one output or several.

    Args:
        embed: Cut into patches, and what follows it: images to tokens.
        layers: Blocks and merges, in turn.
        heads: Modules that turn tokens into an output, by number of layers passed.
    """

    def __init__(
        self, embed: nn.Sequential, layers: list[nn.Module], heads: dict[int, nn.Module]
    ) -> None:
        super().__init__()
        self.embed = embed
        self.layers = nn.ModuleList(layers)
        self.heads = nn.ModuleDict({str(passed): head for passed, head in heads.items()})

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        tokens = self.embed(images)
        outputs = []
        for passed, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens)
            if str(passed) in self.heads:
                outputs.append(self.heads[str(passed)](tokens))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
