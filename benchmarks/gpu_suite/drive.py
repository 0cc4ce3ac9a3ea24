"""The parts one after the other, risky ones in a process of their own."""

from __future__ import annotations

import datetime
import importlib.util
import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporters.artifact import write_atomic
from exporters.errors import ComparisonError, MissingBackendError
from exporters.staging import temporary_folder
from swin_deploy.bench.lanes import one_line
from swin_deploy.suite.document import Document, is_done, save
from swin_deploy.suite.parts import Part

Outcome = dict[str, Any]  # status (done, not run, failed), reason, data
LAST_WORDS = 300


@dataclass(frozen=True)
class Drive:
    """How to go through the parts.

    Attributes:
        output: The document; a part in a process of its own reads the earlier parts there.
        command: Starts a process for a part; its name and a file for its outcome are appended.
        seconds: For everything; parts that would start later are not run.
        conditions: That hold now; parts done under the same ones are not done again.
        again: Do those parts again too.
        say: Told what is done.
    """

    output: Path
    command: tuple[str, ...]
    seconds: float
    conditions: dict[str, str]
    again: bool
    say: Callable[[str], None]


def drive(document: Document, parts: Sequence[Part], how: Drive) -> None:
    """Do the parts, and write the document after each."""
    now = how.conditions
    start = time.monotonic()
    for part in parts:
        if is_done(document, part.name, now) and not how.again:
            how.say(f"{part.name}: done before")
            continue
        began = time.monotonic()
        left = how.seconds - (began - start)
        if left <= 0:
            outcome = _outcome("not run", f"the suite's {how.seconds:g} s were spent before")
        else:
            how.say(f"{part.name} ...")
            outcome = _do(part, document, how, min(part.budget_s, left))
        seconds = round(time.monotonic() - began, 1)
        document["parts"][part.name] = outcome | {"seconds": seconds, "conditions": now}
        document["updated"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        save(document, how.output)
        reason = f": {outcome['reason']}" if outcome["reason"] else ""
        how.say(f"{part.name}: {outcome['status']}, {seconds} s{reason}")


def run_child(part: Part, document: Document, path: Path) -> None:
    """Do one part in this process, and write its outcome to ``path``, as far as it got."""

    def keep(data: dict[str, Any]) -> None:
        partial = _outcome("failed", "it did not get to its end", data)
        write_atomic(path, json.dumps(partial).encode())

    outcome = _attempt(part, document, keep)
    if outcome["data"] is None and path.is_file():
        outcome["data"] = json.loads(path.read_text(encoding="utf-8"))["data"]
    write_atomic(path, json.dumps(outcome).encode())


def _do(part: Part, document: Document, how: Drive, seconds: float) -> Outcome:
    if part.module and importlib.util.find_spec(part.module) is None:
        return _outcome("not run", f"{part.module} is not installed")
    if part.isolated:
        return _in_a_process(part, how, seconds)
    outcome = _attempt(part, document, lambda _: None)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # for the processes to come
    return outcome


def _attempt(part: Part, document: Document, keep: Callable[[dict[str, Any]], None]) -> Outcome:
    try:
        return _outcome("done", "", part.work(document["parts"], keep))
    except (MissingBackendError, ComparisonError) as err:
        return _outcome("not run", str(err))
    except Exception as err:  # noqa: BLE001 - whatever a library raises is a result, not the end
        return _outcome("failed", one_line(err))


def _outcome(status: str, reason: str = "", data: dict[str, Any] | None = None) -> Outcome:
    return {"status": status, "reason": reason, "data": data}


def _in_a_process(part: Part, how: Drive, seconds: float) -> Outcome:
    """The outcome of a part whose process may crash or hang; what it kept by then is kept."""
    with temporary_folder() as folder:
        path = folder / "outcome.json"
        try:
            ended = subprocess.run(
                [*how.command, "--child", part.name, "--child-outcome", str(path)],
                capture_output=True,
                timeout=seconds,
                text=True,
                errors="replace",
                check=False,
            )
            reason = _ending(ended.returncode, ended.stderr)
        except subprocess.TimeoutExpired:
            reason = f"it was ended after {seconds:.0f} s"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not reason and kept is not None:
        return dict(kept)
    return _outcome("failed", reason or "it left no outcome", kept and kept["data"])


def _ending(status: int, errors: str) -> str:
    """How a process ended, in words; empty for a good end."""
    if status == 0:
        return ""
    words = " ".join(errors.split())[-LAST_WORDS:]
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}: {words}"
    return f"its process ended with status {status}: {words}"
