"""``swin-deploy plan``: the kernels that TensorRT launches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from exporters.spec import EngineOptions, Flavor
from swin_deploy.cli.console import Console, show_json, show_table
from swin_deploy.cli.engine import resolve_flavor
from swin_deploy.cli.options import FILE, flavor_option, json_option

PLAN_EPILOG = """\b
Examples:
  swin-deploy plan engines/model-fp16-opset17.engine
  swin-deploy plan engines/model-fp16-opset17.onnx --batch 8 --json
"""


@click.command(epilog=PLAN_EPILOG)
@click.argument("file", type=FILE)
@click.option("--batch", type=click.IntRange(min=1), help="For an ONNX file.  [default: 8]")
@flavor_option
@json_option
@click.pass_obj
def plan(
    console: Console,
    file: Path,
    batch: int | None,
    flavor: Literal["auto"] | Flavor,
    as_json: bool,
) -> None:
    """Show the kernels that TensorRT launches: fused attention, bytes moved, precision.

    An engine's plan is read from its manifest; an ONNX file, ours or another tool's, is built in
    memory. Needs no GPU with TensorRT-RTX.
    """
    with console.step(f"Reading the plan of {file.name}"):
        from swin_deploy import pipeline
        from swin_deploy.report.terminal import render_plan
        from swin_deploy.report.to_json import plan_to_dict

        options = EngineOptions(flavor=resolve_flavor(flavor))
        kernels = pipeline.read_or_build_plan(file, batch=batch, options=options)
    if as_json:
        show_json(plan_to_dict(kernels))
    else:
        show_table(render_plan(kernels))
    if kernels.fused_attention < kernels.attention_blocks:
        console.next_step("attention fuses in half precision: swin-deploy export --precision fp16")
