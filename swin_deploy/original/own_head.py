"""A classifier of the file's own form, after a library's features."""

from __future__ import annotations

from torch import Tensor, nn

from swin_deploy.checkpoints.read import Reading
from swin_deploy.original.stored import read_state
from swin_deploy.reference.head import ACTIVATIONS


class WithHead(nn.Module):
    """A library's model and a classifier, from images [B, 3, H, W] to logits, in a tuple.

    Args:
        model: The library's model, which gives its features [B, C] in a tuple.
        head: The classifier.
    """

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.head(self.model(images)[0]),)


def own_head(reading: Reading) -> nn.Sequential:
    """Build the classifier that stands in a file: its linear layers, as ``nn.Sequential``."""
    if reading.head is None:
        return nn.Sequential()
    state = read_state(reading.weights_path, reading.encoder.key)
    layers: list[nn.Module] = []
    for name in reading.head.layers:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [layer, ACTIVATIONS[reading.head.activation]()]
    return nn.Sequential(*layers[:-1])
