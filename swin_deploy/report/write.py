"""Write a report in its three forms."""

from __future__ import annotations

import json
from pathlib import Path

from exporters.artifact import write_together
from swin_deploy.report.html import render_html
from swin_deploy.report.markdown import render_markdown
from swin_deploy.report.results import Report
from swin_deploy.report.to_json import report_to_dict


def write_report(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write ``report.json``, ``report.md`` and ``report.html``: all of them, or none.

    Args:
        report: The report.
        folder: Folder for the three files; made if it is missing.

    Returns:
        Paths of the three files, in that order.

    Raises:
        FileError: If a file cannot be written.
    """
    texts = {
        "report.json": json.dumps(report_to_dict(report), indent=2, allow_nan=False) + "\n",
        "report.md": render_markdown(report),
        "report.html": render_html(report),
    }
    files = {folder / name: text.encode() for name, text in texts.items()}
    write_together(files)
    return tuple(files)
