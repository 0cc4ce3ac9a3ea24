"""A hostile case run in a process of its own, and what is wrong with how it ended."""

import dataclasses
import importlib
import os
import pkgutil
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import exporters
import swin_deploy
from swin_deploy.cli import main

MOST_LETTERS = 500  # of the line that an error is
MOST_S = 10.0  # of processor time: other processes may keep it waiting
MOST_BYTES = 1 << 30  # beyond what the process has before the command
HANGS_S = 60
MOST_ADDRESSES = 6 << 30  # more than the process has, so that no case takes the machine with it
STREAMS = ("out", "err")
ANY = (0, 1, 2, 3)  # where changed values may well be out of tolerance


@dataclasses.dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: A word or two.
        make: Writes the input into an empty folder, and returns the command's arguments.
        statuses: Exit statuses that are right.
        names: Text that the error must hold; by default any will do.
        packages: Folder below the case's that Python looks for packages in first.
    """

    name: str
    make: Callable[[Path], tuple[object, ...]]
    statuses: tuple[int, ...] = (0, 2, 3)
    names: str = ""
    packages: str = ""


Write = Callable[[Path], object]


def writing(content: bytes | str) -> Write:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: path.write_bytes(data)


def file_case(
    name: str, write: Write, *, file: str = "bad.pt", statuses: tuple[int, ...] = (0, 2, 3)
) -> Case:
    """A checkpoint that ``write`` makes, in the command that loads one soonest."""

    def make(folder: Path) -> tuple[object, ...]:
        write(folder / file)
        images = folder.parent / "honest" / "images"
        limits = ("--data", images, "--limit", "20", "--output", "out")
        return ("-q", "evaluate", "--checkpoint", file, *limits)

    return Case(name, make, statuses, names=file)


def data_case(
    name: str, data: bytes, *, file: str = "bad.pt", statuses: tuple[int, ...] = (0, 2, 3)
) -> Case:
    """A checkpoint of these bytes."""
    return file_case(name, writing(data), file=file, statuses=statuses)


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


def import_all() -> None:
    """Import the whole program, so that a fork has it and does not see it change."""
    for package in (exporters, swin_deploy):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


def run_case(case: Case, scratch: Path) -> Ending:
    """Run a case in a fork of this process, which must not have threads."""
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arguments = case.make(folder)
    before = _seen(folder)
    child = os.fork()
    if child == 0:
        _become(case, arguments, scratch)
    _, code, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    errors = (scratch / "err").read_text(errors="backslashreplace")
    ending = Ending(
        os.waitstatus_to_exitcode(code), errors, seconds, usage.ru_maxrss * 1024 - _pages(1)
    )
    problem = problem_of(case, ending, left=sorted(_seen(folder) - before))
    shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(ending, problem=problem)


def _seen(folder: Path) -> set[str]:
    """Every file below a folder, but for predictions, which are kept on purpose.

    An empty folder is no half-made result either.
    """
    found = (path for path in folder.rglob("*") if not path.is_dir() and path.suffix != ".jsonl")
    return {path.relative_to(folder).as_posix() for path in found}


def _pages(field: int) -> int:
    """Bytes in a field of ``/proc/self/statm``: 0 the addresses, 1 what is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def _become(case: Case, arguments: tuple[object, ...], scratch: Path) -> None:
    """Turn this process into the command; never returns."""
    status = 99
    try:
        for number, name in enumerate(STREAMS, start=1):
            os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(scratch / "case")
        if case.packages:
            sys.path.insert(0, str(scratch / "case" / case.packages))
        signal.alarm(HANGS_S)
        most = _pages(0) + MOST_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        sys.argv = ["swin-deploy", *map(str, arguments)]
        main()
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 99
    except BaseException:  # noqa: BLE001 - what the program lets through is what is looked for
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def problem_of(case: Case, ending: Ending, *, left: list[str]) -> str:
    """Why an ending is wrong; empty where it is right."""
    lines = ending.errors.splitlines()
    if "Traceback" in ending.errors:
        raised = [line for line in lines if line[:1].isalpha() and "this is a bug" not in line]
        return f"traceback, status {ending.status}: {raised[-1][:300]}"
    noise = [line for line in lines if "Warning: " in line]
    wrong = {
        f"status {ending.status}: {ending.last_line[:300]}": ending.status not in case.statuses,
        f"{ending.seconds:.1f} s: {ending.last_line[:200]}": ending.seconds > MOST_S,
        f"{ending.peak_bytes / 1e9:.1f} GB: {ending.last_line[:200]}": ending.peak_bytes
        > MOST_BYTES,
        f"noise: {''.join(noise)[:200]}": bool(noise),
        f"code ran: {left}": any("pwned" in name for name in left),
    }
    first = next((text for text, found in wrong.items() if found), "")
    return first if first or ending.status in (0, 1) else _wrong_line(case, lines, left)


def _wrong_line(case: Case, lines: list[str], left: list[str]) -> str:
    """What is wrong with the line that an error is, or with what is left behind."""
    errors = [line for line in lines if line.lower().startswith("error: ")]
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"not one line at the end: {lines[-3:]!r}"
    if len(errors[0]) > MOST_LETTERS:
        return f"a line of {len(errors[0])} letters: {errors[0][:200]}"
    if case.names not in errors[0]:
        return f"does not name {case.names}: {errors[0]}"
    return f"left behind: {left[:5]}" if left else ""
