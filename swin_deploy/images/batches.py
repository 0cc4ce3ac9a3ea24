"""Images decoded ahead of a model, a few batches at a time."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from exporters.errors import FileError
from swin_deploy.images.decode import Tell, load_image
from swin_deploy.images.preprocessing import Preprocessing

MAX_THREADS = 8
AHEAD = 2  # batches decoded or being decoded while one is run
Item = TypeVar("Item")
Decoded = TypeVar("Decoded")


def stream_batches(
    root: Path,
    paths: Sequence[str],
    steps: Preprocessing,
    *,
    batch: int,
    tell: Tell = lambda _: None,
) -> Generator[list[tuple[str, NDArray[np.float32] | FileError]]]:
    """Decode and preprocess images in threads, in order, ``batch`` at a time.

    Args:
        root: Folder that the paths start from.
        paths: Paths of the images.
        steps: Preprocessing of the images.
        batch: Number of images at a time.
        tell: Function as in ``load_pixels``; it is called from several threads.

    Yields:
        Path and image [channels, rows, columns], or the error of one that cannot be read.

    Raises:
        ConfigError: If the source's steps are not known.
    """

    def decode(path: str) -> NDArray[np.float32]:
        return load_image(root / path, steps, tell=tell)

    return decode_ahead(paths, decode, batch=batch)


def decode_ahead(
    items: Iterable[Item], decode: Callable[[Item], Decoded], *, batch: int
) -> Generator[list[tuple[Item, Decoded | FileError]]]:
    """Decode items in threads, in order, ``batch`` at a time.

    Args:
        items: Items to decode, of any number; they are taken as they are needed.
        decode: Function that decodes one; called from several threads.
        batch: Number of items at a time; about ``AHEAD + 1`` batches are in memory.

    Yields:
        Each item and what it was decoded to, or its ``FileError``. Other errors are raised.
    """

    def attempt(item: Item) -> Decoded | FileError:
        try:
            return decode(item)
        except FileError as err:
            return err

    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    waiting: deque[list[tuple[Item, Future[Decoded | FileError]]]] = deque()
    coming = iter(items)
    try:
        while part := list(itertools.islice(coming, batch)):
            waiting.append([(item, pool.submit(attempt, item)) for item in part])
            if len(waiting) > AHEAD:
                yield [(item, decoded.result()) for item, decoded in waiting.popleft()]
        while waiting:
            yield [(item, decoded.result()) for item, decoded in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
