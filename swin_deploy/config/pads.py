"""Pads of a model whose maps windows do not tile: where they stay, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator

from swin_deploy.config.sizes import Size
from swin_deploy.config.swin import StageSpec, SwinConfig

# Slots a token up to which a stage's pads stay in the stream: measured on kernel plans of
# TensorRT-RTX 1.7.1, in kernels and in bytes.
CARRY_PADS_UP_TO = 1.1


def carries_pads(stage: StageSpec) -> bool:
    """Tell whether the stream keeps a stage's pads between its blocks, if windows hold any.

    A few cost less than the gathers that put them in and take them out around each attention.
    """
    return stage.padded.area <= CARRY_PADS_UP_TO * stage.resolution.area


def pad_notes(config: SwinConfig) -> list[str]:
    """Return notes on patches and maps that are padded or cropped; empty if windows tile them.

    Args:
        config: Config of a model.
    """
    return [*_patch_notes(config), *_map_notes(config)]


def _patch_notes(config: SwinConfig) -> Iterator[str]:
    first, patch = config.stages[0].resolution, config.patch_size
    used = Size(first.rows * patch, first.columns * patch)
    if used != config.image:
        done = "completed with zeros" if config.remainder == "pad" else "cropped"
        yield f"image {config.image} {done} to {used}: patches of {patch}, as its library does"


def _map_notes(config: SwinConfig) -> Iterator[str]:
    stages = [
        f"stage {number} {_stage_text(stage)}"
        for number, stage in enumerate(config.stages, start=1)
        if stage.has_pads
    ]
    if stages:
        order = "rolled, then padded" if config.stages[0].roll_first else "padded, then rolled"
        yield f"windows do not tile maps, which are {order} ({config.window_rule}): " + "; ".join(
            stages
        )


def _stage_text(stage: StageSpec) -> str:
    shift = f" shifted by {stage.shift_size}" if any(stage.shift_size) and stage.depth > 1 else ""
    share = 1 - stage.resolution.area / stage.padded.area
    place = "carried" if carries_pads(stage) else "put in"
    return (
        f"{stage.resolution} to {stage.padded} tokens, windows of {stage.window_size}{shift}, "
        f"{share:.0%} pads, {place}"
    )
