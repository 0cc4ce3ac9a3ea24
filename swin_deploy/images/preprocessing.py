"""The steps from a picture to a model's input, as values, and the user's choice of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from exporters.errors import ConfigError
from exporters.text_files import typed
from swin_deploy.config import MOST_SIDE, Size
from swin_deploy.config.sizes import spelt

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TO_UNIT = 1 / 255
RGB = 3  # channels
TOP_LEVEL = 255  # of a pixel
MOST_NUMBER = 1e6  # of mean, std and rescale: float32 can hold the normalised pixels

ResizeMode = Literal["shortest", "squash", "pad", "square", "none"]
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
            its sides get ``resize``; ``none``: no resize. Where ``resize`` is a rectangle, pictures
            cover it for ``shortest``, and fit into it for ``pad``.
        resize: Side to resize to in pixels, or rows and columns.
        interpolation: Name of Pillow's filter.
        crop: Side of the centre crop in pixels, or rows and columns: the model's image size. A
            smaller picture is padded: with ``fill``, without one with the mean for ``pad``, and
            else with black.
        crop_rounding: Library whose rounding an odd margin takes.
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
    origin: str = ""
    refusal: str = ""

    def __post_init__(self) -> None:
        for field in ("crop", "resize"):
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
        return self._problem_of_numbers()

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
    def resize_size(self) -> Size:
        """``resize`` as rows and columns."""
        return Size.of(self.resize)

    @property
    def text(self) -> str:
        """The steps in words, with every number."""
        factor = "1/255" if self.rescale == TO_UNIT else f"{self.rescale:g}"
        return (
            f"{self.to_pixels}, times {factor}, mean {_spaced(self.mean)}, std {_spaced(self.std)}"
        )

    @property
    def to_pixels(self) -> str:
        """The steps to the pixels of the model's size, in words."""
        size = self.resize_size
        square, both = size.is_square, f"{size.rows} x {size.columns}"
        resize = {
            "shortest": f"the shorter side to {size}" if square else f"to cover {both}",
            "squash": f"to {both}",
            "square": f"to {both}",
            "pad": f"the longer side to {size}" if square else f"to fit into {both}",
        }.get(self.resize_mode)
        words = ["turn as EXIF says"] * self.turn
        words += [f"pad to a square{self._colour}"] * (self.resize_mode == "square")
        words.append(f"resize {resize}, {self.interpolation}" if resize else "no resize")
        words += [f"and pad{self._colour}"] * (self.resize_mode == "pad")
        words += [] if self._whole else [f"centre crop {self.crop_size}"]
        words += ["channels in the order BGR"] * (self.channel_order == "bgr")
        return ", ".join(words)

    @property
    def _colour(self) -> str:
        return f" with {_spaced(self.fill)}" if self.fill else ""

    @property
    def _whole(self) -> bool:
        """Whether the crop removes nothing from any picture."""
        return self.resize_mode in ("squash", "pad", "square") and self.resize == self.crop

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


@dataclass(frozen=True)
class Rule:
    """A source's way to prepare pictures for a model of any image size.

    Attributes:
        at: Function from an image side in pixels to the steps.
        guess: Reason why it is a guess; empty if a file or the weights say it.
        native: Image size that the source itself says, in pixels; None if it says none.
        own: Steps for one image size alone, which may be a rectangle.
    """

    at: Callable[[int], Preprocessing]
    guess: str = ""
    native: int | tuple[int, int] | None = None
    own: Preprocessing | None = None

    def steps(self, size: Size) -> Preprocessing:
        """Return the steps for images of a size; for a rectangle, by the rule along each axis.

        Their ``refusal`` says so if the rule's steps along the two axes do not agree.
        """
        if self.own is not None and self.own.crop_size == size:
            return self.own
        if size.is_square:
            return self.at(size.rows)
        rows, columns = map(self.at, size)
        box = (rows.resize_size.rows, columns.resize_size.columns)
        steps, other = (dataclasses.replace(one, crop=size, resize=box) for one in (rows, columns))
        if steps == other:
            return steps
        refusal = (
            f"{steps.origin} prepares {size.rows} and {size.columns} px in ways that do not go "
            f"together in an image of {size}; say how with --preprocessing or --resize-mode"
        )
        return dataclasses.replace(steps, refusal=refusal)


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
        if said.keys() & {"crop_ratio", "resize_mode"}:
            changes |= {"resize": self._size(steps), "refusal": ""}
        options = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        return dataclasses.replace(steps, **changes, origin=f"{steps.origin}, changed by {options}")

    def _size(self, steps: Preprocessing) -> int | tuple[int, int]:
        """Return the size to resize to; without a ratio, a changed mode resizes to the crop's."""
        if self.crop_ratio is None:
            same = self.resize_mode == steps.resize_mode and not steps.refusal
            return steps.resize if same else steps.crop
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


def centre_crop_rule(
    ratio: float,
    *,
    guess: str = "",
    **steps: Any,  # noqa: ANN401 - fields of Preprocessing
) -> Rule:
    """Return the rule of a centre crop: resize the shorter side to the image size over ``ratio``.

    Args:
        ratio: Side of the crop over that of the resized picture, which is rounded down as in timm.
        guess: Reason why it is a guess; empty if it is none.
        **steps: Other fields of ``Preprocessing``.
    """

    def at(img_size: int) -> Preprocessing:
        return Preprocessing(crop=img_size, resize=math.floor(img_size / ratio), **steps)

    return Rule(at, guess)


def squash_rule(*, guess: str = "", **steps: Any) -> Rule:  # noqa: ANN401 - as above
    """Return the rule that resizes every picture to the image size, whatever its shape.

    Args:
        guess: Reason why it is a guess; empty if it is none.
        **steps: Other fields of ``Preprocessing``.
    """

    def at(img_size: int) -> Preprocessing:
        return Preprocessing(crop=img_size, resize=img_size, resize_mode="squash", **steps)

    return Rule(at, guess)
