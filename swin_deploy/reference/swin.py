"""Swin Transformer, "Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.

Readable and trainable; parameter names are those of the authors' code (microsoft/Swin-Transformer,
models/swin_transformer.py). ``swin_v2`` changes the block, its attention and the merge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from swin_deploy.config import Size, StageSpec, SwinConfig, hidden_channels
from swin_deploy.config.sizes import NONE
from swin_deploy.config.windows import offsets, relative_position_index, shifted_window_mask
from swin_deploy.reference.parts import StochasticDepth, drop_path_rates

DROP_PATH = 0.1  # of the last block; the authors use 0.1 to 0.5 by size
MASKED = -100.0  # as the authors' code: added to the scores of tokens that must not meet
GRID = "b (gh wh) (gw ww) c -> (b gh gw) (wh ww) c"
UNGRID = "(b gh gw) (wh ww) c -> b (gh wh) (gw ww) c"


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to tokens [B, H, W, C]."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        patch, dim = config.patch_size, config.embed_dim
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(rearrange(self.proj(images), "b c h w -> b h w c"))


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


class WindowAttention(nn.Module):
    """Attention inside windows [B * num_windows, window_area, C], with a table of position biases.

    Source: section 3.2 and equation 4 of the paper.
    """

    relative_position_index: Tensor

    def __init__(self, stage: StageSpec) -> None:
        super().__init__()
        self.num_heads = stage.num_heads
        self.scale = (stage.dim // stage.num_heads) ** -0.5
        self.qkv = nn.Linear(stage.dim, 3 * stage.dim)
        self.proj = nn.Linear(stage.dim, stage.dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(offsets(stage.window_size).area, stage.num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = relative_position_index(stage.window_size)
        self.register_buffer("relative_position_index", index, persistent=False)

    def position_bias(self) -> Tensor:
        """Additive bias [num_heads, window_area, window_area]."""
        return rearrange(
            self.relative_position_bias_table[self.relative_position_index],
            "q k heads -> heads q k",
        )

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = rearrange(
            self.qkv(windows), "b n (qkv heads d) -> qkv b heads n d", qkv=3, heads=self.num_heads
        )
        scores = query * self.scale @ key.transpose(-1, -2) + self.position_bias()
        weights = add_mask(scores, mask).softmax(dim=-1)
        return self.proj(rearrange(weights @ value, "b heads n d -> b n (heads d)"))


def add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores [B * num_windows, heads, n, n] plus a mask [num_windows, n, n]."""
    if mask is None:
        return scores
    split = rearrange(scores, "(b w) heads q k -> b w heads q k", w=len(mask))
    return rearrange(split + mask[:, None], "b w heads q k -> (b w) heads q k")


class SwinBlock(nn.Module):
    """Attention on windows, shifted or not, then an MLP; each normalised before."""

    attention: type[nn.Module] = WindowAttention
    attn_mask: Tensor | None

    def __init__(
        self, config: SwinConfig, stage: StageSpec, *, shift: Size, drop_path: float
    ) -> None:
        super().__init__()
        self.window_size = stage.window_size
        self.shift_size = shift
        self.norm1 = nn.LayerNorm(stage.dim, eps=config.layer_norm_eps)
        self.attn = self.attention(stage)
        self.drop_path = StochasticDepth(drop_path)
        self.norm2 = nn.LayerNorm(stage.dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(stage.dim, hidden_channels(stage.dim, config.mlp_ratio))
        mask = shifted_window_mask(dataclasses.replace(stage, shift_size=shift), MASKED)
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self._attend(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        """Shift, cut into windows, attend, and put everything back."""
        (rows, columns), (height, width) = self.shift_size, self.window_size
        grid = tokens.shape[1] // height, tokens.shape[2] // width
        tokens = torch.roll(tokens, (-rows, -columns), dims=(1, 2))
        windows = rearrange(tokens, GRID, wh=height, ww=width)
        windows = self.attn(windows, self.attn_mask)
        tokens = rearrange(windows, UNGRID, gh=grid[0], gw=grid[1], wh=height, ww=width)
        return torch.roll(tokens, (rows, columns), dims=(1, 2))


class PatchMerging(nn.Module):
    """Tokens [B, H, W, C] to [B, H / 2, W / 2, 2C], normalised before the linear layer."""

    def __init__(self, config: SwinConfig, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(self.norm_dim(dim), eps=config.layer_norm_eps)

    @staticmethod
    def norm_dim(dim: int) -> int:
        """Channels that the norm sees."""
        return 4 * dim

    def forward(self, tokens: Tensor) -> Tensor:
        return self.reduction(self.norm(merge_neighbours(tokens)))


def merge_neighbours(tokens: Tensor) -> Tensor:
    """Concatenate 2 x 2 neighbours column by column, [B, H, W, C] to [B, H / 2, W / 2, 4C]."""
    return rearrange(tokens, "b (h s1) (w s2) c -> b h w (s2 s1 c)", s1=2, s2=2)


class BasicLayer(nn.Module):
    """The blocks of one stage, every second one shifted, and the merge behind it."""

    def __init__(
        self,
        config: SwinConfig,
        stage: StageSpec,
        *,
        kinds: tuple[type[nn.Module], type[nn.Module]],
        drop_paths: list[float],
        last: bool,
    ) -> None:
        super().__init__()
        block, merging = kinds
        self.blocks = nn.ModuleList(
            block(config, stage, shift=stage.shift_size if index % 2 else NONE, drop_path=rate)
            for index, rate in enumerate(drop_paths)
        )
        self.downsample = None if last else merging(config, stage.dim)


class SwinTransformer(nn.Module):
    """Images [B, 3, H, W] to what ``config.output`` asks for.

    ``norm`` is absent where nothing uses it: stage outputs, or encoders without a final norm.
    ``norm0``, ``norm1``, ... normalise the maps that are given, where ``config.stage_norms``.
    """

    kinds: tuple[type[nn.Module], type[nn.Module]] = (SwinBlock, PatchMerging)

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        rates = drop_path_rates(config.depths, DROP_PATH)
        stages = config.stages
        self.layers = nn.ModuleList(
            BasicLayer(
                config,
                stage,
                kinds=self.kinds,
                drop_paths=rates[index],
                last=index == len(stages) - 1,
            )
            for index, stage in enumerate(stages)
        )
        self.norm: nn.Module = nn.Identity()
        if config.final_norm:
            self.norm = nn.LayerNorm(stages[-1].dim, eps=config.layer_norm_eps)
        for index in config.shown_stages if config.stage_norms else ():
            norm = nn.LayerNorm(stages[index].dim, eps=config.layer_norm_eps)
            self.add_module(f"norm{index}", norm)
        self.head: nn.Module = nn.Identity()
        if config.num_classes:
            self.head = nn.Linear(stages[-1].dim, config.num_classes)
        self.apply(_initialise)

    def parts(self) -> Iterator[tuple[list[SwinBlock], PatchMerging | None]]:
        """The blocks of each stage, and the merge behind them; None behind the last."""
        for layer in self.layers:
            if isinstance(layer, BasicLayer):
                blocks = [block for block in layer.blocks if isinstance(block, SwinBlock)]
                merge = layer.downsample
                yield blocks, merge if isinstance(merge, PatchMerging) else None

    def stage_tokens(self, images: Tensor) -> list[Tensor]:
        """Tokens [B, H, W, C] behind each stage's blocks, before its merge."""
        tokens = self.patch_embed(images)
        found = []
        for blocks, merge in self.parts():
            for block in blocks:
                tokens = block(tokens)
            found.append(tokens)
            if merge is not None:
                tokens = merge(tokens)
        return found

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What ``config.output`` describes."""
        stages = self.stage_tokens(images)
        output = self.config.output_name
        if output == "stages":
            return tuple(self._stage_map(i, stages[i]) for i in self.config.shown_stages)
        tokens = self.norm(stages[-1])
        if output == "tokens":
            return rearrange(tokens, "b h w c -> b (h w) c")
        features = reduce(tokens, "b h w c -> b c", "mean")
        return features if output == "features" else self.head(features)

    def _stage_map(self, index: int, tokens: Tensor) -> Tensor:
        if self.config.stage_norms:
            tokens = self.get_submodule(f"norm{index}")(tokens)
        return rearrange(tokens, "b h w c -> b c h w")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
