"""A hostile case run in a process of its own, and what is wrong with how it ended."""

import dataclasses
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from command_line import listing

MOST_LETTERS = 500  # of the line that an error is
MOST_S = 10.0
MOST_BYTES = 1 << 30  # beyond what the process has before the command
HANGS_S = 30
MOST_ADDRESSES = 6 << 30  # more than the process has, so that no case takes the machine with it


@dataclasses.dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: A word or two.
        make: Writes the input into an empty folder, and returns the command's arguments.
        statuses: Exit statuses that are right.
        names: Text that the error must hold; by default any will do.
    """

    name: str
    make: Callable[[Path], tuple[object, ...]]
    statuses: tuple[int, ...] = (0, 2, 3)
    names: str = ""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a case ended; ``problem`` is empty where it ended well."""

    status: int
    errors: str
    seconds: float
    peak_bytes: int
    problem: str = ""

    @property
    def last_line(self) -> str:
        return (self.errors.splitlines() or [""])[-1]


def run_case(case: Case, scratch: Path) -> Ending:
    """Run a case in a fork of this process, which must not have threads."""
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arguments = case.make(folder)
    before = _seen(folder)
    streams = scratch / "out", scratch / "err"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(arguments, folder, streams)
    _, code, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    errors = streams[1].read_text(errors="backslashreplace")
    grown = usage.ru_maxrss * 1024 - _resident()
    ending = Ending(os.waitstatus_to_exitcode(code), errors, seconds, grown)
    problem = _problem(case, ending, left=sorted(_seen(folder) - before))
    shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(ending, problem=problem)


def _seen(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _become(arguments: tuple[object, ...], folder: Path, streams: tuple[Path, Path]) -> None:
    """Turn this process into the command; never returns."""
    from swin_deploy.cli import main

    status = 99
    try:
        for number, path in enumerate(streams, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        signal.alarm(HANGS_S)
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = addresses + MOST_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        sys.argv = ["swin-deploy", *map(str, arguments)]
        main()
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 99
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _problem(case: Case, ending: Ending, left: list[str]) -> str:
    lines = ending.errors.splitlines()
    errors = [line for line in lines if line.lower().startswith("error: ")]
    if "Traceback" in ending.errors:
        raised = [line for line in lines if line[:1].isalpha() and "rror: this is" not in line]
        return f"traceback, status {ending.status}: {raised[-1][:300]}"
    if ending.status not in case.statuses:
        return f"status {ending.status}: {ending.last_line[:300]}"
    if ending.seconds > MOST_S:
        return f"{ending.seconds:.1f} s: {ending.last_line[:200]}"
    if ending.peak_bytes > MOST_BYTES:
        return f"{ending.peak_bytes / 1e9:.1f} GB: {ending.last_line[:200]}"
    if any("Warning: " in line for line in lines):
        return f"noise: {[line for line in lines if 'Warning: ' in line][0][:200]}"
    if ending.status in (0, 1):
        return ""
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"not one line at the end: {ending.errors[-300:]!r}"
    if len(errors[0]) > MOST_LETTERS:
        return f"a line of {len(errors[0])} letters: {errors[0][:200]}"
    if case.names not in errors[0]:
        return f"does not name {case.names}: {errors[0]}"
    return f"left behind: {left[:5]}" if left else ""
