"""Preprocessing of the backbones of detectors, and mean and std in the files of any model."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swin_deploy.images.preprocessing import (
    IMAGENET_MEAN,
    Preprocessing,
)
from swin_deploy.images.rules import Rule, squash_rule

if TYPE_CHECKING:
    from torch import Tensor

# The last part of the name of a mean of pixels: MMEngine's data preprocessor and modules that
# normalise have ``mean``, Detectron2's models ``pixel_mean``, those of one's own all the others.
STORED = re.compile(r"(?:.*\.)?(?:(?:pixel|image|img|input|norm|normalize|data|imagenet)?_)?mean")
MEAN, STD = "mean", "std"
CHANNELS = 3
LEVELS = 255.0  # the largest pixel
SAME_MEAN = 1e-3  # of pixels from 0 to 1; red and blue of ImageNet differ by 0.08


def detector_rule() -> Rule:
    """Return the rule of a detector's or segmenter's backbone, which is always a guess.

    Detectron2, OpenMMLab, GroundingDINO and BiRefNet subtract ImageNet's mean from RGB and divide
    by its deviation; most keep a picture's shape and pad it, BiRefNet does not.
    """
    return squash_rule(
        guess="as detectors and segmenters normalise RGB pictures; most of them keep the shape of "
        "a picture and pad it, as --resize-mode fit does",
        interpolation="bilinear",
        turn=True,
        origin="detectors and segmenters",
    )


@dataclass(frozen=True)
class StoredNormalisation:
    """Mean and standard deviation that stand among the tensors of a weights file.

    Attributes:
        names: Their names in the file.
        mean: Values by channel, of pixels from 0 to 1.
        std: Values by channel, of pixels from 0 to 1.
    """

    names: tuple[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def changed(self, rule: Rule) -> Rule:
        """Return a rule whose steps have this mean and std in the place of their own."""

        def change(steps: Preprocessing) -> Preprocessing:
            return dataclasses.replace(
                steps,
                mean=self.mean,
                std=self.std,
                channel_order="bgr" if self.is_bgr else steps.channel_order,
                origin=f"{steps.origin}, with {' and '.join(self.names)} of the weights file",
            )

        own = f"mean and std are the file's own ({self.names[0]})"
        own += ", in the order blue, green, red" if self.is_bgr else ""
        return rule.changed(change, guess=rule.guess and f"{rule.guess}; {own}")

    @property
    def is_bgr(self) -> bool:
        """Whether the mean is ImageNet's in the order blue, green, red, which the model takes."""
        turned = zip(self.mean, IMAGENET_MEAN[::-1], strict=False)
        return len(self.mean) == CHANNELS and all(abs(a - b) <= SAME_MEAN for a, b in turned)


def stored_normalisation(
    tensors: dict[str, Tensor], channels: int = CHANNELS
) -> StoredNormalisation | None:
    """Find mean and standard deviation among the tensors of a file.

    Args:
        tensors: All tensors by name. Values above 1 are of pixels from 0 to 255.
        channels: Number of channels of the model's images.

    Returns:
        The pair of usable values; None if there is none, or if several differ.
    """
    pairs = [(name, name.removesuffix(MEAN) + STD) for name in tensors if STORED.fullmatch(name)]
    found = [
        _stored(names, tensors, channels)
        for names in pairs
        if names[1] in tensors and tensors[names[0]].numel() == tensors[names[1]].numel()
    ]
    usable = [one for one in found if one is not None]
    return usable[0] if len({(one.mean, one.std) for one in usable}) == 1 else None


def _stored(
    names: tuple[str, str], tensors: dict[str, Tensor], channels: int
) -> StoredNormalisation | None:
    """Return a pair of values by channel, or of one for all; None if they cannot be that."""
    if tensors[names[0]].numel() not in (1, channels):
        return None
    mean, std = (tuple(map(float, tensors[name].flatten())) for name in names)
    unit = LEVELS if max(map(abs, mean + std)) > 1 else 1.0
    if min(std) <= 0:
        return None
    spread = channels // len(mean)
    return StoredNormalisation(names, _over(mean, unit) * spread, _over(std, unit) * spread)


def _over(values: tuple[float, ...], unit: float) -> tuple[float, ...]:
    # Seven digits are what float32 holds: 123.675 over 255 is ImageNet's 0.485.
    return tuple(float(f"{value / unit:.7g}") for value in values)
