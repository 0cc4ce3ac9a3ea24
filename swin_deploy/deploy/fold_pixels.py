"""A deploy model that takes pixels, with the normalisation inside."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from exporters.errors import ConfigError
from swin_deploy.deploy.model import DeployModel, NormalizePixels, PatchEmbed, PixelPatchEmbed
from swin_deploy.images.preprocessing import Preprocessing


def taking_pixels(model: DeployModel, steps: Preprocessing) -> DeployModel:
    """Return a deploy model of pixels [B, H, W, I], uint8, not normalised images [B, I, H, W].

    Args:
        model: The deploy model of normalised images; it is not changed, the weights are shared.
        steps: The preprocessing with the factor, mean and standard deviation of those images.

    Raises:
        ConfigError: If the steps are not known, or are of other channels.
    """
    first, *rest = model.embed  # patches in window order; of padded maps row by row, then a gather
    cut, *gathers = first if isinstance(first, nn.Sequential) else [first]
    embedding = cast(PatchEmbed, cut)
    channels = embedding.patch_shape[1]
    if steps.refusal or len(steps.mean) != channels:
        why = steps.refusal or f"its mean has {len(steps.mean)} values, pixels have {channels}"
        raise ConfigError(
            f"the preprocessing cannot be part of the model ({why}); choose one with "
            "--preprocessing"
        )
    normalize = NormalizePixels(
        1 / steps.rescale, torch.tensor(steps.mean), torch.tensor(steps.std)
    )
    patches: nn.Module = PixelPatchEmbed(embedding, normalize)
    if gathers:
        patches = nn.Sequential(patches, *gathers)
    embed = nn.Sequential(patches, *rest)
    heads = {int(passed): head for passed, head in model.heads.items()}
    return DeployModel(embed, list(model.layers), heads).eval()
