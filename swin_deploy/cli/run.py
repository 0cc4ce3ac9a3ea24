"""``swin-deploy run``: the whole line in one command."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

import swin_deploy.cli.options as shared
from exporters.backends import current_gpu
from exporters.engine.targets import fp8_targets
from exporters.precisions import (
    FP8_FORMS,
    INT8_ON_CPUS,
    REDUCED,
    fallbacks,
    kind_of,
)
from exporters.spec import (
    DEFAULT_OPSET,
    OPSET_RANGE,
    BatchProfile,
    EngineOptions,
    Flavor,
    Precision,
    Runtime,
)
from swin_deploy.artifacts.outputs import report_outputs
from swin_deploy.cli.auto import attempt_conditions, climb_ladder
from swin_deploy.cli.command import command
from swin_deploy.cli.console import (
    CHECK_FAILED,
    Console,
    announce,
    announce_images,
    command_line,
)
from swin_deploy.cli.engine_options import (
    capability_option,
    options_for,
    require_delivered,
    resolve_flavor,
)
from swin_deploy.cli.options import ModelRequest
from swin_deploy.cli.outputs import claim_artifacts, claim_outputs, force_option
from swin_deploy.cli.run_cpu import CpuRun, refuse_engine_options, run_for_cpu
from swin_deploy.cli.run_steps import QUICK, QUICK_IMAGES, conclude, prove_and_time
from swin_deploy.cli.values import FILE, batch_range, duration

if TYPE_CHECKING:
    from swin_deploy.artifacts.onnx_file import Calibrated, OnnxFile
    from swin_deploy.candidates import Made
    from swin_deploy.parity import ParityReport
    from swin_deploy.precision.search import Attempt
    from swin_deploy.runners import Way
    from swin_deploy.runners.engine_manifest import EngineManifest

EPILOG = """\b
Examples:
  swin-deploy run --checkpoint swin.pt --images photos/
  swin-deploy run --model notebook-digits --quick
  swin-deploy run --checkpoint swin.pt --fp16 --auto
  swin-deploy run --checkpoint swin.pt --fp8 --images photos/
  swin-deploy run --checkpoint swin.pt --fp32 --batch 1,16,64 --report proof/
  swin-deploy run --checkpoint swin.pt --images photos/ --runner torch
  swin-deploy run --checkpoint swin.pt --images photos/ --for cpu
  swin-deploy run --checkpoint swin.pt --images photos/ --for cpu --int8

\b
Exit status 1: a step is out of tolerance (with --for cpu: every way to run the
file), half precision was not delivered, or on
labelled images the reference is not better than guessing (inconclusive).
"""


@command(epilog=EPILOG)
@shared.model_options
@shared.runtime_option
@shared.image_options
@shared.original_option
@shared.runners_option
@click.option(
    "--fp16", "precision", flag_value="fp16", default="fp16", help="Half precision (default)."
)
@click.option("--bf16", "precision", flag_value="bf16", help="bfloat16.")
@click.option(
    "--fp8",
    "precision",
    flag_value="fp8",
    help="float16 with the inputs of most linear layers in FP8; --images is also what its scales "
    "are measured on.",
)
@click.option(
    "--fp8-weights", "precision", flag_value="fp8-weights", help="The same, their weights, too."
)
@click.option("--fp32", "precision", flag_value="fp32", help="Float32.")
@click.option(
    "--int8",
    "precision",
    flag_value="int8",
    help="With --for cpu: a file with linear layers in 8-bit integers is tried, too. It changes "
    "answers more than bfloat16. --images is also what its scales are measured on.",
)
@click.option(
    "--auto",
    is_flag=True,
    help="Where that fails: parts kept in float32, bfloat16, then float32; each is explained.",
)
@click.option(
    "--opset", type=click.IntRange(*OPSET_RANGE), default=DEFAULT_OPSET, show_default=True
)
@click.option(
    "--batch", metavar="N|MIN,OPT,MAX", callback=batch_range, default="1,8,32", show_default=True
)
@shared.flavor_option
@capability_option
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
@click.option(
    "--quick",
    is_flag=True,
    help="A first look: 8 images at most, one batch size, no throughput; the report says so.",
)
@force_option
@shared.json_option
@click.pass_obj
def run(
    console: Console,
    asked: ModelRequest,
    runtime: Runtime,
    images: Path | None,
    limit: int,
    original: str,
    runners: tuple[Way, ...],
    precision: Precision,
    auto: bool,
    opset: int,
    batch: BatchProfile,
    flavor: Literal["auto"] | Flavor,
    compute_capability: tuple[str, ...],
    output: Path,
    report: Path,
    bench_seconds: float,
    quick: bool,
    force: bool,
    as_json: bool,
) -> None:
    """From a checkpoint to a verified engine and a report, in one command.

    With --auto a precision that is out of tolerance, or not delivered, gives way to the next.
    Exports ONNX in float32 and, by default, in float16; builds the engine and reads its kernel
    plan; compares every step with the reference on real images and seeded noise; measures
    throughput; writes a report in HTML, Markdown and JSON.

    With --for cpu there is no engine: the ONNX file is proved and timed in ONNX Runtime and in
    OpenVINO, in float32 and, where the CPU has it, bfloat16; with --int8 so is a file in 8-bit
    integers. The fastest within tolerance is chosen.
    """
    if runtime == "cpu":
        refuse_engine_options(precision)
    _check_usage(precision, auto=auto, quick=quick, runtime=runtime)
    if runtime == "cpu":
        options = CpuRun(
            images, limit, original, runners, precision, opset, batch.opt, output, report,
            bench_seconds, quick, force, as_json,
        )  # fmt: skip
        run_for_cpu(console, asked, options)
        return
    shared.require_calibration(precision, images)
    opset = shared.fp8_opset(console, precision, opset)
    inputs = (*asked.inputs(), images)
    claim_outputs(report_outputs(report), inputs=inputs, force=force)
    with console.loading("Loading PyTorch and the model"):
        from swin_deploy.artifacts.onnx_file import export_spec, onnx_name, write_onnx
        from swin_deploy.candidates import Made
        from swin_deploy.original.build import original_library
        from swin_deploy.parity.run import image_sets
        from swin_deploy.precision.search import SearchInputs
        from swin_deploy.report.make import make_report

        engine_options = options_for(resolve_flavor(flavor), compute_capability)
        if precision in FP8_FORMS:
            fp8_targets(engine_options, current_gpu())
        told = shared.calibration(precision, images)
        loaded = asked.load()
        original_library(loaded, original)  # a wrong choice fails before the work
        sets = image_sets(loaded, images, limit=min(limit, QUICK_IMAGES) if quick else limit)
    announce(console, loaded)
    announce_images(console, sets)
    if quick:
        console.warn(f"quick: {QUICK}")
    built: tuple[Precision, ...] = ("fp32", *REDUCED)
    places = {one: output / onnx_name(loaded.name, one, opset) for one in built}
    claim_artifacts(_artifacts(places, precision, auto=auto), inputs=inputs, force=force)
    with console.step(f"Exporting ONNX, opset {opset}"):
        spec = export_spec(loaded, opset=opset)
        full = write_onnx(loaded, spec, places["fp32"], force=force)
    attempts: tuple[Attempt, ...] = ()
    if auto:
        full = full.without_weights()
        ladder = SearchInputs(
            loaded, full, sets, batch, engine_options, force=force, calibrated=told
        )
        graph, engine, attempts = climb_ladder(console, ladder, start=precision, as_json=as_json)
    else:
        graph = _in_precision(console, full, precision, told, path=places[precision])
        full = full.without_weights()
        engine = _make_engine(console, graph, batch=batch, options=engine_options, force=force)
        graph = graph.without_weights()
    graphs = (full,) if graph.path == full.path else (full, graph)
    made = Made(graphs, (engine,), runners)
    parity, bench = prove_and_time(
        console,
        loaded,
        made,
        sets,
        original=original,
        batch=batch.opt,
        seconds=None if quick else bench_seconds,
    )
    result = make_report(loaded, made, parity=parity, bench=bench, images=sets)
    pictures = [*(["--images", images] if images else []), "--limit", limit]
    words, why = _next_words(asked, made, parity, pictures, report, quick=quick)
    unseen = not quick and why == shared.GPU_MACHINE
    result = replace(
        result,
        conditions=result.conditions
        | attempt_conditions(attempts)
        | ({"quick": QUICK} if quick else {}),
        next_command=f"{command_line(*words)}  # {why}" if unseen else "",
    )
    conclude(console, result, report, force=force, as_json=as_json)
    if parity.verdict != "pass":
        click.get_current_context().exit(CHECK_FAILED)
    console.note(f"  open {report / 'report.html'}; ship {engine.path} with its .json")
    console.next_step(*words, why=why)


def _check_usage(precision: Precision, *, auto: bool, quick: bool, runtime: Runtime) -> None:
    if precision == "int8" and runtime != "cpu":
        raise click.UsageError(f"{INT8_ON_CPUS}; use --fp16, or --for cpu --int8")
    if auto and precision == "fp32":
        others = " or ".join(f"--{name}" for name in REDUCED)
        raise click.UsageError(f"--auto has nothing to try after --fp32; give {others}")
    source = click.get_current_context().get_parameter_source("bench_seconds")
    if quick and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--quick times nothing; leave out --quick or --bench-seconds")


def _next_words(
    asked: ModelRequest,
    made: Made,
    parity: ParityReport,
    pictures: list[object],
    report: Path,
    *,
    quick: bool,
) -> tuple[list[object], str]:
    """Return the command to run next and its reason: the proof, the engine's GPU, or benchmarks."""
    files = [word for one in made.onnx for word in ("--onnx", one.path)]
    files += [word for one in made.engines for word in ("--engine", one.path)]
    if quick:
        again = [word for word in sys.argv[1:] if word != "--quick"]
        return [*again], "the whole proof, with throughput"
    if any(hop.not_run for hop in parity.hops if hop.stage == "engine"):
        words = ["parity", *asked.words(), *files, *shared.runner_words(made.ways)]
        return [*words, *pictures, "--report", report], shared.GPU_MACHINE
    return [
        "bench",
        *asked.words(),
        *files,
        *shared.runner_words(made.ways),
        "--against",
        "all",
    ], "torch.compile is the bar to clear"


def _artifacts(places: dict[Precision, Path], precision: Precision, *, auto: bool) -> list[Path]:
    """List every artefact that the command may write; with --auto those of each attempt."""
    tried = fallbacks(precision) if auto else (precision,)
    graphs = [places[one] for one in tried]
    engines = [graph.with_suffix(".engine") for graph in graphs]
    return list(dict.fromkeys((places["fp32"], *graphs, *engines)))


def _in_precision(
    console: Console, full: OnnxFile, precision: Precision, told: Calibrated, *, path: Path
) -> OnnxFile:
    """Return the graph in the precision asked for; half precision is written with the engine."""
    from swin_deploy.artifacts.onnx_file import convert

    if precision == "fp32":
        return full
    with console.step(f"Writing the graph in {kind_of(precision)}") as step:
        return convert(full, precision, path=path, told=replace(told, progress=step.update))


def _make_engine(
    console: Console,
    graph: OnnxFile,
    *,
    batch: BatchProfile,
    options: EngineOptions,
    force: bool,
) -> EngineManifest:
    """Build the engine; exit with status 1 if its precision is not delivered."""
    from swin_deploy.artifacts.engine_file import Listener, write_engine

    with console.step(f"Building the engine with {options.flavor}") as step:
        built = write_engine(
            graph,
            graph.path.with_suffix(".engine"),
            profile=batch,
            options=options,
            listener=Listener(step.update, step.warn),
            force=force,
        )
    return require_delivered(built)
