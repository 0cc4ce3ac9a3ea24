"""Commands that are killed, interrupted, crowded or short of room, and what they leave."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from command_line import IMAGES, listing
from kill_at_each_step import temporary_files

from exporters import signals
from exporters.artifact import read_manifest
from exporters.errors import DeployError
from swin_deploy.cli import main
from swin_deploy.report.from_json import read_report

Arguments = tuple[object, ...]
Tried = Iterator[tuple[str, str]]  # what was tried, and what is wrong; empty where nothing is
MODEL = ("--model", "notebook-digits")
DATA = ("--data", IMAGES, "--limit", "60")
RUN = (*MODEL, "--limit", "4", "--batch", "1", "--bench-seconds", "1")
CSV = ("--batch", "4", "--csv", "{out}/p.csv")
# Commands that write in {out}; {honest} has a graph and a report.
WRITERS: dict[str, Arguments] = {
    "report": ("report", "{honest}/report", "--output", "{out}/r"),
    "export": ("export", *MODEL, "--output", "{out}/x.onnx"),
    "build-trt": ("build-trt", "{honest}/x.onnx", "--fp16", "--output", "{out}/x.engine"),
    "evaluate": ("evaluate", *MODEL, *DATA, "--output", "{out}/e"),
    "predict --csv": ("predict", "{honest}/x.onnx", IMAGES, *CSV),
    "predict --features": ("predict", MODEL[1], IMAGES / "3", "--features", "{out}/p.npz"),
    "run": ("run", *RUN, "--output", "{out}/g", "--report", "{out}/g"),
}
GOOD_ENDS: dict[int, tuple[int, int]] = {
    signal.SIGKILL: (-9, 0),
    signal.SIGINT: (130, 0),
    signal.SIGTERM: (143, 0),
}
DISKS = ("size=64k", "size=200k", "size=500k", "size=900k", "size=2m", "nr_inodes=3", "nr_inodes=7")
GROWN = (".csv", ".csv.json", ".jsonl")  # written as it comes
FEW = ("report", "export", "build-trt", "evaluate", "predict --csv", "predict --features")


@dataclass(frozen=True)
class Started:
    """A command under way in a process of its own; what it says goes to a file."""

    pid: int
    scratch: Path

    def problem(self, *statuses: int) -> str:
        """Wait for its end, and say what is wrong with it."""
        return self.end(*statuses)[1]

    def end(self, *statuses: int) -> tuple[int, str]:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said = (self.scratch / str(self.pid)).read_text(errors="backslashreplace")
        lines = said.splitlines() or [""]
        errors = [line for line in lines if line.lower().startswith("error: ")]
        wrong = {
            f"status {status}": status not in statuses,
            "a traceback": "Traceback" in said,
            "not one line": status in (2, 3) and errors != lines[-1:],
            "not one farewell": status in (130, 143) and said.count("nothing half-written") != 1,
        }
        found = [text for text, is_so in wrong.items() if is_so]
        return status, f"{', '.join(found)}: {said[-300:]!r}" if found else ""


def start(arguments: Arguments, scratch: Path) -> Started:
    """Run a command in a fork, which must have no threads, as the console script does."""
    child = os.fork()
    if child:
        return Started(child, scratch)
    status = 99
    try:
        said = os.open(scratch / str(os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
        signals.unwind()
        sys.argv = ["swin-deploy", "-q", *map(str, arguments)]
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except KeyboardInterrupt as err:
        line, status = signals.farewell(err)
        os.write(2, f"{line}\n".encode())
    except BaseException:  # noqa: BLE001 - what the program lets through is what is looked for
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def writer(name: str, scratch: Path, out: str = "out") -> Arguments:
    """A command that writes in a folder of ``scratch``."""
    places = {"honest": scratch / "honest", "out": scratch / out}
    return tuple(str(one).format(**places) for one in WRITERS[name])


def make_honest(scratch: Path) -> None:
    """Make what the commands read."""
    graph = scratch / "honest" / "x.onnx"
    proof = (*MODEL, "--limit", "4", "--batches", "1", "--onnx", graph)
    for command in (
        ("export", *MODEL, "--output", graph),
        ("parity", *proof, "--report", scratch / "honest" / "report"),
    ):
        _require(start(command, scratch).problem(0))


def _require(problem: str) -> None:
    if problem:
        raise SystemExit(problem)


def _make_clean(name: str, scratch: Path) -> float:
    """Run a command as it should be; returns the seconds that it took."""
    for folder in ("clean", "out"):
        shutil.rmtree(scratch / folder, ignore_errors=True)
    started = time.monotonic()
    _require(start(writer(name, scratch, "clean"), scratch).problem(0))
    return time.monotonic() - started


def at_random(scratch: Path, times: int, *, number: int) -> Tried:
    """End each command at random moments, look, and run it again."""
    dice, out = random.Random(number), scratch / "out"
    for name in WRITERS:
        within_s = _make_clean(name, scratch)
        for turn in range(times):
            if turn % 3 == 0:  # else over what is there
                shutil.rmtree(out, ignore_errors=True)
            started = start(writer(name, scratch), scratch)
            time.sleep(dice.uniform(0, within_s))
            os.kill(started.pid, number)
            found = [started.problem(*GOOD_ENDS[number]), _wrong_files(scratch)]
            found += [] if number == signal.SIGKILL else [_litter(out)]
            found += [start(writer(name, scratch), scratch).problem(0)]
            yield f"{name} {turn}", "; ".join(filter(None, [*found, all_wrong(scratch)]))


def together(scratch: Path, times: int) -> Tried:
    """Have three processes write the same files."""
    for name in FEW:
        _make_clean(name, scratch)
        for turn in range(max(1, times // 3)):
            running = [start(writer(name, scratch), scratch) for _ in range(3)]
            found = [one.problem(0) for one in running]
            yield f"{name} {turn}", "; ".join(filter(None, [*found, all_wrong(scratch)]))


def full_disk(scratch: Path, _: int) -> Tried:
    """Give too little room: on an empty disk, and on one with the files of an earlier run."""
    out = scratch / "out"
    for name in FEW:
        _make_clean(name, scratch)
        for options, old in itertools.product(DISKS, (False, True)):
            with _mounted(out, options):
                if old and not _filled(out, scratch / "clean"):
                    continue
                before = listing(out)
                status, problem = start(writer(name, scratch), scratch).end(0, 3)
                changed = _changed(before, listing(out)) if status == 3 else ""
                what = f"{name}, {options}{', old files' * old}, status {status}"
                yield what, "; ".join(filter(None, [problem, changed, all_wrong(scratch)]))


@contextlib.contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _filled(out: Path, clean: Path) -> bool:
    """Put the files of an earlier run on a disk, and fill it; false where they do not fit."""
    try:
        shutil.copytree(clean, out, dirs_exist_ok=True)
    except (OSError, shutil.Error):
        return False
    with contextlib.suppress(OSError):
        (out / "filler").write_bytes(bytes(4 << 20))
    return True


def _changed(before: dict[str, str], after: dict[str, str]) -> str:
    now = {file: digest for file, digest in after.items() if not file.endswith(GROWN)}
    same = all(now.get(file) == digest for file, digest in before.items() if file in now)
    gone = [file for file in before if file not in after]
    return "" if same and not gone and set(now) <= set(before) else f"not as before: {sorted(now)}"


def all_wrong(scratch: Path) -> str:
    return "; ".join(filter(None, [_wrong_files(scratch), _litter(scratch / "out")]))


def _litter(out: Path) -> str:
    found = temporary_files(out)
    return f"left {found[:4]}" if found else ""


def _wrong_files(scratch: Path) -> str:
    """What is wrong with finished files: each is whole, tables are as a clean run has them."""
    out = scratch / "out"
    for path in sorted(out.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(out).parts):
            continue
        try:
            is_right = CHECKS.get(path.suffix)
            if is_right and not is_right(path, scratch / "clean" / path.relative_to(out)):
                return f"{path.name} is not whole"
        except (DeployError, OSError, ValueError, KeyError) as err:
            return f"{path.name}: {type(err).__name__}: {err}"
    return ""


def _is_json(path: Path, _: Path) -> bool:
    read = read_report if path.name == "report.json" else lambda one: json.loads(one.read_text())
    return bool(read(path))


def _is_same_npz(path: Path, clean: Path) -> bool:
    with np.load(path) as found, np.load(clean) as wanted:
        return all(np.array_equal(found[name], wanted[name]) for name in wanted)


CHECKS: dict[str, Callable[[Path, Path], bool]] = {
    ".onnx": lambda path, _: bool(read_manifest(path)),
    ".engine": lambda path, _: bool(read_manifest(path)),
    ".json": _is_json,
    ".md": lambda path, _: path.read_text().endswith(" -->\n"),
    ".html": lambda path, _: path.read_text().endswith(" -->\n"),
    ".csv": lambda path, clean: clean.read_bytes().startswith(path.read_bytes()),
    ".npz": _is_same_npz,
}
Group = Callable[[Path, int], Tried]
GROUPS: dict[str, tuple[Group, str]] = {
    "killed": (partial(at_random, number=signal.SIGKILL), "SIGKILL at random moments, then again"),
    "interrupted": (partial(at_random, number=signal.SIGINT), "SIGINT at random moments"),
    "terminated": (partial(at_random, number=signal.SIGTERM), "SIGTERM at random moments"),
    "together": (together, "three processes that write the same files"),
    "full disk": (full_disk, "tmpfs of 64 kB to 2 MB and with few inodes"),
}
