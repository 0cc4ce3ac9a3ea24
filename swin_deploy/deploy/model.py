"""The deploy model: one architecture for every Swin family, with constants that ``fold`` computes.

It is inference only and export friendly: no einops, no ``torch.roll``, nothing dynamic but the
batch. Tokens stay in window order from the patch embedding to the last block, so that a shift or a
merge costs one ``index_select`` at most. They are [N, B, C], the batch after the tokens, and slot
``p * num_windows + w`` has place ``p`` of window ``w``: the windows and heads of the whole batch
then lie one stride apart, and TensorRT's fused attention reads and writes them where they are. The
spellings of reshapes, splits and contractions were chosen because TensorRT fuses them; it may not
fuse another spelling of the same mathematics.

Letters in shapes: B images, N tokens of an image, C channels, H and W rows and columns, nW windows
of an image, n tokens of a window, h heads, d channels of a head; in a patch embedding I are the
channels of an image, p is the side of a patch, gh and gw are the rows and columns of windows, wh
and ww those of tokens in a window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

Rectangle = tuple[int, int]  # rows and columns; this file needs nothing but PyTorch
SMALLEST_LENGTH = 1e-12  # of a query or key, as in torch.nn.functional.normalize


class Reorder(nn.Module):
    """A gather that brings tokens [N, B, C] to another order.

    Args:
        index: The gather index, [N], int64, with ``tokens[index]`` in the wanted order.
    """

    axis = 0  # of the tokens
    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.index_select(self.axis, self.index)


class TokenMask(nn.Module):
    """The zeroing of pads among tokens [N, B, C], or [N, B, 4, C] before a merge.

    Args:
        kept: Factor of each token, 1 or 0 for a pad, [N, 1, 1] or [N, 1, 4, 1].
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.kept


class MergeGather(Reorder):
    """A gather from tokens [N, B, C] to [M, B, 4, C]: the four that each token is merged from.

    Args:
        index: The gather index, [4 * M], int64, which puts the four next to each other.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        merged = (len(self.index) // 4, 4, -1, tokens.shape[-1])
        return super().forward(tokens).reshape(merged).transpose(1, 2)  # -> [M, B, 4, C]


class PatchEmbed(nn.Module):
    """The embedding of images [B, I, H, W] as tokens [N, B, C] in window order.

    It has a linear layer in the place of the convolution.

    Args:
        linear: Linear layer from the ``I * patch_size**2`` values of a patch (channel, row,
            column) to C channels.
        resolution: Size of the token map, in tokens.
        window_size: Window size of the first stage, in tokens; (1, 1) for tokens row by row.
        patch_size: Patch side, in pixels.
        image_size: Rows and columns of an image, in pixels. Those past whole patches are cropped,
            or zeros complete them, to the patches of ``resolution``.
    """

    def __init__(
        self,
        linear: nn.Linear,
        *,
        resolution: Rectangle,
        window_size: Rectangle,
        patch_size: int,
        image_size: Rectangle,
    ) -> None:
        super().__init__()
        self.linear = linear
        (rows, columns), (height, width) = resolution, window_size
        channels = linear.in_features // patch_size**2
        self.patch_shape: tuple[int, ...] = (
            *(-1, channels),
            *(rows // height, height, patch_size),
            *(columns // width, width, patch_size),
        )
        self.axes: tuple[int, ...] = (3, 6, 2, 5, 0, 1, 4, 7)
        self.patches: tuple[int, ...] = (rows * columns, -1, linear.in_features)
        more_rows, more_columns = (
            tokens * patch_size - side for tokens, side in zip(resolution, image_size, strict=True)
        )
        self.pads: tuple[int, ...] = (0, max(more_columns, 0), 0, max(more_rows, 0))
        self.used = rows * patch_size, columns * patch_size
        self.crops = min(more_rows, more_columns) < 0

    def forward(self, images: Tensor) -> Tensor:
        if self.crops:
            images = images[:, :, : self.used[0], : self.used[1]]  # [B, I, H, W]
        if any(self.pads):
            images = nn.functional.pad(images, self.pads)
        # [B, I, H, W] -> [B, I, gh, wh, p, gw, ww, p] -> [wh, ww, gh, gw, B, I, p, p]
        patches = images.reshape(self.patch_shape).permute(self.axes)
        return self.linear(patches.reshape(self.patches))  # [N, B, I * p * p] -> [N, B, C]


class NormalizePixels(nn.Module):
    """The normalisation of pixels [..., I] of 0 to 255 to the range of training, in float32.

    The operations are the ones that normalise a picture outside the model, in the same order, so
    that the results are equal to the bit: pixels over ``levels``, minus the mean, over the
    deviation.

    Args:
        levels: Number of pixel levels in one unit, 1 over the factor of the preprocessing.
        mean: Values subtracted from the channels, [I].
        std: Values that the channels are divided by after that, [I].
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
    """The embedding of pixels [B, H, W, I], uint8, as tokens [N, B, C] in window order.

    TensorRT runs the normalisation in the kernel that cuts the image into patches, which then reads
    a quarter of the bytes.

    Args:
        embed: The embedding of normalised images; its linear layer is shared.
        normalize: The normalisation that brings pixels to the range of those images.
    """

    def __init__(self, embed: PatchEmbed, normalize: NormalizePixels) -> None:
        nn.Module.__init__(self)
        self.normalize = normalize
        self.linear = embed.linear
        batch, channels, *axes = embed.patch_shape
        self.patch_shape = (batch, *axes, channels)
        # [B, I, gh, wh, p, gw, ww, p] -> [B, gh, wh, p, gw, ww, p, I]
        self.axes = tuple((0, 7, *range(1, 7))[axis] for axis in embed.axes)
        self.patches = embed.patches
        self.pads = (0, 0, *embed.pads)
        self.used, self.crops = embed.used, embed.crops

    def forward(self, pixels: Tensor) -> Tensor:
        if self.crops:
            pixels = pixels[:, : self.used[0], : self.used[1]]  # [B, H, W, I]
        images = self.normalize(pixels).to(self.linear.weight.dtype)
        if any(self.pads):
            images = nn.functional.pad(images, self.pads)
        # [B, H, W, I] -> [B, gh, wh, p, gw, ww, p, I] -> [wh, ww, gh, gw, B, I, p, p]
        patches = images.reshape(self.patch_shape).permute(self.axes)
        return self.linear(patches.reshape(self.patches))  # [N, B, I * p * p] -> [N, B, C]


class CosineNormalize(nn.Module):
    """The scaling of vectors [..., d] to length ``scale``, in float32 in every precision.

    In float16 the squares can overflow, and ``SMALLEST_LENGTH`` rounds to 0. The lengths have an
    input of their own: where both inputs are one tensor, TensorRT keeps its float32 values for both
    uses, and moves them through memory twice.

    Args:
        scale: The length of each head, [num_heads, 1], or [num_heads, 1, 1] before tokens.
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
    """The split of [N, B, 3C] into q, k and v, [n, num_windows * B, num_heads, d] each.

    A single head comes as [n, num_windows, B, d]: TensorRT-RTX 1.7.1 does not fuse attention over
    a single head when the batch is dynamic; with images in the place of heads it does.

    Args:
        num_heads: Number of heads of each of the three.
        head_dim: Number of channels of a head, d.
        windows: Number of windows of an image, and number of tokens of a window, n.
    """

    def __init__(self, num_heads: int, head_dim: int, *, windows: tuple[int, int]) -> None:
        super().__init__()
        count, area = windows
        self.num_heads, self.windows = num_heads, windows
        self.dim = num_heads * head_dim
        self.qkv_shape: tuple[int, ...] = (area, -1, num_heads, head_dim)
        if num_heads == 1:
            self.qkv_shape = (area, count, -1, head_dim)

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        # [N, B, 3C] -> three of [N, B, C] -> three of [n, nW * B, h, d]; one head: [n, nW, B, d]
        return tuple(part.reshape(self.qkv_shape) for part in torch.split(qkv, self.dim, dim=-1))


class SplitCosineHeads(SplitHeads):
    """``SplitHeads`` for V2: queries and keys of length one, queries times the temperature.

    Args:
        temperature: Factor of the cosine similarities, [num_heads, 1, 1].
        head_dim: Number of channels of a head, d.
        windows: Number of windows of an image, and number of tokens of a window, n.
    """

    def __init__(self, temperature: Tensor, head_dim: int, *, windows: tuple[int, int]) -> None:
        num_heads = len(temperature)
        super().__init__(num_heads, head_dim, windows=windows)
        scale = torch.cat((temperature, torch.ones_like(temperature)))
        self.normalize = CosineNormalize(scale.squeeze(-1))
        self.heads = (windows[1], -1, 3 * num_heads, head_dim)
        self.query_key = (windows[1], -1, 2 * num_heads, head_dim)

    def forward(self, qkv: Tensor) -> tuple[Tensor, ...]:
        parts = [2 * self.num_heads, self.num_heads]
        # [N, B, 3C] -> [n, nW * B, 3h, d] -> [n, nW * B, 2h, d] and [n, nW * B, h, d]
        query_key, value = torch.split(qkv.reshape(self.heads), parts, dim=2)
        same = qkv[..., : 2 * self.dim].reshape(self.query_key)  # [N, B, 2C] -> [n, nW * B, 2h, d]
        # [n, nW * B, 2h, d] -> two of [n, nW * B, h, d]
        query, key = torch.split(self.normalize(query_key, same), self.num_heads, dim=2)
        # [n, nW * B, h, d]; one head: [n, nW, B, d]
        return tuple(part.reshape(self.qkv_shape) for part in (query, key, value))


class PositionBias(nn.Module):
    """A position bias that is added to scores [num_windows * B, num_heads, n, n].

    The scores of a single head are [num_windows, B, n, n]; see ``SplitHeads``.

    Args:
        bias: Additive constant, [1, num_heads, n, n], the same for every window; for a single head
            of shifted windows [num_windows, 1, n, n], with their mask.
    """

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.bias


class GatheredPositionBias(nn.Module):
    """``PositionBias`` of a large window, gathered from its table in every call.

    The bias of a window of 16 x 16 tokens has 68 times the values of its table. TensorRT-RTX 1.7.1
    does not fold this gather: it costs one small kernel a block, and halves the engine's size.

    Args:
        table: Position bias of each offset, [num_heads, offsets]; see ``relative_position_index``.
        index: Offset of each pair of tokens, [n * n], int64; blocks of the same window share it.
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
        # [h, offsets] -> [h, n * n] -> [1, h, n, n]
        return scores + self.table.index_select(1, self.index).reshape(self.shape)


class WindowMask(nn.Module):
    """A mask that differs by window and is added to scores [num_windows * B, num_heads, n, n].

    Two tokens must not meet where their rows lie on two sides of the seam, or their columns do: one
    mask for each row of windows and one for each column, instead of one for each window. All heads
    share them; TensorRT fuses the reshapes and the sums into the attention.

    Args:
        rows: Additive mask, [rows of windows, 1, 1, 1, n, n], or None if rows are not shifted.
        columns: Additive mask, [1, columns of windows, 1, 1, n, n], or None.
        num_heads: Number of attention heads.
        windows: Rows and columns of windows.
        exact: True for one mask's value where rows and columns both lie apart, False for two.
    """

    rows: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        rows: Tensor | None,
        columns: Tensor | None,
        *,
        num_heads: int,
        windows: Rectangle,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.exact = exact
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        area = self._parts()[0].shape[-1]
        self.windows = windows
        self.by_window = (*windows, -1, num_heads, area, area)
        self.flat = (-1, num_heads, area, area)

    def forward(self, scores: Tensor) -> Tensor:
        scores = scores.reshape(self.by_window)  # [nW * B, h, n, n] -> [gh, gw, B, h, n, n]
        for mask in [self._least()] if self.exact else self._parts():
            scores = scores + mask
        return scores.reshape(self.flat)  # [gh, gw, B, h, n, n] -> [nW * B, h, n, n]

    def by_windows(self) -> Tensor:
        """Return the mask of each window, [num_windows, 1, n, n]; masked pairs have one value."""
        area = self.flat[-1]
        shape = (*self.windows, 1, 1, area, area)
        total = self._least().expand(shape)
        return total.reshape(-1, 1, area, area)  # [gh, gw, 1, 1, n, n] -> [nW, 1, n, n]

    def _parts(self) -> list[Tensor]:
        return [mask for mask in (self.rows, self.columns) if mask is not None]

    def _least(self) -> Tensor:
        parts = self._parts()
        return parts[0] if len(parts) == 1 else torch.minimum(*parts)


class WindowAttention(nn.Module):
    """Self-attention inside windows, over tokens [N, B, C] in window order.

    Shapes in its comments are those of several heads; see ``SplitHeads`` for a single one.

    Args:
        qkv: Linear layer from C to 3C channels, rows q, k, v, each by head and channel; the score
            scale is in q. Without a bias, one product of three batches writes q, k and v where
            attention reads them.
        proj: Linear layer from C channels, by head and channel, to C.
        bias: Module that adds to the scores: a position bias, or a position bias and then a
            ``WindowMask``.
        heads: The ``SplitHeads``, or V2's ``SplitCosineHeads``.
        num_tokens: Number of tokens of an image, N.
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
        self.tokens: tuple[int, ...] = (num_tokens, -1, proj.in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.heads(self.qkv(tokens))  # [N, B, C] -> [n, nW * B, h, d] each
        scores = self.bias(torch.einsum("qbhd,kbhd->bhqk", query, key))  # [nW * B, h, n, n]
        mixed = torch.einsum("bhqk,kbhd->qbhd", scores.softmax(dim=-1), value)  # [n, nW * B, h, d]
        return self.proj(mixed.reshape(self.tokens))  # [n, nW * B, h, d] -> [N, B, C]

    def plain(self) -> WindowAttention:
        """Return the attention in this class's own spelling: itself, but for subclasses."""
        return self


class SwinBlock(nn.Module):
    """One block: ``x + attention(x)``, then ``x + mlp(x)``, over tokens [N, B, C].

    Parts that a family does not have are ``nn.Identity``.

    Args:
        reorder_before: Gather into this block's window order, or the identity.
        reorder_after: Gather into the next layer's token order. Only post-norm blocks (V2) have
            one: TensorRT fuses gather, norm and sum when the gather comes first. The output is
            [M, B, 4, C] if it is a ``MergeGather``.
        reorder_branch: Extra gather on the attention branch alone. The notebook rolls the branch
            forward and back by different amounts. Where windows hold pads and the stream does not,
            it puts them in, and ``norms`` take them out after the attention.
        mask_pads: Zeroing of the pads in the output, or the identity. Only post-norm blocks (V2)
            whose stream holds pads have one; others zero them after the norm before attention.
        attention: The attention branch.
        mlp: The MLP, from C channels to C.
        norms: LayerNorms before attention, after attention, before the MLP, after the MLP.
    """

    def __init__(  # noqa: PLR0913 - the parts of a block, by name
        self,
        *,
        reorder_before: nn.Module,
        reorder_after: nn.Module,
        reorder_branch: nn.Module,
        attention: WindowAttention,
        mlp: nn.Sequential,
        norms: tuple[nn.Module, nn.Module, nn.Module, nn.Module],
        mask_pads: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.reorder_before = reorder_before
        self.reorder_after = reorder_after
        self.reorder_branch = reorder_branch
        self.attention = attention
        self.mlp = mlp
        self.mask_pads = nn.Identity() if mask_pads is None else mask_pads
        self.norm_before_attention, self.norm_after_attention = norms[:2]
        self.norm_before_mlp, self.norm_after_mlp = norms[2:]

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.reorder_before(tokens)
        branch = self.attention(self.norm_before_attention(self.reorder_branch(tokens)))
        tokens = tokens + self.norm_after_attention(branch)
        branch = self.mlp(self.norm_before_mlp(tokens))
        return self.mask_pads(
            self.reorder_after(tokens) + self.norm_after_mlp(self.reorder_after(branch))
        )


class PatchMerge(nn.Module):
    """The merge of tokens [N, B, C] to [N / 4, B, 2C], in the window order of the next stage.

    Args:
        reorder_before: The ``MergeGather``, or the identity if the block before ends with it (V2).
        linear: Linear layer from 4C to 2C channels.
        norms: LayerNorms before and after the linear layer; one of them is the identity.
        num_tokens: Number of merged tokens of an image, N / 4.
        mask_pads: Zeroing of the neighbours that a map of odd sides lacks, or None.
    """

    def __init__(
        self,
        *,
        reorder_before: nn.Module,
        linear: nn.Linear,
        norms: tuple[nn.Module, nn.Module],
        num_tokens: int,
        mask_pads: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.reorder_before = reorder_before
        self.mask_pads = nn.Identity() if mask_pads is None else mask_pads
        self.norm_before, self.norm_after = norms
        self.linear = linear
        self.merged: tuple[int, ...] = (num_tokens, -1, linear.in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        four = self.mask_pads(self.reorder_before(tokens))  # [N, B, C] -> [N / 4, B, 4, C]
        merged = four.reshape(self.merged)  # -> [N / 4, B, 4C]
        return self.norm_after(self.linear(self.norm_before(merged)))


class AbsolutePositions(nn.Module):
    """The learned values of each place, added to the embedded tokens [N, B, C].

    Args:
        positions: Additive constant in the order of the tokens, [N, 1, C].
    """

    positions: Tensor

    def __init__(self, positions: Tensor) -> None:
        super().__init__()
        self.register_buffer("positions", positions)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.positions


class Features(nn.Module):
    """The mean [B, C] of tokens [N, B, C], in any order."""

    axis = 0  # of the tokens

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=self.axis)  # [N, B, C] -> [B, C]


class LargestFeatures(nn.Module):
    """The largest values [B, C] of tokens [N, B, C], in any order."""

    axis = 0  # of the tokens

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.amax(dim=self.axis)  # [N, B, C] -> [B, C]


class MixedFeatures(nn.Module):
    """Half the sum of the mean and the largest values [B, C] of tokens [N, B, C], in any order."""

    axis = 0  # of the tokens

    def forward(self, tokens: Tensor) -> Tensor:
        mean, largest = tokens.mean(dim=self.axis), tokens.amax(dim=self.axis)
        return (mean + largest) * 0.5  # [N, B, C] -> [B, C]


class BatchFirst(nn.Module):
    """The transposition of tokens [N, B, C] to [B, N, C]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(0, 1)  # [N, B, C] -> [B, N, C]


class StageMap(nn.Module):
    """The feature map [B, C, H, W] of tokens [N, B, C] in raster order.

    Rows and columns come first: TensorRT-RTX 1.7.1 builds no half-precision engine of a Gather and
    a transposition of its three axes if a whole model has the map as an output and reads it, too.

    Args:
        dim: Number of channels, C.
        resolution: Size of the token map, [H, W].
    """

    def __init__(self, dim: int, resolution: Rectangle) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = (*resolution, -1, dim)
        self.axes = (2, 3, 0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = tokens.reshape(self.shape)  # [N, B, C] -> [H, W, B, C]
        return rows.permute(self.axes)  # [H, W, B, C] -> [B, C, H, W]


class DeployModel(nn.Module):
    """A Swin Transformer from images [B, I, H, W] to one output or several.

    Args:
        embed: Patch embedding, norm, and the notebook's ReLU or ``AbsolutePositions``, if the model
            has them: images to tokens [N, B, C].
        layers: Blocks and merges, in the order they are run.
        heads: Modules that turn tokens into an output, by the number of layers run before.
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
