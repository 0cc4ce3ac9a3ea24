"""Fields of ``SwinConfig`` that no tensor shows, as libraries write them in a ``config.json``."""

from __future__ import annotations

from exporters.errors import CheckpointError
from exporters.text_files import shortened
from swin_deploy.config.activations import ACTIVATIONS, OTHER_NAMES, Activation, find_activation


def read_activation(name: str, field: str) -> Activation:
    """Return the activation that a library's name stands for.

    Args:
        name: Name in timm or transformers.
        field: Name of the field, for the message.

    Raises:
        CheckpointError: If it is not supported.
    """
    found = find_activation(name)
    if found is None:
        known = ", ".join((*ACTIVATIONS, *OTHER_NAMES))
        raise CheckpointError(
            f"config.json asks for {field} {shortened(name)}; supported are {known}"
        )
    return found
