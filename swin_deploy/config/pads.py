"""Pads of a model whose maps windows do not tile: where they stay, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from swin_deploy.config.sizes import NONE, Size
from swin_deploy.config.swin import StageSpec, SwinConfig


@dataclass(frozen=True)
class StageLayout:
    """What becomes of a stage's map: its windows, their shift and its pads.

    Attributes:
        stage: Number of the stage, from 1 up.
        map: Size of the token map.
        window: Window size as built, in tokens.
        shift: Tokens that odd blocks roll the map by; 0 along an axis without a shift.
        padded: Size of the map padded to whole windows, in tokens.
        slots_per_token: Places in windows over tokens; 1 without pads.
        pads: Place of the pads: ``none``; ``carried``, which every layer of the stage computes; or
            ``put in``, by a gather before each attention, and taken out after it.
    """

    stage: int
    map: Size
    window: Size
    shift: Size
    padded: Size
    slots_per_token: float
    pads: Literal["none", "carried", "put in"]

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON values; a size is its rows and columns."""
        values = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return {name: list(one) if isinstance(one, Size) else one for name, one in values}


def stage_layouts(config: SwinConfig) -> tuple[StageLayout, ...]:
    """Return the layout of each stage of the deploy model, for manifests, notes and plans.

    Args:
        config: Config of a model.
    """
    shifts = (_shift(stage, config) for stage in config.stages)
    return tuple(
        StageLayout(
            stage=number,
            map=stage.resolution,
            window=stage.window_size,
            shift=shift,
            padded=stage.padded,
            slots_per_token=round(stage.padded.area / stage.resolution.area, 4),
            pads=_place(stage),
        )
        for number, (stage, shift) in enumerate(zip(config.stages, shifts, strict=True), start=1)
    )


def _shift(stage: StageSpec, config: SwinConfig) -> Size:
    """Return the shift of a stage's odd blocks; the notebook rounds half a window up."""
    if stage.depth < 2:
        return NONE
    if config.family == "notebook":
        return Size(*(-(-side // 2) for side in stage.window_size))
    return stage.shift_size


def _place(stage: StageSpec) -> Literal["none", "carried", "put in"]:
    if not stage.has_pads:
        return "none"
    return "carried" if stage.carries_pads else "put in"


def pad_notes(config: SwinConfig) -> list[str]:
    """Return notes on patches and maps that are padded or cropped; empty if windows tile them.

    Args:
        config: Config of a model.
    """
    return [*_patch_notes(config), *_map_notes(config)]


def _patch_notes(config: SwinConfig) -> Iterator[str]:
    first, patch = config.stages[0].resolution, config.patch_size
    if config.family == "notebook":
        rows, columns = (side // patch for side in config.image)
        if rows != columns:
            yield (
                f"{rows} x {columns} patches are taken, row by row, for a map of {first.sides}, as "
                "the notebook's code does"
            )
        return
    used = Size(first.rows * patch, first.columns * patch)
    if used != config.image:
        done = "completed with zeros" if config.remainder == "pad" else "cropped"
        yield f"image {config.image} {done} to {used}: patches of {patch}, as its library does"


def _map_notes(config: SwinConfig) -> Iterator[str]:
    stages = [layout_text(one) for one in stage_layouts(config) if one.pads != "none"]
    if stages:
        order = "rolled, then padded" if config.stages[0].roll_first else "padded, then rolled"
        yield f"windows do not tile maps, which are {order} ({config.window_rule}): " + "; ".join(
            stages
        )


def layout_text(layout: StageLayout) -> str:
    """Return the layout of a stage in words.

    Args:
        layout: The layout.
    """
    shift = f" shifted by {layout.shift}" if any(layout.shift) else ""
    start = f"stage {layout.stage} {layout.map}"
    windows = f"tokens, windows of {layout.window}{shift}"
    if layout.pads == "none":
        return f"{start} {windows}"
    share = 1 - layout.map.area / layout.padded.area
    return f"{start} to {layout.padded} {windows}, {share:.0%} pads, {layout.pads}"
