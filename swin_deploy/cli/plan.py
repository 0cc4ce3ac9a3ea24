"""``swin-deploy plan``: the kernels that TensorRT launches."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from exporters.errors import BuildError
from exporters.spec import Flavor
from exporters.text_files import naming
from swin_deploy.artifacts.outputs import PLAN, is_sizes, picture_output
from swin_deploy.cli.command import command
from swin_deploy.cli.console import Console, show_json, show_line, show_table
from swin_deploy.cli.engine_options import default_options, resolve_flavor
from swin_deploy.cli.inputs import require_planned, requiring
from swin_deploy.cli.options import flavor_option, json_option
from swin_deploy.cli.outputs import PICTURE, claim_outputs, force_option, require_ending
from swin_deploy.cli.sizes import files_of, one_file
from swin_deploy.cli.values import FILE, IMAGE_SIZE, only_one
from swin_deploy.config import Size

if TYPE_CHECKING:
    from exporters.plan import KernelPlan
    from exporters.plan.roofline import Bound
    from swin_deploy.config.pads import StageLayout

    # The name of a file, its plan, and the layouts of its stages.
    Side = tuple[str, KernelPlan, list[StageLayout]]

# The names in exporters.plan.roofline, which is not imported for --help.
GPU_NAMES = ("A100-40GB", "A100-80GB", "H100", "H200", "L4", "T4", "RTX4090", "RTX5090")
DIFFERING = 8  # parts of two plans that are shown without --blocks

PLAN_EPILOG = """\b
Examples:
  swin-deploy plan engines/model-fp16-opset17.engine
  swin-deploy plan engines/model-fp16-opset17.onnx --batch 8 --kernels --gpu H200
  swin-deploy plan engines/model-fp16-opset17.onnx other-tool.onnx --fp16
  swin-deploy plan engines/model-fp16-opset17.onnx --svg plan.svg
  swin-deploy plan engines/model-fp16-opset17-sizes.json --image-size 512
"""


@command(epilog=PLAN_EPILOG)
@click.argument("file", type=FILE, callback=requiring(require_planned))
@click.argument("other", type=FILE, required=False, callback=requiring(require_planned))
@click.option("--batch", type=click.IntRange(min=1), help="For an ONNX file.  [default: 8]")
@click.option(
    "--image-size",
    type=IMAGE_SIZE,
    multiple=True,
    callback=only_one,
    help="Of a manifest of sizes, the one to plan.  [default: all]",
)
@click.option("--fp16", "half", is_flag=True, help="Plan float32 ONNX files in their float16 form.")
@click.option("--blocks", "detail", flag_value="blocks", help="Every part of the model.")
@click.option("--kernels", "detail", flag_value="kernels", help="Every kernel, in launch order.")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    type=click.Choice([*GPU_NAMES, "all"], case_sensitive=False),
    help="Bound latency by this GPU's published peaks; may be given again. all: those with FP8, "
    "where the file needs it.",
)
@click.option("--svg", type=FILE, help="Write a picture of where the bytes go.")
@flavor_option
@force_option
@json_option
@click.pass_obj
def plan(
    console: Console,
    file: Path,
    other: Path | None,
    batch: int | None,
    image_size: int | Size | None,
    half: bool,
    detail: Literal["blocks", "kernels"] | None,
    gpus: tuple[str, ...],
    svg: Path | None,
    flavor: Literal["auto"] | Flavor,
    force: bool,
    as_json: bool,
) -> None:
    """Show the kernels that TensorRT launches: where the bytes go, and how far from the minimum.

    An engine's plan is read from its manifest; an ONNX file, ours or another tool's, is built in
    memory. With a second file the two are compared. Of a manifest of sizes every size is shown:
    the engine, or the ONNX file, before engines are built and with --fp16. Needs no GPU with
    TensorRT-RTX.
    """
    if other and (svg or detail == "kernels"):
        raise click.UsageError("--svg and --kernels take one FILE")
    if image_size and not is_sizes(file) and not (other and is_sizes(other)):
        raise click.UsageError(f"--image-size picks from a manifest of sizes; {file} is none")
    _claim(svg, file, force=force)
    read = functools.partial(_read, console, half=half, flavor=flavor)
    files = files_of(file, image_size, half=half)
    if len(files) > 1 and not (other or svg or detail):
        plans = {size: (path, *read(path, batch=batch)) for size, path in files.items()}
        _show_sizes(plans, gpus, as_json=as_json)
        console.again("--image-size", next(iter(files)), "--kernels", why="every kernel of a size")
        return
    file = one_file(file, image_size, half=half)
    first, stages = read(file, batch=batch)
    with naming(file):
        bounds = _bounds(first, gpus)
    if other:
        other = one_file(other, image_size, half=half)
        second, others = read(other, batch=first.batch)
        shared = {bound.gpu for bound in _bounds(second, gpus)}
        bounds = [bound for bound in bounds if bound.gpu in shared]
        sides = ((file.name, first, stages), (other.name, second, others))
        _compare(sides, bounds, detail, as_json=as_json)
        if detail != "blocks":
            console.again("--blocks", why="every part")
        return
    if svg:
        _draw(console, first, file.name, svg, force=force)
    with naming(file):
        if as_json:
            show_json(_to_json(first, bounds, stages))
        else:
            _note_stages(console, stages, detail)
            _show(first, bounds, detail)
    _suggest(console, first, file, half=half, detail=detail)


def _suggest(
    console: Console, first: KernelPlan, file: Path, *, half: bool, detail: str | None
) -> None:
    """Show the next step after the plan of one file."""
    fused = first.fused_attention == first.attention_blocks
    if not fused and first.half_byte_share < 0.5 and file.suffix == ".onnx" and not half:
        console.again("--fp16", why="attention fuses in half precision")
    elif detail != "kernels":
        console.again("--kernels", why="every kernel; --gpu H200: how fast a GPU allows")


def _show_sizes(
    plans: Mapping[str, tuple[Path, KernelPlan, list[StageLayout]]],
    gpus: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Show the plan of each size, after a line with the size and the file."""
    found = {}
    for size, (path, kernels, stages) in plans.items():
        with naming(path):
            bounds = _bounds(kernels, gpus)
            if as_json:
                found[size] = {"file": path.name} | _to_json(kernels, bounds, stages)
            else:
                show_line(f"{size} px: {path}")
                _show(kernels, bounds, None)
    if as_json:
        show_json({"sizes": found})


def _claim(svg: Path | None, source: Path, *, force: bool) -> None:
    """Fail early if the picture cannot be written."""
    if svg is not None:
        claim_outputs([picture_output(svg)], inputs=[source], force=force)
        require_ending(svg, PICTURE)


def _read(
    console: Console,
    file: Path,
    *,
    batch: int | None,
    half: bool,
    flavor: Literal["auto"] | Flavor,
) -> tuple[KernelPlan, list[StageLayout]]:
    """Return the plan of a file, and the layouts of its stages; none for another tool's file."""
    with console.step(f"Reading the plan of {file.name}") as step:
        from swin_deploy.artifacts.engine_file import planned_config, read_or_build_plan
        from swin_deploy.config.pads import pad_notes, stage_layouts

        options = default_options(resolve_flavor(flavor))
        kernels = read_or_build_plan(file, batch=batch, options=options, half=half, warn=step.warn)
        config = planned_config(file)
    for note in pad_notes(config) if config else ():
        console.note(f"  {note}")
    return kernels, list(stage_layouts(config)) if config else []


def _bounds(kernels: KernelPlan, gpus: tuple[str, ...]) -> list[Bound]:
    from exporters.plan.roofline import GPUS, bound_plan, can_run

    if gpus and not kernels.bytes_moved:
        raise BuildError("the plan has no kernels that move anything; build the engine again")
    capable = [name for name in GPU_NAMES if can_run(kernels, GPUS[name])]
    names = capable if "all" in gpus else dict.fromkeys(gpus)
    return [bound_plan(kernels, GPUS[name]) for name in names]


def _note_stages(console: Console, stages: list[StageLayout], detail: str | None) -> None:
    from swin_deploy.config.pads import layout_text

    for layout in stages if detail == "blocks" else ():
        console.note(f"  {layout_text(layout)}")


def _show(
    kernels: KernelPlan, bounds: list[Bound], detail: Literal["blocks", "kernels"] | None
) -> None:
    from exporters.plan.totals import require_blocks
    from swin_deploy.report import terminal

    timed = bounds if len(bounds) == 1 else []
    if detail:
        require_blocks(kernels)
        render = {"blocks": terminal.render_blocks, "kernels": terminal.render_launches}[detail]
        show_table(terminal.render_plan_figures(kernels))
        show_table(render(kernels, timed))
    else:
        show_table(terminal.render_plan(kernels))
    if bounds:
        show_table(terminal.render_bounds(bounds))


def _to_json(kernels: KernelPlan, bounds: list[Bound], stages: list[StageLayout]) -> dict[str, Any]:
    """Return a plan, its bounds and the layout of each stage as JSON values."""
    from swin_deploy.report.to_json import to_json

    shown = {"stages": [layout.to_dict() for layout in stages]}
    return {**to_json(kernels), **_roofline(kernels, bounds), **shown}


def _roofline(kernels: KernelPlan, bounds: list[Bound]) -> dict[str, Any]:
    """Return the bounds asked for, else those of every GPU, as JSON; none without blocks."""
    from swin_deploy.report.to_json import bound_to_dict

    everywhere = _bounds(kernels, ("all",)) if kernels.blocks else []
    return {"roofline": [bound_to_dict(bound) for bound in bounds or everywhere]}


def _compare(
    sides: tuple[Side, Side], bounds: list[Bound], detail: str | None, *, as_json: bool
) -> None:
    from exporters.plan.totals import require_blocks
    from swin_deploy.report.plan_tables import comparison_table, pair_table
    from swin_deploy.report.terminal import render_comparison
    from swin_deploy.report.to_json import pairs_to_dict

    (first, one, _), (second, two, _) = sides
    for name, kernels in ((first, one), (second, two)):
        with naming(Path(name)):
            require_blocks(kernels)
    if as_json:
        gpus = tuple(bound.gpu.name for bound in bounds)
        values = [
            {"file": name} | _to_json(kernels, _bounds(kernels, gpus), stages)
            for name, kernels, stages in sides
        ]
        show_json({"first": values[0], "second": values[1], "blocks": pairs_to_dict(one, two)})
        return
    parts = pair_table(one, two, count=None if detail else DIFFERING)
    figures = comparison_table(one, two, bounds), parts
    show_table(render_comparison((one, two), (first, second), figures))


def _draw(console: Console, kernels: KernelPlan, title: str, path: Path, *, force: bool) -> None:
    from exporters.artifact import write_atomic
    from exporters.outputs import claim, sign
    from exporters.plan.totals import require_blocks
    from swin_deploy.report.plan_svg import render_plan_svg

    require_blocks(kernels)
    claim([picture_output(path)], force=force)
    write_atomic(path, sign(render_plan_svg(kernels, title), PLAN))
    console.note(f"  wrote {path}")
