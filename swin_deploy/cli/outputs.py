"""Outputs at the border of the commands: what may be replaced, and how files must be called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from exporters.artifact import artifact_outputs
from exporters.outputs import Output, claim
from swin_deploy.artifacts.outputs import (
    ENGINE_ENDINGS,
    ONNX_ENDINGS,
    PICTURE_ENDINGS,
    ending_problem,
)

Command = TypeVar("Command", bound=Callable[..., Any])
# Endings by what a file is to be.
ONNX, ENGINE, PICTURE = ONNX_ENDINGS, ENGINE_ENDINGS, PICTURE_ENDINGS


def force_option(command: Command) -> Command:
    """--force: the one way to replace what somebody else made."""
    option = click.option(
        "--force", is_flag=True, help="Replace files that swin-deploy did not make."
    )
    return option(command)


def claim_outputs(outputs: Sequence[Output], *, inputs: Iterable[Path | None], force: bool) -> None:
    """Fail before any work where an output cannot be written, or must stay as it is.

    Args:
        outputs: All that the command is to write.
        inputs: All that it reads; None where it does not.
        force: Replace files that this program did not make.

    Raises:
        FileError: As ``claim``.
        UsageError: If an output is called ``-``.
    """
    for output in outputs:
        if output.path.parts[:1] == ("-",):
            raise click.UsageError(
                "'-' would be a file of that name, not standard output; name a file, and take "
                "results for scripts from --json"
            )
    claim(outputs, inputs=[path for path in inputs if path is not None], force=force)


def claim_artifacts(paths: Sequence[Path], *, inputs: Iterable[Path | None], force: bool) -> None:
    """Do what ``claim_outputs`` does, for artefacts with their manifests."""
    outputs = [output for path in paths for output in artifact_outputs(path)]
    claim_outputs(outputs, inputs=inputs, force=force)


def require_ending(path: Path, kind: tuple[str, tuple[str, ...]]) -> None:
    """Refuse a name that would have the next command take the file for something else.

    Raises:
        UsageError: If the name has another ending than files of this kind.
    """
    problem = ending_problem(path, kind)
    if problem:
        raise click.UsageError(problem)
