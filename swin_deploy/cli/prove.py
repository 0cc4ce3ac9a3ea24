"""``swin-deploy parity``: is it equal."""

from __future__ import annotations

from pathlib import Path

import click

from swin_deploy.cli.console import (
    CHECK_FAILED,
    Console,
    announce,
    announce_images,
    show_json,
    show_table,
)
from swin_deploy.cli.options import (
    Asked,
    batch_list,
    engine_option,
    image_options,
    json_option,
    model_options,
    onnx_option,
    report_option,
)

PARITY_EPILOG = """\b
Examples:
  swin-deploy parity --checkpoint swin.pt --images photos/
  swin-deploy parity --checkpoint swin.pt --onnx engines/a.onnx --onnx engines/b.onnx
  swin-deploy parity --engine engines/model.engine --report report/ --json

\b
Exit status 1: a hop is out of tolerance. A hop that cannot run here (an engine
without a GPU) is listed as not run, with the reason; it does not count as passed.
Also 1: on labelled images the reference is not better than guessing, so that the
order of the classes or the weights are probably wrong (the verdict is inconclusive).
"""


@click.command(epilog=PARITY_EPILOG)
@model_options
@onnx_option
@engine_option
@image_options
@click.option(
    "--batches",
    metavar="N,N,...",
    callback=batch_list,
    default="1,2,3,7",
    show_default=True,
    help="Batch sizes; the batch must not change a row.",
)
@report_option
@json_option
@click.pass_obj
def parity(
    console: Console,
    asked: Asked,
    onnx_files: tuple[Path, ...],
    engine_files: tuple[Path, ...],
    images: Path | None,
    limit: int,
    batches: tuple[int, ...],
    report: Path | None,
    as_json: bool,
) -> None:
    """Compare every hop with the reference: deploy model, ONNX files, engines.

    On real images, seeded noise and extreme inputs, at several batch sizes. What is allowed comes
    from what PyTorch itself loses in the same precision on the same images. Where a hop fails, the
    block and the operation that go wrong first are named. The reference is the float32 PyTorch
    model with the checkpoint's weights.
    """
    with console.step("Loading PyTorch and the model"):
        from exporters.artifact import ensure_writable
        from swin_deploy import proof
        from swin_deploy.report import write_report
        from swin_deploy.report.terminal import render_parity
        from swin_deploy.report.to_json import parity_to_dict

        loaded = asked.load()
        made = proof.Made(onnx_files, engine_files)
        sets = proof.image_sets(loaded, images, limit=limit)
        if report:
            ensure_writable(report / "report.json")
    announce(console, loaded)
    announce_images(console, sets)
    with console.step("Comparing every hop with the reference") as step:
        result = proof.prove_parity(
            loaded, made, images=sets, batches=batches, progress=step.update
        )
    if report:
        full = proof.make_report(loaded, made, parity=result, bench=None, images=sets)
        write_report(full, report)
    if as_json:
        show_json(parity_to_dict(result))
    else:
        show_table(render_parity(result))
    if report:
        console.note(f"  wrote {report / 'report.html'}, report.md and report.json")
    if not made.onnx and not made.engines:
        console.next_step("run", *asked.words(), why="makes what you ship, and judges it")
    elif not report:
        console.again("--report", "report", why="the proof as HTML, Markdown and JSON")
    if result.verdict != "pass":
        click.get_current_context().exit(CHECK_FAILED)
