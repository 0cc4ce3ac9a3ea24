"""``swin-deploy evaluate``: accuracy on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import swin_deploy.cli.options as shared
from swin_deploy.artifacts.outputs import evaluation_outputs
from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console, announce, show_result
from swin_deploy.cli.inputs import require_data, requiring
from swin_deploy.cli.options import ModelRequest
from swin_deploy.cli.outputs import claim_outputs, force_option
from swin_deploy.cli.values import FILE
from swin_deploy.config import BUNDLED_IMAGES, DEFAULT_MODEL

if TYPE_CHECKING:
    from swin_deploy.checkpoints.load import LoadedModel
    from swin_deploy.images.labelled import LabelledImages
    from swin_deploy.runners import Way

DROPS = (0.1, 0.5, 1, 2, 5, 10)  # percentage points of top-1

EPILOG = """\b
Examples:
  swin-deploy evaluate --model notebook-digits --onnx engines/notebook-digits-fp16-opset17.onnx
  swin-deploy evaluate --checkpoint swin.pt --data val/ --onnx engines/swin-fp16-opset17.onnx
  swin-deploy evaluate --checkpoint swin.pt --data val.csv --limit 5000 --max-drop 0.5
  swin-deploy evaluate --checkpoint swin.pt --data val/ --runner torch --batch 64

\b
--data is a tree of class folders, or a CSV file of path,label rows. Names that
the checkpoint's own files (id2label, label_names) or --classes have go by these.
Else, as many folders as the model has classes: sorted order, as torchvision's
ImageFolder. Fewer: folders named by index, or ImageNet synsets.

\b
Exit status 1: a model loses accuracy: the whole interval of its difference to
the reference is below zero. With --max-drop instead: the interval's lower end is
below -POINTS, so that the images do not show that the drop is no larger. A model
that cannot run here is listed as not run; it does not count as passed.
Also 1: the reference is not better than guessing (the verdict is inconclusive).
"""


def points(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Convert percentage points, between 0 and 100, to a share; a click callback."""
    if value is None:
        return None
    if not 0 < value < 100:  # false for NaN too
        raise click.BadParameter(f"{value} is not in the range 0<x<100")
    return value / 100


@command(epilog=EPILOG)
@shared.model_options
@shared.onnx_option
@shared.engine_option
@shared.runners_option
@click.option(
    "--data",
    type=FILE,
    callback=requiring(require_data),
    metavar="DIR|CSV",
    help="Labelled images.  [default: those that ship with the model]",
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Images at most, spread over the classes."
)
@shared.batch_option(help="Images a call.")
@click.option(
    "--max-drop", type=float, callback=points, metavar="POINTS", help="Top-1 that may be lost."
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out and count damaged images.")
@click.option(
    "--output",
    type=FILE,
    metavar="DIR",
    help="Predictions and results; the same command goes on there.  [default: evaluation/<model>]",
)
@force_option
@shared.json_option
@click.pass_obj
def evaluate(
    console: Console,
    asked: ModelRequest,
    onnx_files: tuple[Path, ...],
    engine_files: tuple[Path, ...],
    runners: tuple[Way, ...],
    data: Path | None,
    limit: int | None,
    batch: int,
    max_drop: float | None,
    skip_unreadable: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure accuracy on labelled images: reference, deploy model, ONNX files, engines.

    Top-1 and top-5 of each with 95 % intervals, and the difference to the reference with the
    interval for pairs, from the images on which the two differ. Predictions are kept as they are
    made: after an interruption the same command goes on where it was.
    """
    shared.require_files(runners, onnx_files)
    inputs = (*asked.inputs(), data, *onnx_files, *engine_files)
    _claim(output, inputs, force=force)
    _require_data(asked, data)
    with console.loading("Loading PyTorch and the model"):
        from swin_deploy.candidates import read_made
        from swin_deploy.evaluate import run
        from swin_deploy.report.terminal import render_evaluation
        from swin_deploy.report.write import write_evaluation

        loaded = asked.load()
        images = _images(loaded, data, limit=limit, skip_unreadable=skip_unreadable)
        folder = output or Path("evaluation") / loaded.name
        _claim(folder, inputs, force=force)
        made = read_made(onnx_files, engine_files, runners)
    announce(console, loaded)
    console.note(f"  {images.description}; {images.order.rule}")
    _warn_too_few(console, len(images.paths), max_drop)
    settings = run.Settings(folder, batch, skip_unreadable, max_drop)
    try:
        with console.step("Evaluating") as step:
            evaluation = run.evaluate(
                loaded,
                made,
                images,
                settings=settings,
                progress=step.update,
                notice=lambda text: step.above(f"  {text}") if console.level else None,
            )
    except KeyboardInterrupt:
        console.note(f"  predictions so far are in {folder}; the same command goes on from there")
        raise
    for assumption in images.order.assumptions:
        console.warn(assumption.text)
    if evaluation.doubt:
        console.warn(evaluation.doubt)
    write_evaluation(evaluation, folder, force=force)
    show_result(evaluation, render_evaluation, as_json=as_json)
    console.note(f"  wrote {folder / 'evaluation.json'} and evaluation.md")
    if not onnx_files and not engine_files:
        why = "makes a file to judge with --onnx"
        console.next_step("export", *asked.words(), "--precision", "fp16", why=why)
    elif max_drop is None:
        _suggest_drop(console, evaluation.images)
    if not evaluation.passed:
        click.get_current_context().exit(CHECK_FAILED)


def _claim(folder: Path | None, inputs: tuple[Path | None, ...], *, force: bool) -> None:
    """Fail early if the results cannot be written; None for a folder not known yet."""
    if folder is not None:
        claim_outputs(evaluation_outputs(folder), inputs=inputs, force=force)


def _images(
    loaded: LoadedModel,
    data: Path | None,
    *,
    limit: int | None,
    skip_unreadable: bool,
) -> LabelledImages:
    """Read the labelled images of ``--data``, or those bundled with the model."""
    from swin_deploy.evaluate.run import require_logits
    from swin_deploy.images.labelled import read_images

    num_classes = require_logits(loaded)
    return read_images(
        data or _bundled_images(loaded.name),
        num_classes=num_classes,
        known=loaded.class_names,
        limit=limit,
        skip_unreadable=skip_unreadable,
    )


def _require_data(asked: ModelRequest, data: Path | None) -> None:
    """Fail early if no images are bundled; for a checkpoint this is checked after loading."""
    if data is None and asked.checkpoint is None:
        _bundled_images(DEFAULT_MODEL if asked.model is None else asked.model)


def _bundled_images(name: str) -> Path:
    """Return the folder of images that ships with a model; a ``UsageError`` if there is none."""
    if name not in BUNDLED_IMAGES:
        raise click.UsageError(
            f"no images ship with {name}; give --data a folder of class folders, or a CSV"
        )
    return BUNDLED_IMAGES[name]


def _suggest_drop(console: Console, images: int) -> None:
    """Suggest --max-drop with the smallest drop that this number of images can rule out."""
    from swin_deploy.intervals import images_to_show

    shown = [points for points in DROPS if images_to_show(points / 100) <= images]
    if shown:
        why = "asks for proof that no more points are lost"
        console.again("--max-drop", shown[0], why=why)


def _warn_too_few(console: Console, images: int, max_drop: float | None) -> None:
    """Warn before the work if too few images are given for --max-drop to pass."""
    from swin_deploy.intervals import images_to_show

    enough = images_to_show(max_drop) if max_drop else 0
    if images < enough:
        console.warn(
            f"{images:,} images cannot pass --max-drop {100 * (max_drop or 0):g}: even with equal "
            f"answers that takes {enough:,}"
        )
