"""The published variant that a config is, and the sizes of a model in words."""

from __future__ import annotations

import dataclasses
from typing import Any

from exporters.errors import ConfigError
from swin_deploy.config import VARIANTS, Size, SwinConfig, channels_text

SHOWN = ("family", "patch_size", "embed_dim", "depths", "num_heads", "mlp_ratio")
# Fields that are the defaults in every variant.
SETTINGS = ("activation", "patch_norm", "absolute_positions", "pool", "layer_norm_eps")


def effective_windows(config: SwinConfig) -> tuple[Size, ...]:
    """Return the window of each stage as built."""
    return tuple(stage.window_size for stage in config.stages)


def check_agreement(name: str, wanted: SwinConfig, found: SwinConfig) -> None:
    """Refuse a checkpoint that is not of the variant asked for.

    The papers' models may have any head and any number of input channels, and may have been saved
    at another image size.

    Args:
        name: Name of the variant.
        wanted: Config of the variant.
        found: Config of the model as it was saved.

    Raises:
        ConfigError: If sizes differ; the message names all that do.
    """
    fields = [*SHOWN, *SETTINGS, "window_size"]
    if found.family == "notebook":
        fields.append("num_classes")
    differences = [
        f"{field} {in_words(getattr(found, field))} instead of {in_words(getattr(wanted, field))}"
        for field in fields
        if getattr(found, field) != getattr(wanted, field)
        and not (field == "window_size" and _same_windows(wanted, found))
    ]
    if differences:
        raise ConfigError(
            f"the checkpoint is no {name}: it has {', '.join(differences)}; leave --model out"
        )


def variant_of(config: SwinConfig, *, any_head: bool = False) -> str | None:
    """Find the variant that a config is, whatever its output.

    Args:
        config: Config of a model.
        any_head: True to accept any number of classes.

    Returns:
        Name of the variant; None if the config is not one.
    """
    for name, known in VARIANTS.items():
        same_head = any_head or known.num_classes == config.num_classes
        same_image = known.family == "notebook" or known.img_size == config.img_size
        same_sizes = all(
            getattr(known, field) == getattr(config, field)
            for field in (*SHOWN, *SETTINGS, "in_channels")
        )
        if same_head and same_image and same_sizes and _same_windows(known, config):
            return name
    return None


def _same_windows(known: SwinConfig, config: SwinConfig) -> bool:
    """Tell whether all stages have the same windows, in the model and in its pretraining."""
    if known.pretrained_window_sizes != config.pretrained_window_sizes:
        return False
    if known.window_sizes == config.window_sizes:
        return True
    try:
        at_its_size = dataclasses.replace(known, img_size=config.img_size)
    except ConfigError:
        return False
    return effective_windows(at_its_size) == effective_windows(config)


def shift_notes(config: SwinConfig) -> list[str]:
    """Return a note on windows that cover the map and shift all the same; empty without any."""
    covered = [
        str(index + 1)
        for index, stage in enumerate(config.stages)
        if config.always_shift and stage.num_windows == 1 and stage.depth > 1
    ]
    if not covered:
        return []
    which = f"stage {covered[0]}" if len(covered) == 1 else f"stages {' and '.join(covered)}"
    return [f"one window covers the map in {which} and is shifted, as in detectors' backbones"]


def described(config: SwinConfig) -> str:
    """Return the sizes of a model in words."""
    head = "no classifier"
    if config.num_classes:
        head = f"{config.num_classes} {'class' if config.num_classes == 1 else 'classes'}"
    if config.head_hidden:
        head += f" by a head of {config.head_hidden} channels, activation {config.head_activation}"
    other = ", ".join(f"{field} {getattr(config, field)}" for field in unusual(config))
    images = str(config.img_size)
    if config.in_channels != 3:
        images += f" with {channels_text(config.in_channels)}"
    return (
        f"{'Swin V2' if config.family == 'swinv2' else 'Swin'}: {config.embed_dim} channels, "
        f"depths {in_words(config.depths)}, heads {in_words(config.num_heads)}, "
        f"windows of {in_words(config.window_size)}, images of {images}, {head}"
        f"{', ' if other else ''}{other}"
    )


def unusual(config: SwinConfig) -> list[str]:
    """Return the fields of ``SETTINGS`` that are not those of the papers' models."""
    usual = {field.name: field.default for field in dataclasses.fields(SwinConfig)}
    return [field for field in SETTINGS if getattr(config, field) != usual[field]]


def in_words(value: Any) -> str:  # noqa: ANN401 - a field of a config
    """Return a field of a config in words: the values of stages between strokes."""
    several = isinstance(value, tuple) and not isinstance(value, Size)
    return "/".join(map(str, value)) if several else str(value)
