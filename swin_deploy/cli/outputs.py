"""Checks of a command's outputs: what may be replaced, and the endings that files must have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from exporters.artifact import artifact_outputs
from exporters.outputs import Output, claim
from swin_deploy.artifacts.outputs import (
    ENGINE_ENDINGS,
    ONNX_ENDINGS,
    PICTURE_ENDINGS,
    SIZES_ENDINGS,
    ending_problem,
)

# Endings by kind of file.
ONNX, ENGINE, PICTURE = ONNX_ENDINGS, ENGINE_ENDINGS, PICTURE_ENDINGS
SIZES_FILE = SIZES_ENDINGS


# The only way to replace files that swin-deploy did not make.
force_option = click.option(
    "--force", is_flag=True, help="Replace files that swin-deploy did not make."
)


def claim_outputs(outputs: Sequence[Output], *, inputs: Iterable[Path | None], force: bool) -> None:
    """Fail before any work if an output cannot be written, or must not be replaced.

    Args:
        outputs: The files that the command is to write.
        inputs: The paths that it reads; None for an option that is not given.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If an output cannot be written, is also an input, or must not be replaced.
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
    """Claim artefacts with their manifests, as ``claim_outputs`` does."""
    outputs = [output for path in paths for output in artifact_outputs(path)]
    claim_outputs(outputs, inputs=inputs, force=force)


def require_ending(path: Path, kind: tuple[str, tuple[str, ...]]) -> None:
    """Refuse a file name whose ending belongs to another kind of file.

    Args:
        path: The file to write.
        kind: Name of the kind and its endings, such as ``ONNX``.

    Raises:
        UsageError: If the name has another ending than files of this kind.
    """
    problem = ending_problem(path, kind)
    if problem:
        raise click.UsageError(problem)
