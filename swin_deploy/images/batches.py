"""Images decoded ahead of the model, a few batches at a time, whatever their number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.errors import FileError
from swin_deploy.images.decode import Tell, load_image
from swin_deploy.images.preprocessing import Preprocessing

MAX_THREADS = 8
AHEAD = 2  # batches decoded or being decoded while one is run
Decoded = NDArray[np.float32] | FileError


def stream_batches(
    root: Path,
    paths: Sequence[str],
    steps: Preprocessing,
    *,
    batch: int,
    tell: Tell = lambda _: None,
) -> Generator[list[tuple[str, Decoded]]]:
    """Decode and preprocess images in threads, in order, ``batch`` at a time.

    Args:
        root: Folder that the paths start from.
        paths: Of the images.
        steps: The way to prepare the images.
        batch: Images at a time; about ``AHEAD + 1`` batches are in memory.
        tell: See ``load_image``; called from several threads.

    Yields:
        Path and image [channels, crop, crop], or the error of one that cannot be read.

    Raises:
        ConfigError: If the source's steps are not known.
    """

    def decode(path: str) -> Decoded:
        try:
            return load_image(root / path, steps, tell=tell)
        except FileError as err:
            return err

    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    waiting: deque[list[tuple[str, Future[Decoded]]]] = deque()
    try:
        for start in range(0, len(paths), batch):
            part = paths[start : start + batch]
            waiting.append([(path, pool.submit(decode, path)) for path in part])
            if len(waiting) > AHEAD:
                yield [(path, image.result()) for path, image in waiting.popleft()]
        while waiting:
            yield [(path, image.result()) for path, image in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
