"""The deploy model with the norms that its half-precision files fold into their MLPs."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from exporters.norm_folding import NORM, FoldedNorm, balanced, fold_norm
from exporters.precisions import PRECISIONS
from exporters.spec import Precision
from swin_deploy.deploy.model import SwinBlock
from swin_deploy.reference.alias import alias


class DeviationFactor(nn.Module):
    """The factor [N, B, 1] of each token [N, B, C]: a constant over the deviation of its channels.

    Args:
        scale: The constant.
        eps: Number added to the variance.
    """

    keep_float32 = True  # in float16 the squares can overflow

    def __init__(self, *, scale: float, eps: float) -> None:
        super().__init__()
        self.scale = scale
        self.eps = eps

    def forward(self, tokens: Tensor) -> Tensor:
        apart = tokens - tokens.mean(dim=-1, keepdim=True)
        return self.scale / ((apart * apart).mean(dim=-1, keepdim=True) + self.eps).sqrt()


class CentredLinear(nn.Module):
    """A norm and the linear layer after it as one product of tokens [N, B, C] and a factor.

    Args:
        folded: The constants, rounded to the half precision.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, folded: FoldedNorm) -> None:
        super().__init__()
        self.factor = DeviationFactor(scale=folded.scale, eps=folded.eps)
        self.register_buffer("weight", torch.from_numpy(folded.weight))
        self.register_buffer("bias", torch.from_numpy(folded.bias))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens @ self.weight * self.factor(tokens) + self.bias


def half_form(model: nn.Module, precision: Precision, halved: Collection[str]) -> nn.Module:
    """Return a model with the norms before its MLPs folded, as ``exporters.norm_folding`` does.

    Args:
        model: A model with deploy blocks, in float32 and evaluation mode; it is not changed.
        precision: ``fp16`` or ``bf16``, which the folded weights are rounded to.
        halved: Paths of the modules in that precision; a norm is folded if it, and the linear
            layer after it, are among them.

    Returns:
        The model itself if no norm is folded, or a copy that shares all other weights.
    """
    sites = [
        path
        for path, block in model.named_modules()
        if isinstance(block, SwinBlock)
        and isinstance(block.norm_before_mlp, nn.LayerNorm)
        and {_join(path, NORM), _join(path, "mlp.0")} <= set(halved)
    ]
    copy = alias(model) if sites else model
    for path in sites:
        block = copy.get_submodule(path)
        if isinstance(block, SwinBlock):
            _fold(block, precision)
    return copy


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fold(block: SwinBlock, precision: Precision) -> None:
    norm, linear = block.norm_before_mlp, block.mlp[0]
    if not (isinstance(norm, nn.LayerNorm) and isinstance(linear, nn.Linear)):
        raise TypeError(f"expected a norm and a linear layer, not {norm} and {linear}")
    traits = PRECISIONS[precision]
    folded = fold_norm(
        gain=norm.weight.numpy(),
        shift=norm.bias.numpy(),
        eps=norm.eps,
        weight=linear.weight.numpy().T,  # [4C, C] -> [C, 4C]
        bias=linear.bias.numpy(),
        traits=traits,
    )
    if folded is None:
        return
    rounded = FoldedNorm(
        balanced(folded.weight, traits).astype("float32"),
        folded.bias.astype("float32"),
        folded.scale,
        folded.eps,
    )
    block.norm_before_mlp = nn.Identity()
    block.mlp = nn.Sequential(CentredLinear(rounded), *list(block.mlp)[1:])
