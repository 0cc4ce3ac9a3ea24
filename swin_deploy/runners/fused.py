"""The deploy model with window attention as one Triton kernel, on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from exporters.backends import import_package
from exporters.errors import MissingBackendError
from swin_deploy.deploy.model import SplitCosineHeads, SplitHeads, WindowAttention, WindowMask
from swin_deploy.reference.alias import alias

HEAD_DIMS = (16, 32, 64)  # compiled without register spills; matrix units take powers of two
SIDE = 64  # tables are padded to a multiple of it, the kernel's largest tile


class FusedAttention(nn.Module):
    """``WindowAttention`` of the deploy model, everything between its linear layers in one kernel.

    The tables stay float32 in whatever precision the module runs.

    Args:
        plain: The module to replace; its linear layers are shared.

    Raises:
        MissingBackendError: If Triton is not installed.
    """

    table: Tensor
    kind: Tensor
    scale: Tensor

    def __init__(self, plain: WindowAttention) -> None:
        super().__init__()
        load_kernel()
        heads = plain.heads
        self.area, self.cosine = heads.qkv_shape[0], isinstance(heads, SplitCosineHeads)
        self.qkv, self.proj = plain.qkv, plain.proj
        num_heads = heads.dim // heads.qkv_shape[-1]
        table, kind = score_tables(plain, num_heads, self.area)
        scale = torch.ones(num_heads)
        if isinstance(heads, SplitCosineHeads):  # of queries; keys have length one
            scale = heads.normalize.scale.float().flatten()[:num_heads].clone()
        for name, value in (("table", table), ("kind", kind), ("scale", scale)):
            self.register_buffer(name, value)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = torch.ops.swin_deploy.window_attention(
            self.qkv(tokens), self.table, self.kind, self.scale, self.area, self.cosine
        )
        return self.proj(mixed)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        exact = self.table, self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # PyTorch annotates it not
        self.table, self.scale = (value.to(self.kind.device) for value in exact)
        return self


def score_tables(plain: WindowAttention, num_heads: int, area: int) -> tuple[Tensor, Tensor]:
    """Compute the distinct tables that a block adds to its scores, and each window's table number.

    Windows that are masked alike share a table: a shifted map has four kinds, however large it is.

    Args:
        plain: The block's window attention.
        num_heads: Number of its heads.
        area: Number of tokens of a window.

    Returns:
        Tables [kinds, num_heads, side, side], float32, with minus infinity in the columns from
        ``area`` on, and the table's number for each window, [windows], int32.
    """
    parts = list(plain.bias) if isinstance(plain.bias, nn.Sequential) else [plain.bias]
    device = next(plain.bias.buffers()).device
    kinds = torch.zeros(1, 1, area, area, device=device)
    position = torch.zeros(1, num_heads, area, area, device=device)
    for part in parts:
        if isinstance(part, WindowMask):
            kinds = part.by_windows().float()
        else:
            position = part(position)
    if len(position) > 1:  # one head: its bias has the mask in it
        kinds, position = position, torch.zeros_like(position[:1])
    kinds, kind = torch.unique(kinds, dim=0, return_inverse=True)
    windows = plain.tokens[0] // area
    side = -(-area // SIDE) * SIDE
    table = torch.zeros(len(kinds), num_heads, side, side, device=device)
    table[..., area:] = -torch.inf
    table[..., :area, :area] = position + kinds
    return table, kind.expand(windows).to(torch.int32).contiguous()


def fuse(deploy: nn.Module) -> nn.Module:
    """Make an alias of the deploy model whose window attention is one kernel a block.

    Blocks with heads of other sizes than ``HEAD_DIMS`` stay as they are; ``fused_blocks`` counts
    those that have the kernel.

    Args:
        deploy: Deploy model in float32; it is left as it is.

    Raises:
        MissingBackendError: If Triton is not installed.
    """
    model = alias(deploy)
    for block in list(model.modules()):
        for name, child in list(block.named_children()):
            if isinstance(child, WindowAttention) and _fits(child.heads):
                setattr(block, name, FusedAttention(child.plain()))
    return model


def fused_blocks(model: nn.Module) -> tuple[int, int]:
    """Count the blocks of a model with the kernel, and those with any window attention."""
    fused = sum(isinstance(module, FusedAttention) for module in model.modules())
    plain = sum(isinstance(module, WindowAttention) for module in model.modules())
    return fused, fused + plain


def _fits(heads: SplitHeads) -> bool:
    return type(heads) in (SplitHeads, SplitCosineHeads) and heads.qkv_shape[-1] in HEAD_DIMS


def load_kernel() -> str:
    """Register the kernel with PyTorch, and return Triton's version.

    Raises:
        MissingBackendError: If Triton is not installed or does not load.
    """
    triton = import_package("triton", name="triton", install="pip install triton", has="jit")
    importlib.import_module("swin_deploy.runners.window_triton")
    return str(triton.__version__)


def why_not_fused() -> str:
    """Return why the kernel cannot run on this machine; empty if it can."""
    try:
        load_kernel()
    except MissingBackendError as err:
        return str(err).partition(";")[0]
    return "" if torch.cuda.is_available() else "its kernel needs a GPU"
