"""``swin-deploy models`` and ``swin-deploy doctor``: what there is, here and in the package."""

from __future__ import annotations

import click

from swin_deploy.cli.console import Console, show_json, show_table
from swin_deploy.cli.options import json_option
from swin_deploy.config import BUNDLED_WEIGHTS, DEFAULT_MODEL, VARIANTS

BROKEN_STATUS = 1

MODELS_EPILOG = """\b
Examples:
  swin-deploy models
  swin-deploy models --json
"""


@click.command(epilog=MODELS_EPILOG)
@json_option
@click.pass_obj
def models(console: Console, as_json: bool) -> None:
    """List the variants, their sizes and the image sizes they take."""
    from swin_deploy.reference import count_parameters

    rows = [
        {
            "name": name,
            "parameters": count_parameters(config),
            **config.to_dict(),
            "legal_img_sizes": list(config.legal_img_sizes(6)),
            "output": config.output_name,
            "weights": "bundled" if name in BUNDLED_WEIGHTS else "yours, or random",
        }
        for name, config in VARIANTS.items()
    ]
    if as_json:
        show_json({"default": DEFAULT_MODEL, "models": rows})
        return
    from rich.table import Table

    table = Table(title=f"Models (default: {DEFAULT_MODEL})", title_justify="left")
    for column in ("model", "parameters", "width", "depths", "image size", "output", "weights"):
        table.add_column(column, justify="right" if column in ("parameters", "width") else "left")
    for row in rows:
        table.add_row(
            str(row["name"]),
            f"{row['parameters']:,}",
            str(row["embed_dim"]),
            "-".join(map(str, row["depths"])),
            f"{row['img_size']} ({', '.join(map(str, row['legal_img_sizes']))}, ...)",
            str(row["output"]),
            str(row["weights"]),
        )
    show_table(table)
    console.next_step("swin-deploy run --model NAME, or --checkpoint FILE for your weights")


DOCTOR_EPILOG = """\b
Examples:
  swin-deploy doctor
  swin-deploy doctor --json

\b
Exit status 1: something that the main job needs is missing or broken.
"""


@click.command(epilog=DOCTOR_EPILOG)
@json_option
@click.pass_obj
def doctor(console: Console, as_json: bool) -> None:
    """Say what this machine can do, and how to get what is missing."""
    with console.step("Looking at this machine"):
        from swin_deploy import machine

        findings = machine.examine()
    if as_json:
        show_json(machine.to_dict(findings))
    else:
        from rich.table import Table

        table = Table(show_header=False, box=None, pad_edge=False)
        from rich.markup import escape

        signs = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "broken": "[red]no[/]"}
        for finding in findings:
            remedy = f"\n[cyan]{escape(finding.remedy)}[/]" if finding.remedy else ""
            table.add_row(signs[finding.state], finding.name, f"{escape(finding.detail)}{remedy}")
        show_table(table)
    builds = any(f.state == "ok" and f.name.startswith("tensorrt") for f in findings)
    if not builds:
        console.warn("no TensorRT flavour is installed: engines cannot be built")
    if not builds or any(finding.state == "broken" for finding in findings):
        click.get_current_context().exit(BROKEN_STATUS)
    console.next_step("swin-deploy run --checkpoint FILE --images FOLDER")
