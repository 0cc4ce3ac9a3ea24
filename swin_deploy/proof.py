"""Prove what was made: every hop against the reference, and one report of it."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto

from exporters.artifact import ensure_writable, read_manifest
from exporters.errors import ComparisonError, FileError, MissingBackendError
from exporters.plan import KernelPlan
from exporters.precision import float32_modules, precision_of
from exporters.text_files import listed, naming
from exporters.to_onnx import load_onnx
from exporters.weights import without_weights
from swin_deploy.artifacts.facts import check_origin, facts_in_graph, facts_in_manifest, versions
from swin_deploy.bench import BenchReport
from swin_deploy.candidates import (
    compiled_candidate,
    graph_candidate,
    module_candidate,
    parity_report,
    reference_outputs,
)
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.emulate import EmulatedRunner
from swin_deploy.images.sets import (
    ImageSet,
    extreme_images,
    load_images,
    seeded_images,
    to_pixel_values,
)
from swin_deploy.judge import Candidate, judge
from swin_deploy.oracle import REFERENCE_BATCH, ReferenceOutputs
from swin_deploy.original.build import (
    Choice,
    build_original,
    library_version,
    original_library,
)
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.pipeline import read_engine_manifest
from swin_deploy.progress import Progress, within
from swin_deploy.report.from_json import read_report
from swin_deploy.report.results import Artifact, Report
from swin_deploy.runners import Runner, TorchRunner, TorchWay, TrtRunner

SEEDED_IMAGES = 8
BATCHES = (1, 2, 3, 7)


@dataclass(frozen=True)
class Made:
    """What to prove: ONNX graphs and engines made from one model, and the model in PyTorch.

    Attributes:
        onnx: ONNX files.
        engines: Engine files.
        runner: How PyTorch is to run the deploy model besides; None for not at all.
    """

    onnx: tuple[Path, ...] = ()
    engines: tuple[Path, ...] = ()
    runner: TorchWay | None = None

    @functools.cached_property
    def graphs(self) -> tuple[ModelProto, ...]:
        """The structure of each ONNX file, read and checked once.

        Raises:
            ExportError: If a file cannot be read.
        """
        return tuple(without_weights(load_onnx(path)) for path in self.onnx)

    @property
    def takes_pixels(self) -> bool:
        """Whether one of the files takes pixels of 0 to 255, not normalised images.

        Raises:
            DeployError: If a file cannot be read.
        """
        kinds = [graph.graph.input[0].type.tensor_type.elem_type for graph in self.graphs]
        engines = [read_engine_manifest(path).get("input_type") for path in self.engines]
        return TensorProto.UINT8 in kinds or "uint8" in engines


def image_sets(loaded: LoadedModel, folder: Path | None, *, limit: int) -> tuple[ImageSet, ...]:
    """Images, seeded noise and extremes; images in ``folder``, else those shipped with the model.

    Args:
        loaded: The model, whose preprocessing is used.
        folder: Images, in class folders or not.
        limit: Images at most.

    Raises:
        ConfigError: If the source's preprocessing is not known.
        FileError: If the folder or an image in it cannot be read.
    """
    config, steps = loaded.config, loaded.preprocessing
    made = seeded_images(config, count=SEEDED_IMAGES), extreme_images(steps)
    folder = folder or BUNDLED_IMAGES.get(loaded.name)
    if folder is None:
        return made
    classes = config.num_classes if config.output_name == "logits" else 0
    pictures = load_images(
        folder, steps, num_classes=classes, known=loaded.class_names, limit=limit
    )
    return (pictures, *made)


def prove_parity(
    loaded: LoadedModel,
    made: Made,
    *,
    images: Sequence[ImageSet],
    batches: Sequence[int],
    progress: Progress,
    original: Choice = "none",
) -> ParityReport:
    """Compare the deploy model and each file made from it with the reference.

    Args:
        loaded: The reference.
        made: The files.
        images: Image sets.
        batches: Batch sizes.
        progress: Told what is run, before it is run.
        original: The library whose own model is compared with the reference first.

    Raises:
        ComparisonError: If a file was not made from this model, or gives other shapes; or if the
            checkpoint does not come from the library that is asked for.
        DeployError: If a file cannot be read.
    """
    library = original_library(loaded, original)
    if made.takes_pixels:
        images = [to_pixel_values(one, loaded.preprocessing) for one in images]
    first, *rest = candidates(loaded, made)
    found = [first, *emulated(loaded, made), *rest]
    parts = 3 + len(found)  # about equally long: the reference, its noise, the original, the rest
    precisions = [one.runner.precision for one in found]
    first_parts = within(progress, 0, 2 / parts)
    outputs = reference_outputs(loaded, images, precisions=precisions, progress=first_parts)
    third = within(progress, 2 / parts, 3 / parts)
    source = judge_original(loaded, outputs, library, progress=third)
    hops = judge(outputs, found, batches=batches, progress=within(progress, 3 / parts, 1))
    return parity_report(loaded, outputs, (*source, *hops))


def judge_original(
    loaded: LoadedModel, outputs: ReferenceOutputs, library: str, *, progress: Progress
) -> tuple[Hop, ...]:
    """Compare the reference with the library's own model of the same checkpoint.

    Args:
        loaded: The reference.
        outputs: What it gives, with its noise in float32.
        library: From ``original_library``.
        progress: Told what is run, before it is run.

    Returns:
        One hop, which failed where the library's model gives something else, and did not run where
        the library has no such model or cannot load it; none without a library.
    """
    if not library or loaded.reading is None:
        return ()
    name = f"original ({library})"
    hop = Hop(name, "original", "fp32", loaded.reading.path.name, library)
    progress(f"{name}: building it from {loaded.reading.path.name}")
    try:
        module = build_original(loaded.config, loaded.reading, library)
    except (MissingBackendError, ComparisonError) as err:
        return (dataclasses.replace(hop, not_run=str(err)),)
    runner = TorchRunner(name, module)
    runner.backend = f"{library} {library_version(library)}, {runner.backend}"
    candidate = Candidate(runner, "original", hop.file, loaded.config.family)
    why = f"{library} computes something else from the same file: it is not read rightly here"
    try:
        (hop,) = judge(outputs, [candidate], batches=(REFERENCE_BATCH,), progress=progress)
    except ComparisonError as err:  # other shapes or outputs: not the same model
        hop = dataclasses.replace(hop, backend=runner.backend)
        why = f"{why} ({str(err).removeprefix(f'{name}, ')})"
    return (hop if hop.passed else dataclasses.replace(hop, located=why),)


def stages(loaded: LoadedModel, made: Made) -> list[tuple[str, str, Runner]]:
    """Stage, file name and runner of everything to compare with the reference, in order.

    The deploy model comes first, then it once more where PyTorch is to run it in another way, then
    the ONNX files and the engines as ``made`` has them.

    Raises:
        ComparisonError: If a file was not made from this model.
        DeployError: If a file cannot be read.
    """
    return [(one.stage, one.file, one.runner) for one in candidates(loaded, made)]


def candidates(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """The deploy model, and what was made from it, to judge; raises as ``stages``."""
    found = [module_candidate(loaded, loaded.deploy)]
    if made.runner:
        found.append(compiled_candidate(loaded, made.runner))
    for path, graph in zip(made.onnx, made.graphs, strict=True):
        with naming(path):
            check_origin(path, facts_in_graph(graph, path), loaded)
            found.append(graph_candidate(loaded, graph, path))
    for path in made.engines:
        manifest = read_engine_manifest(path)
        with naming(path):
            check_origin(path, facts_in_manifest(manifest, path), loaded)
        name = f"engine {manifest['precision']}"
        runner = TrtRunner(path, name=name, steps=loaded.preprocessing)
        found.append(Candidate(runner, "engine", path.name, loaded.config.family))
    return found


def emulated(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """The deploy model in the half precisions of the ONNX files, every operation rounded.

    ONNX Runtime's CPU provider runs chains of float16 nodes in float32 without rounding between
    them, so what overflows on a GPU is finite there; and it has no bfloat16 kernels.
    """
    graphs = {precision_of(graph): graph for graph in made.graphs}
    return [
        Candidate(
            EmulatedRunner(
                f"deploy model {precision}, emulated",
                loaded.deploy,
                precision,
                keep=float32_modules(graph),
            ),
            "deploy",
            family=loaded.config.family,
        )
        for precision, graph in graphs.items()
        if precision != "fp32"
    ]


def make_report(
    loaded: LoadedModel,
    made: Made,
    *,
    parity: ParityReport | None,
    bench: BenchReport | None,
    images: Sequence[ImageSet] = (),
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
            "machine": platform.platform(),
            **versions(),
        },
        made_from=_made_from(loaded),
        assumptions=(*loaded.assumptions, *(one for s in images for one in s.assumptions)),
    )


def _made_from(loaded: LoadedModel) -> dict[str, str]:
    """What the model is made from, for a reader of the report."""
    config, steps, names = loaded.config, loaded.preprocessing, loaded.class_names
    shown = "names not known"
    if names is not None:
        shown = f"{listed([name for name in names.shown if name])} ({names.source})"
    return {
        "weights": loaded.weights,
        "source": loaded.source or "no checkpoint",
        "image size": f"{config.img_size} x {config.img_size} pixels",
        "preprocessing": f"{steps.refusal or steps.text} ({steps.origin})",
        "outputs": ", ".join(config.output_names),
        "classes": f"{config.num_classes}, {shown}" if config.num_classes else "no classifier",
    }


def _has_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except FileError:
        return False
    return True


def with_earlier(report: Report, folder: Path) -> Report:
    """Add what the report in a folder has and this one has not, if it is on the same files.

    Args:
        report: A new report.
        folder: Place of an earlier one, where there is any.
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
