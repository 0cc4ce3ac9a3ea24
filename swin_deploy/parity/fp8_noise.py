"""The reference with what it would store in FP8 rounded, for the noise of files that do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from exporters.quantisation import FP8, WeightScales
from exporters.spec import Precision
from swin_deploy.calibration.fp8 import STORED
from swin_deploy.config import SwinConfig
from swin_deploy.runners.emulated import fp8_rounded, fp8_weight

# Kinds of linear layers by the end of their path in the references: V1 and V2, the notebook's.
REFERENCE_KINDS = {
    "qkv": re.compile(r"\.(attn\.qkv|WMSA\.proj1)$"),
    "proj": re.compile(r"\.(attn\.proj|WMSA\.proj2)$"),
    "fc2": re.compile(r"\.(mlp\.fc2|MLP\.3)$"),
    "merge": re.compile(r"\.(downsample\.reduction|linear_layer)$"),
}


def round_as_stored(
    model: nn.Module,
    config: SwinConfig,
    precision: Precision,
    *,
    kinds: Mapping[str, re.Pattern[str]] = REFERENCE_KINDS,
) -> None:
    """Let a model round what files of a precision store in FP8, in place.

    Each call's own largest value decides the scale: it is the least that FP8 loses, whatever the
    images of a calibration were.

    Args:
        model: The model, with weights of its own.
        config: Config of the model.
        precision: ``fp8``, or ``fp8-weights``.
        kinds: Pattern of the paths of each kind of linear layer; by default those of a reference.
    """
    scales = STORED[precision, config.family == "swinv2"]
    for path, module in list(model.named_modules()):
        for kind, pattern in kinds.items():
            if kind in scales and pattern.search(path) and isinstance(module, nn.Linear):
                _round_linear(module, scales[kind])


def _round_linear(linear: nn.Linear, scales: WeightScales) -> None:
    weight = fp8_weight(linear.weight.detach(), scales)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_forward_pre_hook(_rounded_input)


def _rounded_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    tokens = inputs[0]
    scale = (tokens.abs().amax().float() / FP8.largest).clamp(min=1e-30)
    return (fp8_rounded(tokens.float() / scale).mul(scale).to(tokens.dtype), *inputs[1:])
