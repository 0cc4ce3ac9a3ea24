"""Fields of ``SwinConfig`` that no tensor shows, as libraries write them in a ``config.json``."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from exporters.errors import CheckpointError
from exporters.text_files import shortened
from swin_deploy.checkpoints.config_json import TimmArguments, TimmModel, TimmWeights
from swin_deploy.config import Output
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


def timm_settings(
    model: TimmModel, arguments: TimmArguments, weights: TimmWeights
) -> dict[str, Any]:
    """Return the fields of ``SwinConfig`` that no tensor shows, from timm's ``config.json``.

    Args:
        model: Top of the file.
        arguments: Its ``model_args``.
        weights: Its ``pretrained_cfg``.

    Raises:
        CheckpointError: If the file asks for what the library's model does not have.
    """
    settings: dict[str, Any] = {}
    pool = _pool(model, arguments, weights)
    if pool:
        settings["pool"] = pool
    if arguments.act_layer is None:
        return settings
    found = read_activation(str(arguments.act_layer), "act_layer")
    if found != "gelu" and (model.architecture or "").startswith("swin_"):
        raise CheckpointError(
            f"config.json asks for act_layer {found}, which timm's Swin V1 does not have; remove "
            "it, and give --activation if your own model has it"
        )
    return settings | {"activation": found}


def timm_output(
    model: TimmModel, arguments: TimmArguments, weights: TimmWeights, *, classes: int | None
) -> Output | Literal[""]:
    """Return the output of a model without pooling, its tokens; empty for any other model.

    Args:
        model: Top of timm's file.
        arguments: Its ``model_args``.
        weights: Its ``pretrained_cfg``.
        classes: Number of its classes; None if it is not known.

    Raises:
        CheckpointError: If it has a classifier, which the library runs on every token then.
    """
    if _pool(model, arguments, weights):
        return ""
    if classes != 0:
        raise CheckpointError(
            "config.json asks for global_pool '' with a classifier, which would give classes for "
            "every token; supported is the one without the other (num_classes 0)"
        )
    return "tokens"


def _pool(model: TimmModel, arguments: TimmArguments, weights: TimmWeights) -> Pool | None:
    """Return the pooling of the model that the library builds; None for none.

    Raises:
        CheckpointError: If the file says two, or one that is not supported.
    """
    said = (arguments.global_pool, weights.global_pool)
    name = next((one for one in said if one is not None), "avg")
    pool = read_pool(name, "global_pool")
    if model.global_pool is not None and read_pool(model.global_pool, "global_pool") != pool:
        raise CheckpointError(
            f"config.json has global_pool {shortened(repr(model.global_pool))}, and "
            f"{shortened(repr(name))} in model_args, which timm builds the model from; make them "
            "the same"
        )
    return pool
