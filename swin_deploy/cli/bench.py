"""``swin-deploy bench``: latency and throughput next to PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

import swin_deploy.cli.options as shared
from exporters.outputs import Output
from swin_deploy.artifacts.outputs import report_outputs
from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console
from swin_deploy.cli.options import ModelRequest
from swin_deploy.cli.outputs import claim_outputs, force_option
from swin_deploy.cli.sizes import SizedRun, require_one_size, runs_by_size, show_sizes
from swin_deploy.cli.values import batch_list, duration

if TYPE_CHECKING:
    from swin_deploy.bench import BenchReport
    from swin_deploy.bench.throughput import Against
    from swin_deploy.checkpoints.load import LoadedModel
    from swin_deploy.report.results import Report
    from swin_deploy.runners import Way


class Choices(TypedDict):
    """What is measured, at every size."""

    batches: tuple[int, ...]
    against: tuple[Against, ...]
    seconds: float
    transfers: bool


WAYS = ("eager", "compile", "max-autotune", "original")
EPILOG = """\b
Examples:
  swin-deploy bench --checkpoint swin.pt --onnx engines/model-fp32-opset17.onnx
  swin-deploy bench --engine engines/model-fp16-opset17.engine --batch 1,8,32,128 --against all
  swin-deploy bench --model notebook-swin-t --against eager --seconds 60 --report report/
  swin-deploy bench --checkpoint swin.pt --runner torch --batch 1,32
  swin-deploy bench --checkpoint swin.pt --engine engines/swin-fp16-opset17-sizes.json

\b
--against names what to compare with, between commas:
  eager         PyTorch as it is; on a GPU also TF32, float16, autocast, CUDA graphs
  compile       torch.compile of each PyTorch model, for each batch: up to a minute each;
                on a GPU also as a CUDA graph
  max-autotune  its slower setting, which tries kernels and uses CUDA graphs
  original      timm's, torchvision's or transformers' own model with the same weights
  all           all of them

\b
Exit status 1: the deploy model or a file failed or gave a wrong result. A
baseline that cannot run or fails is a row that says why.
"""


def against_list(_: click.Context, __: click.Parameter, value: str) -> tuple[Against, ...]:
    """Read baselines such as ``eager,compile``, or ``all``; a click callback."""
    asked = [part.strip() for part in value.split(",")]
    if "all" in asked:
        asked = list(WAYS)
    unknown = [part for part in asked if part not in WAYS]
    if unknown:
        known = ", ".join((*WAYS, "all"))
        raise click.BadParameter(f"{unknown[0]!r} is unknown; known are {known}")
    return tuple(way for way in WAYS if way in asked)  # type: ignore[misc] # checked above


@command(epilog=EPILOG)
@shared.model_options
@shared.onnx_files_option
@shared.engine_files_option
@shared.runners_option
@click.option(
    "--batch",
    "--batches",
    "batches",
    metavar="N,N,...",
    callback=batch_list,
    default="1,8",
    show_default=True,
    help="Images a call.",
)
@click.option(
    "--against",
    metavar="WAY,...",
    callback=against_list,
    default="eager,original",
    show_default=True,
    help="What to compare with; see below.",
)
@click.option(
    "--seconds",
    callback=duration,
    default=30.0,
    show_default=True,
    help="Time to spend on timing, all batches together; compiling comes on top.",
)
@click.option(
    "--transfers", is_flag=True, help="Time it also with images and outputs copied each call."
)
@shared.report_option
@force_option
@shared.json_option
@click.pass_obj
def bench(
    console: Console,
    asked: ModelRequest,
    onnx_files: tuple[Path, ...],
    engine_files: tuple[Path, ...],
    runners: tuple[Way, ...],
    batches: tuple[int, ...],
    against: tuple[Against, ...],
    seconds: float,
    transfers: bool,
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure latency and throughput beside PyTorch, in one interleaved run.

    PyTorch runs on CUDA if it is there, else on the CPU; so does ONNX Runtime. Each output is
    checked before it is timed. The first row is the baseline of every ratio, and each ratio comes
    with its 95 % interval. With --report the table joins the report in that folder. Of a manifest
    of sizes every size is measured, each for --seconds, or that of --image-size.
    """
    shared.require_files(runners, onnx_files)
    runs = runs_by_size(asked, onnx_files, engine_files)
    if report:
        require_one_size(runs, "--report")
        _claim(report, (*asked.inputs(), *onnx_files, *engine_files), force=force)
    choices: Choices = {
        "batches": batches,
        "seconds": seconds,
        "transfers": transfers,
        "against": against,
    }
    results = [(run, _measure(console, run, runners, choices, report, force=force)) for run in runs]
    from swin_deploy.report.terminal import render_bench

    show_sizes(results, render_bench, as_json=as_json)
    if report:
        console.note(f"  wrote {report / 'report.html'}, report.md and report.json")
    if any(result.failures for _, result in results):
        click.get_current_context().exit(CHECK_FAILED)
    if not engine_files and not onnx_files:
        words = (*asked.words(), *shared.runner_words(runners))
        console.next_step("run", *words, why="makes what you ship, and times it")
    elif "compile" not in against:
        console.again("--against", "all", why="torch.compile is the bar to clear")


def _measure(
    console: Console,
    run: SizedRun,
    runners: tuple[Way, ...],
    choices: Choices,
    report: Path | None,
    *,
    force: bool,
) -> BenchReport:
    """Measure the files of one size, and add the table to the report that is asked for."""
    with console.loading(f"Loading PyTorch and the model{run.at}"):
        from swin_deploy.bench import Effort
        from swin_deploy.bench.throughput import measure_throughput
        from swin_deploy.candidates import read_made
        from swin_deploy.report.make import make_report
        from swin_deploy.report.write import write_report

        loaded = run.asked.load()
        made = read_made(run.onnx, run.engines, runners)
        earlier = _earlier(report, loaded, force=force) if report else None
    with console.step(f"Measuring throughput{run.at}") as step:
        result = measure_throughput(
            loaded,
            made,
            batches=choices["batches"],
            effort=Effort(seconds=choices["seconds"], transfers=choices["transfers"]),
            against=choices["against"],
            progress=step.update,
        )
    if report:
        fresh = earlier or make_report(loaded, made, parity=None, bench=None)
        write_report(replace(fresh, bench=result), report, force=force)
    return result


def _claim(report: Path, inputs: tuple[Path, ...], *, force: bool) -> None:
    """Fail early if the report cannot be written; an existing report.json is checked later."""
    document, *texts = report_outputs(report)
    outputs = [Output(document.path, lambda _: True), *texts]
    claim_outputs(outputs, inputs=inputs, force=force)


def _earlier(folder: Path, loaded: LoadedModel, *, force: bool) -> Report | None:
    """Read the report that the table joins; None if there is none, or --force replaces the file."""
    from swin_deploy.report.make import existing_report

    document = report_outputs(folder)[0]
    if force and not document.is_ours(document.path):
        return None
    return existing_report(folder, loaded)
