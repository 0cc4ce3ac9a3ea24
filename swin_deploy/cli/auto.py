"""``--auto``: the search for the first precision within tolerance, shown attempt by attempt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from exporters.spec import Precision
from swin_deploy.cli.console import CHECK_FAILED, Console, say, show_json

if TYPE_CHECKING:
    from swin_deploy.artifacts.onnx_file import OnnxFile
    from swin_deploy.precision.search import Attempt, SearchInputs
    from swin_deploy.runners.engine_manifest import EngineManifest


def climb_ladder(
    console: Console, search: SearchInputs, *, start: Precision, as_json: bool
) -> tuple[OnnxFile, EngineManifest, tuple[Attempt, ...]]:
    """Search the first precision within tolerance, and print every attempt.

    The command exits with status 1 if no attempt passes.

    Args:
        console: The command's output.
        search: The model, images and settings of every attempt.
        start: The first precision to try.
        as_json: Whether results are printed as JSON.

    Returns:
        The ONNX file and the engine of the first attempt that passes, and all attempts in order.
    """
    from swin_deploy.precision.search import search_precision

    with console.step("Finding a precision that is right") as step:
        found = search_precision(dataclasses.replace(search, progress=step.update), start=start)
    for attempt in found.attempts:
        console.note(
            f"  {'taken' if attempt.passed else 'failed'}: {attempt.title}: {attempt.reason}"
        )
    if found.graph is None or found.engine is None:
        if as_json:
            show_json({"attempts": [dataclasses.asdict(attempt) for attempt in found.attempts]})
        last = found.attempts[-1]
        say(
            f"failed: no precision is right, not even {last.title}: {last.reason}; "
            "look at the deploy model with swin-deploy parity",
            fg="red",
        )
        click.get_current_context().exit(CHECK_FAILED)
    return found.graph, found.engine, found.attempts


def attempt_conditions(attempts: Sequence[Attempt]) -> dict[str, str]:
    """Return the attempts as conditions of a report, by title; empty without attempts."""
    words = {True: "taken", False: "failed"}
    return {
        f"precision {number}, {words[attempt.passed]}": f"{attempt.title}: {attempt.reason}"
        for number, attempt in enumerate(attempts, start=1)
    }
