"""Do a piece of work again and again, ended at its first file-system step, its second, and so on.

A step is one that Python's audit hooks tell (open, rename, remove, mkdir, lock, ...) or an fsync,
of a file below the folder. Each time the work runs in a forked process that is killed, interrupted
or asked to end just before the step. Started as a program it prints, for one case of ``CASES``,
what was found: JSON, a list of problems and the numbers of steps.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters import signals
from exporters.artifact import (
    MANIFEST_KEYS,
    NewArtifact,
    manifest_path,
    read_manifest,
    sha256_of,
    write_artifact,
    write_artifacts,
    write_together,
)
from exporters.errors import FileError
from exporters.staging import temporary_folder

EVENTS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.truncate",
    "fcntl.flock", "shutil.rmtree", "fsync",
}  # fmt: skip
TEMPORARY = re.compile(r"\..*\.tmp")
DONE, IGNORED, NEVER = 0, 98, 1 << 30
OLD, NEW, FOREIGN = b"old" * 1000, b"new" * 2000, b"somebody else's"


@dataclass(frozen=True)
class Case:
    """A piece of work, what was there before, and what must hold after each end.

    Attributes:
        prepare: Makes the folder as it is before.
        work: What is done in it.
        problem: Says what is wrong with the folder; empty where nothing is.
    """

    prepare: Callable[[Path], object]
    work: Callable[[Path], object]
    problem: Callable[[Path], str]


def count_steps(folder: Path, *, end_at: int, number: int) -> list[int]:
    """Have the process send itself a signal just before a step; returns the count, kept up."""
    count = [0]

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and _is_below(arguments, folder):
            count[0] += 1
            if count[0] == end_at:
                os.kill(os.getpid(), number)

    real_fsync = os.fsync

    def fsync(file: int) -> None:
        step("fsync", (file,))
        real_fsync(file)

    sys.addaudithook(step)
    os.fsync = fsync  # type: ignore[assignment] # its argument has a name of its own there
    return count


def _is_below(arguments: tuple[Any, ...], folder: Path) -> bool:
    first = arguments[0] if arguments else None
    if isinstance(first, int):  # an open file
        first = os.readlink(f"/proc/self/fd/{first}")
    return isinstance(first, str) and os.path.abspath(first).startswith(str(folder))


def run_ended(work: Callable[[], object], folder: Path, *, end_at: int, number: int) -> int:
    """Do the work in a forked process that a signal ends; returns its status as Popen has it."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            signals.unwind()
            count = count_steps(folder, end_at=end_at, number=number)
            work()
            status = DONE if count[0] < end_at else IGNORED
        except SystemExit as end:
            status = int(end.code or 0)
            if status == DONE and count[0] >= end_at:
                status = IGNORED
        except KeyboardInterrupt as err:
            status = signals.farewell(err)[1]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def end_at_each_step(case: Case, folder: Path, number: int, *, stride: int = 1) -> dict[str, Any]:
    """End the work at each step, then do it once more; what was wrong after which step."""
    problems: list[str] = []
    ends = -number if number == signal.SIGKILL else 128 + number
    for step in itertools.count(1, stride):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case.prepare(folder)
        status = run_ended(lambda: case.work(folder), folder, end_at=step, number=number)
        if status == DONE:
            return {"steps": step - 1, "stride": stride, "problems": problems}
        found = [case.problem(folder), "" if status == ends else f"status {status}"]
        if number != signal.SIGKILL and temporary_files(folder):
            found.append(f"left {temporary_files(folder)}")
        status = run_ended(lambda: case.work(folder), folder, end_at=NEVER, number=number)
        found += [case.problem(folder), "" if status == DONE else f"status {status} afterwards"]
        if temporary_files(folder):
            found.append(f"left for good {temporary_files(folder)}")
        problems += [f"step {step}: {one}" for one in found if one]
    raise AssertionError("never reached")


def temporary_files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if TEMPORARY.fullmatch(path.name)]


def pair_problem(path: Path, allowed: tuple[bytes | None, ...]) -> str:
    """Whether an artefact is one of those allowed (None: there is none), and described rightly."""
    data = path.read_bytes() if path.exists() else None
    if data not in allowed:
        return f"{path.name} is {'gone' if data is None else 'something else'}"
    if data is None or (FOREIGN in allowed and not _is_described_wrongly(path)):
        return ""
    try:
        read_manifest(path)
    except FileError as err:
        return str(err)
    return ""


def _is_described_wrongly(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(manifest_path(path).read_text())
        return set(MANIFEST_KEYS) <= set(found) and found["sha256"] != sha256_of(path)
    return False


def _pair(before: bytes | None, *, times: int = 1) -> Case:
    def prepare(folder: Path) -> None:
        if before == FOREIGN:
            (folder / "x.engine").write_bytes(FOREIGN)
            (folder / "x.engine.json").write_bytes(FOREIGN)
        elif before is not None:
            write_artifact(folder / "x.engine", before, {"kind": "engine"})

    def work(folder: Path) -> None:
        for turn in range(times):
            data = NEW + bytes(times - turn - 1)
            write_artifact(folder / "x.engine", data, {"kind": "engine"}, force=before == FOREIGN)

    allowed = (before, *(NEW + bytes(turn) for turn in range(times)))
    return Case(prepare, work, lambda folder: pair_problem(folder / "x.engine", allowed))


def _two_artifacts() -> Case:
    names = ("half.onnx", "x.engine")

    def prepare(folder: Path) -> None:
        write_artifact(folder / names[1], OLD, {"kind": "engine"})

    def work(folder: Path) -> None:
        write_artifacts([NewArtifact(folder / name, NEW, {"kind": "x"}) for name in names])

    def problem(folder: Path) -> str:
        half = pair_problem(folder / names[0], (None, NEW))
        return half or pair_problem(folder / names[1], (OLD, NEW))

    return Case(prepare, work, problem)


def _new_folder() -> Case:
    def work(folder: Path) -> None:
        write_artifact(folder / "a" / "b" / "x.engine", NEW, {"kind": "engine"})

    def problem(folder: Path) -> str:
        return pair_problem(folder / "a" / "b" / "x.engine", (None, NEW))

    return Case(lambda _: None, work, problem)


def _together() -> Case:
    names = ("a.json", "b.md", "c.html")

    def prepare(folder: Path) -> None:
        write_together({folder / name: OLD for name in names})

    def work(folder: Path) -> None:
        write_together({folder / name: NEW for name in names})

    def problem(folder: Path) -> str:
        whole = all((folder / name).read_bytes() in (OLD, NEW) for name in names)
        return "" if whole else "a file is not whole"

    return Case(prepare, work, problem)


def _all_or_none() -> Case:
    """The same for signals that are handled: never old files beside new ones."""
    case = _together()

    def problem(folder: Path) -> str:
        return "" if len({path.read_bytes() for path in folder.glob("[abc]*")}) == 1 else "mixed"

    return Case(case.prepare, case.work, problem)


def _report() -> Case:
    from report_samples import FAILING, PASSING

    from swin_deploy.report.from_json import read_report
    from swin_deploy.report.write import write_report

    verdicts = (PASSING.verdict, FAILING.verdict)

    def problem(folder: Path) -> str:
        return "" if read_report(folder / "report.json").verdict in verdicts else "another report"

    return Case(
        lambda folder: write_report(PASSING, folder),
        lambda folder: write_report(FAILING, folder),
        problem,
    )


def _table() -> Case:
    """Predictions of one model, begun anew with another: no row beside the other's manifest."""
    from swin_deploy.predict.predictor import Prediction, Scored
    from swin_deploy.predict.table import PredictionTable

    def write(folder: Path, model: str) -> None:
        with PredictionTable(folder / "x.csv", {"model": model}, top=1, force=True) as table:
            for image in sorted({"a", "b", "c"} - table.done):
                table.add(Prediction(image, (Scored(0, model, 1.0),)))

    def problem(folder: Path) -> str:
        rows = (folder / "x.csv").read_text().splitlines()[1:]
        model = json.loads((folder / "x.csv.json").read_text())["model"]
        return "" if all(f",{model}," in row for row in rows) else f"{rows} of {model}"

    return Case(lambda folder: write(folder, "old"), lambda folder: write(folder, "new"), problem)


def _trial_folder() -> Case:
    def work(folder: Path) -> None:
        with temporary_folder(folder) as trial:
            write_artifact(trial / "x.onnx", NEW, {"kind": "onnx"})
            write_artifact(folder / "x.onnx", NEW, {"kind": "onnx"})

    return Case(lambda _: None, work, lambda folder: pair_problem(folder / "x.onnx", (None, NEW)))


def _command(engine: Path, arguments: list[str]) -> Case:
    """A real command over an artefact that is there, ``x`` with the ending of ``engine``."""
    from exporters.backends import load_tensorrt
    from swin_deploy.cli import main

    load_tensorrt("tensorrt-rtx")
    importlib.import_module("swin_deploy.artifacts.engine_file")

    def prepare(folder: Path) -> None:
        shutil.copy(engine, folder / f"x{engine.suffix}")
        shutil.copy(manifest_path(engine), folder / f"x{engine.suffix}.json")

    def work(folder: Path) -> None:
        os.chdir(folder)
        sys.argv = ["swin-deploy", "--quiet", *arguments]
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        main()

    def problem(folder: Path) -> str:
        if not (folder / f"x{engine.suffix}").exists():
            return "the artefact is gone"
        try:
            for path in folder.iterdir():
                if path.suffix in (".onnx", ".engine"):
                    read_manifest(path)
        except FileError as err:
            return str(err)
        return ""

    return Case(prepare, work, problem)


def _two_renames() -> Case:
    """Two names one after the other, as before there was ``previous``: to be noticed."""
    case = _pair(OLD)

    def work(folder: Path) -> None:
        (folder / "new").mkdir(exist_ok=True)
        made = folder / "new" / "x.engine"
        write_artifact(made, NEW, {"kind": "engine"})
        for source in (made, manifest_path(made)):
            os.replace(source, folder / source.name)

    return Case(case.prepare, work, case.problem)


def _unlocked() -> Case:
    """A temporary file that is removed by whoever made it only."""

    def work(folder: Path) -> None:
        temporary = folder / f".x.{os.getpid():08}.tmp"
        temporary.write_bytes(NEW)
        os.replace(temporary, folder / "x")

    return Case(lambda _: None, work, lambda _: "")


CASES: dict[str, Callable[[], Case]] = {
    "first-pair": lambda: _pair(None),
    "over-a-pair": lambda: _pair(OLD),
    "over-a-pair-twice": lambda: _pair(OLD, times=2),
    "over-a-foreign-file": lambda: _pair(FOREIGN),
    "two-artifacts": _two_artifacts,
    "new-folder": _new_folder,
    "together": _together,
    "all-or-none": _all_or_none,
    "report": _report,
    "table": _table,
    "temporary-folder": _trial_folder,
    "two-renames": _two_renames,
    "unlocked": _unlocked,
}
# Cases in which being killed must be noticed, and how.
NOTICED = {
    "all-or-none": "mixed",
    "two-renames": "SHA-256 differs",
    "unlocked": "left for good",
}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    name, signal_name, where, stride, *command = sys.argv[1:]
    case = _command(Path(command[0]), command[1:]) if name == "command" else CASES[name]()
    found = end_at_each_step(case, Path(where), getattr(signal, signal_name), stride=int(stride))
    sys.stdout.write(json.dumps(found))
