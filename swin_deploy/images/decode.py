"""The decoding and preprocessing of one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError, FileError
from swin_deploy.config import Size, channels_text
from swin_deploy.images.arrays import LEVELS, UnfitError, is_npy, read_array
from swin_deploy.images.fitting import fitted
from swin_deploy.images.opening import is_turned, opened, reading
from swin_deploy.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

# Suffixes that torchvision's ImageFolder accepts.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pixels of a picture: a phone's 108-megapixel photograph is decoded, one of a gigabyte is not.
MOST_PIXELS = 120_000_000
# Values of floating point that are farther from the mean and from 0 than both are not scaled.
MOST_DEVIATIONS, MOST_WHITES = 100, 10
SIXTEEN_BITS = "16 bits a channel, clipped to 8 as Pillow does"
NOT_TURNED = "EXIF orientation, not applied"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode of a picture, by number of channels
Tell = Callable[[str], None]
Pixels = NDArray[np.uint8] | NDArray[np.float32]


def load_image(
    path: Path, steps: Preprocessing, *, tell: Tell = lambda _: None
) -> NDArray[np.float32]:
    """Decode one image file and prepare it for a model.

    Args:
        path: Path of the file.
        steps: Preprocessing of the image.
        tell: Function as in ``load_pixels``.

    Returns:
        Normalised image, [channels, rows, columns], float32.

    Raises:
        FileError: Reasons as in ``load_pixels``.
        ConfigError: If the source's steps are not known.
    """
    return normalise(load_pixels(path, steps, tell=tell), steps)


def load_pixels(
    picture: Path | bytes | Image.Image | NDArray[Any],
    steps: Preprocessing,
    *,
    name: str = "",
    tell: Tell = lambda _: None,
) -> Pixels:
    """Decode one picture, resize and crop it.

    Args:
        picture: Path of an image file or of a `.npy` file, the bytes of one, a Pillow picture, or
            an array; it is not changed.
        steps: Preprocessing of the picture.
        name: Name of the picture for messages; by default its path.
        tell: Function that is told ``SIXTEEN_BITS`` or ``NOT_TURNED`` if that applies.

    Returns:
        Pixels, [rows, columns, channels]: uint8, or float32 that is scaled already for an array of
        another type.

    Raises:
        FileError: If the file is missing, not a regular file, cannot be decoded or is too large, or
            the picture has other channels than the steps.
        ConfigError: If the source's steps are not known.
    """
    if steps.refusal:
        raise ConfigError(steps.refusal)
    with reading(picture, name) as shown:
        if isinstance(picture, np.ndarray) or is_npy(picture):
            return pixels_of_array(read_array(picture, channels=steps.channels), steps)
        with opened(picture) as image:
            if image.width * image.height > MOST_PIXELS:
                raise FileError(
                    f"image {shown} has {image.width:,} x {image.height:,} pixels, more than the "
                    f"{MOST_PIXELS:,} that are decoded; make it smaller"
                )
            image.load()  # NumPy would ignore a decoder's error
            return pixels_of(image, steps, tell=tell)


def preprocess(
    image: Image.Image, steps: Preprocessing, *, tell: Tell = lambda _: None
) -> NDArray[np.float32]:
    """Prepare one decoded picture for a model; see ``pixels_of`` and ``normalise``.

    Args:
        image: The picture, of any mode and size; it is not changed.
        steps: Preprocessing of the picture.
        tell: Function as in ``load_pixels``.

    Returns:
        Normalised image, [channels, rows, columns], float32.
    """
    return normalise(pixels_of(image, steps, tell=tell), steps)


def normalise(pixels: Pixels, steps: Preprocessing) -> NDArray[np.float32]:
    """Bring pixels to the range that a model was trained on.

    Args:
        pixels: Pixels, [..., rows, columns, channels]: of 0 to 255, uint8, or scaled already,
            float32.
        steps: Preprocessing with the factor, mean and standard deviation.

    Returns:
        Normalised images, [..., channels, rows, columns], float32: of the model's size, with zeros
        below and on the right, where the steps pad so.
    """
    whole = pixels.dtype == np.uint8
    scaled = (pixels * steps.rescale).astype(np.float32) if whole else pixels
    mean, std = (np.array(values, dtype=np.float32) for values in (steps.mean, steps.std))
    images = np.moveaxis((scaled - mean) / std, -1, -3)  # [..., H, W, C] -> [..., C, H, W]
    return np.ascontiguousarray(_padded(images, steps.image_size) if steps.pads_end else images)


def _padded(images: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Return images [..., rows, columns] with zeros below and on the right up to a size."""
    more = [max(want - have, 0) for want, have in zip(size, images.shape[-2:], strict=True)]
    return np.pad(images, [(0, 0)] * (images.ndim - 2) + [(0, pads) for pads in more])


def denormalise(images: NDArray[np.float32], steps: Preprocessing) -> NDArray[np.uint8]:
    """Bring normalised images back to the nearest pixels; the inverse of ``normalise``.

    Args:
        images: Normalised images, [..., channels, rows, columns].
        steps: Preprocessing with the factor, mean and standard deviation.

    Returns:
        Pixels, [..., rows, columns, channels], uint8; values are clipped to 0 to 255.
    """
    mean, std = (np.array(values, dtype=np.float32) for values in (steps.mean, steps.std))
    levels = (np.moveaxis(images, -3, -1) * std + mean) / np.float32(steps.rescale)
    return np.ascontiguousarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def pixels_of(
    image: Image.Image, steps: Preprocessing, *, tell: Tell = lambda _: None
) -> NDArray[np.uint8]:
    """Resize and crop one decoded picture; see ``Preprocessing`` for the steps.

    Sizes and offsets are rounded as the source's library rounds them: torchvision's ``Resize``
    and ``CenterCrop``, timm's ``ResizeKeepRatio`` and ``CenterCropOrPad``, Hugging Face's image
    processors on Pillow.

    Args:
        image: The picture, of any mode and size; it is not changed.
        steps: Preprocessing of the picture.
        tell: Function as in ``load_pixels``.

    Returns:
        Pixels, [rows, columns, channels], uint8, with the channels in the model's order.

    Raises:
        UnfitError: If the picture has other channels than the steps, or is too large.
    """
    from PIL import ImageOps

    if steps.turn:
        image = ImageOps.exif_transpose(image)
    elif is_turned(image):
        tell(NOT_TURNED)
    if image.mode.startswith(("I", "F")):
        tell(SIXTEEN_BITS)
    if steps.resize_mode == "square":
        image = _squared(image, steps)
    mode = MODES.get(steps.channels)
    if mode is None or (mode == "RGBA" and not _has_alpha(image)):
        raise UnfitError(_other_bands(image, steps.channels))
    if steps.on_white and mode != "RGBA":
        image = _on_white(image)
    if image.mode != mode:
        image = image.convert(mode)
    bgr = steps.channel_order == "bgr"
    levels = _edges(steps)[::-1] if bgr else _edges(steps)  # pictures are RGB
    edge = tuple(round(level) for level in levels)
    pixels = np.atleast_3d(
        np.asarray(fitted(image, steps, edge), np.uint8)
    )  # one channel: [H, W] -> [H, W, 1]
    return np.ascontiguousarray(pixels[..., ::-1]) if bgr else pixels


def _edges(steps: Preprocessing) -> tuple[float, ...]:
    """Return the pixel level of what is padded, for each channel in the model's order."""
    if steps.fill is None:
        return tuple(255 * value for value in steps.mean)
    return steps.fill[::-1] if steps.channel_order == "bgr" else steps.fill


def _squared(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """Return a picture in the middle of a square of the fill, its transparent pixels filled too."""
    from PIL import Image

    side, fill = max(image.size), steps.fill or (0, 0, 0)
    if side**2 > MOST_PIXELS:
        raise UnfitError(
            f"of {image.width:,} x {image.height:,} pixels becomes {side:,} x {side:,} padded to a "
            f"square, more than the {MOST_PIXELS:,} pixels that are decoded; crop it, or remove "
            "the file"
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*fill, 255)), layer)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square


def pixels_of_array(array: NDArray[Any], steps: Preprocessing) -> Pixels:
    """Resize and crop each channel of an array as a grey picture of its own.

    Args:
        array: Array, [rows, columns, channels]: uint8, uint16 or float32.
        steps: Preprocessing of the picture.

    Returns:
        Pixels, [rows, columns, channels]: uint8 of uint8, else float32, scaled.

    Raises:
        UnfitError: If values of floating point are not scaled, or the picture is too large.
    """
    from PIL import Image

    whole = array.dtype == np.uint8
    if array.dtype == np.float32:
        _check_scaled(array, steps)
    elif not whole:
        array = array * np.float32(steps.rescale * LEVELS)
    if steps.resize_mode == "square" or (steps.page and steps.page.crop_margin):
        what = "square pads" if steps.resize_mode == "square" else "margins are cut off"
        raise UnfitError(f"is an array, and {what} pictures; give it another --resize-mode")
    planes = []
    for channel, level in enumerate(_edges(steps)):
        plane = Image.fromarray(np.ascontiguousarray(array[..., channel]))
        edge = round(level) if whole else level / 255
        planes.append(np.asarray(fitted(plane, steps, edge)))
    return np.stack(planes, axis=-1)  # [H, W] of each channel -> [H, W, C]


def _check_scaled(array: NDArray[np.float32], steps: Preprocessing) -> None:
    """Refuse values that are far from the mean and from white: they are not scaled."""
    mean, std = (np.array(values, np.float32) for values in (steps.mean, steps.std))
    far = np.abs(array - mean) > MOST_DEVIATIONS * np.abs(std)
    if (far & (np.abs(array) > MOST_WHITES * abs(255 * steps.rescale))).any():
        raise UnfitError(
            f"has values from {array.min():g} to {array.max():g}, and floating point is taken as "
            f"scaled already, with white at {255 * steps.rescale:g}; scale it, or say its --mean "
            "and --std"
        )


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or bool({"A", "a"} & set(image.getbands()))


def _other_bands(image: Image.Image, channels: int) -> str:
    """Say that a picture has no such bands, and what to give."""
    alpha = "pictures with an alpha band, or " if channels == 4 else ""
    return (
        f"has bands {', '.join(image.getbands())}, and the model takes {channels_text(channels)}; "
        f"give {alpha}arrays [height, width, {channels}] in .npy files"
    )


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture with its transparent colour, if it has one, replaced by white."""
    from PIL import Image

    image = image.convert("RGB")
    if image.info.get("transparency") is None:
        return image
    layer = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
