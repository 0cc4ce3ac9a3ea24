"""The windows of a model as it was saved, where a file's tables belong to several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.dialect import CheckpointHints, Dialect
from swin_deploy.checkpoints.variants import effective_windows
from swin_deploy.checkpoints.window_tables import WindowTable, shown_windows
from swin_deploy.config import Size, SwinConfig
from swin_deploy.config.assumptions import Assumption
from swin_deploy.config.sizes import Windows, stage_windows, windows_text

SHOWN_CANDIDATES = 4


@dataclass(frozen=True)
class Clues:
    """Whatever tells the windows of a file, in addition to its tables.

    Attributes:
        fields: Fields of ``SwinConfig`` without windows and image size.
        img_size: Image size of the saved model, in pixels; None if nothing tells it.
        said: Windows that files next to the weights say; None if they do not.
        asked: Windows that the user asks for; None for the file's own.
    """

    fields: dict[str, Any]
    img_size: int | tuple[int, int] | None = None
    said: Windows | None = None
    asked: Windows | None = None


def geometry_of(dialect: Dialect, sizes: dict[str, Any], facts: CheckpointHints) -> dict[str, Any]:
    """Return the fields of ``SwinConfig`` about sizes that windows do not tile, by the source.

    Backbones of detectors pad, and shift also where one window covers the map. They are told by
    the norms of their stages, unless the module itself tells.

    Args:
        dialect: The dialect of the checkpoint.
        sizes: Fields of ``SwinConfig`` that the weights show.
        facts: Facts of the files next to the weights.
    """
    fields = dialect.geometry(sizes["family"]) | {"built_size": facts.built_size or 0}
    detector = sizes["stage_norms"] and not sizes["num_classes"]
    always = detector and sizes["family"] == "swin"
    if always if facts.always_shift is None else facts.always_shift:
        fields["window_rule"] = "always"
        if fields["pads"] == "none":
            fields |= {"pads": "pad-then-roll", "remainder": "pad"}
    return fields


def own_windows(
    tables: tuple[WindowTable, ...], clues: Clues
) -> tuple[tuple[Size, ...], list[Assumption]]:
    """Find the windows that a file's tables belong to, and what is assumed.

    A table has a row for each offset of two tokens, and several windows may have as many. Taken
    are, in turn, those of which the tables are:

    1. What the files next to the weights say.
    2. What the user asks for. Other windows are made from the file's own.
    3. What the file's buffers tell, and squares, as libraries read such files.
    4. The same rectangle in all stages, if only one tiles the maps of a known image.

    Args:
        tables: The tables of each stage.
        clues: Whatever else tells the windows.

    Returns:
        Window of each stage, and the assumption in case 4.

    Raises:
        CheckpointError: If none of these does; the message has windows to choose from.
        ConfigError: If ``asked`` has another number of stages.
    """
    for wanted in (_said(tables, clues), clues.asked):
        windows = None if wanted is None else stage_windows(wanted, len(tables))
        if windows and are_of(tables, windows, clues):  # 1, 2
            return windows, []
    shown = shown_windows(tables)
    if shown is not None:  # 3
        return shown, []
    tiling = _tiling(tables, clues)
    if tiling is None:
        raise CheckpointError(_question(tables, clues))
    others = [str(one) for one in tables[0].candidates if one != tiling][:SHOWN_CANDIDATES]
    reason = (
        f"which alone tiles the maps of {Size.of(clues.img_size or 0).sides} px: the tables are as "
        f"large as those of {' or '.join(others)}"
    )
    assumed = Assumption("window size", str(tiling), reason, "--window-size")
    return (tiling,) * len(tables), [assumed]


def _said(tables: tuple[WindowTable, ...], clues: Clues) -> Windows | None:
    """Return the windows that files say; None if they are those of another number of stages."""
    try:
        return None if clues.said is None else stage_windows(clues.said, len(tables))
    except ConfigError:
        return None


def are_of(tables: tuple[WindowTable, ...], windows: tuple[Size, ...], clues: Clues) -> bool:
    """Tell whether tables are those of windows as the library builds them.

    Args:
        tables: The tables of each stage.
        windows: Window of each stage.
        clues: Whatever tells the image and the library's rule.
    """
    built = as_built(windows, clues)
    return all(table.fits(own) for table, own in zip(tables, built, strict=True))


def as_built(windows: tuple[Size, ...], clues: Clues) -> tuple[Size, ...]:
    """Return windows as the library cuts them to the maps of the image; uncut if none is known.

    Args:
        windows: Window of each stage.
        clues: Whatever tells the image and the library's rule.
    """
    if clues.img_size is None:
        return windows
    try:
        built = SwinConfig(**clues.fields, window_size=windows, img_size=clues.img_size)
    except ConfigError:
        return windows
    return effective_windows(built)


def _tiling(tables: tuple[WindowTable, ...], clues: Clues) -> Size | None:
    """Return the only window of all stages that fits the tables and tiles the maps of the image."""
    if clues.img_size is None:
        return None
    found = [one for one in tables[0].candidates if _tiles(one, tables, clues)]
    return found[0] if len(found) == 1 else None


def _tiles(window: Size, tables: tuple[WindowTable, ...], clues: Clues) -> bool:
    windows = (window,) * len(tables)
    if not are_of(tables, windows, clues):
        return False
    fields = clues.fields | {"pads": "none", "remainder": "refuse", "img_size": clues.img_size}
    try:
        SwinConfig(**fields, window_size=windows)
    except ConfigError:
        return False
    return True


def _question(tables: tuple[WindowTable, ...], clues: Clues) -> str:
    """Return the message that asks for the windows."""
    asked = clues.asked
    none = f"--window-size {windows_text(asked)} is none of them; " if asked is not None else ""
    stages = "; ".join(
        f"stage {number} {' or '.join(_some(table.candidates))}"
        for number, table in enumerate(tables, start=1)
    )
    example = windows_text(tuple(table.window or table.candidates[0] for table in tables))
    first = next(table for table in tables if table.window is None)
    image = "" if clues.img_size else ", and with --image-size where windows are cut to their maps"
    return (
        f"{first.name} is {list(first.shape)}, which several windows have, and no file tells "
        f"which: {stages}; {none}say it with --window-size, such as --window-size {example}{image}"
    )


def _some(windows: Iterable[Size]) -> list[str]:
    return list(map(str, windows))[:SHOWN_CANDIDATES]
