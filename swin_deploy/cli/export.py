"""``swin-deploy export``: a checkpoint to an ONNX file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporters.precisions import (
    CALIBRATED,
    CPU_PRECISIONS,
    EDGES,
    FP8_FORMS,
    INT8_ON_CPUS,
    NOT_ON_CPUS,
    PRECISIONS,
    REDUCED,
    carrier_of,
)
from exporters.spec import DEFAULT_OPSET, OPSET_RANGE, Precision, Runtime
from swin_deploy.artifacts.newest import ENGINES
from swin_deploy.cli.command import command
from swin_deploy.cli.console import (
    Console,
    announce,
    say_calibration,
    say_norms,
    show_json,
    show_line,
)
from swin_deploy.cli.options import (
    ModelRequest,
    calibration_option,
    fp8_opset,
    image_sizes_option,
    json_option,
    model_options,
    require_calibration,
    runtime_option,
)
from swin_deploy.cli.outputs import ONNX, claim_artifacts, force_option, require_ending
from swin_deploy.cli.sizes import export_sizes, say_pixels
from swin_deploy.cli.values import FILE, fixed_or_dynamic

if TYPE_CHECKING:
    from swin_deploy.api.models import ExportOptions

EPILOG = """\b
Examples:
  swin-deploy export --checkpoint swin.pt
  swin-deploy export --checkpoint swin.pt --precision fp16 --opset 20
  swin-deploy export --checkpoint swin.pt --precision fp16 --keep-float32 layers.3.mlp
  swin-deploy export --model notebook-swin-s --image-size 448 --batch 1
  swin-deploy export --checkpoint swin.pt --precision fp8 --images train/
  swin-deploy export --checkpoint swin.pt --bake-preprocessing
  swin-deploy export --checkpoint swin.pt --for cpu
  swin-deploy export --checkpoint swin.pt --for cpu --precision int8 --images photos/
  swin-deploy export --checkpoint birefnet.pt --image-size 1024 --image-size 512
"""


@command(epilog=EPILOG)
@functools.partial(model_options, image_size=image_sizes_option)
@runtime_option
@click.option(
    "--opset",
    type=click.IntRange(*OPSET_RANGE),
    default=DEFAULT_OPSET,
    show_default=True,
    help="ONNX operator set; the file is checked to have it.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="Of the file; build-trt brings a float32 one to half precision. fp8: float16, with the "
    "inputs of most linear layers in FP8; fp8-weights: their weights, too; int8: with --for cpu.",
)
@click.option(
    "--keep-float32",
    "keep",
    metavar="PART",
    multiple=True,
    help="A part to keep in float32 in half precision or int8, as 'swin-deploy precision' names "
    "it.",
)
@click.option(
    "--io-precision",
    type=click.Choice(EDGES),
    default="fp32",
    show_default=True,
    help="Of the input and output; fp16 with --precision fp16 only.",
)
@click.option(
    "--bake-preprocessing",
    "pixels",
    is_flag=True,
    help="Take pixels, uint8 [B, H, W, C] of the model's size, and normalise them inside.",
)
@click.option(
    "--batch",
    metavar="dynamic|N",
    callback=fixed_or_dynamic,
    default="dynamic",
    show_default=True,
    help="Images a call: any number, or exactly N.",
)
@calibration_option
@click.option("--output", type=FILE, help="File to write; engines/<name>.onnx by default.")
@force_option
@json_option
@click.pass_obj
def export(
    console: Console,
    asked: tuple[ModelRequest, ...],
    runtime: Runtime,
    opset: int,
    precision: Precision,
    keep: tuple[str, ...],
    io_precision: Precision,
    pixels: bool,
    batch: int | None,
    images: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export a model to an ONNX file that is checked to be what was asked.

    Without --checkpoint the weights are random: good for sizes and speed, not for results. The
    default model is the notebook's Swin-T. A JSON manifest is written beside the file.

    With several --image-size there is one file a size, and one of the weights that they share; a
    manifest of sizes, <name>-sizes.json, stands for them all: build-trt, plan, parity, bench and
    predict take it.
    """
    if precision == "int8" and runtime != "cpu":
        raise click.UsageError(f"{INT8_ON_CPUS}; give --for cpu, or --precision fp16")
    if io_precision not in ("fp32", carrier_of(precision)):
        raise click.UsageError(f"--io-precision {io_precision} needs --precision {io_precision}")
    if runtime == "cpu" and precision not in CPU_PRECISIONS:
        raise click.UsageError(f"no --precision {precision} with --for cpu: {NOT_ON_CPUS}")
    if keep and precision == "fp32":
        others = " or ".join((*REDUCED, "int8"))
        raise click.UsageError(f"--keep-float32 needs --precision {others}")
    require_calibration(precision, images)
    if images and precision not in CALIBRATED:
        raise click.UsageError(f"--images needs --precision {' or '.join(CALIBRATED)}")
    if precision == "int8" and len(asked) > 1:
        raise click.UsageError("int8 takes one --image-size: export each by itself")
    opset = fp8_opset(console, precision, opset)
    choices: ExportOptions = {
        "pixels": pixels,
        "opset": opset,
        "batch": batch,
        "precision": precision,
        "io_precision": io_precision,
        "keep": keep,
        "runtime": runtime,
        "images": images,
    }
    if len(asked) > 1:
        export_sizes(console, asked, output, choices=choices, force=force, as_json=as_json)
    else:
        _export(console, asked[0], output, choices=choices, force=force, as_json=as_json)


def _export(
    console: Console,
    asked: ModelRequest,
    output: Path | None,
    *,
    choices: ExportOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Export one file, and show it."""
    if output:
        claim_artifacts([output], inputs=asked.inputs(), force=force)
        require_ending(output, ONNX)
    with console.loading("Loading PyTorch and the model"):
        from swin_deploy.artifacts.onnx_file import onnx_name

        loaded = asked.load()
    announce(console, loaded)
    opset, precision, pixels = choices["opset"], choices["precision"], choices["pixels"]
    runtime = choices["runtime"]
    name = onnx_name(loaded.name, precision, opset, pixels=pixels, runtime=runtime)
    path = output or ENGINES / name
    with console.step(f"Exporting ONNX, opset {opset}, {precision}"):
        artifact = loaded.export(path, force=force, **choices)
    if as_json:
        show_json(artifact.manifest | {"path": str(path)})
    else:
        facts = artifact.manifest
        show_line(
            f"{path}: {facts['nodes']} nodes, opset {facts['opset']}, {facts['precision']}, "
            f"batch {facts['batch']}, {facts['bytes'] / 1e6:.1f} MB"
        )
    if precision == "int8":
        _say_int8(console, artifact.manifest)
    elif precision != "fp32":
        say_norms(console, artifact.manifest["folded_norms"], artifact.manifest["norms_apart"])
    if pixels:
        say_pixels(console, loaded, choices["batch"])
    if precision in FP8_FORMS:
        say_calibration(console, artifact.manifest["calibration"])
    if runtime == "cpu":
        console.next_step("parity", *asked.words(), "--onnx", path, why="is it equal")
        return
    flag = "fp16" if precision == "fp32" else precision
    console.next_step("build-trt", path, f"--{flag}", why="the engine, its precision proved")


def _say_int8(console: Console, manifest: Mapping[str, Any]) -> None:
    """Say what was quantised and on which images, and whether this CPU can multiply it well."""
    from swin_deploy.doctor import NO_VNNI, lacks_vnni

    seen = manifest["calibration"]
    console.note(
        f"  {len(seen['scales'])} linear layers in 8-bit integers, calibrated on {seen['images']} "
        f"of {seen['found']} images; all else float32"
    )
    if lacks_vnni():
        console.note(f"  {NO_VNNI}")
