"""Write a report in its three forms, or an evaluation in two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from exporters.artifact import write_together
from exporters.outputs import Output, claim, sign
from swin_deploy.artifacts.outputs import EVALUATION, REPORT, evaluation_outputs, report_outputs
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.report.html import render_html
from swin_deploy.report.markdown import render_evaluation, render_markdown
from swin_deploy.report.results import Report
from swin_deploy.report.to_json import to_json


def write_report(report: Report, folder: Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write ``report.json``, ``report.md`` and ``report.html``: all of them, or none.

    Args:
        report: The report.
        folder: Folder for the three files; made if it is missing.
        force: True to replace files that this program did not make.

    Returns:
        Paths of the three files, in that order.

    Raises:
        FileError: If a file cannot be written, or a file is there that this program did not make.
    """
    texts = (sign(render_markdown(report), REPORT), sign(render_html(report), REPORT))
    return _write_all(report_outputs(folder), report, texts, force=force)


def write_evaluation(evaluation: Evaluation, folder: Path, *, force: bool = False) -> None:
    """Write ``evaluation.json`` and ``evaluation.md`` as ``write_report`` writes its files."""
    texts = (sign(render_evaluation(evaluation), EVALUATION),)
    _write_all(evaluation_outputs(folder), evaluation, texts, force=force)


def _write_all(
    outputs: Sequence[Output], result: object, texts: Sequence[bytes], *, force: bool
) -> tuple[Path, ...]:
    """Write a result as JSON, and its texts: all of them, or none."""
    claim(outputs, force=force)
    values = (json.dumps(to_json(result), indent=2, allow_nan=False) + "\n").encode()
    files = dict(zip((output.path for output in outputs), (values, *texts), strict=True))
    write_together(files)
    return tuple(files)
