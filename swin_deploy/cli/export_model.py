"""``swin-deploy export-model``: a whole model around the deploy model to an ONNX file."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporters.errors import ExportError
from exporters.spec import OPSET_RANGE, Runtime
from swin_deploy.artifacts.newest import ENGINES
from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console, show_json, show_line, show_table
from swin_deploy.cli.options import json_option, runtime_option
from swin_deploy.cli.outputs import ONNX, claim_artifacts, force_option, require_ending
from swin_deploy.cli.values import FILE, IMAGE_SIZE, each_once, fixed_or_dynamic, require_apart
from swin_deploy.config import MOST_SIDE, Size
from swin_deploy.config.sizes import rounded_note, rounded_up

if TYPE_CHECKING:
    from swin_deploy.swap.replace import Swap
    from swin_deploy.swap.whole_onnx import WholeOnnx

LEAST_OPSET = 18  # PyTorch's own; models of other people have operators without a form at 17
EPILOG = """\b
Examples:
  swin-deploy export-model upernet/ --image-size 512
  swin-deploy export-model my_project.models:build --image-size 800x1344 --batch 1
  swin-deploy export-model birefnet:build --image-size 1024 --image-size 512
"""


def _source(_: click.Context, __: click.Parameter, value: str) -> str:
    """Check that a source is a folder, or reads as MODULE:FACTORY; a click callback."""
    module, colon, name = value.partition(":")
    words = [*module.split("."), *name.split(".")]
    is_function = colon and words[-2:-1] != ["py"] and all(word.isidentifier() for word in words)
    if os.path.isdir(value) or is_function:
        return value
    if colon and module.endswith(".py"):
        plain = module.removesuffix(".py").replace(os.sep, ".")
        raise click.BadParameter(f"{module!r} is a file; name its module: {plain}:{name}")
    raise click.BadParameter(
        f"{value!r} is neither MODULE:FACTORY, a function in a module such as my_models:build, nor "
        "a folder that transformers has saved"
    )


@command("export-model", epilog=EPILOG)
@click.argument("source", metavar="MODULE:FACTORY|FOLDER", callback=_source)
@click.option(
    "--image-size",
    "sizes",
    type=IMAGE_SIZE,
    multiple=True,
    required=True,
    callback=each_once,
    help="Image side in pixels, or rows and columns; again for each further size that the model "
    "gives its Swin.",
)
@click.option(
    "--pad-to",
    metavar="N",
    type=click.IntRange(1, MOST_SIDE),
    help="Round both sides of every size up to a multiple of N pixels, as detectors pad (32).",
)
@click.option("--where", metavar="PATH", help="The Swin in the model, where there are several.")
@runtime_option
@click.option(
    "--opset",
    type=click.IntRange(LEAST_OPSET, OPSET_RANGE[1]),
    default=LEAST_OPSET,
    show_default=True,
    help="ONNX operator set.",
)
@click.option(
    "--batch",
    metavar="dynamic|N",
    callback=fixed_or_dynamic,
    default="dynamic",
    show_default=True,
    help="Images a call: any number where the model allows it, or exactly N.",
)
@click.option("--output", type=FILE, help="File to write; engines/<name>-swapped.onnx by default.")
@click.option(
    "--original", type=FILE, help="Write the unmodified model too, for swin-deploy plan beside it."
)
@force_option
@json_option
@click.pass_obj
def export_model(
    console: Console,
    source: str,
    sizes: tuple[int | Size, ...],
    pad_to: int | None,
    where: str | None,
    runtime: Runtime,
    opset: int,
    batch: int | None,
    output: Path | None,
    original: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export a whole model, with the Swin inside it replaced by the deploy model.

    MODULE:FACTORY is a function of yours without arguments that returns a torch.nn.Module: its
    module is imported, from the current folder first, and its code is run. A FOLDER is one that
    transformers has saved. The model takes images alone. Its outputs are compared with those of the
    unmodified model, in PyTorch and in ONNX Runtime; the file is written if they are equal.
    """
    require_apart(sizes, pad_to)
    if pad_to is not None:
        for size in sizes:
            console.note(f"  {rounded_note(size, pad_to)}")
        sizes = tuple(rounded_up(size, pad_to) for size in sizes)
    laid_out = f"-{runtime}" if runtime == "cpu" else ""
    path = output or ENGINES / f"{_name(source)}-swapped{laid_out}.onnx"
    inputs = [Path(source)] if os.path.isdir(source) else []
    _claim(path, original, inputs=inputs, force=force)
    if not inputs:
        console.note(f"  runs the code of {source.partition(':')[0]}")
    with console.loading("Loading PyTorch and the model"), _prints_aside():
        from swin_deploy.swap.users_model import model_of

        model = model_of(source)
    with console.step("Replacing the Swin, and comparing"), _prints_aside():
        from swin_deploy.swap.replace import swap_swin

        swap = swap_swin(model, tuple(map(Size.of, sizes)), where=where, runtime=runtime)
    _announce(console, swap)
    whole: WholeOnnx | None = None
    if swap.passed:
        with console.step(f"Exporting ONNX, opset {opset}, and comparing"), _prints_aside():
            from swin_deploy.swap.whole_onnx import export_whole

            whole = export_whole(model, swap, opset=opset, batch=batch)
            _mark(whole, runtime)
    _end(console, swap, whole, path=path, force=force, as_json=as_json)
    beside = [path]
    if original is not None and whole is not None:
        with console.step("Exporting the unmodified model") as step, _prints_aside():
            reason = _write_original(
                model, swap, original, opset=opset, batch=whole.batch, force=force
            )
            if reason:
                step.warn(f"{original} is not written: the unmodified model fails: {reason}")
            else:
                beside.append(original)
    if runtime != "cpu":
        console.next_step("plan", *beside, "--fp16", why="the kernels that TensorRT would launch")


def _mark(whole: WholeOnnx, runtime: Runtime) -> None:
    """Write into a file for which runtimes it is laid out."""
    from onnx import helper

    from swin_deploy.artifacts.onnx_file import FOR

    helper.set_model_props(whole.graph, {FOR: runtime})


def _prints_aside() -> contextlib.redirect_stdout[Any]:
    """Send what the user's code prints to standard error: standard output has results only."""
    return contextlib.redirect_stdout(sys.stderr)


def _claim(path: Path, original: Path | None, *, inputs: list[Path], force: bool) -> None:
    """Fail early if a file cannot be written."""
    paths = [path] if original is None else [path, original]
    claim_artifacts(paths, inputs=inputs, force=force)
    for one in paths:
        require_ending(one, ONNX)


def _write_original(
    model: Any,  # noqa: ANN401 - a module; torch is not imported for --help
    swap: Swap,
    path: Path,
    *,
    opset: int,
    batch: int | None,
    force: bool,
) -> str:
    """Write the unmodified model; return why PyTorch cannot export it, empty if it can."""
    from swin_deploy.artifacts.onnx_file import OnnxFile, write_graph
    from swin_deploy.swap.whole_onnx import export_original

    try:
        graph = export_original(model, swap, opset=opset, batch=batch)
    except ExportError as err:
        return str(err)
    write_graph(OnnxFile(path, graph), force=force)
    return ""


def _name(source: str) -> str:
    """Return the name of a folder, or the module and function of a factory."""
    if os.path.isdir(source):
        return Path(source).resolve().name or "model"
    return source.replace(":", "-")


def _announce(console: Console, swap: Swap) -> None:
    sizes = ", ".join(size.sides for size in swap.sizes)
    console.note(f"  {swap.replaced} of {swap.library} at {swap.where or 'the top'}, {sizes}")
    for note in swap.notes:
        console.note(f"  {note}")
    for assumption in swap.assumptions:
        console.warn(assumption.text)


def _end(
    console: Console,
    swap: Swap,
    whole: WholeOnnx | None,
    *,
    path: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the file if everything is equal, and show the comparison; else fail."""
    from swin_deploy.report.swaps import errors_to_json, render_errors

    errors = (*swap.errors, *(whole.errors if whole else ()))
    manifest: dict[str, Any] = {}
    if whole is not None and whole.passed:
        manifest = _written(whole, path, force=force)
    for note in whole.notes if whole else ():
        console.warn(note)
    facts = {
        "path": str(path) if manifest else None,
        "where": swap.where,
        "replaced": swap.replaced,
        "library": swap.library,
        "sizes": [list(size) for size in swap.sizes],
        "passed": bool(manifest),
        "errors": errors_to_json(errors),
    }
    if as_json:
        show_json(manifest | facts)
    else:
        show_table(render_errors(errors))
    if not manifest:
        console.warn("an output differs from the unmodified model's: no file is written")
        raise click.exceptions.Exit(CHECK_FAILED)
    if not as_json:
        show_line(
            f"{path}: {manifest['nodes']} nodes, opset {manifest['opset']}, batch "
            f"{manifest['batch']}, {manifest['bytes'] / 1e6:.1f} MB"
        )


def _written(whole: WholeOnnx, path: Path, *, force: bool) -> dict[str, Any]:
    from swin_deploy.artifacts.onnx_file import OnnxFile, write_graph

    return write_graph(OnnxFile(path, whole.graph), force=force).manifest or {}
