"""Make a report of a run, or read the one in a folder to add to it."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

from exporters.artifact import ensure_writable
from exporters.errors import FileError
from exporters.text_files import listed
from swin_deploy.artifacts.facts import versions
from swin_deploy.bench import BenchReport
from swin_deploy.candidates import Made
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import SwinConfig, channels_text
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import ParityReport
from swin_deploy.report.from_json import read_report
from swin_deploy.report.results import Artifact, Report


def make_report(
    loaded: LoadedModel,
    made: Made,
    *,
    parity: ParityReport | None,
    bench: BenchReport | None,
    images: Sequence[ImageSet] = (),
) -> Report:
    """One report of what was found; the plan is that of the last engine made."""
    described = [one.manifest for one in made.onnx if one.manifest is not None]
    files = [*described, *(one.values for one in made.engines)]
    return Report(
        model=loaded.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        parity=parity,
        bench=bench,
        plan=made.engines[-1].plan if made.engines else None,
        artifacts=tuple(
            Artifact(entry.get("kind", "other"), entry["file"], entry["bytes"], entry["sha256"])
            for entry in files
        ),
        conditions={
            "machine": platform.platform(),
            **versions(),
        },
        made_from=_made_from(loaded),
        assumptions=(*loaded.assumptions, *(one for s in images for one in s.assumptions)),
    )


def _made_from(loaded: LoadedModel) -> dict[str, str]:
    """Describe the model's origin: weights, source, image size, preprocessing and classes."""
    config, steps, names = loaded.config, loaded.preprocessing, loaded.class_names
    shown = "names not known"
    if names is not None:
        shown = f"{listed([name for name in names.shown if name])} ({names.source})"
    return {
        "weights": loaded.weights,
        "source": loaded.source or "no checkpoint",
        "image size": _image_size(config),
        "preprocessing": f"{steps.refusal or steps.text} ({steps.origin})",
        "outputs": ", ".join(config.output_names),
        "classes": f"{config.num_classes}, {shown}" if config.num_classes else "no classifier",
    }


def _image_size(config: SwinConfig) -> str:
    """Return rows and columns of an image, and its channels where they are not three."""
    size = "{} x {} pixels".format(*config.image)
    return size if config.in_channels == 3 else f"{size}, {channels_text(config.in_channels)}"


def with_earlier(report: Report, folder: Path) -> Report:
    """Add throughput and accuracy of the report in a folder, if it is about the same files.

    Args:
        report: A new report.
        folder: Folder that may have an earlier report.

    Returns:
        The report with the parts that it lacks; the report itself if there is no earlier one, or
        that one is about another model or other files.
    """
    try:
        earlier = read_report(folder / "report.json")
    except FileError:
        return report
    same = {one.sha256 for one in report.artifacts} <= {one.sha256 for one in earlier.artifacts}
    if earlier.model != report.model or not report.artifacts or not same:
        return report
    return dataclasses.replace(
        report,
        bench=report.bench or earlier.bench,
        evaluation=report.evaluation or earlier.evaluation,
    )


def existing_report(folder: Path, loaded: LoadedModel) -> Report | None:
    """Read the report in a folder, to add to it.

    Args:
        folder: Folder of the report.
        loaded: The model that the report must be about.

    Returns:
        The report; None if there is none yet.

    Raises:
        FileError: If the report there is of another model or cannot be read, or ``folder`` cannot
            be written.
    """
    path = folder / "report.json"
    ensure_writable(path)
    if not path.exists():
        return None
    report = read_report(path)
    if report.model != loaded.name:
        raise FileError(f"{path} is about {report.model}, not {loaded.name}; choose another folder")
    for name in ("weights", "image size"):
        theirs, ours = report.made_from.get(name), _made_from(loaded)[name]
        if theirs not in (None, ours):
            raise FileError(f"{path} has {name} {theirs}, not {ours}; choose another folder")
    return report
