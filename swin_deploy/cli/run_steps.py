"""Steps that ``run`` has for every runtime: a first look, and the report at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swin_deploy.cli.console import Console, show_result

if TYPE_CHECKING:
    from swin_deploy.report.results import Report

QUICK_IMAGES, QUICK_BATCHES = 8, (4,)
QUICK = "8 images at most, one batch size (4), no throughput: a first look, not the whole proof"


def conclude(console: Console, result: Report, folder: Path, *, force: bool, as_json: bool) -> None:
    """Write the report, and show its summary or its JSON."""
    from swin_deploy.report.terminal import render_summary
    from swin_deploy.report.write import write_report

    written = write_report(result, folder, force=force)
    show_result(result, render_summary, as_json=as_json)
    console.note(f"  wrote {', '.join(map(str, written))}")
