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
from swin_deploy.config import SwinConfig
from swin_deploy.inputs import load_image

MAX_THREADS = 8
AHEAD = 2  # batches decoded or being decoded while one is run
Decoded = NDArray[np.float32] | FileError


def stream_batches(
    root: Path, paths: Sequence[str], config: SwinConfig, *, batch: int
) -> Generator[list[tuple[str, Decoded]]]:
    """Decode and preprocess images in threads, in order, ``batch`` at a time.

    Args:
        root: Folder that the paths start from.
        paths: Of the images.
        config: Image size and preprocessing.
        batch: Images at a time; about ``AHEAD + 1`` batches are in memory.

    Yields:
        Path and image [3, img_size, img_size], or the error of one that cannot be read.

    Raises:
        ConfigError: If the config's preprocessing cannot be done.
    """

    def decode(path: str) -> Decoded:
        try:
            return load_image(root / path, config)
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
