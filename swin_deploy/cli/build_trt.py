"""``swin-deploy build-trt``: an ONNX file to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import click

from exporters.artifact import artifact_outputs
from exporters.backends import current_gpu
from exporters.engine.targets import fp8_targets
from exporters.outputs import Output
from exporters.precisions import FP8_FORMS, kind_of
from exporters.spec import BatchProfile, EngineOptions, Flavor, Precision
from swin_deploy.artifacts.newest import ENGINES, newest_export
from swin_deploy.artifacts.outputs import is_sizes
from swin_deploy.cli.command import command
from swin_deploy.cli.console import Console, say_calibration, say_norms, show_json, show_line
from swin_deploy.cli.engine_options import (
    EngineBuildOptions,
    engine_words,
    life_options,
    require_delivered,
    resolve_flavor,
    show_targets,
)
from swin_deploy.cli.inputs import require_built_from, requiring
from swin_deploy.cli.options import (
    calibration,
    calibration_option,
    flavor_option,
    json_option,
    require_converted,
)
from swin_deploy.cli.outputs import ENGINE, claim_outputs, force_option, require_ending
from swin_deploy.cli.sizes import build_sizes
from swin_deploy.cli.values import FILE, batch_range


class BuildChoices(TypedDict):
    """What is built, whatever the file: the same for one size and for several."""

    precision: Precision | None
    profile: BatchProfile | None
    options: EngineOptions
    force: bool
    as_json: bool


MAX_WORKSPACE_MIB = 1 << 20

BUILD_EPILOG = """\b
Examples:
  swin-deploy build-trt --fp16
  swin-deploy build-trt engines/model-fp32-opset17.onnx --fp16 --batch 1,8,64
  swin-deploy build-trt model.onnx --fp32 --flavor tensorrt-rtx --output model.engine
  swin-deploy build-trt --fp16 --flavor tensorrt-rtx --compute-capability 8.6,8.9,12.0
  swin-deploy build-trt --fp16 --flavor tensorrt-rtx --compute-capability current
  swin-deploy build-trt --fp16 --flavor tensorrt --hardware-compatibility ampere-plus
  swin-deploy build-trt engines/model-fp32-opset19.onnx --fp8 --images train/
  swin-deploy build-trt engines/model-fp32-opset17-sizes.json --fp16

\b
Exit status 1: half precision was asked for, but attention or matrix products
would run in float32, or parts that must stay float32 would not; no engine is
written then.
"""


@command("build-trt", epilog=BUILD_EPILOG)
@click.argument(
    "onnx_file", metavar="[ONNX]", type=FILE, required=False, callback=requiring(require_built_from)
)
@click.option("--fp16", "precision", flag_value="fp16", help="Half precision, proved or refused.")
@click.option("--bf16", "precision", flag_value="bf16", help="bfloat16, proved or refused.")
@click.option(
    "--fp8",
    "precision",
    flag_value="fp8",
    help="float16 with the inputs of most linear layers in FP8, proved or refused; a float32 file "
    "needs --images.",
)
@click.option(
    "--fp8-weights", "precision", flag_value="fp8-weights", help="The same, their weights, too."
)
@click.option("--fp32", "precision", flag_value="fp32", help="Float32; the file must be float32.")
@click.option(
    "--batch",
    metavar="N|MIN,OPT,MAX",
    callback=batch_range,
    help="Images a call.  [default: 1,8,32, or the file's fixed batch]",
)
@flavor_option
@click.option(
    "--workspace", type=click.IntRange(1, MAX_WORKSPACE_MIB), metavar="MIB", help="Scratch memory."
)
@click.option("--optimization-level", type=click.IntRange(0, 5), help="Builder effort.")
@life_options
@calibration_option
@click.option("--output", type=FILE, help="File to write; engines/<name>.engine by default.")
@force_option
@json_option
@click.pass_obj
def build_trt(
    console: Console,
    onnx_file: Path | None,
    precision: Precision | None,
    batch: BatchProfile | None,
    flavor: Literal["auto"] | Flavor,
    workspace: int | None,
    optimization_level: int | None,
    life: EngineBuildOptions,
    images: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from an ONNX file, and prove its precision.

    Without a file the newest one in engines/ is taken; without a precision the file's own: float16
    after 'run', float32 after 'export'. With --fp16, --bf16 or --fp8 a float32 file is first
    brought to that precision, since precision lives in the graph: TensorRT 11 and TensorRT-RTX
    have no precision flags. That graph is written beside the engine, and with it. Builds
    without a GPU with TensorRT-RTX.

    A manifest of sizes, as export writes with several --image-size, gets an engine for each size.
    """
    if output:
        _claim([output], onnx_file, life, force=force)
        require_ending(output, ENGINE)
    named = onnx_file or newest_export(precision)
    several = is_sizes(named)
    if output and several:
        raise click.UsageError(f"the engines are written next to {named}; leave out --output")
    with console.loading("Loading ONNX and TensorRT"):
        import swin_deploy.artifacts.engine_file  # noqa: F401 - the slow part

        options = life.options(
            resolve_flavor(flavor),
            workspace_mib=workspace,
            optimization_level=optimization_level,
        )
    if precision in FP8_FORMS:
        fp8_targets(options, current_gpu())
    if several and onnx_file is None:
        console.note(f"  taking the newest export, {named}")
    choices: BuildChoices = {
        "precision": precision,
        "profile": batch,
        "options": options,
        "force": force,
        "as_json": as_json,
    }
    if several:
        build_sizes(console, named, images, **choices)
    else:
        _build(console, onnx_file, named, output, images, life=life, **choices)


def _build(
    console: Console,
    given: Path | None,
    onnx_file: Path,
    output: Path | None,
    images: Path | None,
    *,
    life: EngineBuildOptions,
    precision: Precision | None,
    profile: BatchProfile | None,
    options: EngineOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Build one engine, and show it; without a file given, ``onnx_file`` is the newest export."""
    from exporters.norm_folding import norms_before_mlps
    from swin_deploy.artifacts.builds import plan_build
    from swin_deploy.artifacts.engine_file import Listener, write_engine
    from swin_deploy.artifacts.onnx_file import read_onnx
    from swin_deploy.config import VARIANTS

    source = read_onnx(onnx_file)
    files = plan_build(source, output, precision=precision, folder=ENGINES)
    if given is None:
        console.note(f"  taking the newest export, {onnx_file}, {source.precision}")
    if source.precision == "fp32" and precision is None:
        console.note(
            f"  {onnx_file.name} is float32, and so is its engine; --fp16 builds in float16"
        )
    path, converts = files.engine, files.converts
    require_converted(converts, images)
    _claim(files.written, onnx_file, life, force=force)
    if converts:
        with console.step(f"Writing {onnx_file.name} in {converts}") as step:
            source = files.source(source, calibration(converts, images, step.update))
    with console.step(f"Building {path.name} with {options.flavor}") as step:
        built = write_engine(
            source,
            path,
            profile=profile,
            options=options,
            listener=Listener(step.update, step.warn),
            force=force,
        )
    engine = require_delivered(built)
    if converts:
        kind = kind_of(converts)
        console.note(f"  {files.graph}: weights and activations {kind}, edges float32")
        say_norms(console, *norms_before_mlps(source.graph))
        if "calibration" in engine.values:
            say_calibration(console, engine.values["calibration"])
    show_targets(console, engine)
    if as_json:
        show_json(engine.values | {"path": str(path)})
    else:
        show_line(f"{path}: {engine_words(engine)}")
    model = engine.values.get("model")
    if model in VARIANTS and not engine.values["checkpoint_sha256"]:
        console.next_step("parity", "--model", model, "--engine", path, why="is it equal")
    else:
        console.next_step("plan", path, why="where its bytes go; parity needs the --checkpoint too")


def _claim(
    paths: Sequence[Path], source: Path | None, life: EngineBuildOptions, *, force: bool
) -> None:
    """Fail early if the engine, its graph or the timing cache cannot be written."""
    outputs = [output for path in paths for output in artifact_outputs(path)]
    if life.timing_cache is not None:  # the builder checks an existing file
        outputs.append(Output(life.timing_cache, lambda _: True))
    claim_outputs(outputs, inputs=[source], force=force)
