"""Write a report in its three forms."""

from __future__ import annotations

import json
from pathlib import Path

from exporters.artifact import write_together
from exporters.outputs import claim, sign
from swin_deploy.artifacts.outputs import REPORT, report_outputs
from swin_deploy.report.html import render_html
from swin_deploy.report.markdown import render_markdown
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
    outputs = report_outputs(folder)
    claim(outputs, force=force)
    contents = (
        (json.dumps(to_json(report), indent=2, allow_nan=False) + "\n").encode(),
        sign(render_markdown(report), REPORT),
        sign(render_html(report), REPORT),
    )
    files = dict(zip((output.path for output in outputs), contents, strict=True))
    write_together(files)
    return tuple(files)
