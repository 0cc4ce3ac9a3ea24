"""What each library does where windows do not tile a map: windows, shifts, pads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporters.errors import ConfigError
from swin_deploy.config.sizes import Size

# Slots a token up to which a stage's pads stay in the stream: measured on kernel plans of
# TensorRT-RTX 1.7.1, in kernels and in bytes.
CARRY_PADS_UP_TO = 1.1
WindowRule = Literal["timm", "authors", "torchvision", "huggingface", "huggingface-v2", "always"]
Pads = Literal["none", "pad-then-roll", "roll-then-pad"]
Remainder = Literal["refuse", "crop", "pad"]


@dataclass(frozen=True)
class WindowFit:
    """The windows of a stage as a library fits them to its map.

    Attributes:
        window: Window size, in tokens.
        shift: Tokens that odd blocks shift their windows by; 0 along an axis without a shift.
    """

    window: Size
    shift: Size


def fit_window(rule: WindowRule, *, tokens: Size, window: Size) -> WindowFit:
    """Fit windows to a map as a library does.

    - ``timm``: along each axis, a window is cut to the map, and not shifted if it covers it.
    - ``authors``: a window is cut to the shorter side on both axes, and not shifted if it covers
      that. Source: ``SwinTransformerBlock`` of microsoft/Swin-Transformer.
    - ``torchvision``: a window keeps its size; an axis that it covers is not shifted.
    - ``huggingface``: a window keeps its size; neither axis is shifted if it covers the shorter
      side, as in MMPretrain. Their own models fail where the shorter side is smaller.
    - ``huggingface-v2``: a window is cut to the rows on both axes, and not shifted if it covers
      them.
    - ``always``: a window keeps its size and is always shifted, as in the backbones of detectors.

    Args:
        rule: Name of the rule.
        tokens: Size of the map, in tokens.
        window: Window size that the model is configured with.

    Raises:
        ConfigError: If the library itself cannot run such a map.
    """
    decisive = _decisive(rule, tokens)
    cut = Size(*map(min, window, decisive)) if rule in CUTS else window
    if rule == "huggingface" and any(w > side for w, side in zip(window, decisive, strict=True)):
        raise ConfigError(
            f"a map of {tokens} tokens, smaller than the window of {window}, for which the "
            "library's own model fails"
        )
    if rule == "always":
        return WindowFit(cut, Size(window.rows // 2, window.columns // 2))
    shift = (side // 2 if tokens > side else 0 for tokens, side in zip(decisive, cut, strict=True))
    return WindowFit(cut, Size(*shift))


CUTS: tuple[WindowRule, ...] = ("timm", "authors", "huggingface-v2")


def _decisive(rule: WindowRule, tokens: Size) -> Size:
    """Return the sides of a map that decide about its windows along the rows and columns."""
    if rule in ("authors", "huggingface"):
        return Size.square(min(tokens))
    return Size.square(tokens.rows) if rule == "huggingface-v2" else tokens


def padded(tokens: Size, window: Size) -> Size:
    """Return the size of the smallest map of whole windows that holds a map."""
    return Size(*(-(-side // cut) * cut for side, cut in zip(tokens, window, strict=True)))


def first_map(image: Size, patch_size: int, remainder: Remainder) -> Size:
    """Return the size of the token map after the patch embedding.

    Args:
        image: Image size, in pixels.
        patch_size: Patch side, in pixels.
        remainder: Treatment of rows and columns that are not a whole patch.
    """
    more = patch_size - 1 if remainder == "pad" else 0
    return Size(*((side + more) // patch_size for side in image))


def merged_map(tokens: Size) -> Size:
    """Return the size of the map after a merge; odd rows and columns are padded."""
    return Size(*((side + 1) // 2 for side in tokens))
