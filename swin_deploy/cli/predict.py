"""``swin-deploy predict``: the classes or features of pictures."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import swin_deploy.cli.options as shared
from exporters.errors import ConfigError, FileError
from exporters.text_files import LISTED, listed, visible
from swin_deploy.artifacts.outputs import features_output, table_outputs
from swin_deploy.cli.bulk import BulkRequest, BulkRun, bulk_options
from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console, show_line, show_text
from swin_deploy.cli.options import ModelRequest
from swin_deploy.cli.outputs import claim_outputs, force_option
from swin_deploy.cli.values import FILE, finite

if TYPE_CHECKING:
    from swin_deploy.images.scores import Scores
    from swin_deploy.predict.conditions import Described
    from swin_deploy.predict.pictures import NamedPicture, Pictures
    from swin_deploy.predict.predictor import Prediction, Predictor, Scored
    from swin_deploy.runners import Way

MOST_CLASSES = 1000
TABLE_CLASSES, TABLE_TAGS = 5, 50  # columns of a table: one class is right, or any number

EPILOG = """\b
Examples:
  swin-deploy predict notebook-digits digit.png
  swin-deploy predict engines/swin-fp16-opset17.onnx cat.jpg dog.jpg --top 3
  swin-deploy predict engines/swin-fp16-opset17.engine photos/ --csv predictions.csv
  swin-deploy predict engines/swin-fp16-opset17-sizes.json photos/ --json
  swin-deploy predict swin.pt photos/ --features features.npz
  swin-deploy predict swin.onnx photos/ --parquet answers/
  swin-deploy predict swin.engine train-*.parquet --parquet answers/ --ray auto
  swin-deploy predict swin.pt photos/ --runner torch --csv predictions.csv
  swin-deploy predict wd-swinv2-tagger-v3/ photo.jpg --threshold 0.5
  curl -s https://example.com/cat.jpg | swin-deploy predict swin.onnx - --json

\b
An ONNX file or engine carries its preprocessing and class names; only a
checkpoint takes the options that decide how it is loaded.
Of a manifest of sizes a picture gets the size of the nearest ratio of rows to
columns: the smallest that holds it, else the largest; or that of --image-size.
--csv and --parquet go on where an earlier run of the same command stopped.
--json prints one object a picture, a line each.

\b
Exit status: 0 done, 1 some pictures could not be read (each is a row, or a
warning), 2 wrong usage, 3 could not run.
"""


@command(epilog=EPILOG)
@click.argument("artifact", metavar="ARTIFACT", type=FILE, shell_complete=shared.complete_artifacts)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@shared.checkpoint_options
@shared.runner_option
@click.option(
    "--top",
    type=click.IntRange(1, MOST_CLASSES),
    help="Classes to name, the most probable first.  [default: 5; all that reach the threshold "
    "where any number is right, 50 in a table]",
)
@click.option(
    "--threshold",
    type=float,
    callback=finite,
    help="Least score of a class to be named.  [default: 0.35 where any number is right]",
)
@shared.batch_option(help="Pictures a call.")
@click.option("--csv", "table", type=FILE, metavar="FILE", help="Write the answers as a table.")
@click.option(
    "--features",
    type=FILE,
    metavar="FILE.npz",
    help="Write the model's outputs: pooled features, stages or tokens, see --outputs.",
)
@bulk_options
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
@click.pass_obj
def predict(
    console: Console,
    artifact: Path,
    images: tuple[str, ...],
    asked: ModelRequest,
    runner: Way | None,
    top: int | None,
    threshold: float | None,
    batch: int,
    table: Path | None,
    features: Path | None,
    bulk: BulkRequest,
    force: bool,
    as_json: bool,
) -> None:
    """Say what is in pictures: an ONNX file, an engine or a checkpoint, and its own preprocessing.

    IMAGE is an image file, a folder, which is searched with its subfolders, or - for one picture
    on standard input; with --parquet, a folder of images or of Parquet files, or such a file.
    """
    from swin_deploy.predict.forms import form_of
    from swin_deploy.predict.pictures import find_pictures

    _require_usage(images, outputs=(table, features, bulk.parquet))
    form = form_of(artifact)
    inputs = [artifact, *asked.inputs(), *map(Path, images)]
    load = functools.partial(
        _open, artifact, asked, top=top, threshold=threshold, batch=batch, runner=runner
    )
    if bulk.parquet:
        in_bulk = BulkRun(console, bulk, bulk.parquet, _announce, force)
        _end(in_bulk.run(images, load, as_json=as_json))
        return
    if table:
        claim_outputs(table_outputs(table), inputs=inputs, force=force)
    if features:
        claim_outputs([features_output(features)], inputs=inputs, force=force)
    pictures = find_pictures(images, sys.stdin.buffer)
    with console.step("Loading the model"):
        from swin_deploy.predict.conditions import described

        predictor = load()
        if features and predictor.classifies and form == "checkpoint" and asked.outputs is None:
            predictor.close()
            predictor = load(output="features")
    with predictor:
        _require_answers(predictor, table=table, features=features)
        _announce(console, described(predictor))
        run = _Run(console, predictor, pictures)
        if table:
            several = predictor.facts.scores == "sigmoid"
            columns = top or (TABLE_TAGS if several else TABLE_CLASSES)
            run.to_table(table, columns, force=force)
        elif features:
            run.to_features(features, force=force)
        else:
            run.print(as_json=as_json)
    run.conclude(table or features, as_json=as_json)
    _end(run.failed)


def _require_usage(images: Sequence[str], *, outputs: Sequence[Path | None]) -> None:
    """Refuse several outputs, and an image without a name; raises ``UsageError``."""
    if sum(one is not None for one in outputs) > 1:
        raise click.UsageError("give one of --csv, --features and --parquet")
    if "" in images:  # as an unset variable gives it: it would be the current folder
        raise click.UsageError("an IMAGE is an empty text; give its path")


def _open(artifact: Path, asked: ModelRequest, **options: Any) -> Predictor:  # noqa: ANN401
    """Open the model; PyTorch is imported here, also in another process."""
    from swin_deploy.predict.predictor import Predictor

    return Predictor(artifact, **{**asked.options(), **options})


def _end(failed: int) -> None:
    """End with a status of its own if pictures have no answer."""
    if failed:
        click.get_current_context().exit(CHECK_FAILED)


def _require_answers(predictor: Predictor, *, table: Path | None, features: Path | None) -> None:
    """Refuse --features for a classifier, and anything else for a model without classes."""
    outputs = ", ".join(predictor.facts.config.output_names)
    if features and predictor.classifies:
        raise ConfigError(
            f"{predictor.name} gives {outputs}; give a checkpoint, or a file exported with "
            "--outputs features"
        )
    if not features and not predictor.classifies:
        raise ConfigError(
            f"{predictor.name} gives {outputs}, no classes; write them with --features FILE.npz"
        )


def _announce(console: Console, model: Described) -> None:
    """Show the model, its runner, weights, notes and assumptions."""
    facts = model.facts
    sizes = ", ".join(map(str, model.sizes))
    text = f"{sizes} px" if sizes else facts.config.image_text
    console.note(f"  {model.name}, {text}; {model.backend}")
    console.note(f"  {facts.weights}")
    notes = model.notes
    for size, steps in model.sizes.items():
        console.note(f"  {size} px: {steps.text}")
    if not model.sizes and not any(facts.preprocessing.text in note for note in notes):
        notes = (facts.preprocessing.text, *notes)
    for note in notes:
        console.note(f"  {note}")
    if model.classifies and model.threshold is not None:
        console.note(
            f"  {facts.scores} of each class, those of at least {model.threshold:g} (--threshold)"
        )
    for assumption in facts.assumptions:
        console.warn(assumption.text)
    if not facts.checkpoint_sha256:
        console.warn("the weights are random: the answers mean nothing")
    if model.classifies and not facts.class_names:
        console.warn("the classes have no names, so their indices are shown; --classes FILE names")


class _Run:
    """One run over all pictures: to a table, to features or to the terminal, with warnings."""

    def __init__(self, console: Console, predictor: Predictor, pictures: Pictures) -> None:
        self.failed = 0
        self._error = ""  # the last one
        self._console = console
        self._predictor = predictor
        self._pictures = pictures
        self._odd: dict[str, list[str]] = defaultdict(list)

    def to_table(self, path: Path, top: int, *, force: bool) -> None:
        """Write a CSV file, or continue one of an earlier run."""
        from swin_deploy.predict.conditions import described
        from swin_deploy.predict.table import PredictionTable

        key, score = described(self._predictor).conditions, self._score
        sized = bool(self._predictor.sizes)
        with PredictionTable(path, key, top=top, score=score, sized=sized, force=force) as rows:
            missing = [one for one in self._pictures if one.name not in rows.done]
            taken_over = len(self._pictures) - len(missing)
            if taken_over:
                self._console.note(f"  {path} has {taken_over:,} of them already")
            if rows.dropped:
                self._console.note(
                    f"  {rows.dropped:,} rows are made again: the picture changed, was not read, "
                    "or came in by standard input"
                )
            self._with_progress(missing, rows.add)

    def to_features(self, path: Path, *, force: bool) -> None:
        """Write an NPZ file."""
        from swin_deploy.predict.features import FeatureFile

        with FeatureFile(path, self._pictures.names) as outputs:
            self._with_progress(list(self._pictures), outputs.add)
            self._require_answer()
            claim_outputs([features_output(path)], inputs=(), force=force)
            outputs.finish()

    def print(self, *, as_json: bool) -> None:
        """Print each answer as it comes."""
        for answer in self._answers(self._pictures):
            if as_json or not answer.error:
                show_text(self._json_line(answer) if as_json else self._text(answer))

    @property
    def _score(self) -> str:
        """Name of a class's score."""
        return "logit" if self._predictor.facts.scores == "none" else "probability"

    def _json_line(self, answer: Prediction) -> str:
        """Return an answer as one line of JSON."""
        top = [
            {"class": one.name, "index": one.index, self._score: one.probability}
            for one in answer.top
        ]
        told = {"error": answer.error} if answer.error else {"top": top}
        size = {"image_size": answer.size.plain} if answer.size else {}
        return json.dumps({"image": answer.image, **size, **told})

    def _text(self, answer: Prediction) -> str:
        """Return a picture's name and its classes with their scores, a line each."""
        lines = [_line(one, self._predictor.facts.scores) for one in answer.top]
        if not lines:
            lines = [f"  none reaches {self._predictor.threshold:g}"]
        size = f", at {answer.size} px" if answer.size else ""
        return "\n".join(map(visible, (answer.image + size, *lines)))

    def _with_progress(
        self, pictures: list[NamedPicture], add: Callable[[Prediction], None]
    ) -> None:
        started, total = time.monotonic(), len(pictures)
        with self._console.step("Predicting") as step:
            for done, answer in enumerate(self._answers(pictures), 1):
                add(answer)
                rate = done / max(time.monotonic() - started, 1e-9)
                step.update(f"{done:,} of {total:,} pictures, {rate:,.1f}/s", done / total)

    def _answers(self, pictures: Iterable[NamedPicture]) -> Iterator[Prediction]:
        tell = self._keep
        for answer in self._predictor.stream(pictures, tell=tell):
            if answer.error:
                self.failed += 1
                self._error = answer.error
                if self.failed <= LISTED and len(self._pictures) > 1:
                    self._console.warn(answer.error)
            yield answer

    def _keep(self, name: str, what: str) -> None:
        self._odd[what].append(name)

    def _require_answer(self) -> None:
        total = len(self._pictures)
        if self.failed == total:
            several = f"none of the {total:,} pictures has an answer; the last: "
            raise FileError(self._error if total == 1 else several + self._error)

    def conclude(self, path: Path | None, *, as_json: bool) -> None:
        """Show what was written, warn of pictures without an answer and of odd ones.

        Raises:
            FileError: If no picture has an answer.
        """
        for what, names in self._odd.items():
            self._console.warn(f"{what}: {listed(names)}")
        self._require_answer()
        total = len(self._pictures)
        if self.failed > LISTED:
            self._console.warn(f"{self.failed:,} of {total:,} pictures have no answer")
        if path is None:
            if self._pictures.names == ("-",):
                return
            self._console.again("--csv", "predictions.csv", why="the same as a table")
            return
        counts = {"file": str(path), "pictures": total, "failed": self.failed}
        if as_json:
            show_text(json.dumps(counts))
        else:
            pictures = "picture" if total == 1 else "pictures"
            show_line(f"{path}: {total:,} {pictures}, {self.failed:,} without an answer")


def _line(one: Scored, scores: Scores) -> str:
    if scores == "none":
        return f"{one.probability:9.3f}  {one.label}"
    return f"{100 * one.probability:7.1f} %  {one.label}"
