"""Images ready for a model: pictures of a folder, seeded noise, and extreme inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError
from exporters.text_files import listed
from swin_deploy.config import SwinConfig
from swin_deploy.config.assumptions import Assumption
from swin_deploy.images.class_names import ClassNames, ClassOrder
from swin_deploy.images.decode import denormalise, load_image, normalise
from swin_deploy.images.labelled import class_folders, class_of, find_images, folder_order
from swin_deploy.images.preprocessing import Preprocessing

FLAT_SPREAD = 4.0


@dataclass(frozen=True)
class ImageSet:
    """Images ready for a model.

    Attributes:
        name: Kind of set: "seeded", "extreme" or "images".
        contents: Number and kind of the images, for reports.
        images: Normalised images, [n, channels, rows, columns], float32.
        names: One name an image, in the order of ``images``.
        labels: Class of each image, [n], int64; None if it is not known.
        spread: Factor of rounding errors against usual images: a flat image has the same rounding
            in every token, so it does not average out.
        classes: Names of the classes, by index; empty if they are not known.
        order: Index of each class folder; None without labels.
        folder: Name of the folder that the images are from; empty for generated ones.
        notes: Facts about these images that a user may not expect.
    """

    name: str
    contents: str
    images: NDArray[np.float32]
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    spread: float = 1.0
    classes: tuple[str, ...] = ()
    order: ClassOrder | None = None
    folder: str = ""
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The contents, and the folder if there is one."""
        return f"{self.contents} in {self.folder}" if self.folder else self.contents

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """Assumptions about the labels."""
        return () if self.order is None else self.order.assumptions


def seeded_images(config: SwinConfig, *, count: int, seed: int = 0) -> ImageSet:
    """Return images of standard normal noise, the same on every machine for one ``seed``.

    Args:
        config: The model's config, with its image size.
        count: Number of images.
        seed: Seed of the noise.
    """
    shape = (count, config.in_channels, *config.image)
    return ImageSet(
        name="seeded",
        contents=f"{count} images of standard normal noise, seed {seed}",
        images=np.random.default_rng(seed).standard_normal(shape, dtype=np.float32),
        names=tuple(f"seed{seed}-{index}" for index in range(count)),
    )


def extreme_images(steps: Preprocessing, *, seed: int = 0) -> ImageSet:
    """Return six extreme images: black, white, grey, one pixel, saturated noise and faint noise.

    Args:
        steps: Preprocessing of the model, which says the image size, black and white.
        seed: Seed of the noise.
    """
    shape = (len(steps.mean), *steps.image_size)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (steps.mean, steps.std))
    white = 255 * steps.rescale
    noise = np.random.default_rng(seed)
    flat = {name: np.full(shape, level) for name, level in (("black", 0), ("white", white))}
    pixel = np.zeros(shape)
    pixel[:, shape[1] // 2, shape[2] // 2] = white
    levels = {
        **flat,
        "grey": np.broadcast_to(mean, shape),
        "pixel": pixel,
        "saturated": np.broadcast_to(white * (noise.random((1, *shape[1:])) < 0.5), shape),
        "faint": mean + std * 1e-3 * noise.standard_normal(shape),
    }
    images = [((level - mean) / std).astype(np.float32) for level in levels.values()]
    return ImageSet(
        name="extreme",
        contents=f"{len(levels)} made images: {', '.join(levels)}; seed {seed}",
        images=np.stack(images),
        names=tuple(levels),
        spread=FLAT_SPREAD,
    )


def to_pixel_values(images: ImageSet, steps: Preprocessing) -> ImageSet:
    """Round images to the values that pixels of 0 to 255 can have, for files that take pixels.

    Pictures have such values already; noise, extreme images and arrays of other types get the
    nearest ones.

    Args:
        images: The images; they are not changed.
        steps: Preprocessing that normalised them.
    """
    snapped = normalise(denormalise(images.images, steps), steps)
    if np.array_equal(snapped, images.images):
        return images
    return dataclasses.replace(images, images=snapped, contents=f"{images.contents}, as pixels")


def load_images(
    folder: Path,
    steps: Preprocessing,
    *,
    num_classes: int = 0,
    known: ClassNames | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Decode the image files of a folder and of its subfolders.

    The images have labels if every one is in a subfolder and ``order_classes`` can tell which class
    each first-level subfolder is.

    Args:
        folder: Folder to search; see ``find_images``.
        steps: Preprocessing of the images.
        num_classes: Number of classes of the model; 0 for none, then there are no labels.
        known: The model's class names, or None.
        limit: Number of images at most, evenly spread over the sorted list; None takes all.

    Returns:
        The images, sorted by path; their names are the paths below ``folder``.

    Raises:
        FileError: If the folder cannot be read or has no image, or an image cannot be decoded.
        ConfigError: If the steps cannot be done, or the user's class names do not fit the folders.
        ValueError: If ``limit`` is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: expected at least 1, or None for all images")
    found = find_images(folder)
    order, notes = _order(folder, found, num_classes, known)
    count = len(found) if limit is None else min(limit, len(found))
    chosen = [found[index * len(found) // count] for index in range(count)]
    odd: dict[str, list[str]] = defaultdict(list)
    images = [
        load_image(folder / path, steps, tell=functools.partial(_collect, odd, path))
        for path in chosen
    ]
    labels = None
    if order is not None:
        indices = [order.indices[class_of(path) or ""] for path in chosen]
        labels = np.array(indices, dtype=np.int64)
    return ImageSet(
        name="images",
        contents=f"{count} of {len(found)} image files",
        folder=folder.name or str(folder),
        images=np.stack(images),
        names=tuple(chosen),
        labels=labels,
        classes=_shown(num_classes, known, order),
        order=order,
        notes=(*notes, *(f"{what}: {listed(paths)}" for what, paths in odd.items())),
    )


def _collect(odd: dict[str, list[str]], path: str, what: str) -> None:
    odd[what].append(path)


def _order(
    folder: Path, found: list[str], num_classes: int, known: ClassNames | None
) -> tuple[ClassOrder | None, tuple[str, ...]]:
    """Return the index of each subfolder if these are the classes, else None and a note why not."""
    if not num_classes or any(class_of(path) is None for path in found):
        return None, ()
    if known is not None and known.asked:
        if all(known.find([name]) is None for name in class_folders(folder)):
            return None, (f"no labels: no folder has a name of {known.source}",)
        return folder_order(folder, num_classes=num_classes, known=known), ()
    try:
        return folder_order(folder, num_classes=num_classes, known=known), ()
    except ConfigError as err:
        return None, (f"no labels: {err}",)


def _shown(num_classes: int, known: ClassNames | None, order: ClassOrder | None) -> tuple[str, ...]:
    """Return a name for each class: the model's own, else that of its folder."""
    if known is not None:
        return known.shown
    if order is None:
        return ()
    names = {index: name for name, index in order.indices.items()}
    return tuple(names.get(index, "") for index in range(num_classes))
