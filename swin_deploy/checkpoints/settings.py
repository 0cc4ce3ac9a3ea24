"""Fields of ``SwinConfig`` that no tensor shows, as libraries write them in a ``config.json``."""

from __future__ import annotations

from typing import cast, get_args

from exporters.errors import CheckpointError
from exporters.text_files import shortened
from swin_deploy.config.activations import ACTIVATIONS, OTHER_NAMES, Activation, find_activation
from swin_deploy.config.swin import Pool


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


def read_pool(name: str, field: str) -> Pool | None:
    """Return the pooling that timm's name stands for; None for no pooling.

    Args:
        name: Name in timm, in any case; ``fast`` in front of it chooses a spelling.
        field: Name of the field, for the message.

    Raises:
        CheckpointError: If it is not supported.
    """
    plain = name.lower()
    kind = plain.removeprefix("fast") or ("avg" if plain else "")
    if not kind:
        return None
    found = next((one for one in get_args(Pool) if one == kind), None)
    if found is None:
        known = ", ".join(get_args(Pool))
        raise CheckpointError(
            f"config.json asks for {field} {shortened(repr(name))}; supported are {known}"
        )
    return cast("Pool", found)
