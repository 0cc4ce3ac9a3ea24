"""``swin-deploy doctor``: the packages, runtimes and GPUs of this machine."""

from __future__ import annotations

import click

from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console, show_json, show_table
from swin_deploy.cli.options import json_option

DOCTOR_EPILOG = """\b
Examples:
  swin-deploy doctor
  swin-deploy doctor --json

\b
Exit status 1: something that the main job needs is missing or broken.
"""


@command(epilog=DOCTOR_EPILOG)
@json_option
@click.pass_obj
def doctor(console: Console, as_json: bool) -> None:
    """Say what this machine can do, and how to get what is missing."""
    with console.loading("Looking at this machine"):
        from swin_deploy.doctor import check_machine, to_dict

        findings = check_machine()
    if as_json:
        show_json(to_dict(findings))
    else:
        from swin_deploy.report.models import render_findings

        show_table(render_findings(findings))
    builds = any(f.state == "ok" and f.name.startswith("tensorrt") for f in findings)
    if not builds:
        console.warn("no TensorRT flavour is installed: engines cannot be built")
    if not builds or any(finding.state == "broken" for finding in findings):
        click.get_current_context().exit(CHECK_FAILED)
    console.next_step("run", "--model", "notebook-digits", why="or --checkpoint FILE")
