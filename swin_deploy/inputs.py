"""Model inputs: seeded noise, and image files made into normalised batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError, FileError
from swin_deploy.config import SwinConfig

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FLAT_SPREAD = 4.0
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class ImageSet:
    """Images ready for a model.

    Attributes:
        name: Kind of set: "seeded", "extreme" or "images".
        description: Where the images come from, for reports.
        images: Normalised images, [n, 3, img_size, img_size], float32.
        names: One name an image, in the order of ``images``.
        labels: Class of each image, [n], int64; None where it is not known.
        spread: How much wider than usual rounding scatters: a flat image has the same rounding in
            every token, so it does not average out.
        classes: Names of the classes, by index; empty where they are not known.
    """

    name: str
    description: str
    images: NDArray[np.float32]
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    spread: float = 1.0
    classes: tuple[str, ...] = ()


def seeded_images(config: SwinConfig, *, count: int, seed: int = 0) -> ImageSet:
    """Noise that looks normalised: the same ``count`` images on every machine for one ``seed``."""
    shape = (count, 3, config.img_size, config.img_size)
    return ImageSet(
        name="seeded",
        description=f"{count} images of standard normal noise, seed {seed}",
        images=np.random.default_rng(seed).standard_normal(shape, dtype=np.float32),
        names=tuple(f"seed{seed}-{index}" for index in range(count)),
    )


def extreme_images(config: SwinConfig, *, seed: int = 0) -> ImageSet:
    """Inputs that images seldom are: flat ones, noise at both ends, and a single pixel.

    Black and white are those of the model's preprocessing. Six images.
    """
    steps = config.preprocessing
    shape = (3, config.img_size, config.img_size)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (steps.mean, steps.std))
    noise = np.random.default_rng(seed)
    flat = {name: np.full(shape, level) for name, level in (("black", 0), ("white", 1))}
    pixel = np.zeros(shape)
    pixel[:, shape[1] // 2, shape[2] // 2] = 1
    levels = {
        **flat,
        "grey": np.broadcast_to(mean, shape),
        "pixel": pixel,
        "saturated": np.broadcast_to(noise.random((1, *shape[1:])) < 0.5, shape),
        "faint": mean + std * 1e-3 * noise.standard_normal(shape),
    }
    images = [((level - mean) / std).astype(np.float32) for level in levels.values()]
    return ImageSet(
        name="extreme",
        description=f"{len(levels)} made images: {', '.join(levels)}; seed {seed}",
        images=np.stack(images),
        names=tuple(levels),
        spread=FLAT_SPREAD,
    )


def load_images(folder: Path, config: SwinConfig, *, limit: int | None = None) -> ImageSet:
    """The image files of a folder and of its subfolders, preprocessed as ``config`` says.

    Hidden files and folders are passed over. Where every image lies in a first-level subfolder
    and there is one subfolder for each of the model's classes, an image's label is the place of
    its subfolder among the sorted names (torchvision's ``ImageFolder`` convention).

    Args:
        folder: Folder to search for the suffixes in ``IMAGE_SUFFIXES``, in any case.
        config: Image size, preprocessing and number of classes.
        limit: Take at most this many, evenly spread over the sorted list; None takes all.

    Returns:
        The images, sorted by path; their names are the paths below ``folder``.

    Raises:
        FileError: If the folder is missing, is a file, cannot be read or holds no image, or if an
            image cannot be decoded.
        ConfigError: If the config's preprocessing cannot be done.
        ValueError: If ``limit`` is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: expected at least 1, or None for all images")
    found = _find_images(folder)
    classes = _class_names(found, config.num_classes)
    count = len(found) if limit is None else min(limit, len(found))
    chosen = [found[index * len(found) // count] for index in range(count)]
    labels = None
    if classes is not None:
        labels = np.array([classes.index(path.parts[0]) for path in chosen], dtype=np.int64)
    return ImageSet(
        name="images",
        description=f"{count} of {len(found)} image files in {folder}",
        images=np.stack([load_image(folder / path, config) for path in chosen]),
        names=tuple(path.as_posix() for path in chosen),
        labels=labels,
        classes=tuple(classes or ()),
    )


def preprocess(image: Image.Image, config: SwinConfig) -> NDArray[np.float32]:
    """One decoded image as a model input.

    In order: RGB; shorter side resized to ``img_size / crop_ratio`` pixels; centre crop to
    ``img_size``; scaled to 0..1; normalised. Sizes and offsets are rounded as in torchvision's
    ``Resize`` and ``CenterCrop``.

    Args:
        image: Image of any mode and size; it is not changed.
        config: Image size and preprocessing.

    Returns:
        Normalised image, [3, img_size, img_size], float32.

    Raises:
        ConfigError: If the interpolation is not known, or the crop ratio is not in 0..1.
    """
    from PIL import Image

    steps = config.preprocessing
    if steps.interpolation not in INTERPOLATIONS:
        raise ConfigError(
            f"interpolation {steps.interpolation!r} is not known; use one of "
            f"{', '.join(INTERPOLATIONS)}"
        )
    if not 0.0 < steps.crop_ratio <= 1.0:
        raise ConfigError(f"crop_ratio {steps.crop_ratio} is not above 0 and at most 1; use 0.875")
    shorter = round(config.img_size / steps.crop_ratio)
    size = [int(shorter * side / min(image.size)) for side in image.size]
    resized = image.convert("RGB").resize(
        (size[0], size[1]), Image.Resampling[steps.interpolation.upper()]
    )
    left, top = (round((side - config.img_size) / 2) for side in size)
    cropped = resized.crop((left, top, left + config.img_size, top + config.img_size))
    pixels = np.asarray(cropped, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(values, dtype=np.float32) for values in (steps.mean, steps.std))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def _find_images(folder: Path) -> list[Path]:
    """Paths below ``folder``, relative to it and sorted; never empty."""
    try:
        if not folder.exists():
            raise FileError(f"image folder {folder} does not exist; give a folder of image files")
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder; give the folder that holds the images")
        paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    except OSError as err:
        raise FileError(
            f"image folder {folder} cannot be read ({err.strerror}); check its permissions"
        ) from err
    found = sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.parts)
    )
    if not found:
        raise FileError(
            f"image folder {folder} holds no images; expected files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    return found


def _class_names(found: list[Path], num_classes: int) -> list[str] | None:
    """The sorted subfolders where they are the classes, else None."""
    if any(len(path.parts) < 2 for path in found):
        return None
    names = sorted({path.parts[0] for path in found})
    return names if len(names) == num_classes else None


def load_image(path: Path, config: SwinConfig) -> NDArray[np.float32]:
    """One image file as a model input, [3, img_size, img_size]; see ``preprocess``.

    Raises:
        FileError: If the file is missing or cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return preprocess(image, config)
    # Pillow's decoders raise SyntaxError and ValueError too on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise FileError(
            f"image {path} cannot be read ({_one_line(err)}); replace or remove the file"
        ) from err


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split()) or type(err).__name__
