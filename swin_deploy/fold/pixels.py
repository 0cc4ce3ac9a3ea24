"""A deploy model that takes pixels, with the normalisation inside."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.model import DeployModel, NormalizePixels, PatchEmbed, PixelPatchEmbed


def taking_pixels(model: DeployModel, steps: Preprocessing) -> DeployModel:
    """A deploy model of pixels [B, H, W, 3], uint8, instead of normalised images [B, 3, H, W].

    Args:
        model: The deploy model, which is not changed; the weights are shared.
        steps: The factor, mean and standard deviation that its images are normalised with.
    """
    std = torch.tensor(steps.std, dtype=torch.float64)
    mean = torch.tensor(steps.mean, dtype=torch.float64)
    normalize = NormalizePixels(steps.rescale / std, -mean / std)
    cut, *rest = model.embed
    embed = nn.Sequential(PixelPatchEmbed(cast(PatchEmbed, cut), normalize), *rest)
    taps = {int(passed): tap for passed, tap in model.taps.items()}
    return DeployModel(embed, list(model.layers), taps).eval()
