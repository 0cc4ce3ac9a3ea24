"""Packages that only tests need, installed by pip into the user's cache, once for each set of pins.

They are never dependencies: pip installs them without what they depend on, into a folder of their
own, so that the environment of the tests stays as it is.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock

from exporters.caches import cache_folder

PATIENCE = ("--retries", "1", "--timeout", "20")
MOST_SECONDS = 300


def nothing_more(_: Path) -> None:
    """What is done to a folder after pip: nothing."""


def cached(
    what: str,
    wheels: Sequence[str],
    archives: Sequence[str] = (),
    *,
    finish: Callable[[Path], None] = nothing_more,
) -> Path | str:
    """The folder of some packages, or the reason why there is none.

    Args:
        what: Words for them, for the reason.
        wheels: Pins that pip installs.
        archives: Pins of source archives, which are downloaded and not built.
        finish: Function that is called with the new folder.
    """
    digest = hashlib.sha256(" ".join((*wheels, *archives)).encode()).hexdigest()[:12]
    base = cache_folder() / "test-libraries"
    base.mkdir(parents=True, exist_ok=True)
    whole = base / digest / "whole"
    with filelock.FileLock(base / f"{digest}.lock"):
        if not whole.exists():
            reason = _install(what, wheels, archives, whole.parent)
            if reason:
                return reason
            finish(whole.parent)
            whole.touch()
    return whole.parent


def _install(what: str, wheels: Sequence[str], archives: Sequence[str], folder: Path) -> str:
    """Install the pins into a folder; the reason if that fails, else an empty text."""
    commands = [("install", "--upgrade", "--target", str(folder), *wheels)]
    if archives:
        commands.append(("download", "--dest", str(folder), *archives))
    for command in commands:
        line = [sys.executable, "-m", "pip", command[0], "-q", "--no-deps", *PATIENCE, *command[1:]]
        try:
            run = subprocess.run(line, capture_output=True, text=True, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            return f"pip did not install {what} within {MOST_SECONDS} s"
        if run.returncode:
            last = [text for text in run.stderr.splitlines() if text.startswith("ERROR")][-1:]
            return f"pip cannot install {what}: {' '.join(last) or run.stderr[-200:]}"
    return ""
