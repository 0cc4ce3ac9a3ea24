"""Small models around a Swin of each library: segmenters whose heads read its maps."""

from __future__ import annotations

from typing import Any

import detector_libraries
import peers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL: dict[str, Any] = {"embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)}


class Segmenter(nn.Module):
    """A head of one convolution a map, all brought to the image's size and summed."""

    def __init__(self, backbone: nn.Module, channels: list[int], *, last: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.last = last  # the axis of the channels
        self.heads = nn.ModuleList(nn.Conv2d(count, 3, 1) for count in channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = list(self.backbone(images))
        if self.last:
            maps = [one.permute(0, 3, 1, 2) for one in maps]
        parts = [head(one) for head, one in zip(self.heads, maps, strict=True)]
        scaled = [F.interpolate(one, size=images.shape[-2:]) for one in parts]
        return {"masks": torch.stack(scaled).sum(dim=0)}


class Classifier(nn.Module):
    """A head on what torchvision's or timm's whole Swin gives."""

    def __init__(self, swin: nn.Module) -> None:
        super().__init__()
        self.swin = swin
        self.head = nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.swin(images))
        return answer


class Masked:
    """Images, or a map, with the mask of their pads; GroundingDINO's form."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors = tensors
        self.mask = mask


class Grounded(nn.Module):
    """GroundingDINO's Swin, whose maps are set to 0 under the mask."""

    def __init__(self) -> None:
        super().__init__()
        module = detector_libraries.grounding_dino()
        module.NestedTensor = Masked
        self.backbone = detector_libraries.build_grounding_dino()

    def forward(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        found = self.backbone(Masked(images, mask))
        return {f"map{key}": one.tensors * ~one.mask[:, None] for key, one in found.items()}


class TwoScales(nn.Module):
    """BiRefNet's way: the image, and the image of half its size, through one Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.bb = detector_libraries.build_transparent_background()

    def forward(self, images: Tensor) -> list[Tensor]:
        half = F.interpolate(images, scale_factor=0.5)
        pairs = zip(self.bb(images), self.bb(half), strict=True)
        return [a + F.interpolate(b, size=a.shape[-2:]) for a, b in pairs]


class Two(nn.Module):
    """Two Swins."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = small_timm(), small_timm(seed=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images) - self.second(images)


def small_timm(seed: int = 0) -> nn.Module:
    return peers.trained_like(peers.build_timm("swin"), seed)


def timm_segmenter(
    name: str = "swin_tiny_patch4_window7_224",
    *,
    image: int | tuple[int, int] = 64,
    **options: object,
) -> nn.Module:
    """A segmenter around timm's ``features_only``, whose maps are [B, H, W, C]."""
    timm = peers.import_peer("timm")
    given = {"img_size": image, "window_size": 4, "out_indices": (0, 1, 2), **SMALL, **options}
    extractor = timm.create_model(name, features_only=True, **given)
    channels = extractor.feature_info.channels()
    return peers.trained_like(Segmenter(extractor, channels, last=True))


def torchvision_classifier(family: str) -> nn.Module:
    return peers.trained_like(Classifier(peers.build_torchvision(family)))


def timm_classifier(family: str) -> nn.Module:
    return peers.trained_like(Classifier(peers.build_timm(family)))


def detector(library: str) -> nn.Module:
    """A segmenter around the backbone of a detection library."""
    backbone = getattr(detector_libraries, f"build_{library}")()
    stem = [16] if library == "transparent_background" else []
    return peers.trained_like(Segmenter(backbone, [*stem, 16, 32, 64]))
