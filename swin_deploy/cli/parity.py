"""``swin-deploy parity``: the comparison of every step with the reference."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
from click.core import ParameterSource

import swin_deploy.cli.options as shared
from swin_deploy.artifacts.outputs import report_outputs
from swin_deploy.cli.command import command
from swin_deploy.cli.console import (
    CHECK_FAILED,
    Console,
    announce,
    announce_images,
    command_line,
    show_json,
    show_table,
)
from swin_deploy.cli.options import ModelRequest
from swin_deploy.cli.outputs import claim_outputs, force_option
from swin_deploy.cli.sizes import SizedRun, require_one_size, runs_by_size, show_sizes
from swin_deploy.cli.values import FILE, batch_list

if TYPE_CHECKING:
    from swin_deploy.parity import ParityReport
    from swin_deploy.runners import Way


OF_SERVERS = ("server", "bundle", "as_json", "quiet", "verbose")  # options that go together


class Choices(TypedDict):
    """What is compared, at every size."""

    runners: tuple[Way, ...]
    images: Path | None
    limit: int
    original: str
    batches: tuple[int, ...]


PARITY_EPILOG = """\b
Examples:
  swin-deploy parity --checkpoint swin.pt --images photos/
  swin-deploy parity --checkpoint swin.pt --onnx engines/a.onnx --onnx engines/b.onnx
  swin-deploy parity --engine engines/model.engine --report report/ --json
  swin-deploy parity --checkpoint swin.pt --runner torch --batches 1,8
  swin-deploy parity --checkpoint swin.pt --onnx engines/swin-fp32-opset17-sizes.json
  swin-deploy parity --server http://127.0.0.1:8000 --bundle serve/

\b
Exit status 1: a step is out of tolerance. One that cannot run here (an engine
without a GPU) is listed as not run, with the reason; it does not count as passed.
Also 1: on labelled images the reference is not better than guessing, so that the
order of the classes or the weights are probably wrong (the verdict is inconclusive).
"""


@command(epilog=PARITY_EPILOG)
@shared.model_options
@shared.onnx_files_option
@shared.engine_files_option
@shared.runners_option
@shared.image_options
@shared.original_option
@click.option(
    "--batches",
    metavar="N,N,...",
    callback=batch_list,
    default="1,2,3,7",
    show_default=True,
    help="Batch sizes; the batch must not change a row.",
)
@click.option(
    "--server",
    metavar="URL",
    help="Compare a server in use with what was proved: the golden pictures of --bundle.",
)
@click.option(
    "--bundle",
    type=FILE,
    metavar="DIR",
    help="Folder of the bundle that --server serves.  [default: bundle]",
)
@shared.report_option
@force_option
@shared.json_option
@click.pass_obj
def parity(
    console: Console,
    asked: ModelRequest,
    onnx_files: tuple[Path, ...],
    engine_files: tuple[Path, ...],
    runners: tuple[Way, ...],
    images: Path | None,
    limit: int,
    original: str,
    batches: tuple[int, ...],
    server: str | None,
    bundle: Path | None,
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare every step with the reference: deploy model, ONNX files, engines.

    On real images, seeded noise and extreme inputs, at several batch sizes. The limits come
    from what PyTorch itself loses in the same precision on the same images. Where a step fails, the
    block and the operation that go wrong first are named. The reference is the float32 PyTorch
    model with the checkpoint's weights; it is compared with the model of the library that the
    checkpoint comes from, built and loaded by that library from the same file.

    Of a manifest of sizes every size is compared, or that of --image-size. With --server a running
    server is compared with the outputs in its bundle, and nothing else is loaded.
    """
    if server is not None:
        _compare_server(console, server, bundle or Path("bundle"), as_json=as_json)
        return
    if bundle is not None:
        raise click.UsageError("--bundle is of --server URL")
    shared.require_files(runners, onnx_files)
    runs = runs_by_size(asked, onnx_files, engine_files)
    if report:
        require_one_size(runs, "--report")
        inputs = (*asked.inputs(), images, *onnx_files, *engine_files)
        claim_outputs(report_outputs(report), inputs=inputs, force=force)
    choices: Choices = {
        "runners": runners,
        "images": images,
        "limit": limit,
        "original": original,
        "batches": batches,
    }
    results = [(run, _compare(console, run, choices, report, force=force)) for run in runs]
    from swin_deploy.report.terminal import render_parity

    show_sizes(results, render_parity, as_json=as_json)
    if report:
        console.note(f"  wrote {report / 'report.html'}, report.md and report.json")
    words = (*asked.words(), *shared.runner_words(runners))
    worst = next((one for _, one in results if one.verdict != "pass"), results[0][1])
    _suggest(console, words, worst, report, files=len(onnx_files) + len(engine_files))
    if worst.verdict != "pass":
        click.get_current_context().exit(CHECK_FAILED)


def _compare(
    console: Console, run: SizedRun, choices: Choices, report: Path | None, *, force: bool
) -> ParityReport:
    """Compare the files of one size with the reference, and write the report that is asked for."""
    with console.loading(f"Loading PyTorch and the model{run.at}"):
        from swin_deploy.candidates import read_made
        from swin_deploy.original.build import original_library
        from swin_deploy.parity.run import image_sets, prove_parity
        from swin_deploy.report.make import make_report, with_earlier
        from swin_deploy.report.write import write_report

        loaded, original = run.asked.load(), choices["original"]
        original_library(loaded, original)  # fails here, before the work, if it cannot run
        made = read_made(run.onnx, run.engines, choices["runners"])
        sets = image_sets(loaded, choices["images"], limit=choices["limit"])
    announce(console, loaded)
    announce_images(console, sets)
    with console.step("Comparing every step with the reference") as step:
        result = prove_parity(
            loaded,
            made,
            images=sets,
            batches=choices["batches"],
            progress=step.update,
            original=original,
        )
    if report:
        full = make_report(loaded, made, parity=result, bench=None, images=sets)
        full = with_earlier(full, report)
        write_report(replace(full, next_command=_on_gpu(result)), report, force=force)
    return result


def _compare_server(console: Console, url: str, folder: Path, *, as_json: bool) -> None:
    """Compare a server's outputs with those in the bundle that it serves."""
    context = click.get_current_context()
    others = [
        parameter.opts[0]
        for parameter in context.command.params
        if str(parameter.name) not in OF_SERVERS
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if others:
        raise click.UsageError(f"--server compares with the bundle alone; leave out {others[0]}")
    with console.step("Comparing the server with its bundle"):
        from swin_deploy.serving.bundle import read_bundle
        from swin_deploy.serving.check import check_canary
        from swin_deploy.serving.protocol import Server

        report = check_canary(read_bundle(folder), Server(url))
    from swin_deploy.report.servers import render_server, server_json

    if as_json:
        show_json(server_json(report))
    else:
        show_table(render_server(report))
    if not report.passed:
        context.exit(CHECK_FAILED)


def _suggest(
    console: Console,
    words: Sequence[str],
    result: ParityReport,
    report: Path | None,
    *,
    files: int,
) -> None:
    if result.verdict == "fail":
        if not report:
            console.again("--report", "report", why="every block in order, as a file to share")
    elif not files:
        console.next_step("run", *words, why="makes what you ship, and judges it")
    elif _on_gpu(result):
        console.again(why=shared.GPU_MACHINE)
    elif not report:
        console.again("--report", "report", why="the proof as HTML, Markdown and JSON")


def _on_gpu(parity: ParityReport) -> str:
    """Return this command, to repeat on a machine with a GPU; empty if every engine ran."""
    unseen = any(hop.not_run for hop in parity.hops if hop.stage == "engine")
    return f"{command_line(*sys.argv[1:])}  # {shared.GPU_MACHINE}" if unseen else ""
