"""The model of the library that a checkpoint comes from, with our weights, for timing.

``swin_deploy.original`` has the model that the library loads by itself, for comparing.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exporters.errors import ComparisonError
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.checkpoints.known import DIALECTS, OF_VARIANTS, SOURCES
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import SwinConfig
from swin_deploy.original.construct import (
    import_library,
    library_ratio,
    one_window,
    timm_model,
    torchvision_model,
    transformers_settings,
)

# Endings of names that need no weights of ours: tables that libraries compute from the sizes.
DERIVED = ("relative_position_index", "relative_coords_table", "attn_mask", "mask_token")


def library_of(loaded: LoadedModel) -> str:
    """Return the library whose model is the original of a loaded one; empty if there is none.

    The reference of a notebook model is the notebook's own code, so it has no other original.
    """
    dialect = SOURCES.get(loaded.source) or OF_VARIANTS[loaded.config.family]
    return dialect.library


def build_original(loaded: LoadedModel, library: str) -> nn.Module:
    """Build the library's own model, with the weights of ``loaded``, in evaluation mode.

    Args:
        loaded: A V1 or V2 model.
        library: Name of the library: ``timm``, ``torchvision`` or ``transformers``.

    Raises:
        ComparisonError: If the library has no such model.
        MissingBackendError: If the library is not installed, or does not load.
    """
    config = loaded.config
    if config.output_name not in ("logits", "features") or config.stage_norms:
        raise ComparisonError(
            f"{library}'s model gives logits or features, not {config.output_name}"
        )
    builders: dict[str, Callable[[SwinConfig], nn.Module]] = {
        "timm": timm_model,
        "torchvision": torchvision_model,
        "transformers": _transformers_model,
    }
    one_layer = dataclasses.replace(config, head_hidden=0, head_activation="none")
    model = builders[library](one_layer)
    # transformers' classifiers have the encoder under a name; names are those of several releases.
    base = str(getattr(model, "base_model_prefix", ""))
    prefix = f"{base}." if base else ""
    dialects = tuple(_under(prefix, one) for one in DIALECTS if one.library == library)
    if config.head_hidden:
        names = [dialect.source_keys("head.weight")[0] for dialect in dialects]
        place = next(name for name in names if name in model.state_dict()).removesuffix(".weight")
        model.set_submodule(place, copy.deepcopy(loaded.reference.get_submodule("head")))
    _copy_weights(model, dict(loaded.reference.named_parameters()), dialects)
    return model.eval().requires_grad_(requires_grad=False)


def _transformers_model(config: SwinConfig) -> nn.Module:
    if config.output_name != "logits":
        raise ComparisonError("transformers' model without a classifier gives tokens, not features")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing may be downloaded
    library = import_library("transformers", "transformers")
    start = {"swin": "Swin", "swinv2": "Swinv2"}[config.family]
    fields = (
        _sizes(config)
        | {
            "image_size": config.img_size,
            "patch_size": config.patch_size,
            "num_channels": config.in_channels,
            "window_size": one_window(config, "transformers").plain,
            "num_labels": config.num_classes,
        }
        | transformers_settings(config)
    )
    if isinstance(config.mlp_ratio, tuple):
        raise ComparisonError("transformers' model has one mlp_ratio for all stages")
    if config.pretrained_window_sizes:
        fields["pretrained_window_sizes"] = list(config.pretrained_window_sizes)
    settings = getattr(library, f"{start}Config")(**fields)
    model: nn.Module = getattr(library, f"{start}ForImageClassification")(settings)
    return model


def _under(prefix: str, dialect: Dialect) -> Dialect:
    def source_keys(ours: str) -> tuple[str, ...]:
        names = dialect.source_keys(ours)
        return tuple(n if n.startswith(dialect.sibling_prefixes) else prefix + n for n in names)

    return dataclasses.replace(dialect, source_keys=source_keys)


def _sizes(config: SwinConfig) -> dict[str, Any]:
    return {
        "embed_dim": config.embed_dim,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "mlp_ratio": library_ratio(config),
    }


@torch.no_grad()
def _copy_weights(
    model: nn.Module, ours: Mapping[str, Tensor], dialects: tuple[Dialect, ...]
) -> None:
    """Give the library's model our weights, by the names that it has for them."""
    wanted = {
        name for name in model.state_dict() if not name.endswith(DERIVED) and "k_bias" not in name
    }
    for dialect in dialects:
        state = _translate(ours, dialect)
        if wanted <= set(state):
            break
    missing = sorted(wanted - set(state))
    if missing:
        raise ComparisonError(
            f"the library's model has weights that are not here: {', '.join(missing[:3])}"
        )
    unexpected = model.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise ComparisonError(
            f"the library's model lacks weights: {', '.join(sorted(unexpected)[:3])}"
        )


def _translate(ours: Mapping[str, Tensor], dialect: Dialect) -> dict[str, Tensor]:
    """Return our tensors under the library's names.

    A tensor that the library has in parts is split along its rows.
    """
    state: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, value in ours.items():
        source_keys = dialect.source_keys(name)
        for part, tensor in zip(source_keys, value.chunk(len(source_keys)), strict=True):
            whole, bracket, letter = part.partition("[")
            if bracket:
                joined.setdefault(whole, {})[letter.removesuffix("]")] = tensor
            else:
                state[part] = tensor
    for whole, parts in joined.items():  # V2's keys have no bias: torchvision's is zero
        state[whole] = torch.cat([parts["q"], torch.zeros_like(parts["q"]), parts["v"]])
    return state


def original_maker(loaded: LoadedModel, library: str) -> Callable[[], nn.Module]:
    """Return a function that calls ``build_original`` once, the first time that it is called."""
    return functools.cache(functools.partial(build_original, loaded, library))
