"""One small model of each family, with values such as training leaves, ready to be judged."""

from __future__ import annotations

import dataclasses
import functools

import torch
from conftest import TINY_WITH_HEAD, build_reference, randomised

from exporters.spec import Precision
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig
from swin_deploy.images.sets import extreme_images, seeded_images
from swin_deploy.parity.reference_run import ReferenceOutputs
from swin_deploy.parity.run import reference_outputs
from swin_deploy.reference import Reference
from swin_deploy.reference import build_reference as new_reference
from swin_deploy.reference.swin_v2 import WindowAttentionV2

_SWIN = dataclasses.replace(TINY_WITH_HEAD, family="swin")
CONFIGS: dict[str, SwinConfig] = {
    "notebook": TINY_WITH_HEAD,
    "swin": _SWIN,
    "swinv2": dataclasses.replace(_SWIN, family="swinv2", img_size=64, window_size=8),
}


@functools.cache
def loaded(family: str, seed: int = 0) -> LoadedModel:
    """A reference of a family; it must not be changed."""
    config = CONFIGS[family]
    return LoadedModel(
        f"tiny {family}", config, trained_like(config, seed), None, "", library_steps(config)
    )


def trained_like(config: SwinConfig, seed: int = 0) -> Reference:
    """A reference of any family, its values such as training leaves."""
    if config.family == "notebook":
        return build_reference(config, seed)
    torch.manual_seed(seed)
    reference = new_reference(config).eval()
    _spread(reference, seed)
    return reference


@torch.no_grad()
def _spread(reference: torch.nn.Module, seed: int) -> None:
    """``randomised`` for what has a bias; tables and temperatures apart from their first values."""
    for number, module in enumerate(reference.modules()):
        if isinstance(module, torch.nn.Linear) and module.bias is None:
            continue
        if not list(module.children()):
            randomised(module, seed + 1000 * number)
        if isinstance(module, WindowAttentionV2):
            module.logit_scale.copy_(torch.linspace(1.5, 4.0, module.num_heads)[:, None, None])
    for name, value in reference.named_parameters():
        if name.endswith("relative_position_bias_table"):
            value.copy_(torch.randn(value.shape))


@functools.cache
def outputs(
    family: str, seed: int = 0, precisions: tuple[Precision, ...] = ("fp32", "fp16")
) -> ReferenceOutputs:
    """What a reference computes for noise and for extreme images, with its noise."""
    model = loaded(family, seed)
    images = (
        seeded_images(model.config, count=8, seed=seed),
        extreme_images(model.preprocessing, seed=seed),
    )
    return reference_outputs(model, images, precisions=precisions)
