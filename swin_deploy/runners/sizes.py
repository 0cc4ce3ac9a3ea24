"""One model at several image sizes: a runner for each, chosen by the images."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ComparisonError
from exporters.text_files import shortened
from swin_deploy.config import Size
from swin_deploy.runners.base import Outputs, Runner


class SizesRunner(Runner):
    """Runners of one model at several image sizes; a call goes to that of its images' size.

    All of them are open at a time. Batches are those that every one takes.

    Args:
        runners: The runner of each size, not open yet; at least one.
    """

    def __init__(self, runners: Mapping[Size, Runner]) -> None:
        self._runners = dict(runners)
        self._chosen = next(iter(self._runners.values()))
        self._stack = contextlib.ExitStack()
        self.name, self.precision = self._chosen.name, self._chosen.precision
        self.backend = self._chosen.backend

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for runner in self._runners.values():
                stack.enter_context(runner)
            self._stack = stack.pop_all()
        self.backend = self._chosen.backend
        self.min_batch = max(runner.min_batch for runner in self._runners.values())
        most = [one.max_batch for one in self._runners.values() if one.max_batch is not None]
        self.max_batch = min(most, default=None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def inputs(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._of(images).inputs(images)

    def prepare(self, images: NDArray[Any]) -> None:
        self._chosen = self._of(images)
        self._chosen.prepare(images)

    def execute(self) -> None:
        self._chosen.execute()

    def synchronize(self) -> None:
        self._chosen.synchronize()

    def fetch(self) -> Outputs:
        return self._chosen.fetch()

    def _of(self, images: NDArray[Any]) -> Runner:
        """Return the runner for images [B, channels, H, W], or pixels [B, H, W, channels].

        Raises:
            ComparisonError: If there is none; the message names the sizes that there are.
        """
        sides = images.shape[1:3] if images.dtype == np.uint8 else images.shape[-2:]
        if images.ndim == 4 and Size(*sides) in self._runners:
            return self._runners[Size(*sides)]
        raise ComparisonError(
            f"{self.name} takes images of {', '.join(map(str, self._runners))} px, not of shape "
            f"{shortened(list(images.shape))}; give one of these sizes, or export this one too"
        )
