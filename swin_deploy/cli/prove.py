"""``swin-deploy parity`` and ``swin-deploy bench``: is it equal, and is it faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from swin_deploy.cli.console import Console, show_json, show_table
from swin_deploy.cli.options import (
    FILE,
    Asked,
    batch_list,
    duration,
    image_options,
    json_option,
    model_options,
)

CHECK_FAILED = 1

PARITY_EPILOG = """\b
Examples:
  swin-deploy parity --checkpoint swin.pt --images photos/
  swin-deploy parity --checkpoint swin.pt --onnx engines/a.onnx --onnx engines/b.onnx
  swin-deploy parity --engine engines/model.engine --report report/ --json

\b
Exit status 1: a hop is out of tolerance. A hop that cannot run here (an engine
without a GPU) is listed as not run, with the reason; it does not count as passed.
"""

report_option = click.option(
    "--report", type=FILE, metavar="DIR", help="Write report.json, .md and .html here."
)
onnx_option = click.option(
    "--onnx", "onnx_files", type=FILE, multiple=True, help="ONNX file; may be given again."
)
engine_option = click.option(
    "--engine", "engine_files", type=FILE, multiple=True, help="Engine; may be given again."
)


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

    On real images and on seeded noise, at several batch sizes; errors are in units of the
    reference's RMS, in float64, beside the tolerance. The reference is the float32 PyTorch model
    with the checkpoint's weights.
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
    with console.step("Comparing every hop with the reference") as step:
        result = proof.prove_parity(
            loaded, made, images=sets, batches=batches, progress=step.update
        )
    if report:
        full = proof.make_report(loaded, made, parity=result, bench=None)
        write_report(full, report)
    if as_json:
        show_json(parity_to_dict(result))
    else:
        show_table(render_parity(result))
    if report:
        console.note(f"  wrote {report / 'report.html'}, report.md and report.json")
    if not made.onnx and not made.engines:
        console.next_step("add --onnx and --engine to judge what you ship")
    if not result.passed:
        click.get_current_context().exit(CHECK_FAILED)


BENCH_EPILOG = """\b
Examples:
  swin-deploy bench --checkpoint swin.pt --onnx engines/model-fp32-opset17.onnx
  swin-deploy bench --model notebook-swin-t --batches 1,8 --seconds 60 --report report/
"""


@click.command(epilog=BENCH_EPILOG)
@model_options
@onnx_option
@engine_option
@click.option(
    "--batches",
    metavar="N,N,...",
    callback=batch_list,
    default="1,8",
    show_default=True,
    help="Images a call.",
)
@click.option(
    "--seconds",
    callback=duration,
    default=30.0,
    show_default=True,
    help="Time to spend, all batches together.",
)
@report_option
@json_option
@click.pass_obj
def bench(
    console: Console,
    asked: Asked,
    onnx_files: tuple[Path, ...],
    engine_files: tuple[Path, ...],
    batches: tuple[int, ...],
    seconds: float,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure latency and throughput beside the PyTorch reference, in one interleaved run.

    PyTorch runs on CUDA if it is there, else on the CPU; so does ONNX Runtime. With --report the
    table joins the report in that folder.
    """
    with console.step("Loading PyTorch and the model"):
        from swin_deploy import proof
        from swin_deploy.report import write_report
        from swin_deploy.report.terminal import render_bench
        from swin_deploy.report.to_json import bench_to_dict

        loaded = asked.load()
        made = proof.Made(onnx_files, engine_files)
        earlier = proof.existing_report(report, loaded) if report else None
    with console.step("Measuring throughput") as step:
        result = proof.measure_throughput(
            loaded, made, batches=batches, seconds=seconds, progress=step.update
        )
    if report:
        fresh = earlier or proof.make_report(loaded, made, parity=None, bench=None)
        write_report(replace(fresh, bench=result), report)
    if as_json:
        show_json(bench_to_dict(result))
    else:
        show_table(render_bench(result))
    if report:
        console.note(f"  wrote {report / 'report.html'}, report.md and report.json")
