"""Run the parts one after the other, each in a process of its own."""

from __future__ import annotations

import ctypes
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from benchmarks.gpu_suite.document import (
    Conditions,
    Document,
    Outcome,
    Status,
    is_done,
    merge_partial,
    partial_path,
    read_outcome,
    same_conditions,
    save,
)
from benchmarks.gpu_suite.markdown import render_document
from benchmarks.gpu_suite.parts import Part
from exporters.artifact import write_atomic
from exporters.errors import ComparisonError, MissingBackendError
from exporters.outputs import ensure_writable
from swin_deploy.bench.contenders import one_line

LAST_WORDS = 300
POLL_S = 0.5
PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Drive:
    """Settings of one command of the suite.

    Attributes:
        output: Path of the document; a part reads the earlier parts there.
        command: Words that start a process for a part; ``--child`` and its name are appended.
        seconds: Time for all parts, in seconds; parts that would start later are not run.
        conditions: Conditions that hold now; parts done under the same ones are not done again.
        say: Function that is told what is done.
        again: True to do those parts again, too.
        copy_to: Folder that the document and its page are copied to whenever they change.
    """

    output: Path
    command: tuple[str, ...]
    seconds: float
    conditions: Conditions
    say: Callable[[str], None]
    again: bool = False
    copy_to: Path | None = None


def drive(document: Document, parts: Sequence[Part], how: Drive) -> None:
    """Do the parts, and write the document whenever a part has new results.

    Args:
        document: The document, changed in place.
        parts: Parts to do, in order.
        how: Settings of this command.

    Raises:
        FileError: If the document cannot be written; it is tested before the first part.
    """
    for place in _places(how):
        ensure_writable(place)
        ensure_writable(place.with_suffix(".md"))
    left_behind = merge_partial(document, how.output)
    if left_behind:
        how.say(f"{left_behind}: kept what it had found when the last command was ended")
        _publish(document, how)
    start = time.monotonic()
    for part in parts:
        if is_done(document, part.name, how.conditions) and not how.again:
            how.say(f"{part.name}: done before")
            continue
        left = how.seconds - (time.monotonic() - start)
        _do(part, document, how, min(part.budget_s, left))


def _do(part: Part, document: Document, how: Drive, seconds: float) -> None:
    began = time.monotonic()

    def record(outcome: Outcome) -> None:
        spent = {"seconds": round(time.monotonic() - began, 1), "conditions": how.conditions}
        document["parts"][part.name] = outcome | spent
        _publish(document, how)

    if part.module and importlib.util.find_spec(part.module) is None:
        record(outcome_of("not run", f"{part.module} is not installed"))
    elif seconds <= 0:
        if part.name not in document["parts"]:  # an earlier result is better than none
            record(outcome_of("not run", f"the suite's {how.seconds:g} s were spent before"))
    else:
        how.say(f"{part.name} ...")
        record(_in_a_process(part, how, seconds, record))
    found = document["parts"][part.name]
    reason = f": {found['reason']}" if found["reason"] else ""
    how.say(f"{part.name}: {found['status']}, {found['seconds']} s{reason}")


def _publish(document: Document, how: Drive) -> None:
    """Write the document and its page, and copies of both to the other folder if there is one."""
    document["updated"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document["conditions"] = how.conditions
    page = render_document(document).encode()
    for place in _places(how):
        save(document, place)
        write_atomic(place.with_suffix(".md"), page)


def _places(how: Drive) -> list[Path]:
    return [how.output, *([how.copy_to / how.output.name] if how.copy_to else [])]


def run_child(part: Part, document: Document, how: Drive) -> None:
    """Do one part in this process; write its results next to the document as it goes.

    Args:
        part: The part.
        document: Results of the earlier parts.
        how: Settings of this command.
    """
    path = partial_path(how.output)
    began = time.monotonic()
    kept: dict[str, Any] | None = None

    def write(outcome: Outcome) -> None:
        facts = {
            "part": part.name,
            "conditions": how.conditions,
            "seconds": round(time.monotonic() - began, 1),
        }
        write_atomic(path, json.dumps(outcome | facts).encode())

    def keep(data: dict[str, Any]) -> None:
        nonlocal kept
        kept = data
        write(outcome_of("cut short", "", data))

    earlier = same_conditions(document, how.conditions)
    if how.again:
        earlier.pop(part.name, None)
    outcome = _attempt(part, earlier, keep)
    if outcome["data"] is None:
        outcome["data"] = kept
    write(outcome)


def leave_at_once() -> None:
    """End this process without the clean-up of its libraries, since CUDA's is known to crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def die_with_parent(parent: int) -> None:
    """Have Linux end this process when the one that started it is killed.

    An orphaned process would run on during the next command, and slow its timings down.

    Args:
        parent: Process ID of the process that started this one; if it has ended already, while
            this one was importing, this one ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _attempt(
    part: Part, earlier: dict[str, Any], keep: Callable[[dict[str, Any]], None]
) -> Outcome:
    try:
        return outcome_of("done", "", part.work(earlier, keep))
    except (MissingBackendError, ComparisonError) as err:
        return outcome_of("not run", str(err))
    except Exception as err:  # noqa: BLE001 - whatever a library raises is a result, not the end
        return outcome_of("failed", f"{one_line(err)} ({_place(err)})")


def _place(err: Exception) -> str:
    """Return file and line of an exception, since its machine may be gone when it is read."""
    frame = traceback.extract_tb(err.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def outcome_of(status: Status, reason: str = "", data: dict[str, Any] | None = None) -> Outcome:
    """Make the outcome of a part.

    Args:
        status: Status of the part.
        reason: Reason why it is not done; empty if it is.
        data: Results as JSON values; None without any.
    """
    return {"status": status, "reason": reason, "data": data}


def _in_a_process(
    part: Part, how: Drive, seconds: float, record: Callable[[Outcome], None]
) -> Outcome:
    """Run a part in a process that may crash or hang; keep the results that it had by then."""
    path = partial_path(how.output)
    path.unlink(missing_ok=True)
    with TemporaryFile() as errors:
        process = subprocess.Popen(
            [*how.command, "--child", part.name], stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            in_time = _watch(process, seconds, lambda: _outcome_in(path, part), record)
        finally:
            process.kill()
            status = process.wait()
        found = _outcome_in(path, part)
        path.unlink(missing_ok=True)
        if found is not None and found["status"] != "cut short":
            if status and in_time:
                found["reason"] = "; ".join(
                    filter(None, [found["reason"], f"then {_ending(status, errors)}"])
                )
            return found
        data = found["data"] if found else None
        if not in_time:
            return outcome_of("cut short", f"it was ended after {seconds:.0f} s", data)
        return outcome_of("failed", _ending(status, errors) or "it left no outcome", data)


def _watch(
    process: subprocess.Popen[bytes],
    seconds: float,
    read: Callable[[], Outcome | None],
    record: Callable[[Outcome], None],
) -> bool:
    """Wait for a process, and record the results that it keeps.

    Args:
        process: The process.
        seconds: Time to wait, in seconds.
        read: Function that reads the results so far; None if there are none.
        record: Function that is given the results whenever they change.

    Returns:
        True if the process ended in time.
    """
    end = time.monotonic() + seconds
    seen = None
    while time.monotonic() < end:
        try:
            process.wait(timeout=min(POLL_S, max(0.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            found = read()
            if found not in (None, seen):
                seen = found
                record(found)
        else:
            return True
    return False


def _outcome_in(path: Path, part: Part) -> Outcome | None:
    """Read the outcome that a part has written; None if there is none or it is another part's."""
    found = read_outcome(path)
    if found is None or found["part"] != part.name:
        return None
    return outcome_of(found["status"], found["reason"], found["data"])


def _ending(status: int, errors: IO[bytes]) -> str:
    """Describe the end of a process that failed, with its last words; empty for status 0."""
    if status == 0:
        return ""
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4 * LAST_WORDS))  # the file may be gigabytes
    words = " ".join(errors.read().decode(errors="replace").split())[-LAST_WORDS:]
    if status < 0:
        return f"its process was ended by {_signal_name(-status)}: {words}"
    return f"its process ended with status {status}: {words}"


def _signal_name(number: int) -> str:
    """Return a signal's name; real-time ones between the first and the last have a number only."""
    return next((one.name for one in signal.Signals if one == number), f"signal {number}")
