"""``swin-deploy build-trt``: an ONNX file to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from exporters.spec import BatchProfile, EngineOptions, Flavor, Precision
from swin_deploy.cli.console import Console, show_json, show_text
from swin_deploy.cli.options import FILE, batch_range, flavor_option, json_option

if TYPE_CHECKING:
    from exporters.plan import KernelPlan

CHECK_FAILED = 1
MAX_WORKSPACE_MIB = 1 << 20

BUILD_EPILOG = """\b
Examples:
  swin-deploy build-trt --fp16
  swin-deploy build-trt engines/model-fp32-opset17.onnx --fp16 --batch 1,8,64
  swin-deploy build-trt model.onnx --fp32 --flavor tensorrt-rtx --output model.engine

\b
Exit status 1: half precision was asked for, but attention or matrix products
would run in float32; no engine is written then.
"""


@click.command("build-trt", epilog=BUILD_EPILOG)
@click.argument("onnx_file", metavar="[ONNX]", type=FILE, required=False)
@click.option("--fp16", "precision", flag_value="fp16", help="Half precision, proved or refused.")
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
@click.option("--timing-cache", type=FILE, help="Keep kernel timings here (full TensorRT).")
@click.option("--output", type=FILE, help="File to write; engines/<name>.engine by default.")
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
    timing_cache: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from an ONNX file, and prove its precision.

    Without a file the newest export in engines/ is taken. With --fp16 a float32 file is first
    written in float16 beside the engine, since precision lives in the graph: TensorRT 11 and
    TensorRT-RTX have no precision flags. Builds without a GPU with TensorRT-RTX.
    """
    with console.step("Loading ONNX and TensorRT"):
        from exporters.precision import precision_of
        from exporters.to_onnx import load_onnx
        from swin_deploy import pipeline

        options = EngineOptions(
            flavor=resolve_flavor(flavor),
            workspace_mib=workspace,
            optimization_level=optimization_level,
            timing_cache_path=str(timing_cache) if timing_cache else None,
        )
        source = onnx_file or pipeline.newest_export()
        has = precision_of(load_onnx(source))
    if onnx_file is None:
        console.note(f"  taking the newest export, {source}")
    if precision not in (None, has):
        folder = output.parent if output else pipeline.ENGINES
        with console.step(f"Writing {source.name} in {precision}"):
            source = pipeline.in_precision(source, precision, folder=folder)
        console.note(f"  {source}: every weight and activation float16, input and output float32")
    path = output or pipeline.ENGINES / f"{source.stem}.engine"
    with console.step(f"Building {path.name} with {options.flavor}") as step:
        artifact, kernels = pipeline.write_engine(
            source, path, profile=batch, options=options, progress=step.update
        )
    if artifact is None:
        refuse_engine(kernels)
        click.get_current_context().exit(CHECK_FAILED)
    if as_json:
        show_json(artifact.manifest | {"path": str(path)})
    else:
        profile = artifact.manifest["profile"]
        show_text(
            f"{path}: {artifact.manifest['bytes'] / 1e6:.1f} MB, {artifact.manifest['precision']}, "
            f"{kernels.flavor} {kernels.version}, batch {profile['min']} to {profile['max']}; "
            f"{kernels.kernel_count} kernels, attention fused {kernels.fused_attention} of "
            f"{kernels.attention_blocks}, {100 * kernels.half_byte_share:.1f} % of bytes in half"
        )
    console.next_step(f"swin-deploy plan {path}, or swin-deploy parity --engine {path}")


def resolve_flavor(flavor: Literal["auto"] | Flavor) -> Flavor:
    """The flavour asked for, or the one that this machine can use."""
    from exporters.backends import choose_flavor

    return choose_flavor() if flavor == "auto" else flavor


def refuse_engine(kernels: KernelPlan) -> None:
    """Say which kernels would have run in float32."""
    shown = ", ".join(kernels.float32_compute[:3])
    click.secho(
        f"failed: {len(kernels.float32_compute)} attention or matrix product kernels would run in "
        f"float32, although float16 was asked for ({shown}, ...); no engine was written. "
        "Look at the graph with swin-deploy plan",
        fg="red",
        err=True,
    )
