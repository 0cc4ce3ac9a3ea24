"""The steps from a picture to a model's input, as values, and the user's choice of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from exporters.errors import ConfigError
from exporters.text_files import typed
from swin_deploy.config import MOST_SIDE, Size
from swin_deploy.config.sizes import spelt
from swin_deploy.images.pages import Page

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TO_UNIT = 1 / 255
RGB = 3  # channels
TOP_LEVEL = 255  # of a pixel
MOST_NUMBER = 1e6  # of mean, std and rescale: float32 can hold the normalised pixels

ResizeMode = Literal["shortest", "squash", "pad", "square", "fit", "none"]
ChannelOrder = Literal["rgb", "bgr"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
CropRounding = Literal["torchvision", "huggingface"]
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image file to a model input, in the order of the attributes.

    Attributes:
        turn: Whether a picture is turned as its EXIF orientation says.
        resize_mode: Kind of resize. ``shortest``: the shorter side gets ``resize``, the other
            follows; ``squash``: both sides get ``resize``, whatever the shape; ``pad``: the longer
            side gets ``resize``; ``square``: the picture is padded to a square first, and both of
            its sides get ``resize``; ``fit``: the shorter side gets up to the shorter side of
            ``resize``, the longer up to the longer one, both within ``crop``; ``none``: no resize.
            Where ``resize`` is a rectangle, pictures cover it for ``shortest``, and fit into it for
            ``pad``.
        resize: Side to resize to in pixels, or rows and columns.
        interpolation: Name of Pillow's filter.
        crop: Side of the centre crop in pixels, or rows and columns. A smaller picture is padded:
            with ``fill``, without one with the mean for ``pad``, and else with black.
        pad_size: Image size of the model, if that is larger than ``crop``: zeros below and on the
            right of the picture after normalisation, or ``fill`` before it. ``fit`` pads so up to
            ``crop``.
        multiple: Number of pixels that ``fit`` rounds both sides of a picture up to a multiple of.
        page: Steps of a page of a document around the resize; None for any other picture.
        crop_rounding: Library whose rounding an odd margin takes, and the sides of ``fit``.
        rescale: Factor for pixels of 0 to 255.
        mean: Values subtracted after that, by channel in the model's order: one channel is grey,
            three are RGB, four RGBA, and pictures of another number are arrays.
        std: Values divided by after that, by channel in the model's order.
        channel_order: Order of the channels that the model takes, if there are three.
        fill: Colour of what is padded, in pixel levels of red, green and blue; None for the usual.
            With ``square`` transparent pixels get it, too.
        on_white: Whether the transparent colour of a picture with a transparency entry becomes
            white, as in Hugging Face's ``do_convert_rgb``; an alpha channel is always dropped.
        origin: Name of the source of these steps.
        refusal: Reason why these steps are not the source's; images are then refused.

    Raises:
        ConfigError: If the steps cannot be done.
    """

    crop: int | tuple[int, int]
    resize: int | tuple[int, int]
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale: float = TO_UNIT
    crop_rounding: CropRounding = "torchvision"
    turn: bool = False
    on_white: bool = False
    channel_order: ChannelOrder = "rgb"
    fill: tuple[int, int, int] | None = None
    pad_size: int | tuple[int, int] | None = None
    multiple: int = 1
    page: Page | None = None
    origin: str = ""
    refusal: str = ""

    def __post_init__(self) -> None:
        for field in ("crop", "resize", "pad_size"):
            object.__setattr__(self, field, spelt(getattr(self, field), field))
        problem = self._problem()
        if problem:
            raise ConfigError(f"{self.origin}: {problem}" if self.origin else problem)

    def _problem(self) -> str:
        """Return the reason why these steps cannot be done; empty if they can."""
        for what, value, known in (
            ("resize mode", self.resize_mode, RESIZE_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("channel order", self.channel_order, CHANNEL_ORDERS),
        ):
            if value not in known:
                return f"{what} {value!r} is not known; use one of {', '.join(known)}"
        if self._only_rgb and len(self.mean) != RGB:
            return "a channel order, a pad colour and padded squares are for RGB pictures alone"
        if not all(0 <= level <= TOP_LEVEL for level in self.fill or ()):
            return f"pad colour {self.fill} is not three levels from 0 to {TOP_LEVEL}"
        if not all(0 < side <= MOST_SIDE for side in (*self.crop_size, *self.resize_size)):
            return f"resize {self.resize} and crop {self.crop} are not both from 1 to {MOST_SIDE}"
        return self._problem_of_pads() or self._problem_of_numbers()

    def _problem_of_pads(self) -> str:
        room = [side - have for side, have in zip(self.image_size, self.crop_size, strict=True)]
        if min(room) < 0 or max(self.image_size) > MOST_SIDE:
            return (
                f"pad_size {self.image_size.sides} is not from the crop {self.crop_size.sides} up "
                f"to {MOST_SIDE} a side"
            )
        if not 0 < self.multiple <= MOST_SIDE:
            return f"multiple {self.multiple} is not from 1 to {MOST_SIDE}"
        if self.page is not None and self.resize_mode not in ("shortest", "none"):
            return f"the steps of a page do not go with the resize mode {self.resize_mode}"
        return ""

    def _problem_of_numbers(self) -> str:
        numbers = (*self.mean, *self.std, self.rescale)
        if not all(abs(value) <= MOST_NUMBER for value in numbers):  # false for NaN too
            return f"mean, std and rescale {numbers} are not all finite, up to {MOST_NUMBER:g}"
        if any(0 < abs(value) < 1 / MOST_NUMBER for value in (*self.std, self.rescale)):
            return f"std {self.std} and rescale {self.rescale} are nearer to 0 than anyone's"
        if len(self.mean) != len(self.std) or 0 in (*self.std, self.rescale) or not self.mean:
            return (
                f"mean {self.mean} and std {self.std} need one number for each channel, none of "
                "std zero, and rescale must not be zero"
            )
        return ""

    @property
    def _only_rgb(self) -> bool:
        """Whether a step is about colours."""
        return self.channel_order != "rgb" or bool(self.fill) or self.resize_mode == "square"

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    @property
    def crop_size(self) -> Size:
        """``crop`` as rows and columns."""
        return Size.of(self.crop)

    @property
    def image_size(self) -> Size:
        """Image size of the model, as rows and columns."""
        return Size.of(self.pad_size or self.crop)

    @property
    def pads_end(self) -> bool:
        """Whether a picture is padded below and on the right, and not around it."""
        return self.pad_size is not None or self.resize_mode == "fit"

    @property
    def pads_zeros(self) -> bool:
        """Whether zeros follow below and on the right after normalisation."""
        return self.pads_end and self.fill is None

    @property
    def resize_size(self) -> Size:
        """``resize`` as rows and columns."""
        return Size.of(self.resize)

    @property
    def text(self) -> str:
        """The steps in words, with every number."""
        factor = "1/255" if self.rescale == TO_UNIT else f"{self.rescale:g}"
        words = f"{self.to_pixels}, times {factor}, mean {_spaced(self.mean)}"
        words += f", std {_spaced(self.std)}"
        if self.pads_zeros:
            words += f", then zeros below and on the right up to {self.image_size.sides}"
        return words

    @property
    def to_pixels(self) -> str:
        """The steps to the pixels of the model's size, in words."""
        page, colour = self.page, f" with {_spaced(self.fill)}" if self.fill else ""
        words = ["turn as EXIF says"] * self.turn + (page.before if page else [])
        words += [f"pad to a square{colour}"] * (self.resize_mode == "square")
        words.append(
            f"resize {self._resized}, {self.interpolation}" if self._resized else "no resize"
        )
        words += page.after if page else []
        words += [f"and pad{colour}"] * (self.resize_mode == "pad")
        if page:
            words.append(f"in the middle of {self.crop_size.sides}{colour or ', black'}")
        elif not self._is_whole:
            words.append(f"centre crop {self.crop_size}")
        if self.fill and self.pads_end:
            words.append(f"pad below and on the right{colour} to {self.image_size.sides}")
        words += ["channels in the order BGR"] * (self.channel_order == "bgr")
        return ", ".join(words)

    @property
    def _resized(self) -> str:
        """The sides that a picture is resized to, in words; empty for no resize."""
        size = self.resize_size
        square, both = size.is_square, f"{size.rows} x {size.columns}"
        words = {
            "shortest": f"the shorter side to {size}" if square else f"to cover {both}",
            "squash": f"to {both}",
            "square": f"to {both}",
            "pad": f"the longer side to {size}" if square else f"to fit into {both}",
            "fit": self._fit,
        }
        return words.get(self.resize_mode, "")

    @property
    def _fit(self) -> str:
        short, long = sorted(self.resize_size)
        inside = f"to fit into {self.crop_size.rows} x {self.crop_size.columns}"
        words = f"the shorter side to {short} and the longer to {long} at most, {inside}"
        words = inside if self.resize_size == self.crop_size else words
        return words + (f", up to multiples of {self.multiple}" if self.multiple > 1 else "")

    @property
    def _is_whole(self) -> bool:
        """Whether the crop removes nothing from any picture."""
        same = self.resize_mode in ("squash", "pad", "square") and self.resize == self.crop
        return same or self.resize_mode == "fit"

    def to_dict(self) -> dict[str, Any]:
        """Return the steps as JSON values; ``from_dict`` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, *, where: str) -> Preprocessing:  # noqa: ANN401 - JSON
        """Read the steps from JSON values.

        Args:
            values: The values, as from ``to_dict``.
            where: Name of the place they are from, for messages.

        Raises:
            FileError: If a value is missing or of another type.
            ConfigError: If the steps cannot be done.
        """
        return typed(values, cls, where=where)


def by_channel(
    mean: float | Sequence[float], std: float | Sequence[float]
) -> dict[str, tuple[float, ...]]:
    """Return mean and std of a library's file, where one number stands for all channels.

    Args:
        mean: One number, or one for each channel.
        std: The same.

    Returns:
        ``mean`` and ``std`` by name; if both are one number, three times that, for RGB.
    """
    given = {"mean": mean, "std": std}
    listed = {k: (v,) if isinstance(v, int | float) else tuple(v) for k, v in given.items()}
    count = max(map(len, listed.values()))
    channels = len(IMAGENET_MEAN) if count == 1 else count
    return {k: values * channels if len(values) == 1 else values for k, values in listed.items()}


def _spaced(numbers: Sequence[float]) -> str:
    if len(set(numbers)) == 1:
        return f"{numbers[0]:g}"
    return " ".join(f"{number:g}" for number in numbers)


# Choices that replace a field of the steps as they are.
SAME_FIELDS = {
    "resize_mode": "resize_mode",
    "interpolation": "interpolation",
    "channel_order": "channel_order",
    "pad_color": "fill",
}


@dataclass(frozen=True)
class PreprocessingChoice:
    """The user's choice of the preprocessing; None where the checkpoint decides.

    Attributes:
        source: Name of a library, or path of a file or folder with the steps.
        mean: Values by channel, or one for all.
        std: Values by channel, or one for all.
        crop_ratio: Side of the crop over that of the resized picture.
        resize_mode: Kind of resize, as in ``Preprocessing``.
        interpolation: Name of Pillow's filter.
        channel_order: Order of the channels that the model takes.
        pad_color: Colour of what is padded, three pixel levels of 0 to 255.
    """

    source: str | Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_ratio: float | None = None
    resize_mode: ResizeMode | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    pad_color: tuple[int, int, int] | None = None

    def apply(self, steps: Preprocessing) -> Preprocessing:
        """Return the steps with the user's values in the place of their own.

        Args:
            steps: The steps of the checkpoint or of ``source``.

        Raises:
            ConfigError: If the changed steps cannot be done.
        """
        said = self._said
        if not said:
            return steps
        changes: dict[str, Any] = {
            field: said[name] for name, field in SAME_FIELDS.items() if name in said
        }
        for name in ("mean", "std"):
            values = said.get(name, ())
            if values:
                changes[name] = values * len(steps.mean) if len(values) == 1 else values
        if said.keys() & {"crop_ratio", "resize_mode"} and not self._keeps_shape_of(steps):
            changes |= {"resize": self._size(steps), "refusal": "", "multiple": 1, "page": None}
        options = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        return dataclasses.replace(steps, **changes, origin=f"{steps.origin}, changed by {options}")

    def _keeps_shape_of(self, steps: Preprocessing) -> bool:
        """Whether the user's resize is that of the steps already."""
        same = self.resize_mode == steps.resize_mode and self.crop_ratio is None
        return same and not steps.refusal and steps.page is None

    def _size(self, steps: Preprocessing) -> int | tuple[int, int]:
        """Return the size to resize to: that of the crop, unless the user gives a ratio."""
        if self.crop_ratio is None:
            return steps.crop
        if (self.resize_mode or steps.resize_mode) == "fit":
            raise ConfigError(
                "a crop ratio is for the modes that crop, and fit shows the whole picture; leave "
                "one of them out"
            )
        if not 0 < self.crop_ratio <= 1:
            raise ConfigError(
                f"crop ratio {self.crop_ratio} is not above 0 and at most 1; use 0.875"
            )
        return Size(*(math.floor(side / self.crop_ratio) for side in steps.crop_size))

    @property
    def _said(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {n: value for n, value in values.items() if n != "source" and value is not None}

    @property
    def settles(self) -> bool:
        """Whether the user's values leave nothing of the checkpoint's steps to guess."""
        said = set(self._said)
        shape = bool(said & {"crop_ratio", "resize_mode"})
        return self.source is not None or (shape and said >= {"mean", "std", "interpolation"})
