"""``swin-deploy models``: the variants, and the sources of checkpoints."""

from __future__ import annotations

from typing import Any

import click

from swin_deploy.checkpoints.known import SOURCES
from swin_deploy.cli.command import command
from swin_deploy.cli.console import Console, show_json, show_table
from swin_deploy.cli.options import json_option
from swin_deploy.config import BUNDLED_WEIGHTS, DEFAULT_MODEL, VARIANTS
from swin_deploy.config.names import short_names

MODELS_EPILOG = """\b
Examples:
  swin-deploy models
  swin-deploy models --json
"""


@command(epilog=MODELS_EPILOG)
@json_option
@click.pass_obj
def models(console: Console, as_json: bool) -> None:
    """List the variants, their sizes, and where checkpoints may come from."""
    from swin_deploy.checkpoints.load import load_model
    from swin_deploy.checkpoints.preprocessors import library_steps
    from swin_deploy.reference import count_parameters

    sources = {source: dialect.summary for source, dialect in SOURCES.items()}
    steps = {
        name: load_model(name).preprocessing if name in BUNDLED_WEIGHTS else library_steps(config)
        for name, config in VARIANTS.items()
    }

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "short_names": short_names(name),
            "parameters": count_parameters(config),
            "gmacs": round(config.gmacs, 2),
            **config.to_dict(),
            "preprocessing": steps[name].to_dict(),
            "legal_img_sizes": list(config.legal_img_sizes(6)),
            "output": config.output_name,
            "weights": "bundled" if name in BUNDLED_WEIGHTS else "yours, or random",
        }
        for name, config in VARIANTS.items()
    ]
    if as_json:
        show_json({"default": DEFAULT_MODEL, "sources": sources, "models": rows})
        return
    from swin_deploy.report.models import render_models, render_sources

    show_table(render_models([(row, VARIANTS[row["name"]]) for row in rows]))
    show_table(
        f"Default: {DEFAULT_MODEL}. Bundled weights: {', '.join(BUNDLED_WEIGHTS)}.\n"
        "Checkpoints (--checkpoint FILE or FOLDER, found from their keys):"
    )
    show_table(render_sources(sources))
    console.next_step("run", "--model", "notebook-digits", why="or --checkpoint FILE")
