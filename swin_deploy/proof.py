"""Prove what was made: every hop against the reference, throughput beside PyTorch, one report."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.artifact import ensure_writable, read_manifest
from exporters.errors import FileError
from exporters.plan import KernelPlan
from exporters.precision import precision_of
from exporters.to_onnx import load_onnx
from swin_deploy.bench import BenchReport, Effort, time_runners
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.fold import fold
from swin_deploy.inputs import ImageSet, load_images, seeded_images
from swin_deploy.judge import Candidate, judge, run_reference
from swin_deploy.load import LoadedModel
from swin_deploy.parity import ParityReport
from swin_deploy.pipeline import (
    check_origin,
    graph_facts,
    read_engine_manifest,
    select_facts,
    versions,
)
from swin_deploy.report import Artifact, Report
from swin_deploy.report.from_json import read_report
from swin_deploy.runners import OrtRunner, Runner, TorchRunner, TrtRunner

SEEDED_IMAGES = 8
BATCHES = (1, 2, 3, 7)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """The files to prove: ONNX graphs and engines made from one model."""

    onnx: tuple[Path, ...] = ()
    engines: tuple[Path, ...] = ()


def image_sets(loaded: LoadedModel, folder: Path | None, *, limit: int) -> tuple[ImageSet, ...]:
    """Seeded noise, and images: those in ``folder``, else those that ship with the model.

    Args:
        loaded: The model, whose preprocessing is used.
        folder: Images, in class folders or not.
        limit: Images at most.

    Raises:
        FileError: If the folder or an image in it cannot be read.
    """
    seeded = seeded_images(loaded.config, count=SEEDED_IMAGES)
    folder = folder or BUNDLED_IMAGES.get(loaded.name)
    if folder is None:
        return (seeded,)
    return (load_images(folder, loaded.config, limit=limit), seeded)


def prove_parity(
    loaded: LoadedModel,
    made: Made,
    *,
    images: Sequence[ImageSet],
    batches: Sequence[int],
    progress: Progress,
) -> ParityReport:
    """Compare the deploy model and each file made from it with the reference.

    Raises:
        ComparisonError: If a file was not made from this model, or gives other shapes.
        DeployError: If a file cannot be read.
    """
    family = loaded.config.family
    candidates = [
        Candidate(runner, stage, file, family) for stage, file, runner in _stages(loaded, made)
    ]
    reference = run_reference(
        TorchRunner("PyTorch reference", loaded.reference),
        images,
        names=loaded.config.output_names,
        progress=progress,
    )
    return ParityReport(
        model=loaded.name,
        weights=loaded.weights,
        reference_backend=reference.backend,
        inputs={entry.name: entry.description for entry in images},
        reference_top1_accuracy=reference.top1_accuracy,
        hops=judge(reference, candidates, batches=batches, progress=progress),
    )


def measure_throughput(
    loaded: LoadedModel,
    made: Made,
    *,
    batches: Sequence[int],
    seconds: float,
    progress: Progress,
) -> BenchReport:
    """Time the reference, the deploy model and each file made from it, interleaved.

    Raises:
        ComparisonError: If a file was not made from this model.
        DeployError: If a file cannot be read.
    """
    runners: list[Runner] = [TorchRunner("PyTorch reference", loaded.reference)]
    runners += [runner for _, _, runner in _stages(loaded, made)]
    images = seeded_images(loaded.config, count=max(batches)).images
    return time_runners(
        runners,
        images,
        model=loaded.name,
        batches=batches,
        effort=Effort(seconds=seconds),
        progress=progress,
    )


def _stages(loaded: LoadedModel, made: Made) -> list[tuple[str, str, Runner]]:
    """Stage, file name and runner of everything to compare with the reference."""
    stages: list[tuple[str, str, Runner]] = [
        ("deploy", "", TorchRunner("deploy model", fold(loaded.reference)))
    ]
    for path in made.onnx:
        graph = load_onnx(path)
        check_origin(path, graph_facts(graph), loaded)
        precision = precision_of(graph)
        stages.append(("onnx", path.name, OrtRunner(path, precision, name=f"ONNX {precision}")))
    for path in made.engines:
        manifest = read_engine_manifest(path)
        check_origin(path, select_facts(manifest), loaded)
        name = f"engine {manifest['precision']}"
        stages.append(("engine", path.name, TrtRunner(path, name=name)))
    return stages


def make_report(
    loaded: LoadedModel,
    made: Made,
    *,
    parity: ParityReport | None,
    bench: BenchReport | None,
) -> Report:
    """One report of what was found; the plan is that of the last engine made."""
    manifests = [read_engine_manifest(path) for path in made.engines]
    plan = KernelPlan.from_dict(manifests[-1]["plan"]) if manifests else None
    files = [read_manifest(path) for path in made.onnx if _has_manifest(path)] + manifests
    return Report(
        model=loaded.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        parity=parity,
        bench=bench,
        plan=plan,
        artifacts=tuple(
            Artifact(entry.get("kind", "other"), entry["file"], entry["bytes"], entry["sha256"])
            for entry in files
        ),
        conditions={
            "weights": loaded.weights,
            "image size": f"{loaded.config.img_size} px",
            "machine": platform.platform(),
            **versions(),
        },
    )


def _has_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except FileError:
        return False
    return True


def existing_report(folder: Path, loaded: LoadedModel) -> Report | None:
    """The report in ``folder`` to add to, or None if there is none yet.

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
    return report
