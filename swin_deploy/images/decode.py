"""The decoding and preprocessing of one picture."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError, FileError
from exporters.text_files import shortened
from swin_deploy.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

# Suffixes that torchvision's ImageFolder accepts.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pixels of a picture: a phone's 108-megapixel photograph is decoded, one of a gigabyte is not.
MOST_PIXELS = 120_000_000
# Pixels of the resized picture: 1 x 60,000 pixels would become 256 x 15,360,000.
MOST_RESIZED = 50_000_000
ORIENTATION = 0x0112  # EXIF's tag
# Errors that Pillow's decoders raise on damaged files.
DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
SIXTEEN_BITS = "16 bits a channel, clipped to 8 as Pillow does"
NOT_TURNED = "EXIF orientation, not applied"
Tell = Callable[[str], None]


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
        FileError: If the file is missing, not a regular file, cannot be decoded or is too large.
        ConfigError: If the source's steps are not known.
    """
    return normalise(load_pixels(path, steps, tell=tell), steps)


def load_pixels(
    picture: Path | bytes | Image.Image,
    steps: Preprocessing,
    *,
    name: str = "",
    tell: Tell = lambda _: None,
) -> NDArray[np.uint8]:
    """Decode one picture, resize and crop it.

    Args:
        picture: Path of an image file, the bytes of one, or a Pillow picture; it is not changed.
        steps: Preprocessing of the picture.
        name: Name of the picture for messages; by default its path.
        tell: Function that is told ``SIXTEEN_BITS`` or ``NOT_TURNED`` if that applies.

    Returns:
        Pixels, [rows, columns, channels], uint8.

    Raises:
        FileError: If the file is missing, not a regular file, cannot be decoded or is too large.
        ConfigError: If the source's steps are not known.
    """
    from PIL import Image

    if steps.refusal:
        raise ConfigError(steps.refusal)
    name = shortened(name or picture)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MOST_PIXELS
    try:
        if isinstance(picture, Path) and not stat.S_ISREG(picture.stat().st_mode):
            if picture.is_dir():
                raise FileError(f"image {name} is a folder; give image files")
            raise FileError(f"image {name} is not a file; give image files")
        with _opened(picture) as image:
            if image.width * image.height > MOST_PIXELS:
                raise FileError(
                    f"image {name} has {image.width:,} x {image.height:,} pixels, more than the "
                    f"{MOST_PIXELS:,} that are decoded; make it smaller"
                )
            image.load()  # NumPy would ignore a decoder's error
            return pixels_of(image, steps, tell=tell)
    except (*DAMAGE, Image.DecompressionBombError) as err:
        raise FileError(
            f"image {name} cannot be read ({_one_line(err)}); replace or remove the file"
        ) from err
    except _TooLargeError as err:
        raise FileError(f"image {name} {err}; crop it, or remove the file") from err


def _opened(
    picture: Path | bytes | Image.Image,
) -> contextlib.AbstractContextManager[Image.Image]:
    """Return a picture opened by Pillow, closed on exit; the caller's own stays open."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return contextlib.nullcontext(picture)
    return Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)


class _TooLargeError(Exception):
    """A picture whose resized form would take too much memory."""


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


def normalise(pixels: NDArray[np.uint8], steps: Preprocessing) -> NDArray[np.float32]:
    """Bring pixels to the range that a model was trained on.

    Args:
        pixels: Pixels of 0 to 255, [..., rows, columns, channels].
        steps: Preprocessing with the factor, mean and standard deviation.

    Returns:
        Normalised images, [..., channels, rows, columns], float32.
    """
    scaled = (pixels * steps.rescale).astype(np.float32)
    mean, std = (np.array(values, dtype=np.float32) for values in (steps.mean, steps.std))
    return np.ascontiguousarray(np.moveaxis((scaled - mean) / std, -1, -3))


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
    """
    from PIL import Image, ImageOps

    if steps.turn:
        image = ImageOps.exif_transpose(image)
    elif _is_turned(image):
        tell(NOT_TURNED)
    if image.mode.startswith(("I", "F")):
        tell(SIXTEEN_BITS)
    if steps.resize_mode == "square":
        image = _squared(image, steps)
    size = _resized(image.size, steps)
    if size[0] * size[1] > MOST_RESIZED:
        raise _TooLargeError(
            f"of {image.width:,} x {image.height:,} pixels becomes {size[0]:,} x {size[1]:,} "
            f"before the crop, more than the {MOST_RESIZED:,} pixels that are resized to"
        )
    image = _coloured(image, steps)
    if size != image.size:
        image = image.resize(size, Image.Resampling[steps.interpolation.upper()])
    pixels = np.asarray(_centred(image, steps), np.uint8)
    return pixels if steps.channels == "rgb" else np.ascontiguousarray(pixels[..., ::-1])


def _squared(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """Return a picture in the middle of a square of the fill, its transparent pixels filled too."""
    from PIL import Image

    side, fill = max(image.size), steps.fill or (0, 0, 0)
    if side**2 > MOST_PIXELS:
        raise _TooLargeError(
            f"of {image.width:,} x {image.height:,} pixels becomes {side:,} x {side:,} padded to a "
            f"square, more than the {MOST_PIXELS:,} pixels that are decoded"
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*fill, 255)), layer)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _coloured(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """Return a picture as RGB."""
    if image.mode != "RGB":
        image = image.convert("RGB")
    if steps.on_white and image.info.get("transparency") is not None:
        return _on_white(image)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture with its transparent colour replaced by white."""
    from PIL import Image

    layer = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _is_turned(image: Image.Image) -> bool:
    """Return whether EXIF says that the picture is to be turned; False for a damaged EXIF."""
    try:
        return bool(image.getexif().get(ORIENTATION, 1) != 1)
    except DAMAGE:
        return False


def _resized(size: tuple[int, int], steps: Preprocessing) -> tuple[int, int]:
    """Return width and height after the resize."""
    box = steps.resize_size
    if steps.resize_mode == "none":
        return size
    if steps.resize_mode in ("squash", "square"):
        return box.columns, box.rows
    if steps.resize_mode == "shortest" and box.is_square:
        width, height = (int(box.rows * one / min(size)) for one in size)
        return width, height
    ratios = (size[0] / box.columns, size[1] / box.rows)
    ratio = max(ratios) if steps.resize_mode == "pad" else min(ratios)
    width, height = (round(one / ratio) for one in size)
    return max(width, 1), max(height, 1)


def _centred(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """Return the centre crop of a picture, padded along the axes where the picture is smaller."""
    from PIL import Image

    rows, columns = steps.crop_size
    if image.size == (columns, rows):
        return image
    fill: tuple[int, ...] = steps.fill or (0, 0, 0)
    if steps.resize_mode == "pad" and steps.fill is None:
        mean = steps.mean if steps.channels == "rgb" else steps.mean[::-1]
        fill = tuple(round(255 * value) for value in mean)
    canvas = Image.new(image.mode, (columns, rows), fill)
    left, top = _offset(image.width, columns, steps), _offset(image.height, rows, steps)
    canvas.paste(image, (left, top))
    return canvas


def _offset(have: int, want: int, steps: Preprocessing) -> int:
    """Return the place of a picture's edge on the canvas; negative where it is cropped."""
    if steps.crop_rounding == "huggingface":
        return -((have - want) // 2)
    return (want - have) // 2 if have < want else -round((have - want) / 2)


def _one_line(err: BaseException) -> str:
    text = " ".join(str(err).split())
    return shortened(text) if text and not isinstance(err, MemoryError) else type(err).__name__
