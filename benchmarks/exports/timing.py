"""Files timed in turn on CPU runtimes.

All take turns in one process, in an order drawn anew each round. With one thread the time is that
of the processor, which other work on the machine changes least; with more it is the wall's. A
figure is the median of the ratios to the first contender in the same round, with quartiles.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.exports.models import Images
from swin_deploy.runners.base import Runner

LEAST_ROUNDS, MOST_ROUNDS = 5, 40


def time_files(
    runners: Mapping[str, Runner], images: Images, *, seconds: float, threads: int
) -> dict[str, dict[str, Any]]:
    """Time every contender, in turn.

    Args:
        runners: Contenders by title, not open; ratios are to the first.
        images: Images of a call, [B, 3, H, W].
        seconds: Time after which no further round starts; ``LEAST_ROUNDS`` are done at least.
        threads: Number of threads of each runtime.

    Returns:
        For each title the median of its ratios, their quartiles, its least time in ms, the number
        of rounds, and the relative L2 error of its outputs against those of the first.
    """
    torch.set_num_threads(threads)  # runners take PyTorch's number
    clock = time.process_time if threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {title: [] for title in runners}
    order, drawn = list(runners), random.Random(0)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(runner) for runner in runners.values()]
        outputs = [runner.run(images)[0] for runner in opened]  # also the warm-up
        end = time.monotonic() + seconds
        for number in range(MOST_ROUNDS):
            if number >= LEAST_ROUNDS and time.monotonic() > end:
                break
            for title in drawn.sample(order, len(order)):
                start = clock()
                runners[title].execute()
                runners[title].synchronize()
                taken[title].append(clock() - start)
    return {
        title: ratios(taken[title], taken[order[0]]) | {"error": relative_error(found, outputs[0])}
        for title, found in zip(order, outputs, strict=True)
    }


def ratios(times: list[float], base: list[float]) -> dict[str, Any]:
    """Return the figures of a contender from its seconds, and from those of the first."""
    low, middle, high = np.percentile(np.array(times) / np.array(base), [25, 50, 75])
    return {
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "least_ms": 1e3 * min(times),
        "rounds": len(times),
    }


def relative_error(found: Images, wanted: Images) -> float:
    """Return the relative L2 error over all outputs."""
    difference = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(difference / np.linalg.norm(wanted.astype(np.float64)))
