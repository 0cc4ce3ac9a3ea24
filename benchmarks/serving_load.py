"""Two clients ask a server that serves a bundle for some minutes: rate, errors, memory.

``python benchmarks/serving_load.py BUNDLE URL --pid PID`` prints one JSON object; PID is the
server's process on this machine, whose memory is read from /proc, with that of its children.
docs/serving.md has the figures of a run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from swin_deploy.serving.bundle import Bundle, read_bundle
from swin_deploy.serving.check import check_canary, requests_for
from swin_deploy.serving.protocol import Server

CLIENTS = 2
MIB = 1024  # KiB


def memory_mib(pid: int) -> float:
    """Return the memory of a process and of those it started, shared pages counted once."""
    total = 0.0
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total = int(next(one for one in lines if one.startswith("Pss:")).split()[1]) / MIB
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            total += sum(memory_mib(int(child)) for child in task.read_text().split())
    return total


def asker(bundle: Bundle, server: Server, took: list[float]) -> Callable[[int], None]:
    """Return a function that sends one golden picture, and notes how long its answer took.

    Args:
        bundle: The bundle.
        server: The server.
        took: List that gets the seconds of each answer.
    """
    endpoint, golden = bundle.service.endpoint, bundle.service.golden
    assert endpoint is not None
    assert golden is not None
    pictures = [
        {endpoint.input.name: np.array([[data]], dtype=np.object_)}
        for data in golden.pictures.values()
    ]
    names = [one.name for one in endpoint.outputs]

    def ask(turn: int) -> None:
        start = time.perf_counter()
        server.infer(endpoint.model, pictures[turn % len(pictures)], names)
        took.append(time.perf_counter() - start)

    return ask


def main() -> int:
    """Run the load; returns 1 if a request failed or the answers are not those of the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=300.0)
    given = parser.parse_args()
    bundle, server = read_bundle(given.bundle), Server(given.url)
    took: list[float] = []
    ask = asker(bundle, server, took)
    requests_for(5, ask, clients=CLIENTS)  # warm
    took.clear()
    memory = [memory_mib(given.pid)]
    end = threading.Event()

    def watch() -> None:
        while not end.wait(given.seconds / 10):
            memory.append(memory_mib(given.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    done, errors, seconds = requests_for(given.seconds, ask, clients=CLIENTS)
    end.set()
    thread.join()
    passed = check_canary(bundle, server).passed
    result = {
        "requests": done,
        "seconds": round(seconds, 1),
        "per_s": round(done / seconds, 1),
        "errors": len(errors),
        "first_errors": errors[:3],
        "median_ms": round(float(np.median(took)) * 1e3, 2),
        "p95_ms": round(float(np.quantile(took, 0.95)) * 1e3, 2),
        "memory_mib": [round(one, 1) for one in memory],
        "canary": "pass" if passed else "fail",
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return int(bool(errors) or not passed)


if __name__ == "__main__":
    sys.exit(main())
