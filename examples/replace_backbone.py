"""Put the deploy model in the place of the Swin inside a segmenter, and export the whole of it.

The segmenter is a small one around timm's features; yours is any torch.nn.Module with a Swin:

    python examples/replace_backbone.py
"""

import timm
import torch

import swin_deploy


class Segmenter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        name, sizes = "swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (2, 2)}
        self.swin = timm.create_model(name, features_only=True, out_indices=(0, 1), **sizes)
        self.head = torch.nn.Conv2d(192, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        masks: torch.Tensor = self.head(self.swin(images)[-1].permute(0, 3, 1, 2))
        return masks


swap = swin_deploy.replace_backbone(Segmenter().eval(), image_size=56)
print(swap.replaced, "at", swap.where, "passed" if swap.passed else "failed")
torch.onnx.export(swap.model, (torch.zeros(1, 3, 56, 56),), "whole.onnx", verbose=False)
