"""``--auto``: the first precision that is right, and why each one before it is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporters.spec import Precision
from swin_deploy.cli.console import CHECK_FAILED, Console, say, show_json

if TYPE_CHECKING:
    from swin_deploy.precision.search import Ladder, Rung


def climb_ladder(
    console: Console, ladder: Ladder, *, start: Precision, as_json: bool
) -> tuple[Path, Path, tuple[Rung, ...]]:
    """The ONNX file and the engine of the first rung that passes, and all rungs tried.

    Exits with status 1 where none passes.
    """
    from swin_deploy.precision.search import climb

    with console.step("Finding a precision that is right") as step:
        climbed = climb(dataclasses.replace(ladder, progress=step.update), start=start)
    for rung in climbed.rungs:
        console.note(f"  {'taken' if rung.passed else 'failed'}: {rung.title}: {rung.reason}")
    if climbed.graph is None or climbed.engine is None:
        if as_json:
            show_json({"rungs": [dataclasses.asdict(rung) for rung in climbed.rungs]})
        last = climbed.rungs[-1]
        say(
            f"failed: no precision is right, not even {last.title}: {last.reason}; "
            "look at the deploy model with swin-deploy parity",
            fg="red",
        )
        click.get_current_context().exit(CHECK_FAILED)
    return climbed.graph, climbed.engine, climbed.rungs


def rung_conditions(rungs: Sequence[Rung]) -> dict[str, str]:
    """The rungs as conditions of a report; none where precision was not chosen."""
    words = {True: "taken", False: "failed"}
    return {
        f"precision {number}, {words[rung.passed]}": f"{rung.title}: {rung.reason}"
        for number, rung in enumerate(rungs, start=1)
    }
