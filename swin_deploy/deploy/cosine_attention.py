"""V2's attention with the lengths of queries and keys as factors of its scores.

``q.k / (|q| |k|)`` is the product times one factor a query and one a key. TensorRT then reads every
query and key once for its factor, and values where their product wrote them; normalised before the
product, all three are moved twice.

The product is of vectors as they are, so their lengths must be within float16's range. They are:
the stream of V2 is a sum of LayerNorms' outputs, whose lengths follow from their weights, and so
does the largest length of a query or key of any image. Powers of two, which change no direction and
round nothing, bring it below ``LONGEST`` in each head. Where weights do not bound it, or the powers
would cost digits, the attention stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exporters.precisions import PRECISIONS
from swin_deploy.deploy.fold_parts import linear
from swin_deploy.deploy.model import SplitCosineHeads, SplitHeads, WindowAttention

LONGEST = 128.0  # query or key: products are a quarter of float16's range at most, 16384
LARGEST_FACTOR = 2.0**15  # of a query or key, within float16's range
# Least root of the mean square of a head's weights. Float16 rounds those below its normal range by
# up to 2**-25 of 1, which is then an eighth of what it rounds such weights by anyway.
SMALLEST_WEIGHTS = PRECISIONS["fp16"].smallest_normal * 4


class LengthFactors(nn.Module):
    """The factor [..., n, 1] that brings each vector [..., n, d] of a head to a length, in float32.

    A vector shorter than ``1 / LARGEST_FACTOR`` of that length keeps the largest factor: zero, as
    keys of pads are, stays zero.

    Args:
        scale: The length of each head, [num_heads, 1, 1].
    """

    keep_float32 = True  # in float16 the squares can overflow
    scale: Tensor
    shortest: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())
        self.register_buffer("shortest", scale.float() / LARGEST_FACTOR)

    def forward(self, vectors: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(vectors.float(), dim=-1, keepdim=True)
        factor = self.scale.float() / torch.maximum(length, self.shortest.float())
        return factor.to(vectors.dtype)


class CosineAttention(WindowAttention):
    """``WindowAttention`` of V2, over tokens [N, B, C] in window order.

    Shapes in its comments are those of several heads; see ``SplitHeads`` for a single one.

    Args:
        plain: The attention that it computes, of queries and keys that are normalised before the
            product; it is not changed.
        heads: The ``SplitCosineHeads`` of that attention.
        powers: Powers of two that queries and keys are scaled by, [2, num_heads].
    """

    query_bias: Tensor

    def __init__(self, plain: WindowAttention, heads: SplitCosineHeads, *, powers: Tensor) -> None:
        num_heads, (area, head_dim) = heads.num_heads, heads.qkv_shape[::3]
        rows = torch.cat((powers.double(), torch.ones(1, num_heads, dtype=torch.float64)))
        rows = rows.repeat_interleave(head_dim, dim=1).reshape(-1)  # [3, h] -> [3, C] -> [3C]
        query, _, value = (plain.qkv.bias.double() * rows).chunk(3)
        projected = plain.proj.weight.double() @ value  # the shares of all values sum to one
        num_tokens = plain.tokens[0]
        super().__init__(
            linear(plain.qkv.weight.double() * rows[:, None], None),
            linear(plain.proj.weight, plain.proj.bias.double() + projected),
            bias=plain.bias,
            heads=SplitHeads(num_heads, head_dim, windows=(num_tokens // area, area)),
            num_tokens=num_tokens,
        )
        lengths = heads.normalize.scale[..., None]  # [2h, 1] -> [2h, 1, 1]
        self.query_factor = LengthFactors(lengths[:num_heads].clone())
        self.key_factor = LengthFactors(lengths[num_heads:].clone())
        # Of its own, and added last: beside another bias, or before the split, TensorRT copies v.
        self.register_buffer("query_bias", query.float().reshape(num_heads, 1, head_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        # [N, B, C] -> [n, nW * B, h, d] each -> [nW * B, h, n, d]
        query, key, value = (part.permute(1, 2, 0, 3) for part in self.heads(self.qkv(tokens)))
        query = query + self.query_bias
        scores = query @ key.transpose(-1, -2)  # [nW * B, h, n, n]
        # Queries first: their factor leaves no more than a key's length times the temperature.
        scores = scores * self.query_factor(query) * self.key_factor(key).transpose(-1, -2)
        mixed = self.bias(scores).softmax(dim=-1) @ value  # [nW * B, h, n, d]
        # [nW * B, h, n, d] -> [n, nW * B, h, d] -> [N, B, C]
        return self.proj(mixed.permute(2, 0, 1, 3).reshape(self.tokens))

    @torch.no_grad()
    def plain(self) -> WindowAttention:
        """Return the attention with queries and keys normalised before the product."""
        num_heads, _, head_dim = self.query_bias.shape
        bias = torch.zeros(self.qkv.out_features)
        bias[: num_heads * head_dim] = self.query_bias.reshape(-1)  # [h, 1, d] -> [C]
        area = self.heads.qkv_shape[0]
        return WindowAttention(
            linear(self.qkv.weight, bias),
            self.proj,
            bias=self.bias,
            heads=SplitCosineHeads(
                self.query_factor.scale, head_dim, windows=(self.tokens[0] // area, area)
            ),
            num_tokens=self.tokens[0],
        )


@dataclass(frozen=True)
class Stream:
    """The parts whose sum the tokens between V2's blocks are.

    Attributes:
        norms: LayerNorms whose outputs are added.
        constants: Constants that are added, [..., C] each.
        bounded: False if something else is in it.
    """

    norms: tuple[nn.LayerNorm, ...] = ()
    constants: tuple[Tensor, ...] = ()
    bounded: bool = True

    def plus(self, *modules: nn.Module) -> Stream:
        """Return the stream after the outputs of modules were added; LayerNorms bound theirs."""
        norms = tuple(one for one in modules if isinstance(one, nn.LayerNorm))
        bounded = self.bounded and len(norms) == len(modules)
        return Stream((*self.norms, *norms), self.constants, bounded)


def with_length_factors(attention: WindowAttention, stream: Stream) -> WindowAttention:
    """Return V2's attention with lengths as factors where its weights allow it, or as it is.

    Args:
        attention: The attention, with the weights of a reference.
        stream: The tokens that it reads.
    """
    heads = attention.heads
    if not (isinstance(heads, SplitCosineHeads) and stream.bounded):
        return attention
    powers = _powers(attention.qkv, stream, heads.num_heads)
    return attention if powers is None else CosineAttention(attention, heads, powers=powers)


def _powers(qkv: nn.Linear, stream: Stream, num_heads: int) -> Tensor | None:
    """Return powers of two [2, num_heads] that bring queries and keys below ``LONGEST``.

    Args:
        qkv: Linear layer of queries, keys and values.
        stream: The tokens that it reads.
        num_heads: Number of heads.

    Returns:
        The powers; None where a bound is not finite, or float16 would lose digits of the weights.
    """
    dim = qkv.in_features
    # [2C, C] -> [2h, d, C]; [2C] -> [2h, d]
    weight = qkv.weight[: 2 * dim].double().reshape(2 * num_heads, -1, dim)
    longest = qkv.bias[: 2 * dim].double().reshape(2 * num_heads, -1).norm(dim=-1)  # [2h]
    parts = [weight, longest, *stream.constants]
    parts += [value for norm in stream.norms for value in (norm.weight, norm.bias)]
    if not all(bool(value.isfinite().all()) for value in parts):
        return None  # whoever rounds them names them
    for norm in stream.norms:
        # Normalised channels are sqrt(C) long at most.
        gain, shift = norm.weight.double(), norm.bias.double()
        stretch = torch.linalg.matrix_norm(weight * gain, ord=2)  # [2h, d, C] -> [2h]
        longest = longest + math.sqrt(dim) * stretch + (weight @ shift).norm(dim=-1)
    for constant in stream.constants:
        furthest = constant.double().norm(dim=-1).amax()
        longest = longest + furthest * torch.linalg.matrix_norm(weight, ord=2)
    longest = torch.where(longest > 0, longest, LONGEST)  # a head of zeros
    powers = torch.exp2((LONGEST / longest).log2().floor())
    scaled = powers * weight.square().mean(dim=(-1, -2)).sqrt()
    if not powers.isfinite().all() or bool(((scaled < SMALLEST_WEIGHTS) & (scaled > 0)).any()):
        return None
    return powers.reshape(2, num_heads)
