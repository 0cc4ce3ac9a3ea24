"""The resize of a picture, and its place in an image: sizes, crops and pads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from swin_deploy.config import Size
from swin_deploy.images.arrays import UnfitError
from swin_deploy.images.pages import Page, shrunk, upright
from swin_deploy.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

# Pixels of the resized picture: 1 x 60,000 pixels would become 256 x 15,360,000.
MOST_RESIZED = 50_000_000


def fitted(image: Image.Image, steps: Preprocessing, edge: float | tuple[int, ...]) -> Image.Image:
    """Resize a picture, and crop it or pad it with pixels.

    Args:
        image: The picture.
        steps: Preprocessing of the picture.
        edge: The mean or the fill as a colour, which is padded with.

    Returns:
        The picture in the size of the model, or smaller if zeros follow after normalisation.

    Raises:
        UnfitError: If the picture is too large after the resize, or a page larger than the image.
    """
    if steps.page is not None:
        image = upright(image, steps.page, steps.crop_size)
    image = _resize(image, resized(image.size, steps), steps)
    if steps.page is not None:
        image = _shrunk(image, steps)
    if steps.resize_mode != "fit":
        image = _centred(image, steps, edge)
    if steps.fill is None or not steps.pads_end:
        return image
    return _on_canvas(image, steps.image_size, edge)


def _shrunk(image: Image.Image, steps: Preprocessing) -> Image.Image:
    """Shrink a page into the image; refuse one that stays larger, as the processors do."""
    from PIL import Image

    page, size = steps.page or Page(), steps.crop_size
    small = shrunk(image, page, size, resample=Image.Resampling[steps.interpolation.upper()])
    if small.width > size.columns or small.height > size.rows:
        raise UnfitError(
            f"becomes {small.height} x {small.width} pixels, which the page of {size.sides} does "
            "not hold; give it another --resize-mode, such as pad"
        )
    return small


def _on_canvas(
    image: Image.Image, size: Size, fill: float | tuple[int, ...], at: tuple[int, int] = (0, 0)
) -> Image.Image:
    """Return an image of a size and a colour with a picture on it, its corner at left and top."""
    from PIL import Image

    canvas = Image.new(image.mode, (size.columns, size.rows), fill)
    canvas.paste(image, at)
    return canvas


def _resize(image: Image.Image, size: tuple[int, int], steps: Preprocessing) -> Image.Image:
    """Resize a picture to width and height."""
    from PIL import Image

    if size[0] * size[1] > MOST_RESIZED:
        raise UnfitError(
            f"of {image.width:,} x {image.height:,} pixels becomes {size[0]:,} x {size[1]:,} "
            f"before the crop, more than the {MOST_RESIZED:,} pixels that are resized to; crop it, "
            "or remove the file"
        )
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling[steps.interpolation.upper()])


def _centred(
    image: Image.Image, steps: Preprocessing, edge: float | tuple[int, ...]
) -> Image.Image:
    """Return the centre crop of a picture, padded along the axes where the picture is smaller."""
    rows, columns = steps.crop_size
    if image.size == (columns, rows):
        return image
    fill = edge if steps.resize_mode == "pad" or steps.fill is not None else 0
    corner = offset(image.width, columns, steps), offset(image.height, rows, steps)
    return _on_canvas(image, steps.crop_size, fill, corner)


def resized(size: tuple[int, int], steps: Preprocessing) -> tuple[int, int]:
    """Return width and height of a picture after the resize.

    Args:
        size: Width and height of the picture, in pixels.
        steps: Preprocessing of the picture.
    """
    box = steps.resize_size
    if steps.resize_mode == "none":
        return size
    if steps.resize_mode in ("squash", "square"):
        return box.columns, box.rows
    if steps.resize_mode == "fit":
        rows, columns = _fitting(Size(size[1], size[0]), steps)
        return columns, rows
    if steps.resize_mode == "shortest" and box.is_square:
        width, height = (int(box.rows * one / min(size)) for one in size)
        return width, height
    ratios = (size[0] / box.columns, size[1] / box.rows)
    ratio = max(ratios) if steps.resize_mode == "pad" else min(ratios)
    width, height = (round(one / ratio) for one in size)
    return max(width, 1), max(height, 1)


def _fitting(picture: Size, steps: Preprocessing) -> Size:
    """Return rows and columns of a picture whose shape is kept, as detectors resize it.

    1. The library's size, with the shorter side up to the shorter of ``resize``, the longer up to
       the longer, and both up to multiples.
    2. The largest one in the image, where the library's is larger than the image.
    """
    short, long = sorted(steps.resize_size)
    edges = _edges_huggingface if steps.crop_rounding == "huggingface" else _edges_detector
    wanted = _up(edges(picture, short, long), steps.multiple)  # 1
    most = steps.image_size if steps.multiple > 1 else steps.crop_size
    if wanted.rows <= most.rows and wanted.columns <= most.columns:
        return wanted
    scale = min(most.rows / picture.rows, most.columns / picture.columns)  # 2
    inside = _up(Size(*(max(round(side * scale), 1) for side in picture)), steps.multiple)
    return Size(*map(min, inside, most))


def _up(size: Size, multiple: int) -> Size:
    return Size(*(math.ceil(side / multiple) * multiple for side in size))


def _edges_detector(picture: Size, short: int, long: int) -> Size:
    """Return the size that OpenMMLab's and Detectron2's resize gives (mmcv's ``rescale_size``)."""
    scale = min(long / max(picture), short / min(picture))
    return Size(*(max(int(side * scale + 0.5), 1) for side in picture))


def _edges_huggingface(picture: Size, short: int, long: int) -> Size:
    """Return the size that transformers' resize gives (``get_size_with_aspect_ratio``)."""
    least, most = float(min(picture)), float(max(picture))
    exact: float = short
    if most / least * short > long:
        exact = long * least / most
        short = round(exact)
    if min(picture) == short:
        return picture
    other = max(int(exact * most / least), 1)
    short = max(short, 1)
    return Size(other, short) if picture.columns < picture.rows else Size(short, other)


def offset(have: int, want: int, steps: Preprocessing) -> int:
    """Return the place of a picture's edge in an image; negative where it is cropped.

    Args:
        have: Side of the picture, in pixels.
        want: Side of the image along the same axis.
        steps: Preprocessing of the picture.
    """
    if steps.crop_rounding == "huggingface" and steps.page is None:
        return -((have - want) // 2)
    return (want - have) // 2 if have < want else -round((have - want) / 2)
