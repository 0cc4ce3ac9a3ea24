"""``swin-deploy run``: the whole line in one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from exporters.spec import (
    DEFAULT_OPSET,
    OPSET_RANGE,
    BatchProfile,
    EngineOptions,
    Flavor,
    Precision,
)
from swin_deploy.cli.auto import climb_ladder, rung_conditions
from swin_deploy.cli.console import (
    CHECK_FAILED,
    Console,
    announce,
    announce_images,
    command_line,
    show_json,
    show_table,
)
from swin_deploy.cli.engine import refuse_engine, resolve_flavor
from swin_deploy.cli.life import default_options
from swin_deploy.cli.options import (
    FILE,
    GPU_MACHINE,
    Asked,
    batch_range,
    duration,
    flavor_option,
    image_options,
    json_option,
    model_options,
    original_option,
)

if TYPE_CHECKING:
    from swin_deploy.ladder import Rung
    from swin_deploy.load import LoadedModel
    from swin_deploy.original.build import Choice
    from swin_deploy.report.results import Report

EPILOG = """\b
Examples:
  swin-deploy run --checkpoint swin.pt --images photos/
  swin-deploy run --model notebook-digits
  swin-deploy run --checkpoint swin.pt --fp16 --auto
  swin-deploy run --checkpoint swin.pt --fp32 --batch 1,16,64 --report proof/

\b
Exit status 1: a hop is out of tolerance, half precision was not delivered, or on
labelled images the reference is not better than guessing (inconclusive).
"""


@click.command(epilog=EPILOG)
@model_options
@image_options
@original_option
@click.option(
    "--fp16", "precision", flag_value="fp16", default="fp16", help="Half precision (default)."
)
@click.option("--bf16", "precision", flag_value="bf16", help="bfloat16.")
@click.option("--fp32", "precision", flag_value="fp32", help="Float32.")
@click.option(
    "--auto",
    is_flag=True,
    help="Where that fails: float32 islands, bfloat16, then float32; each rung is explained.",
)
@click.option(
    "--opset", type=click.IntRange(*OPSET_RANGE), default=DEFAULT_OPSET, show_default=True
)
@click.option(
    "--batch", metavar="N|MIN,OPT,MAX", callback=batch_range, default="1,8,32", show_default=True
)
@flavor_option
@click.option("--output", type=FILE, default="engines", show_default=True, metavar="DIR")
@click.option(
    "--report", type=FILE, default="report", show_default=True, metavar="DIR", help="The proof."
)
@click.option(
    "--bench-seconds",
    callback=duration,
    default=20.0,
    show_default=True,
    help="Time to spend on throughput.",
)
@json_option
@click.pass_obj
def run(
    console: Console,
    asked: Asked,
    images: Path | None,
    limit: int,
    original: Choice,
    precision: Precision,
    auto: bool,
    opset: int,
    batch: BatchProfile,
    flavor: Literal["auto"] | Flavor,
    output: Path,
    report: Path,
    bench_seconds: float,
    as_json: bool,
) -> None:
    """From a checkpoint to a verified engine and a report, in one command.

    With --auto a precision that is out of tolerance, or not delivered, gives way to the next.
    Exports ONNX in float32 and, by default, in float16; builds the engine and reads its kernel
    plan; compares every hop with the reference on real images and seeded noise; measures
    throughput; writes a report in HTML, Markdown and JSON.
    """
    if auto and precision == "fp32":
        raise click.UsageError("--auto has nothing to try after --fp32; give --fp16 or --bf16")
    with console.step("Loading PyTorch and the model"):
        from exporters.artifact import ensure_writable
        from swin_deploy import proof
        from swin_deploy.bench import Effort
        from swin_deploy.bench.throughput import measure_throughput
        from swin_deploy.ladder import Ladder
        from swin_deploy.original.build import original_library

        options = default_options(resolve_flavor(flavor))
        loaded = asked.load()
        original_library(loaded, original)  # what cannot be is said before the work
        sets = proof.image_sets(loaded, images, limit=limit)
        ensure_writable(report / "report.json")
    announce(console, loaded)
    announce_images(console, sets)
    full = _export(console, loaded, opset=opset, folder=output)
    rungs: tuple[Rung, ...] = ()
    if auto:
        ladder = Ladder(loaded, full, sets, batch, options)
        graph, engine, rungs = climb_ladder(console, ladder, start=precision, as_json=as_json)
    else:
        graph = _in_precision(console, full, precision=precision, folder=output)
        engine = _make_engine(console, graph, batch=batch, options=options)
    made = proof.Made(tuple(dict.fromkeys((full, graph))), (engine,))
    with console.step("Comparing every hop with the reference") as step:
        parity = proof.prove_parity(
            loaded,
            made,
            images=sets,
            batches=proof.BATCHES,
            progress=step.update,
            original=original,
        )
    with console.step("Measuring throughput") as step:
        bench = measure_throughput(
            loaded,
            made,
            batches=(1, batch.opt),
            effort=Effort(seconds=bench_seconds),
            progress=step.update,
        )
    result = proof.make_report(loaded, made, parity=parity, bench=bench, images=sets)
    files = [word for path in made.onnx for word in ("--onnx", path)] + ["--engine", engine]
    unseen = any(hop.not_run for hop in parity.hops if hop.stage == "engine")
    words = ["parity", *asked.words(), *files, "--report", report]
    why = GPU_MACHINE
    if not unseen:
        words = ["bench", *asked.words(), *files, "--against", "all"]
        why = "torch.compile is the bar to clear"
    result = replace(
        result,
        conditions=result.conditions | rung_conditions(rungs),
        next_command=f"{command_line(*words)}  # {why}" if unseen else "",
    )
    _conclude(console, result, report, as_json=as_json)
    if parity.verdict != "pass":
        click.get_current_context().exit(CHECK_FAILED)
    console.note(f"  open {report / 'report.html'}; ship {engine} with its .json")
    console.next_step(*words, why=why)


def _export(console: Console, loaded: LoadedModel, *, opset: int, folder: Path) -> Path:
    """The float32 ONNX file."""
    from swin_deploy import pipeline

    spec = pipeline.export_spec(loaded, opset=opset)
    path = folder / pipeline.onnx_name(loaded.name, "fp32", opset)
    with console.step(f"Exporting ONNX, opset {opset}"):
        return pipeline.write_onnx(loaded, spec, path).path


def _in_precision(console: Console, full: Path, *, precision: Precision, folder: Path) -> Path:
    """The ONNX file in the precision asked for."""
    from exporters.precision import TITLES
    from swin_deploy import pipeline

    if precision == "fp32":
        return full
    with console.step(f"Writing the graph in {TITLES[precision]}"):
        return pipeline.in_precision(full, precision, folder=folder)


def _make_engine(
    console: Console, onnx_path: Path, *, batch: BatchProfile, options: EngineOptions
) -> Path:
    """The engine, its precision proved; exits with status 1 where it cannot be."""
    from exporters.to_onnx import load_onnx
    from swin_deploy import pipeline

    path = onnx_path.with_suffix(".engine")
    with console.step(f"Building the engine with {options.flavor}") as step:
        engine, plan = pipeline.write_engine(
            onnx_path, path, profile=batch, options=options, progress=step.update, warn=step.warn
        )
    if engine is None:
        refuse_engine(pipeline.undelivered(plan, load_onnx(onnx_path)))
        click.get_current_context().exit(CHECK_FAILED)
    return path


def _conclude(console: Console, result: Report, folder: Path, *, as_json: bool) -> None:
    """Write the report, and say what it says."""
    from swin_deploy.report.terminal import render_summary
    from swin_deploy.report.to_json import report_to_dict
    from swin_deploy.report.write import write_report

    written = write_report(result, folder)
    if as_json:
        show_json(report_to_dict(result))
    else:
        show_table(render_summary(result))
    console.note(f"  wrote {', '.join(map(str, written))}")
