"""Run every model on the same labelled images, keeping each prediction as it is made."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from exporters import __version__
from exporters.errors import ComparisonError, ConfigError, FileError, MissingBackendError
from exporters.progress import Progress, Tell, silent
from exporters.spec import Stage
from swin_deploy.artifacts.facts import facts_of, versions
from swin_deploy.candidates import Made, candidates
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config.memory import require_memory
from swin_deploy.evaluate.accuracy import LISTED, BackendAccuracy, Evaluation, score_answers
from swin_deploy.evaluate.predictions import TOP, Answer, Predictions
from swin_deploy.images.batches import stream_batches
from swin_deploy.images.chance import chance_doubt
from swin_deploy.images.labelled import LabelledImages
from swin_deploy.runners import Runner, TorchRunner
from swin_deploy.runners.base import run_images

# Facts that do not affect predictions.
UNUSED: dict[str, object] = {"model": "", "class_names": [], "class_names_source": ""}


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation.

    Attributes:
        folder: Folder in which predictions are kept.
        batch: Number of images in a call, clipped to what a model takes.
        skip_unreadable: True to skip images that cannot be read, and count them.
        max_drop: Allowed drop of top-1 accuracy, as ``Evaluation.max_drop``.
    """

    folder: Path
    batch: int = 32
    skip_unreadable: bool = False
    max_drop: float | None = None


@dataclass
class _Backend:
    """One model being evaluated.

    Attributes:
        stage: Kind of model.
        file: File name of the artefact, or empty.
        runner: The runner, open unless it cannot run here.
        digest: SHA-256 of the artefact; empty for a module.
        way: Way that it is run in, if it was asked for, or empty.
        predictions: Its predictions, open; None if it cannot run here.
        not_run: Reason why it cannot run here; empty if it can.
    """

    stage: Literal["reference"] | Stage
    file: str
    runner: Runner
    digest: str = ""
    way: str = ""
    predictions: Predictions | None = None
    not_run: str = ""


def require_logits(loaded: LoadedModel) -> int:
    """Return the number of classes of a model that gives class logits.

    Raises:
        ConfigError: If the model gives something else, or several classes may be right at once.
    """
    if "logits" not in loaded.config.output_names or loaded.config.num_classes < 1:
        raise ConfigError(
            f"{loaded.name} gives {', '.join(loaded.config.output_names)}, accuracy needs class "
            "logits; give a checkpoint with a classifier, and no --outputs but logits"
        )
    if loaded.scores != "softmax":
        raise ConfigError(
            f"the classes of {loaded.name} have {loaded.scores} scores: any number of them may be "
            "right at once, and accuracy needs one right class a picture; compare it with parity, "
            "or give --scores softmax if one class is right"
        )
    return loaded.config.num_classes


def evaluate(
    loaded: LoadedModel,
    made: Made,
    images: LabelledImages,
    *,
    settings: Settings,
    progress: Progress = silent,
    notice: Tell = silent,
) -> Evaluation:
    """Measure top-1 and top-5 accuracy of the reference, the deploy model and each file.

    Predictions that ``settings.folder`` has from an earlier run of the same images, weights,
    file, device and versions are reused.

    Args:
        loaded: The model, which must give class logits.
        made: Files made from it, and further ways to run them and the deploy model.
        images: The labelled images.
        settings: Settings of the evaluation.
        progress: Function that is told the progress after each batch.
        notice: Function that is told, once for each model, how many predictions are reused, or
            what has changed since the last run.

    Raises:
        ComparisonError: If a file was not made from this model, or gives other outputs.
        ConfigError: If the model gives no class logits.
        FileError: If an image cannot be read and is not to be skipped, if no image can be read, or
            if predictions cannot be kept.
        DeployError: If a file cannot be used.
    """
    require_logits(loaded)
    with contextlib.ExitStack() as stack:
        backends = list(_opened(stack, loaded, made, images, settings, notice))
        _run_all(loaded, backends, images, settings=settings, progress=progress)
    return _evaluation(loaded, backends, images, settings)


def _opened(
    stack: contextlib.ExitStack,
    loaded: LoadedModel,
    made: Made,
    images: LabelledImages,
    settings: Settings,
    notice: Tell,
) -> Iterator[_Backend]:
    """Open each model with its predictions so far, and yield them, the reference first."""
    torch_runner = TorchRunner("PyTorch reference", loaded.reference)
    found = [_Backend("reference", "", torch_runner)]
    for one in candidates(loaded, made):
        digest = one.source.sha256 if one.source else ""
        found.append(_Backend(one.stage, one.file, one.runner, digest, one.way or ""))
    facts = json.dumps(facts_of(loaded).to_dict() | UNUSED)
    for backend in found:
        runner = backend.runner
        try:
            stack.enter_context(runner)
        except MissingBackendError as err:
            backend.not_run = str(err)
            yield backend
            continue
        key = {
            "images": images.fingerprint,
            "model": hashlib.sha256(facts.encode()).hexdigest(),
            "file": backend.digest,
            "runs on": runner.backend,
            "versions": f"swin-deploy {__version__}, Pillow {PIL.__version__}",
        }
        name = backend.file or f"{backend.stage}-{runner.precision}"
        name = f"{name}-{backend.way}" if backend.way else name
        backend.predictions = stack.enter_context(Predictions(settings.folder, name, key))
        _tell_taken_over(backend.predictions, runner.name, len(images.paths), notice)
        yield backend


def _tell_taken_over(found: Predictions, name: str, total: int, notice: Tell) -> None:
    if found.answers:
        notice(f"{name}: takes over {len(found.answers):,} of {total:,} images")
    elif found.changed:
        notice(f"{name}: starts anew, changed since the last run: {', '.join(found.changed)}")


def _run_all(
    loaded: LoadedModel,
    backends: Sequence[_Backend],
    images: LabelledImages,
    *,
    settings: Settings,
    progress: Progress,
) -> None:
    """Answer the images that are not answered yet; decode each one once for all models."""
    running = [(one, one.predictions) for one in backends if one.predictions is not None]
    missing = [
        path for path in images.paths if any(path not in kept.answers for _, kept in running)
    ]
    # A model whose smallest batch is larger would run images twice.
    batch = max(settings.batch, *(one.runner.min_batch for one, _ in running))
    require_memory(loaded.config, batch=min(batch, max(1, len(missing))))
    done, started = len(images.paths) - len(missing), time.monotonic()
    stream = stream_batches(images.root, missing, loaded.preprocessing, batch=batch)
    with contextlib.closing(stream):
        for index, decoded in enumerate(stream):
            readable = dict(_readable(decoded, skip=settings.skip_unreadable))
            for backend, kept in running:
                _answer(backend, kept, readable, loaded=loaded)
            new = min((index + 1) * batch, len(missing))
            elapsed_s = time.monotonic() - started
            share = (done + new) / len(images.paths)
            progress(progress_text(done + new, len(images.paths), new, elapsed_s), share)


def _readable(
    decoded: Iterable[tuple[str, NDArray[np.float32] | FileError]], *, skip: bool
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for path, image in decoded:
        if not isinstance(image, FileError):
            yield path, image
        elif not skip:
            raise FileError(f"{image}, or leave it out with --skip-unreadable")


def progress_text(done: int, total: int, new: int, elapsed_s: float) -> str:
    """Describe the progress: images answered, images per second, and time left at that rate.

    Args:
        done: Number of images answered, with those of earlier runs.
        total: Number of images in all.
        new: Number of images answered in this run, at least one.
        elapsed_s: Seconds since the run began.
    """
    rate = new / max(elapsed_s, 1e-9)
    left = datetime.timedelta(seconds=round((total - done) / rate))
    return f"{done:,} of {total:,} images, {rate:,.1f} images/s, {left} left"


def _answer(
    backend: _Backend,
    kept: Predictions,
    images: dict[str, NDArray[np.float32]],
    *,
    loaded: LoadedModel,
) -> None:
    """Run one model on those of the images that it has not answered, if it can run here."""
    paths = [path for path in images if path not in kept.answers]
    if not paths or backend.not_run:
        return
    try:
        logits = _logits(backend.runner, np.stack([images[path] for path in paths]), loaded)
    except MissingBackendError as err:  # some GPUs and files are refused at the first call
        backend.predictions, backend.not_run = None, str(err)
        return
    kept.add(dict(zip(paths, top_classes(logits), strict=True)))


def _logits(
    runner: Runner, images: NDArray[np.float32], loaded: LoadedModel
) -> NDArray[np.float32]:
    """Run images [n, in_channels, H, W] and return their class logits, [n, num_classes]."""
    names, outputs = loaded.config.output_names, run_images(runner, images)
    shapes = [list(one.shape) for one in outputs]
    where = names.index("logits")
    wanted = [len(images), loaded.config.num_classes]
    if len(outputs) != len(names) or shapes[where] != wanted:
        raise ComparisonError(
            f"{runner.name} gives outputs of shapes {shapes}, expected {', '.join(names)} with "
            f"logits of shape {wanted}; use a file made from this model"
        )
    return outputs[where]


def top_classes(logits: NDArray[np.float32]) -> list[Answer]:
    """Return the five best classes of each row, or all if there are fewer; best first.

    Classes of equal logits are in the order of their indices. A row with a NaN or an infinity has
    an empty answer.

    Args:
        logits: Logits, [n, num_classes].
    """
    best = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    finite = [bool(np.isfinite(row).all()) for row in logits]
    return [tuple(row) if good else () for row, good in zip(best.tolist(), finite, strict=True)]


def _evaluation(
    loaded: LoadedModel,
    backends: Sequence[_Backend],
    images: LabelledImages,
    settings: Settings,
) -> Evaluation:
    """Make the evaluation from the images that every model that ran has answered."""
    kept = [one.predictions.answers for one in backends if one.predictions is not None]
    labelled = dict(zip(images.paths, images.labels, strict=True))
    paths = [path for path in images.paths if all(path in answers for answers in kept)]
    if not paths:
        raise FileError(f"none of {images.description} can be read; check the data")
    labels = [labelled[path] for path in paths]
    expected = [kept[0][path] for path in paths]
    results = [_result(one, paths, expected, labels, loaded.config.num_classes) for one in backends]
    candidates = tuple(replace(one, max_drop=settings.max_drop) for one in results[1:])
    return Evaluation(
        model=loaded.name,
        weights=loaded.weights,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        data=images.description,
        classes=images.order.rule,
        images=len(paths),
        skipped=len(images.paths) - len(paths),
        num_classes=loaded.config.num_classes,
        max_drop=settings.max_drop,
        reference=results[0],
        candidates=candidates,
        doubt=_doubt(loaded, images, results[0]),
        assumptions=(*loaded.assumptions, *images.order.assumptions),
        conditions={
            "images": f"{images.fingerprint[:16]}... (SHA-256 of paths, sizes and times)",
            "image size": loaded.config.image_text,
            "batch": str(settings.batch),
            "machine": platform.platform(),
            "pillow": PIL.__version__,
            **versions(),
        },
    )


def _result(
    backend: _Backend,
    paths: Sequence[str],
    expected: Sequence[Answer],
    labels: Sequence[int],
    num_classes: int,
) -> BackendAccuracy:
    runner = backend.runner
    facts = (runner.name, backend.stage, runner.precision, backend.file, runner.backend)
    if backend.predictions is None:
        return BackendAccuracy(*facts, not_run=backend.not_run)
    answers = [backend.predictions.answers[path] for path in paths]
    lost = [
        path
        for path, ours, theirs, label in zip(paths, answers, expected, labels, strict=True)
        if theirs[:1] == (label,) != ours[:1]
    ]
    return BackendAccuracy(
        *facts,
        top1=score_answers(answers, expected, labels, top=1),
        top5=score_answers(answers, expected, labels, top=TOP) if num_classes > TOP else None,
        agreed=sum(
            bool(ours) and ours[:1] == theirs[:1]
            for ours, theirs in zip(answers, expected, strict=True)
        ),
        not_finite=sum(not ours for ours in answers),
        lost_images=tuple(lost[:LISTED]),
    )


def _doubt(loaded: LoadedModel, images: LabelledImages, reference: BackendAccuracy) -> str:
    """Return the reason to doubt the accuracies; empty if the reference beats guessing."""
    score = reference.top1
    if score is None:
        return ""
    return chance_doubt(
        score.right,
        score.images,
        num_classes=loaded.config.num_classes,
        order=images.order,
        known=loaded.class_names,
    )
