"""Swin Transformer V2, "Scaling Up Capacity and Resolution", arXiv 2111.09883.

Readable and trainable; parameter names are those of the authors' code (microsoft/Swin-Transformer,
models/swin_transformer_v2.py).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from swin_deploy.config import StageSpec
from swin_deploy.config.windows import relative_coords_table, relative_position_index
from swin_deploy.reference.swin import (
    PatchMerging,
    SwinBlock,
    SwinTransformer,
    add_mask,
    merge_neighbours,
)

MAX_LOGIT_SCALE = math.log(100.0)
CPB_HIDDEN = 512


class WindowAttentionV2(nn.Module):
    """Scaled cosine attention with a continuous position bias, on windows [B * nW, n, C].

    Source: sections 3.3 and 3.4 of the paper: cosine similarity divided by a learned temperature
    per head, and an MLP on log-spaced relative coordinates.
    """

    relative_position_index: Tensor
    relative_coords_table: Tensor

    def __init__(self, stage: StageSpec) -> None:
        super().__init__()
        self.num_heads = stage.num_heads
        self.logit_scale = nn.Parameter(torch.full((stage.num_heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, CPB_HIDDEN), nn.ReLU(), nn.Linear(CPB_HIDDEN, stage.num_heads, bias=False)
        )
        self.qkv = nn.Linear(stage.dim, 3 * stage.dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(stage.dim))
        self.v_bias = nn.Parameter(torch.zeros(stage.dim))
        self.proj = nn.Linear(stage.dim, stage.dim)
        table = relative_coords_table(stage.window_size, stage.pretrained_window_size)
        self.register_buffer("relative_coords_table", table, persistent=False)
        index = relative_position_index(stage.window_size)
        self.register_buffer("relative_position_index", index, persistent=False)

    def position_bias(self) -> Tensor:
        """Return the additive position bias, [num_heads, window_area, window_area]."""
        table = self.cpb_mlp(self.relative_coords_table)  # [offsets, 2] -> [offsets, h]
        # [offsets, h] -> [n, n, h] -> [h, n, n]
        bias = rearrange(table[self.relative_position_index], "q k heads -> heads q k")
        return 16 * torch.sigmoid(bias)

    def temperature(self) -> Tensor:
        """Return the factor of the cosine similarities, at most 100, [num_heads, 1, 1]."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def qkv_bias(self) -> Tensor:
        """Return the bias of q, k and v, [3C]; that of k is zero."""
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = rearrange(  # [B * nW, n, 3C] -> [B * nW, h, n, d] each
            F.linear(windows, self.qkv.weight, self.qkv_bias()),
            "b n (qkv heads d) -> qkv b heads n d",
            qkv=3,
            heads=self.num_heads,
        )
        # [B * nW, h, n, d] and [B * nW, h, d, n] -> [B * nW, h, n, n]
        cosine = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2)
        scores = cosine * self.temperature() + self.position_bias()
        weights = add_mask(scores, mask).softmax(dim=-1)
        # [B * nW, h, n, d] -> [B * nW, n, C]
        return self.proj(rearrange(weights @ value, "b heads n d -> b n (heads d)"))


class SwinBlockV2(SwinBlock):
    """Attention on windows, then an MLP; the norm comes after each (section 3.2 of the paper)."""

    attention = WindowAttentionV2

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.norm1(self._attend(tokens)))
        return tokens + self.drop_path(self.norm2(self.mlp(tokens)))


class PatchMergingV2(PatchMerging):
    """The merge of tokens [B, H, W, C] to [B, H / 2, W / 2, 2C]; its norm is after its linear."""

    @staticmethod
    def norm_dim(dim: int) -> int:
        """Return the number of channels that the norm sees."""
        return 2 * dim

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.reduction(merge_neighbours(tokens)))


class SwinTransformerV2(SwinTransformer):
    """V2's model, from images to ``config.output``; see ``SwinTransformer``."""

    kinds = (SwinBlockV2, PatchMergingV2)
