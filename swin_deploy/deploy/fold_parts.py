"""Parts that the folds of all families share: layers with float32 weights, token orders, biases."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from swin_deploy.config import Size, StageSpec
from swin_deploy.config.sizes import NONE
from swin_deploy.config.swin import Pool
from swin_deploy.config.windows import (
    MASKED,
    PAD,
    merge_order,
    offsets,
    raster_order,
    relative_position_index,
    reorder_index,
    window_order,
)
from swin_deploy.deploy.model import (
    BatchFirst,
    Features,
    GatheredPositionBias,
    LargestFeatures,
    MergeGather,
    MixedFeatures,
    PatchEmbed,
    PositionBias,
    Reorder,
    SplitCosineHeads,
    SplitHeads,
    StageMap,
    TokenMask,
    WindowAttention,
    WindowMask,
)
from swin_deploy.reference.activations import QUICK_SCALE, QuickGelu
from swin_deploy.reference.head import TwoLayerHead

# Tokens in a window whose position bias is a constant: 64 x 64 values a head, 18 x its table.
LARGEST_EXPANDED_AREA = 64
# Score of masked pairs instead of minus infinity: its exp() is 0 in every precision, and float16
# can hold it.
MASKED_FINITE = -3e4


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a float32 linear layer, on the CPU, that owns its weights.

    Args:
        weight: The weights, [out, in]; they are copied.
        bias: The bias, [out], or None for a layer without one.
    """
    outputs, inputs = weight.shape
    empty = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer = empty.to_empty(device="cpu")
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer


def copy_linear(layer: nn.Module) -> nn.Linear:
    """Return a float32 copy of a linear layer that owns its weights.

    Raises:
        TypeError: If the layer is not an ``nn.Linear``.
    """
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"expected a linear layer, not {type(layer).__name__}")
    return linear(layer.weight, layer.bias)


def mlp(first: nn.Module, between: nn.Module, last: nn.Module) -> nn.Sequential:
    """Return an MLP's two layers and its activation, with weights of their own.

    Quick GELU is SiLU of a multiple, over that factor: the layers take the factor, and the
    activation is one that kernels have.

    Args:
        first: The layer before the activation.
        between: The activation.
        last: The layer after it.
    """
    wide, narrow = copy_linear(first), copy_linear(last)
    if not isinstance(between, QuickGelu):
        return nn.Sequential(wide, copy.deepcopy(between), narrow)
    weight, bias = (value.double() * QUICK_SCALE for value in (wide.weight, wide.bias))
    narrow = linear(narrow.weight.double() / QUICK_SCALE, narrow.bias)
    return nn.Sequential(linear(weight, bias), nn.SiLU(), narrow)


def copy_norm(layer: nn.Module) -> nn.Module:
    """Return a copy of a LayerNorm that owns its weights; the identity for any other module."""
    if not isinstance(layer, nn.LayerNorm):
        return nn.Identity()
    norm = nn.LayerNorm(layer.normalized_shape, eps=layer.eps)
    norm.load_state_dict(layer.state_dict())
    return norm


def chain(*modules: nn.Module) -> nn.Module:
    """Return modules that run one after the other, without those that are the identity."""
    parts = [module for module in modules if not isinstance(module, nn.Identity)]
    if len(parts) < 2:
        return parts[0] if parts else nn.Identity()
    return nn.Sequential(*parts)


def bias_in_norm(
    norm: nn.LayerNorm, attention: WindowAttention, *, has_pads: bool = False
) -> nn.LayerNorm:
    """Move the bias of ``attention.qkv`` into its weights, and return the LayerNorm it then needs.

    Normalised channels sum to zero, so one of them follows from the others. That channel becomes
    the constant 1, and its column of the weights the bias. The channel with the smallest weights
    is taken, because the other columns must make up for it.

    Args:
        norm: The norm before the attention; it is not changed.
        attention: The attention after it; its ``qkv`` is replaced by one without a bias.
        has_pads: Whether windows hold pads, which libraries zero after the norm: their keys and
            values are the bias alone. The bias of keys adds one number to all scores of a query,
            which the softmax drops; that of values passes it, and moves to ``proj``. Pads are then
            zero before ``qkv`` and after it.
    """
    weight = attention.qkv.weight.double()
    bias = attention.qkv.bias.double()
    if has_pads:
        query, _, value = bias.chunk(3)
        proj = attention.proj
        attention.proj = linear(proj.weight, proj.bias.double() + proj.weight.double() @ value)
        bias = torch.cat((query, torch.zeros_like(query), torch.zeros_like(query)))
    bias = bias + weight @ norm.bias.double()
    scaled = weight * norm.weight.double()
    channel = int(scaled.norm(dim=0).argmin())
    scaled = scaled - scaled[:, channel, None]
    scaled[:, channel] = bias
    plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    plain.weight[channel], plain.bias[channel] = 0.0, 1.0
    attention.qkv = linear(scaled, None)
    return plain


def block_order(stage: StageSpec, shift: Size = NONE) -> Tensor:
    """Return the order of a stage's windows, shifted by ``shift`` tokens, in the deploy model.

    Args:
        stage: The stage, with its token map and window size.
        shift: Rows and columns of the shift, in tokens.

    Returns:
        Order, [slots], int64: slot -> raster index, or ``PAD``; slot ``p * nW + w`` has place
        ``p`` of window ``w``.
    """
    windows = window_order(stage.resolution, stage.window_size, shift, roll_first=stage.roll_first)
    places = windows.reshape(stage.num_windows, stage.window_area)  # [slots] -> [nW, n]
    return places.transpose(0, 1).reshape(-1)  # [nW, n] -> [n * nW]


def stream_order(stage: StageSpec, shift: Size = NONE) -> Tensor:
    """Return the order of the tokens between the blocks of a stage.

    It is that of the windows, or row by row and without pads where these are not carried.

    Args:
        stage: The stage, with its token map and window size.
        shift: Rows and columns of the shift, in tokens.
    """
    return block_order(stage, shift) if stage.carries_pads else raster_order(stage.resolution)


def keep_tokens(order: Tensor) -> nn.Module:
    """Return the zeroing of an order's pads; the identity if it has none.

    Args:
        order: Order of the tokens, [N], or of the four before a merge, [M, 4].
    """
    kept = order != PAD
    if kept.all():
        return nn.Identity()
    # [N] -> [N, 1, 1]; [M, 4] -> [M, 1, 4, 1]
    return TokenMask(
        kept.float()[:, None, None] if kept.ndim == 1 else kept.float()[:, None, :, None]
    )


def merge_gather(
    order: Tensor, stage: StageSpec, following: Tensor
) -> tuple[MergeGather, nn.Module]:
    """Return the gather that puts the four tokens of each patch merge next to each other.

    Args:
        order: Order of the tokens at hand, [N].
        stage: The stage before the merge.
        following: Order of the merged tokens, [M].

    Returns:
        The gather, and the zeroing of neighbours that a map of odd sides lacks, or the identity.
    """
    wanted = merge_order(stage.resolution, following)
    four = wanted.reshape(-1, 4).clone()  # [4 * M] -> [M, 4]
    four[following == PAD] = 0  # what comes of four pads is zeroed where it matters
    return MergeGather(reorder_index(order, wanted)), keep_tokens(four)


def patch_embed(
    convolution: nn.Conv2d, stage: StageSpec, *, image: Size, order: Tensor
) -> nn.Module:
    """Return the patch convolution as a linear layer, its tokens in an order.

    Args:
        convolution: The convolution, of stride and kernel of a patch.
        stage: The first stage.
        image: Image size, in pixels.
        order: Order of the tokens, [N].
    """
    patch_size, resolution = convolution.kernel_size[0], stage.resolution
    in_windows = torch.equal(order, block_order(stage)) and not stage.has_pads
    patches = Size(image.rows // patch_size, image.columns // patch_size)
    if patches != resolution and patches.area == resolution.area:
        # The notebook's model takes the tokens of a rectangle for a square map, row by row.
        in_windows, resolution = False, patches
    embed = PatchEmbed(
        linear(convolution.weight.flatten(1), convolution.bias),  # [C, I, p, p] -> [C, I * p * p]
        resolution=resolution,
        window_size=stage.window_size if in_windows else (1, 1),
        patch_size=patch_size,
        image_size=image,
    )
    return embed if in_windows else chain(embed, reorder(raster_order(stage.resolution), order))


def reorder(current: Tensor, wanted: Tensor) -> nn.Module:
    """Return the gather from one token order to another; the identity if they are the same.

    Args:
        current: Order of the tokens at hand, [N].
        wanted: Order to bring them to, [N].
    """
    if torch.equal(current, wanted):
        return nn.Identity()
    return Reorder(reorder_index(current, wanted))


def score_bias(
    bias: Tensor, mask: Tensor | None, stage: StageSpec, *, exact: bool = False
) -> nn.Module:
    """Return the module that adds a position bias and a mask to the scores of a stage.

    Args:
        bias: Position bias, [num_heads, n, n], or [1, n, n] for all heads.
        mask: Additive mask, [num_windows, n, n], or None for an unshifted block.
        stage: The stage, with its windows and heads.
        exact: True if scores spread as far as the mask reaches, so that its very values count.
    """
    if mask is None or not mask.any():
        return _position_bias(bias, stage)
    finite = mask.masked_fill(mask == MASKED, MASKED_FINITE)
    if stage.num_heads == 1:
        return PositionBias((finite + bias)[:, None].float().contiguous())  # [nW, 1, n, n]
    return nn.Sequential(_position_bias(bias, stage), _window_mask(finite, stage, exact=exact))


def _window_mask(mask: Tensor, stage: StageSpec, *, exact: bool) -> WindowMask:
    """Return a mask as one for each row of windows and one for each column.

    Args:
        mask: Additive mask, [num_windows, n, n]; pairs that lie on two sides of the seam along
            either axis have one value, which a sum of both doubles where both are.
        stage: The stage, with its windows and heads.
        exact: True if its very values count, so that nothing may be added twice.

    Raises:
        ValueError: If it is no such mask.
    """
    (height, width), (down, across) = stage.window_size, stage.window_grid
    # [nW, n, n] -> [gh, gw, wh, ww, wh, ww]
    grid = mask.float().reshape(down, across, height, width, height, width)
    # Tokens of one column are apart by their rows alone, and those of one row by their columns.
    rows = grid[:, 0, :, 0, :, 0]  # [gh, wh, wh]
    columns = grid[0, :, 0, :, 0, :]  # [gw, ww, ww]
    shape = (-1, height, width, height, width)
    area = stage.window_area
    # [gh, wh, 1, wh, 1] and [gw, 1, ww, 1, ww] -> [gh or gw, n, n]
    rows = rows[:, :, None, :, None].expand(shape).reshape(-1, area, area)
    columns = columns[:, None, :, None, :].expand(shape).reshape(-1, area, area)
    # [gh, 1, n, n] and [1, gw, n, n] -> [gh, gw, n, n]
    apart = torch.minimum(rows[:, None], columns[None])
    if not torch.equal(apart.reshape(mask.shape), mask.float()):
        raise ValueError("a mask of windows that is not one of rows and one of columns")
    return WindowMask(
        rows[:, None, None, None].contiguous() if rows.any() else None,
        columns[None, :, None, None].contiguous() if columns.any() else None,
        num_heads=stage.num_heads,
        windows=stage.window_grid,
        exact=exact,
    )


def split_heads(stage: StageSpec, temperature: Tensor | None = None) -> SplitHeads:
    """Return the module that splits q, k and v into heads, in the layout ``score_bias`` expects.

    Args:
        stage: The stage, with its windows and heads.
        temperature: Factor of V2's cosine similarities, [num_heads, 1, 1]; None for V1.
    """
    windows = stage.num_windows, stage.window_area
    if temperature is None:
        return SplitHeads(stage.num_heads, stage.dim // stage.num_heads, windows=windows)
    return SplitCosineHeads(temperature, stage.dim // stage.num_heads, windows=windows)


def _position_bias(bias: Tensor, stage: StageSpec) -> nn.Module:
    """Return a constant bias for small windows, and a gathered one for larger ones.

    The bias is constant also where a table cannot reproduce it: the notebook's own.
    """
    values = bias[None].float().contiguous().clone()  # a copy: it may be the reference's own
    index = relative_position_index(stage.window_size).reshape(-1)  # [n, n] -> [n * n]
    table = torch.empty(len(bias), offsets(stage.window_size).area)
    table[:, index] = values.flatten(2)[0]  # [1, h, n, n] -> [h, n * n]
    given_back = torch.equal(table[:, index], values.flatten(2)[0])
    if stage.window_area <= LARGEST_EXPANDED_AREA or not given_back:
        return PositionBias(values)
    return GatheredPositionBias(table, index)


def stage_map(norm: nn.Module, order: Tensor, stage: StageSpec) -> nn.Module:
    """Return the head that turns a stage's tokens [N, B, C] into its feature map [B, C, H, W].

    Args:
        norm: The norm of the map, or the identity.
        order: Order of the tokens, [N].
        stage: The stage, with its token map and channels.
    """
    return nn.Sequential(
        copy_norm(norm),
        reorder(order, raster_order(stage.resolution)),
        StageMap(stage.dim, stage.resolution),
    )


def raster_tokens(norm: nn.Module, order: Tensor, stage: StageSpec) -> nn.Module:
    """Return the head that turns a stage's tokens [N, B, C] into [B, N, C] in raster order.

    Args:
        norm: The norm of the tokens, or the identity.
        order: Order of the tokens, [N].
        stage: The stage, with its token map.
    """
    return nn.Sequential(
        copy_norm(norm), reorder(order, raster_order(stage.resolution)), BatchFirst()
    )


POOLS: dict[Pool, type[nn.Module]] = {
    "avg": Features,
    "max": LargestFeatures,
    "avgmax": MixedFeatures,
}


def pooled(norm: nn.Module, head: nn.Module, order: Tensor, kind: Pool = "avg") -> nn.Module:
    """Return the head that turns tokens [N, B, C] into features [B, C] or logits.

    Args:
        norm: The norm of the tokens before they are pooled, or the identity.
        head: The classifier of one linear layer or two, or the identity for features.
        order: Order of the tokens, [N]; its pads are left out.
        kind: Pooling of the tokens.
    """
    real = chain(reorder(order, order[order != PAD]), copy_norm(norm))
    return nn.Sequential(real, POOLS[kind](), *_classifier(head))


def _classifier(head: nn.Module) -> list[nn.Module]:
    """Return the layers of a classifier; two without an activation between them become one."""
    if isinstance(head, nn.Linear):
        return [copy_linear(head)]
    if not isinstance(head, TwoLayerHead):
        return []
    first, last = head.fc1, head.fc2
    if not isinstance(head.act, nn.Identity):
        return [copy_linear(first), copy.deepcopy(head.act), copy_linear(last)]
    weight = last.weight.double()
    return [linear(weight @ first.weight.double(), weight @ first.bias.double() + last.bias)]
