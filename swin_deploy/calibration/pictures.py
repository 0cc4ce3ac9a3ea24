"""The images of a calibration: found, counted, digested and decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError, FileError
from swin_deploy.images.batches import stream_batches
from swin_deploy.images.labelled import list_images
from swin_deploy.images.preprocessing import Preprocessing

FEWEST_IMAGES = 32
MOST_IMAGES = 64  # spread over those that are there
READ_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class CalibrationImages:
    """Images on disk that a calibration runs over.

    Attributes:
        root: Folder that the paths start from.
        paths: Paths of the images, at least ``FEWEST_IMAGES`` that differ.
        found: Number of images to choose from.
        sha256: Digest of the bytes of all files, in order.
    """

    root: Path
    paths: tuple[str, ...]
    found: int
    sha256: str

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.paths)

    def batches(self, steps: Preprocessing, *, batch: int) -> Iterator[NDArray[np.float32]]:
        """Decode the images, ``batch`` at a time; the last batch is filled up with the first ones.

        Args:
            steps: Preprocessing of the images.
            batch: Number of images at a time.

        Yields:
            Normalised images, [batch, channels, rows, columns].

        Raises:
            ConfigError: If the source's steps are not known, or, after the last image, fewer than
                ``FEWEST_IMAGES`` differ once they are prepared.
            FileError: If an image cannot be decoded.
        """
        full = -(-self.count // batch) * batch
        paths = [self.paths[index % self.count] for index in range(full)]
        seen = set()
        for part in stream_batches(self.root, paths, steps, batch=batch):
            images = []
            for _, image in part:
                if isinstance(image, FileError):
                    raise image
                seen.add(hashlib.sha256(image.tobytes()).digest())
                images.append(image)
            yield np.stack(images)
        if len(seen) < FEWEST_IMAGES:
            raise ConfigError(
                f"the {self.count} images of {self.root} are {len(seen)} that differ, once they "
                f"are prepared for the model, and a calibration needs {FEWEST_IMAGES} at least; "
                "give --images others, such as some that the model was trained on"
            )


def calibration_images(place: Path) -> CalibrationImages:
    """Choose the images of a calibration, evenly spread over those that are there.

    Args:
        place: Folder of images, in class folders or not; or a CSV file of paths and labels.

    Raises:
        ConfigError: If there are fewer than ``FEWEST_IMAGES``, or more, but copies of fewer.
        FileError: If the folder or a file cannot be read.
    """
    root, paths = list_images(place)
    if len(paths) < FEWEST_IMAGES:
        raise ConfigError(
            f"{place} has {len(paths)} images, and a calibration needs {FEWEST_IMAGES} at least; "
            "give --images more, such as some that the model was trained on"
        )
    count = min(len(paths), MOST_IMAGES)
    chosen = tuple(paths[index * len(paths) // count] for index in range(count))
    digest, different = _digest(root, chosen)
    if different < FEWEST_IMAGES:
        raise ConfigError(
            f"only {different} of {count} images of {place} differ, the others are copies, and a "
            f"calibration needs {FEWEST_IMAGES} at least; give --images more, such as some that "
            "the model was trained on"
        )
    return CalibrationImages(root, chosen, len(paths), digest)


def _digest(root: Path, paths: tuple[str, ...]) -> tuple[str, int]:
    """Return the digest of the bytes of all files, in order, and how many of the files differ."""
    digest, seen = hashlib.sha256(), set()
    for path in paths:
        single = hashlib.sha256()
        try:
            with (root / path).open("rb") as stream:
                while part := stream.read(READ_AT_ONCE):
                    digest.update(part)
                    single.update(part)
        except (OSError, ValueError) as err:
            reason = getattr(err, "strerror", None) or err
            raise FileError(f"{root / path} cannot be read ({reason}); check the images") from err
        seen.add(single.digest())
    return digest.hexdigest(), len(seen)
