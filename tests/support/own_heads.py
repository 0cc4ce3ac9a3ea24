"""Models of every library with a classifier of the user's own, as training scripts make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor, nn

TINY: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
CHANNELS = 32
SEQUENTIALS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(CHANNELS, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(CHANNELS, 6), nn.ReLU(), nn.Linear(6, 3)),
    "dropouts": lambda: nn.Sequential(
        nn.Dropout(), nn.Linear(CHANNELS, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)
    ),
    "no-bias": lambda: nn.Sequential(nn.Identity(), nn.Linear(CHANNELS, 3, bias=False)),
    "wide": lambda: nn.Sequential(
        nn.Linear(CHANNELS, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 3, bias=False)
    ),
}


class Wrapped(nn.Module):
    """A library's model under a name, and modules of the user's own after it, in turn.

    Args:
        backbone: The library's model, which gives features or logits.
        name: Its name.
        after: The modules by name.
    """

    def __init__(self, backbone: nn.Module, name: str, **after: nn.Module) -> None:
        super().__init__()
        setattr(self, name, backbone)
        self.name = name
        for one, module in after.items():
            setattr(self, one, module)
        self.after = tuple(after)

    def forward(self, images: Tensor) -> Tensor:
        found = getattr(self, self.name)(images)
        values: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        for one in self.after:
            values = getattr(self, one)(values)
        return values


class Mlp(nn.Module):
    """A head with names in place of numbers."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(CHANNELS, 6), activation, nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(features)))


def timm_model(head: nn.Module, family: str = "swin") -> nn.Module:
    model: Any = peers.build_timm(family, **TINY)
    model.head.fc = head
    return peers.trained_like(model)


def torchvision_model(head: nn.Module, family: str = "swin") -> nn.Module:
    model: Any = peers.build_torchvision(family, **TINY)
    model.head = head
    return peers.trained_like(model)


def huggingface_model(head: nn.Module, family: str = "swin") -> nn.Module:
    model = peers.build_huggingface(family, **TINY, num_labels=3)
    model.classifier = head
    return peers.trained_like(model)


def wrapped_timm(name: str = "backbone", classes: int = 0, **after: nn.Module) -> nn.Module:
    model = peers.build_timm("swin", **TINY, num_classes=classes)
    return peers.trained_like(Wrapped(model, name, **after))


def saved_timm(head: nn.Module, folder: Path) -> tuple[Path, nn.Module]:
    model = timm_model(head)
    return peers.saved(model.state_dict(), folder / "own.pth"), model


def saved_authors(head: nn.Module, folder: Path) -> tuple[Path, nn.Module]:
    """The authors' file, whose head is `head` itself."""
    model = timm_model(head)
    torch.save({"model": peers.microsoft_state(model)}, folder / "swin.pth")
    return folder / "swin.pth", model


def saved_torchvision(head: nn.Module, folder: Path) -> tuple[Path, nn.Module]:
    model = torchvision_model(head)
    return peers.saved(model.state_dict(), folder / "own.safetensors"), model


def saved_huggingface(head: nn.Module, folder: Path) -> tuple[Path, nn.Module]:
    model: Any = huggingface_model(head)
    model.save_pretrained(folder)
    return folder, model


SOURCES: dict[str, Callable[[nn.Module, Path], tuple[Path, nn.Module]]] = {
    "timm": saved_timm,
    "microsoft": saved_authors,
    "torchvision": saved_torchvision,
    "huggingface": saved_huggingface,
}
