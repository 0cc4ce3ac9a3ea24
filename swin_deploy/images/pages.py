"""Pages of documents: the steps of Donut's and Nougat's image processors around the resize.

Source: transformers 5.23, ``image_processing_pil_donut.py`` and ``image_processing_pil_nougat.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from swin_deploy.config import Size

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

Thumbnail = Literal["donut", "nougat", "none"]
INK = 200  # level below which a pixel is no margin, once the levels are spread over 0 to 255


@dataclass(frozen=True)
class Page:
    """The steps of a page of a document around its resize, in the order of the attributes.

    Attributes:
        crop_margin: Whether the light margin around the page is cut off.
        align_long_axis: Whether a page that lies across the image is turned clockwise.
        thumbnail: Processor whose way it is to shrink a page that is larger than the image: Donut's
            takes the filter of the resize, Nougat's bicubic in two steps; ``none`` if it is not
            shrunk.
    """

    crop_margin: bool = False
    align_long_axis: bool = False
    thumbnail: Thumbnail = "none"

    @property
    def before(self) -> list[str]:
        """The steps before the resize, in words."""
        words = ["cut off the margin"] * self.crop_margin
        return words + ["turn to the image's long axis"] * self.align_long_axis

    @property
    def after(self) -> list[str]:
        """The step after the resize, in words."""
        how = "bicubic in two steps" if self.thumbnail == "nougat" else "with the same filter"
        return [] if self.thumbnail == "none" else [f"shrink to fit, {how}"]


def upright(picture: Image, page: Page, image: Size) -> Image:
    """Cut off a page's margin, and turn it to the long axis of the image.

    Args:
        picture: The page.
        page: The steps.
        image: Size that the page is for.
    """
    from PIL.Image import Transpose

    if page.crop_margin:
        picture = without_margin(picture)
    width, height = picture.size
    across = (width - height) * (image.columns - image.rows) < 0
    return picture.transpose(Transpose.ROTATE_270) if page.align_long_axis and across else picture


def without_margin(picture: Image) -> Image:
    """Return the smallest rectangle of a page that holds everything dark; all of an even one."""
    import numpy as np

    levels = np.asarray(picture.convert("L"))
    low, high = levels.min(), levels.max()
    if low == high:
        return picture
    rows, columns = np.nonzero((levels - low) / (high - low) * 255 < INK)
    left, top = int(columns.min()), int(rows.min())
    return picture.crop((left, top, int(columns.max()) + 1, int(rows.max()) + 1))


def shrunk(picture: Image, page: Page, image: Size, *, resample: Resampling) -> Image:
    """Shrink a page that is larger than the image, with sides rounded down as the processors do.

    Args:
        picture: The page after the resize.
        page: The steps.
        image: Size that the page is for.
        resample: Filter of the resize.
    """
    from PIL.Image import Resampling

    width, height = picture.size
    new_width, new_height = min(width, image.columns), min(height, image.rows)
    if page.thumbnail == "none" or (new_width, new_height) == picture.size:
        return picture
    if height > width:
        new_width = int(width * new_height / height)
    elif width > height:
        new_height = int(height * new_width / width)
    size = max(new_width, 1), max(new_height, 1)
    if page.thumbnail == "nougat":
        return picture.resize(size, Resampling.BICUBIC, reducing_gap=2.0)
    # transformers 5.23 takes its 0, nearest, for no filter, and then bicubic.
    return picture.resize(size, resample or Resampling.BICUBIC)
