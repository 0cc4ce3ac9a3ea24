"""``swin-deploy run --for cpu``: the fastest right way to run a model on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from exporters.backends import cuda_device_count, load_openvino, openvino_core, openvino_cpu
from exporters.errors import MissingBackendError
from exporters.precisions import CPU_PRECISIONS
from exporters.spec import Precision
from swin_deploy.artifacts.outputs import report_outputs
from swin_deploy.cli.console import CHECK_FAILED, Console, announce, announce_images, command_line
from swin_deploy.cli.options import (
    ModelRequest,
    calibration,
    require_calibration,
    runner_words,
)
from swin_deploy.cli.outputs import claim_artifacts, claim_outputs
from swin_deploy.cli.run_steps import QUICK, QUICK_IMAGES, conclude, prove_and_time
from swin_deploy.config import BUNDLED_IMAGES

if TYPE_CHECKING:
    from swin_deploy.artifacts.onnx_file import Calibrated, OnnxFile
    from swin_deploy.candidates import Made
    from swin_deploy.checkpoints.load import LoadedModel
    from swin_deploy.precision.fastest import Choice
    from swin_deploy.runners import Way

OF_ENGINES = ("auto", "flavor", "compute_capability")  # parameters of engines alone
UNTRIED_INT8 = (
    "not tried: linear layers in 8-bit integers, which change answers more than bfloat16 and are "
    "calibrated on --images, 32 at least; try them with --int8"
)


@dataclass(frozen=True)
class CpuRun:
    """The options of ``run`` that hold for a CPU, as the command has them."""

    images: Path | None
    limit: int
    original: str
    runners: tuple[Way, ...]
    precision: Precision
    opset: int
    batch: int
    output: Path
    report: Path
    bench_seconds: float
    quick: bool
    force: bool
    as_json: bool

    @property
    def files(self) -> tuple[Precision, ...]:
        """Precisions of the files to make."""
        return ("fp32", "int8") if self.precision == "int8" else ("fp32",)


def refuse_engine_options(precision: str) -> None:
    """Refuse options of engines, which a CPU does not run; raises ``UsageError``."""
    context = click.get_current_context()
    defaults = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, None)
    given = [one for one in OF_ENGINES if context.get_parameter_source(one) not in defaults]
    if given:
        name = given[0].replace("_", "-")
        raise click.UsageError(f"--{name} is for engines; leave it out with --for cpu")
    if (
        precision not in CPU_PRECISIONS
        and context.get_parameter_source("precision") not in defaults
    ):
        raise click.UsageError(
            f"--for cpu finds the precision by itself; leave out --{precision}, give --fp32 for "
            "float32 alone, or --int8 to try 8-bit integers, too"
        )
    if cuda_device_count():
        raise click.UsageError(
            "--for cpu measures the CPU, and a GPU would be used here; hide it: put "
            "CUDA_VISIBLE_DEVICES= in front of the command"
        )


def run_for_cpu(console: Console, asked: ModelRequest, options: CpuRun) -> None:
    """Export a model for CPUs, prove and time each way to run its files, and choose one."""
    require_calibration(options.precision, options.images)
    inputs = (*asked.inputs(), options.images)
    claim_outputs(report_outputs(options.report), inputs=inputs, force=options.force)
    with console.loading("Loading PyTorch and the model"):
        from swin_deploy.artifacts.onnx_file import onnx_name
        from swin_deploy.candidates import Made
        from swin_deploy.original.build import original_library
        from swin_deploy.parity.run import image_sets
        from swin_deploy.precision.fastest import choose_fastest, without_refused
        from swin_deploy.report.make import make_report

        ways, missing = _ways(options)
        told = calibration(options.precision, options.images)
        loaded = asked.load()
        original_library(loaded, options.original)  # a wrong choice fails before the work
        limit = min(options.limit, QUICK_IMAGES) if options.quick else options.limit
        sets = image_sets(loaded, options.images, limit=limit)
    announce(console, loaded)
    announce_images(console, sets)
    for text in (*missing, *([f"quick: {QUICK}"] if options.quick else [])):
        console.warn(text)
    places = {
        one: options.output / onnx_name(loaded.name, one, options.opset, runtime="cpu")
        for one in options.files
    }
    claim_artifacts([*places.values()], inputs=inputs, force=options.force)
    made = Made(_export(console, loaded, places, told, options), ways=ways)
    parity, bench = prove_and_time(
        console,
        loaded,
        made,
        sets,
        original=options.original,
        batch=options.batch,
        seconds=None if options.quick else options.bench_seconds,
    )
    choice = choose_fastest(parity, bench, batch=options.batch)
    kept = without_refused(parity, choice)
    result = make_report(loaded, made, parity=kept, bench=bench, images=sets)
    words_of = _told(choice, missing, options)
    chosen = _chosen(loaded, made, choice)
    words, why = _next_words(asked, loaded, chosen, options)
    result = replace(
        result,
        conditions=result.conditions | words_of | ({"quick": QUICK} if options.quick else {}),
        next_command=f"{command_line(*words)}  # {why}" if choice.chosen else "",
    )
    conclude(console, result, options.report, force=options.force, as_json=options.as_json)
    for name, text in words_of.items():
        console.note(f"  {name}: {text}")
    if options.precision not in ("int8", "fp32"):
        console.note(f"  {UNTRIED_INT8}")
    if not choice.is_right or kept.verdict != "pass":
        click.get_current_context().exit(CHECK_FAILED)
    console.note(f"  open {options.report / 'report.html'}; ship {chosen.path} with its .json")
    console.next_step(*words, why=why)


def _export(
    console: Console,
    loaded: LoadedModel,
    places: Mapping[Precision, Path],
    told: Calibrated,
    options: CpuRun,
) -> tuple[OnnxFile, ...]:
    """Write a file for CPUs in each precision; their weights are released."""
    from swin_deploy.artifacts.onnx_file import export_spec, write_onnx
    from swin_deploy.doctor import NO_VNNI, lacks_vnni

    files = []
    for precision, path in places.items():
        kind = "" if precision == "fp32" else f" in {precision}"
        with console.step(f"Exporting ONNX for CPUs{kind}, opset {options.opset}") as step:
            spec = export_spec(loaded, opset=options.opset, precision=precision, runtime="cpu")
            seen = replace(told, progress=step.update)
            file = write_onnx(loaded, spec, path, told=seen, force=options.force)
        files.append(file.without_weights())
    if "int8" in places and lacks_vnni():
        console.note(f"  {NO_VNNI}")
    return tuple(files)


@dataclass(frozen=True)
class _Chosen:
    """A file and the way to run it; none for ONNX Runtime, which is the file's own."""

    path: Path
    way: tuple[Way, ...] = ()


def _chosen(loaded: LoadedModel, made: Made, choice: Choice) -> _Chosen:
    """Return the file and the way of the choice; the first file if there is no choice."""
    from swin_deploy.candidates import candidates

    name = choice.chosen.name if choice.chosen else ""
    for one in candidates(loaded, made):
        if one.runner.name == name and one.source is not None:
            return _Chosen(one.source.path, (one.way,) if one.way else ())
    return _Chosen(made.onnx[0].path)


def _ways(options: CpuRun) -> tuple[tuple[Way, ...], list[str]]:
    """Return the ways to try, and the reasons why others are not."""
    from swin_deploy.runners import torch_ways

    try:
        abilities = openvino_cpu(openvino_core(load_openvino())).abilities
    except MissingBackendError as err:
        return torch_ways(options.runners), [f"ONNX Runtime alone is tried: {err}"]
    found: list[Way] = [*options.runners, "openvino"]
    missing = []
    if options.precision != "fp32" and "BF16" in abilities:
        found.append("openvino-bf16")
    elif options.precision != "fp32":
        missing.append(f"bfloat16 is not tried: this CPU has {', '.join(abilities)}")
    return tuple(dict.fromkeys(found)), missing


def _told(choice: Choice, missing: Sequence[str], options: CpuRun) -> dict[str, str]:
    """Describe the choice, its reason, the slower ways and those that were refused."""
    told = {}
    if choice.chosen is not None and choice.timing is not None:
        row = choice.timing
        told["chosen"] = (
            f"{choice.chosen.name}, the fastest within tolerance: {_speed(row.images_per_s)} at "
            f"batch {options.batch}, {row.ratio:.2f} x the PyTorch reference"
        )
        if choice.undecided:
            told["chosen"] += (
                f"; not surely faster than {', '.join(choice.undecided)} (their intervals "
                "overlap): more with --bench-seconds"
            )
    elif choice.is_right:
        told["chosen"] = "none: nothing was timed"
    else:
        told["chosen"] = "none: no way to run the file is within tolerance"
    slower = [
        f"{hop.name} ({_speed(row.images_per_s)})" if row else f"{hop.name} (not timed)"
        for hop, row in choice.slower
    ]
    if slower:
        told["right, and not chosen" if choice.chosen else "right"] = ", ".join(slower)
    refused = [*(f"{name}: {why}" for name, why in choice.refused.items()), *missing]
    return told | ({"refused": "; ".join(refused)} if refused else {})


def _speed(images_per_s: float) -> str:
    return (
        f"{images_per_s:,.3g} images/s" if images_per_s < 1000 else f"{images_per_s:,.0f} images/s"
    )


def _next_words(
    asked: ModelRequest, loaded: LoadedModel, chosen: _Chosen, options: CpuRun
) -> tuple[list[object], str]:
    """Return the command to run next and its reason: the whole proof, pictures or benchmarks."""
    if options.quick:
        return [
            word for word in sys.argv[1:] if word != "--quick"
        ], "the whole proof, with throughput"
    path, ways = chosen.path, runner_words(chosen.way)
    pictures = options.images or BUNDLED_IMAGES.get(loaded.name)
    if pictures is None:
        return ["bench", *asked.words(), "--onnx", path, *ways, "--against", "all"], (
            "torch.compile is the bar to clear"
        )
    features = [] if "logits" in loaded.config.output_names else ["--features", "features.npz"]
    return ["predict", path, pictures, *ways, *features], "uses what was chosen"
