"""Window attention as one Triton kernel: ``torch.ops.swin_deploy.window_attention``.

It reads q, k and v where the linear layer before it wrote them, and writes where the one after it
reads: no scores, no mask and no copy of q, k or v goes through memory. Keys are read a tile at a
time, with the online softmax of FlashAttention (Dao et al., 2022, algorithm 1), so that the number
of registers does not grow with the window. Importing this module needs Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Side of the largest tile of scores that fits the registers of four warps; smaller without tensor
# cores.
LARGEST_TILE = {torch.float16: 64, torch.bfloat16: 64, torch.float32: 32}
SMALLEST_TILE = 16  # side of a tensor core's operands


def tile_of(area: int, dtype: torch.dtype) -> int:
    """Return the number of queries and of keys in a tile, for windows of ``area`` tokens."""
    return max(SMALLEST_TILE, min(LARGEST_TILE[dtype], triton.next_power_of_2(area)))


@triton.jit
def unit_length(vectors, scale):
    """Scale vectors [n, D] to length ``scale``, computed in float32, like ``CosineNormalize``."""
    wide = vectors.to(tl.float32)
    length = tl.sqrt(tl.sum(wide * wide, 1))
    return (wide * (scale / tl.maximum(length, 1e-12))[:, None]).to(vectors.dtype)


@triton.jit
def window_kernel(
    qkv,
    table,
    kind,
    scale,
    out,
    batch,
    rows,
    C: tl.constexpr,
    D: tl.constexpr,
    AREA: tl.constexpr,
    SIDE: tl.constexpr,
    TILE: tl.constexpr,
    COSINE: tl.constexpr,
):
    """Compute one tile of queries of one head of one window of one image.

    The tensors are those of ``window_attention``, with ``out`` for its result.

    Row ``place * rows + window * batch + image`` of qkv and out belongs to that place of the
    window; ``rows`` is the number of windows times the batch.
    """
    member = tl.program_id(0)  # window * batch + image: images of a window share its table
    head = tl.program_id(1)
    channel = head * D + tl.arange(0, D)[None, :]
    query = tl.program_id(2) * TILE + tl.arange(0, TILE)
    query_row = (query.to(tl.int64) * rows + member)[:, None]
    q = tl.load(qkv + query_row * (3 * C) + channel, mask=(query < AREA)[:, None], other=0.0)
    if COSINE:
        q = unit_length(q, tl.load(scale + head))
    entry = tl.load(kind + member // batch).to(tl.int64) * (C // D) + head
    scores_at = table + entry * (SIDE * SIDE) + query[:, None] * SIDE
    highest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, D], tl.float32)
    for first in range(0, AREA, TILE):
        key = first + tl.arange(0, TILE)
        seen = (key < AREA)[:, None]
        at = qkv + (key.to(tl.int64) * rows + member)[:, None] * (3 * C) + channel
        k = tl.load(at + C, mask=seen, other=0.0)
        v = tl.load(at + 2 * C, mask=seen, other=0.0)
        if COSINE:
            k = unit_length(k, 1.0)
        # ieee: float32 products stay float32, which Triton's default (TF32) would not.
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores += tl.load(scores_at + key[None, :])  # minus infinity where there is no key
        top = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp(scores - top[:, None])
        kept = tl.exp(highest - top)
        total = total * kept + tl.sum(shares, 1)
        mixed = mixed * kept[:, None]
        mixed += tl.dot(shares.to(v.dtype), v, input_precision="ieee")
        highest = top
    mixed = (mixed / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + query_row * C + channel, mixed, mask=(query < AREA)[:, None])


@torch.library.triton_op("swin_deploy::window_attention", mutates_args={})
def window_attention(
    qkv: Tensor, table: Tensor, kind: Tensor, scale: Tensor, area: int, cosine: bool
) -> Tensor:
    """Compute attention inside windows from the output of ``WindowAttention.qkv``.

    Scores, bias and softmax are float32; products are of qkv's type, accumulated in float32.

    Args:
        qkv: Tokens in window order, [N, B, 3C], place by place: float16, bfloat16 or float32.
        table: Tables added to the scores, [kinds, heads, side, side], float32: ``side`` is
            a multiple of every tile, and the columns from ``area`` on are minus infinity.
        kind: Number of each window's table, [windows], int32.
        scale: Lengths of V2's queries, [heads], float32.
        area: Number of tokens of a window.
        cosine: True to scale queries to those lengths and keys to length one first.

    Returns:
        Tokens [N, B, C], the heads' channels one after the other.
    """
    tokens, batch, width = qkv.shape
    heads = table.shape[1]
    dim, rows, tile = width // 3, tokens // area * batch, tile_of(area, qkv.dtype)
    out = torch.empty((tokens, batch, dim), dtype=qkv.dtype, device=qkv.device)
    grid = (rows, heads, triton.cdiv(area, tile))
    _launchable()[grid](
        qkv.contiguous(), table, kind, scale, out, batch, rows,
        C=dim, D=dim // heads, AREA=area, SIDE=table.shape[-1], TILE=tile, COSINE=cosine,
    )  # fmt: skip
    return out


def _launchable() -> Any:  # noqa: ANN401 - what Triton makes
    """Return the kernel in a form that torch.compile can trace, or as it is if interpreted."""
    if isinstance(window_kernel, triton.JITFunction):
        return torch.library.wrap_triton(window_kernel)
    return window_kernel
