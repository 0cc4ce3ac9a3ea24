"""The notebook's Swin Transformer, with its habits kept so that its checkpoints keep their numbers.

It differs from the paper (arXiv 2103.14030) in these habits, each named where it happens:

1. ReLU after the embedding's LayerNorm.
2. Patch merging normalises after its linear layer, which has a bias.
3. ``proj1`` interleaves q, k and v: output channel ``c * 3 + K``.
4. The shift goes back by one token less than it went: the branch comes back displaced.
5. The mask covers the rows and columns of the way back, not those that were rolled in.
6. One frozen position table, shared by all heads.
7. One LayerNorm for both branches of a block.
8. Blocks whose single window covers the map are shifted and masked all the same.
9. No final norm; no pooling and no classifier unless the config asks for classes.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from swin_deploy.config import StageSpec, SwinConfig
from swin_deploy.reference.activations import activation
from swin_deploy.reference.parts import StochasticDepth, drop_path_rates

STOCHASTIC_DEPTH = 0.2  # of the last block; grows linearly from 0
DROPOUT = 0.1


class SwinEmbedding(nn.Module):
    """The embedding of images [B, 3, H, W] as tokens [B, N, C] in raster order."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.linear_embedding = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.layer_norm = nn.LayerNorm(embed_dim)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        tokens = rearrange(self.linear_embedding(images), "b c h w -> b (h w) c")
        return self.relu(self.layer_norm(tokens))  # habit 1


class PatchMerging(nn.Module):
    """The merge of tokens [B, N, C] to [B, N / 4, 2C].

    Args:
        dim: Number of channels before the merge, C.
        rows: Number of rows of the merged map, in tokens.
    """

    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.linear_layer = nn.Linear(4 * dim, 2 * dim)
        self.layer_norm = nn.LayerNorm(2 * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        merged = rearrange(tokens, "b (h s1 w s2) c -> b (h w) (s2 s1 c)", h=self.rows, s1=2, s2=2)
        return self.layer_norm(self.linear_layer(merged))  # habit 2


class RelativeEmbeddings(nn.Module):
    """One frozen table [window_area, window_area], added to the scores of every head (habit 6)."""

    def __init__(self, window_size: int) -> None:
        super().__init__()
        offsets = torch.randn(2 * window_size - 1, 2 * window_size - 1)
        # The row index steps by 1 / window_size and is cut to an integer from floats; negative
        # differences count from the end of the offsets.
        rows = torch.arange(1, window_size + 1, 1 / window_size)[: window_size**2]
        columns = torch.arange(1, window_size + 1).repeat(window_size)
        row_index = (rows[None, :] - rows[:, None]).int()
        column_index = columns[None, :] - columns[:, None]
        self.embeddings = nn.Parameter(offsets[row_index, column_index], requires_grad=False)

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.embeddings


class ShiftedWindowMSA(nn.Module):
    """Self-attention inside windows, over tokens [B, N, C] in raster order.

    Args:
        stage: The stage, with its token map, windows and heads.
        mask: Whether windows are shifted and masked.
    """

    def __init__(self, stage: StageSpec, mask: bool) -> None:
        super().__init__()
        dim, num_heads = stage.dim, stage.num_heads
        self.num_heads = num_heads
        self.rows = stage.resolution.rows
        self.window_size = stage.window_size.rows  # a square
        self.mask = mask
        self.scale = (dim // num_heads) ** -0.5
        self.proj1 = nn.Linear(dim, 3 * dim)
        self.proj2 = nn.Linear(dim, dim)
        self.embeddings = RelativeEmbeddings(self.window_size)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = rearrange(self.proj1(tokens), "b (h w) c -> b h w c", h=self.rows)
        if self.mask:
            forth = -(-self.window_size // 2)  # habit 4: half a window, rounded up
            qkv = torch.roll(qkv, (-forth, -forth), dims=(1, 2))  # [B, H, W, 3C], up and left
        query, key, value = rearrange(  # [B, H, W, 3C] -> [B, h, gh, gw, n, d] each
            qkv,
            "b (gh wh) (gw ww) (heads d qkv) -> qkv b heads gh gw (wh ww) d",  # habit 3
            wh=self.window_size,
            ww=self.window_size,
            heads=self.num_heads,
            qkv=3,
        )
        # [B, h, gh, gw, n, d] and [B, h, gh, gw, d, n] -> [B, h, gh, gw, n, n]
        scores = self.embeddings(query @ key.transpose(-1, -2) * self.scale)
        if self.mask:
            scores = scores + self._seam_mask(scores)
        mixed = rearrange(  # [B, h, gh, gw, n, d] -> [B, H, W, C]
            scores.softmax(dim=-1) @ value,
            "b heads gh gw (wh ww) d -> b (gh wh) (gw ww) (heads d)",
            wh=self.window_size,
        )
        if self.mask:
            back = self.window_size // 2  # habit 4: half a window, rounded down
            mixed = torch.roll(mixed, (back, back), dims=(1, 2))  # [B, H, W, C], down and right
        return self.proj2(rearrange(mixed, "b h w c -> b (h w) c"))  # [B, H, W, C] -> [B, N, C]

    def _seam_mask(self, scores: Tensor) -> Tensor:
        """Return the additive mask, [gh, gw, window_area, window_area] (habits 5 and 8)."""
        grid, area = scores.shape[2:4], scores.shape[-1]
        behind = torch.arange(area, device=scores.device) >= area - self.window_size * (
            self.window_size // 2
        )
        rows_apart = behind[:, None] != behind[None, :]
        columns_apart = rearrange(  # [n, n], rows and columns of the window swapped
            rows_apart, "(r w1) (c w2) -> (w1 r) (w2 c)", w1=self.window_size, w2=self.window_size
        )
        mask = scores.new_zeros(*grid, area, area)
        mask[-1, :] += scores.new_zeros(area, area).masked_fill(rows_apart, -math.inf)
        mask[:, -1] += scores.new_zeros(area, area).masked_fill(columns_apart, -math.inf)
        return mask


class SwinEncoderBlock(nn.Module):
    """An attention branch, then an MLP branch, after one shared LayerNorm (habit 7)."""

    def __init__(
        self, config: SwinConfig, stage: StageSpec, *, mask: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(stage.dim)
        self.stochastic_depth = StochasticDepth(drop_path)
        self.WMSA = ShiftedWindowMSA(stage, mask)
        layers = (nn.Linear(stage.dim, stage.hidden), nn.Linear(stage.hidden, stage.dim))
        between = activation(config.activation)
        self.MLP = nn.Sequential(layers[0], between, nn.Dropout(DROPOUT), layers[1])
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.stochastic_depth(self.WMSA(self.layer_norm(tokens)))
        return tokens + self.stochastic_depth(self.MLP(self.layer_norm(tokens)))


class AlternatingEncoderBlock(nn.Module):
    """A block on plain windows, then one on shifted windows."""

    def __init__(
        self, config: SwinConfig, stage: StageSpec, drop_paths: tuple[float, float]
    ) -> None:
        super().__init__()
        self.WSA = SwinEncoderBlock(config, stage, mask=False, drop_path=drop_paths[0])
        self.SWSA = SwinEncoderBlock(config, stage, mask=True, drop_path=drop_paths[1])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.SWSA(self.WSA(tokens))


class NotebookSwin(nn.Module):
    """The notebook's ``SwinTransformer``, from images [B, 3, H, W] to tokens or to logits.

    Parameter names are those of a saved notebook checkpoint. The notebook has no ``head``: it is
    added when ``config.num_classes`` is not 0. The model runs on any device.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.Embedding = SwinEmbedding(config.patch_size, config.embed_dim)
        self.stages = nn.ModuleList()
        rates = drop_path_rates(config.depths, STOCHASTIC_DEPTH)
        for index, stage in enumerate(config.stages):
            if index:
                self.stages.append(PatchMerging(stage.dim // 2, stage.resolution.rows))
            for block in range(0, stage.depth, 2):
                pair = (rates[index][block], rates[index][block + 1])
                self.stages.append(AlternatingEncoderBlock(config, stage, pair))
        self.head: nn.Module | None = None
        if config.num_classes:
            self.head = nn.Linear(config.stages[-1].dim, config.num_classes)

    def ends_stage(self, entry: nn.Module) -> bool:
        """Return whether a merge, or nothing, follows this entry of ``stages``."""
        entries = list(self.stages)
        following = entries.index(entry) + 1
        return following == len(entries) or isinstance(entries[following], PatchMerging)

    def stage_tokens(self, images: Tensor) -> list[Tensor]:
        """Return the tokens [B, N, C], in raster order, after the blocks of each stage."""
        tokens = self.Embedding(images)
        found = []
        for entry in self.stages:
            tokens = entry(tokens)
            if self.ends_stage(entry) and not isinstance(entry, PatchMerging):
                found.append(tokens)
        return found

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output that ``config.output`` names; by default logits or tokens (habit 9).

        Args:
            images: Normalised images, [B, 3, H, W].
        """
        stages = self.stage_tokens(images)
        output = self.config.output_name
        if output == "stages":
            rows = [stage.resolution.rows for stage in self.config.stages]
            return tuple(
                rearrange(stages[index], "b (h w) c -> b c h w", h=rows[index])  # [B, C, H, W]
                for index in self.config.shown_stages
            )
        if output == "tokens":
            return stages[-1]
        features = reduce(stages[-1], "b n c -> b c", "mean")  # [B, N, C] -> [B, C]
        return features if output == "features" or self.head is None else self.head(features)
