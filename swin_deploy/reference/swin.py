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
from torch.nn import functional as F

from swin_deploy.config import Size, StageSpec, SwinConfig
from swin_deploy.config.activations import Activation
from swin_deploy.config.sizes import NONE
from swin_deploy.config.swin import Pool
from swin_deploy.config.windows import offsets, relative_position_index, shifted_window_mask
from swin_deploy.reference.activations import activation
from swin_deploy.reference.head import build_head
from swin_deploy.reference.parts import StochasticDepth, drop_path_rates

DROP_PATH = 0.1  # of the last block; the authors use 0.1 to 0.5 by size
MASKED = -100.0  # the authors' constant, added to the scores of tokens that must not meet
# A token map [B, H, W, C] to windows [B * nW, n, C], and back.
GRID = "b (gh wh) (gw ww) c -> (b gh gw) (wh ww) c"
UNGRID = "(b gh gw) (wh ww) c -> b (gh wh) (gw ww) c"


class PatchEmbed(nn.Module):
    """The embedding of images [B, in_channels, H, W] as tokens [B, H, W, C]."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        patch, dim = config.patch_size, config.embed_dim
        self.pads = config.remainder == "pad"
        self.proj = nn.Conv2d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim) if config.patch_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        if self.pads:
            patch, (rows, columns) = self.proj.kernel_size[0], images.shape[-2:]
            images = F.pad(images, (0, -columns % patch, 0, -rows % patch))
        return self.norm(rearrange(self.proj(images), "b c h w -> b h w c"))  # [B, H, W, C]


class Mlp(nn.Module):
    """Two linear layers around an activation, an exact GELU in the paper."""

    def __init__(self, dim: int, hidden: int, kind: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation(kind)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


class WindowAttention(nn.Module):
    """Self-attention inside windows [B * num_windows, window_area, C], with a position bias table.

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
        """Return the additive position bias, [num_heads, window_area, window_area]."""
        return rearrange(  # [offsets, h] -> [n, n, h] -> [h, n, n]
            self.relative_position_bias_table[self.relative_position_index],
            "q k heads -> heads q k",
        )

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = rearrange(  # [B * nW, n, 3C] -> [B * nW, h, n, d] each
            self.qkv(windows), "b n (qkv heads d) -> qkv b heads n d", qkv=3, heads=self.num_heads
        )
        # [B * nW, h, n, d] and [B * nW, h, d, n] -> [B * nW, h, n, n]
        scores = query * self.scale @ key.transpose(-1, -2) + self.position_bias()
        weights = add_mask(scores, mask).softmax(dim=-1)
        # [B * nW, h, n, d] -> [B * nW, n, C]
        return self.proj(rearrange(weights @ value, "b heads n d -> b n (heads d)"))


def add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Add a mask to attention scores.

    Args:
        scores: Attention scores, [B * num_windows, num_heads, n, n].
        mask: Additive mask, [num_windows, n, n], or None for windows that are not shifted.
    """
    if mask is None:
        return scores
    # [B * nW, h, n, n] -> [B, nW, h, n, n], plus [nW, 1, n, n], and back
    split = rearrange(scores, "(b w) heads q k -> b w heads q k", w=len(mask))
    return rearrange(split + mask[:, None], "b w heads q k -> (b w) heads q k")


class SwinBlock(nn.Module):
    """One block: attention on windows, shifted or not, then an MLP; the norm comes before each.

    Args:
        config: The model's config.
        stage: The stage, with its token map, windows and heads.
        shift: Rows and columns of the shift, in tokens; 0 for none.
        drop_path: Stochastic depth of both branches.
    """

    attention: type[nn.Module] = WindowAttention
    attn_mask: Tensor | None

    def __init__(
        self, config: SwinConfig, stage: StageSpec, *, shift: Size, drop_path: float
    ) -> None:
        super().__init__()
        self.stage = stage
        self.shift_size = shift
        self.norm1 = nn.LayerNorm(stage.dim, eps=config.layer_norm_eps)
        self.attn = self.attention(stage)
        self.drop_path = StochasticDepth(drop_path)
        self.norm2 = nn.LayerNorm(stage.dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(stage.dim, stage.hidden, config.activation)
        mask = shifted_window_mask(dataclasses.replace(stage, shift_size=shift), MASKED)
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self._attend(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        """Return the attention branch of tokens [B, H, W, C], in windows that may be shifted.

        Where windows do not tile the map, zeros pad it below and on the right.
        """
        (rows, columns), (whole_rows, whole_columns) = self.stage.resolution, self.stage.padded
        pads = (0, 0, 0, whole_columns - columns, 0, whole_rows - rows)
        ahead, back = (-self.shift_size.rows, -self.shift_size.columns), self.shift_size
        if self.stage.roll_first:
            tokens = _padded(torch.roll(tokens, ahead, dims=(1, 2)), pads)
            return torch.roll(self._in_windows(tokens)[:, :rows, :columns], back, dims=(1, 2))
        tokens = torch.roll(_padded(tokens, pads), ahead, dims=(1, 2))
        return torch.roll(self._in_windows(tokens), back, dims=(1, 2))[:, :rows, :columns]

    def _in_windows(self, tokens: Tensor) -> Tensor:
        """Return the attention of a map [B, H, W, C] that windows tile."""
        (height, width), grid = self.stage.window_size, self.stage.window_grid
        windows = rearrange(tokens, GRID, wh=height, ww=width)  # [B, H, W, C] -> [B * nW, n, C]
        windows = self.attn(windows, self.attn_mask)
        # [B * nW, n, C] -> [B, H, W, C]
        return rearrange(windows, UNGRID, gh=grid.rows, gw=grid.columns, wh=height, ww=width)


def _padded(tokens: Tensor, pads: tuple[int, ...]) -> Tensor:
    return F.pad(tokens, pads) if any(pads) else tokens  # F.pad copies even if there are none


class PatchMerging(nn.Module):
    """The merge of tokens [B, H, W, C] to [B, H / 2, W / 2, 2C]; its norm is before its linear."""

    def __init__(self, config: SwinConfig, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(self.norm_dim(dim))

    @staticmethod
    def norm_dim(dim: int) -> int:
        """Return the number of channels that the norm sees."""
        return 4 * dim

    def forward(self, tokens: Tensor) -> Tensor:
        return self.reduction(self.norm(merge_neighbours(tokens)))


def merge_neighbours(tokens: Tensor) -> Tensor:
    """Concatenate 2 x 2 neighbours column by column, [B, H, W, C] to [B, H / 2, W / 2, 4C].

    Zeros pad odd rows and columns.
    """
    tokens = _padded(tokens, (0, 0, 0, tokens.shape[2] % 2, 0, tokens.shape[1] % 2))
    return rearrange(tokens, "b (h s1) (w s2) c -> b h w (s2 s1 c)", s1=2, s2=2)


class BasicLayer(nn.Module):
    """The blocks of one stage, every second one shifted, and the merge after them.

    Args:
        config: The model's config.
        stage: The stage, with its token map, windows and heads.
        kinds: Classes of the blocks and of the merge.
        drop_paths: Stochastic depth of each block.
        last: Whether it is the last stage, which no merge follows.
    """

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
    """The paper's model, from images [B, in_channels, H, W] to ``config.output``.

    ``norm`` is the identity unless ``config.final_norm``. ``norm0``, ``norm1``, ... normalise the
    feature maps that are outputs, with ``config.stage_norms``.
    """

    kinds: tuple[type[nn.Module], type[nn.Module]] = (SwinBlock, PatchMerging)

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.absolute_pos_embed: nn.Parameter | None = None
        if config.absolute_positions:
            places = torch.zeros(1, config.stages[0].resolution.area, config.embed_dim)
            self.absolute_pos_embed = nn.Parameter(places)
        self.pos_drop = nn.Identity()
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
            self.add_module(f"norm{index}", nn.LayerNorm(stages[index].dim))
        self.head = build_head(config)
        self.apply(_initialise)

    def parts(self) -> Iterator[tuple[list[SwinBlock], PatchMerging | None]]:
        """Yield the blocks of each stage, and the merge after them; None after the last."""
        for layer in self.layers:
            if isinstance(layer, BasicLayer):
                blocks = [block for block in layer.blocks if isinstance(block, SwinBlock)]
                merge = layer.downsample
                yield blocks, merge if isinstance(merge, PatchMerging) else None

    def stage_tokens(self, images: Tensor) -> list[Tensor]:
        """Return the tokens [B, H, W, C] after the blocks of each stage, before its merge."""
        tokens = self.pos_drop(self._placed(self.patch_embed(images)))
        found = []
        for blocks, merge in self.parts():
            for block in blocks:
                tokens = block(tokens)
            found.append(tokens)
            if merge is not None:
                tokens = merge(tokens)
        return found

    def _placed(self, tokens: Tensor) -> Tensor:
        """Add the embedding of each place to tokens [B, H, W, C], if the model has one."""
        if self.absolute_pos_embed is None:
            return tokens
        rows = tokens.shape[1]
        return tokens + rearrange(self.absolute_pos_embed, "b (h w) c -> b h w c", h=rows)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output that ``config.output`` names; by default logits or features.

        Args:
            images: Normalised images, [B, in_channels, H, W].
        """
        stages = self.stage_tokens(images)
        output = self.config.output_name
        if output == "stages":
            return tuple(self._stage_map(i, stages[i]) for i in self.config.shown_stages)
        tokens = self.norm(stages[-1])
        if output == "tokens":
            return rearrange(tokens, "b h w c -> b (h w) c")  # [B, H, W, C] -> [B, N, C]
        features = pool_tokens(tokens, self.config.pool)
        return features if output == "features" else self.head(features)

    def _stage_map(self, index: int, tokens: Tensor) -> Tensor:
        if self.config.stage_norms:
            tokens = self.get_submodule(f"norm{index}")(tokens)
        return rearrange(tokens, "b h w c -> b c h w")  # [B, H, W, C] -> [B, C, H, W]


def pool_tokens(tokens: Tensor, kind: Pool) -> Tensor:
    """Pool tokens [B, H, W, C] to features [B, C]; see ``SwinConfig.pool``."""
    if kind == "avg":
        return reduce(tokens, "b h w c -> b c", "mean")
    largest = reduce(tokens, "b h w c -> b c", "max")
    return largest if kind == "max" else (largest + reduce(tokens, "b h w c -> b c", "mean")) / 2


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
