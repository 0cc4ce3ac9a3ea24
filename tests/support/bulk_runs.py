"""What runs of ``predict --parquet`` answered, and runs to be ended by a signal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from parquet_images import by_image

OUT = Path("out")
TO = ("--parquet", OUT)
MODEL = "notebook-digits"
MOST_SECONDS = 300


def rows_of(folder: Path) -> list[int]:
    """The rows that part files answer to, in order; -1 for images of folders."""
    return sorted(-1 if row is None else row for _, row, _ in by_image(folder))


def plain(row: dict[str, Any]) -> list[tuple[str, int, float]]:
    """The classes of a row of a part file, with index and score."""
    return list(zip(row["classes"], row["indices"], row["probabilities"], strict=True))


def json_answers(text: str) -> dict[str, list[tuple[str, int, float]]]:
    """What ``predict --json`` printed, by picture, as ``plain`` has it."""
    found = [json.loads(line) for line in text.splitlines()]
    return {
        one["image"]: [(top["class"], top["index"], top["probability"]) for top in one["top"]]
        for one in found
    }


def started(code: str, *arguments: object, env: dict[str, str]) -> subprocess.Popen[str]:
    """The command line in a process of its own, which begins with some code."""
    start = f"{code}\nimport sys; sys.argv[0] = 'swin-deploy'\n"
    start += "from swin_deploy.__main__ import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", start, *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status of a process, and what it wrote."""
    out, err = process.communicate(timeout=MOST_SECONDS)
    return process.returncode, out, err


def wait_for_parts(process: subprocess.Popen[str], *, there: int = 0) -> None:
    """Wait until a process has made a part, and another one is being written.

    Args:
        process: The process.
        there: Number of parts that it found.
    """
    deadline = time.monotonic() + MOST_SECONDS
    while not (len(list(OUT.glob("part-*"))) > there and list(OUT.glob(".part-*"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
