"""The classifier: one linear layer, or two around an activation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from swin_deploy.config import HeadActivation, SwinConfig

ACTIVATIONS: dict[HeadActivation, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class TwoLayerHead(nn.Module):
    """The classifier of two linear layers, from features [B, C] to logits [B, num_classes].

    Args:
        dim: Number of channels of the features, C.
        hidden: Number of channels between the layers.
        classes: Number of classes.
        activation: Activation between the layers.
    """

    def __init__(self, dim: int, hidden: int, *, classes: int, activation: HeadActivation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(features)))  # [B, C] -> [B, hidden] -> [B, classes]


def build_head(config: SwinConfig) -> nn.Module:
    """Build the classifier of a config; the identity for a model without classes."""
    dim, classes = config.stages[-1].dim, config.num_classes
    if not classes:
        return nn.Identity()
    if not config.head_hidden:
        return nn.Linear(dim, classes)
    kind = config.head_activation
    return TwoLayerHead(dim, config.head_hidden, classes=classes, activation=kind)
