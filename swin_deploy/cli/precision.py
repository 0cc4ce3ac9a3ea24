"""``swin-deploy precision``: the range of each part's values, and its noise in half precision."""

from __future__ import annotations

from pathlib import Path

import click

import swin_deploy.cli.options as shared
from exporters.precisions import REDUCED
from exporters.spec import Precision
from swin_deploy.cli.command import command
from swin_deploy.cli.console import Console, announce, show_json, show_table
from swin_deploy.cli.options import ModelRequest

EPILOG = """\b
Examples:
  swin-deploy precision --checkpoint swin.pt --images photos/
  swin-deploy precision --model notebook-digits --all
  swin-deploy precision --checkpoint swin.pt --noise bf16 --json

\b
Runs on the CPU. The precision to use is an advice from these images; what
proves it is swin-deploy run, with --auto where float16 alone does not do.
"""


@command(epilog=EPILOG)
@shared.model_options
@shared.image_options
@click.option(
    "--noise",
    type=click.Choice(REDUCED),
    default="fp16",
    show_default=True,
    help="Precision that each part alone is run in; FP8 at the scales of the same images.",
)
@click.option("--all", "every", is_flag=True, help="Show every activation too.")
@shared.json_option
@click.pass_obj
def precision(
    console: Console,
    asked: ModelRequest,
    images: Path | None,
    limit: int,
    noise: Precision,
    every: bool,
    as_json: bool,
) -> None:
    """Measure each part's largest values and noise, and say which precision it can have.

    The float32 deploy model runs on calibration images, and every operation in it is watched. Then
    each part alone, and the whole model, run in half precision, emulated: operations take and give
    rounded values and compute in float32.
    """
    with console.loading("Loading PyTorch and the model"):
        from swin_deploy.parity.run import image_sets
        from swin_deploy.precision.diagnose import diagnose
        from swin_deploy.report.precision import precision_to_dict
        from swin_deploy.report.terminal import render_precision

        loaded = asked.load()
        calibration = image_sets(loaded, images, limit=limit)[0]
    announce(console, loaded)
    if images is None:
        console.note(f"  no --images: calibrating on {calibration.description}")
    with console.step("Measuring ranges and noise") as step:
        found = diagnose(loaded, calibration, noise_precision=noise, progress=step.update)
    if as_json:
        show_json(precision_to_dict(found))
    else:
        show_table(render_precision(found, every=every))
    kept = [word for name in found.keep for word in ("--keep-float32", name)]
    console.next_step(
        *("export", *asked.words(), "--precision", found.precision, *kept),
        why="swin-deploy run --auto finds and proves one",
    )
