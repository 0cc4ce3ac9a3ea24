"""The fastest precision within tolerance: float16, with float32 layers, bfloat16 or float32.

Each attempt is tried as it would be shipped: its graph is written and compared with the reference
(on ONNX Runtime; bfloat16, which that cannot run on a CPU, emulated in PyTorch), then its engine is
built and its plan read. The first attempt that passes both is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporters.errors import ExportError, MissingBackendError
from exporters.precisions import PRECISIONS, fallbacks, kind_of
from exporters.progress import Progress, silent
from exporters.spec import BatchProfile, EngineOptions, Precision
from exporters.staging import temporary_folder
from swin_deploy.artifacts.engine_file import Listener, RefusedEngine, write_engine
from swin_deploy.artifacts.onnx_file import (
    NOT_CALIBRATED,
    Calibrated,
    OnnxFile,
    convert,
    converted_path,
    write_graph,
)
from swin_deploy.candidates import Made
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import Hop, ParityReport, tolerance_for
from swin_deploy.parity.run import prove_parity
from swin_deploy.precision.diagnose import Float32Layers, choose_float32_layers, fair_share
from swin_deploy.precision.ranges import (
    Part,
    first_overflow,
    measure_noise,
    measure_ranges,
    paths_of,
)
from swin_deploy.runners.engine_manifest import EngineManifest

RUNG_IMAGES = 16  # of each image set; the attempt taken is compared on all images afterwards
NOISE_IMAGES = 4
BATCHES = (7,)


@dataclass(frozen=True)
class Attempt:
    """One precision that was tried, and the outcome.

    Attributes:
        precision: Precision of the graph.
        keep: Names of the parts kept in float32.
        passed: True if the graph is within tolerance and the engine's plan has its precision.
        reason: The reason why it was taken or not, in one line.
    """

    precision: Precision
    keep: tuple[str, ...]
    passed: bool
    reason: str

    @property
    def title(self) -> str:
        """The precision in words, with the parts kept in float32."""
        kept = f" with {', '.join(self.keep)} in float32" if self.keep else ""
        return f"{kind_of(self.precision)}{kept}"


@dataclass(frozen=True)
class SearchResult:
    """The attempts that were tried; the last one passed, or none did.

    Attributes:
        attempts: Attempts in the order tried.
        graph: ONNX file of the attempt taken, without its weights; None if none passed.
        engine: Engine of the attempt taken; None if none passed.
    """

    attempts: tuple[Attempt, ...]
    graph: OnnxFile | None = None
    engine: EngineManifest | None = None


@dataclass(frozen=True)
class SearchInputs:
    """The model, images and settings that every attempt shares.

    Attributes:
        loaded: The reference.
        full: Its float32 ONNX file, without its weights; results are written next to it.
        images: Images to compare on.
        profile: Batches of the engine.
        options: Options that the engine is built with.
        progress: Function that is told of each step before it starts.
        force: True to replace files that this program did not make.
        calibrated: Images that FP8 is calibrated on, if it is among the precisions.
    """

    loaded: LoadedModel
    full: OnnxFile
    images: tuple[ImageSet, ...]
    profile: BatchProfile
    options: EngineOptions
    progress: Progress = silent
    force: bool = False
    calibrated: Calibrated = NOT_CALIBRATED


def search_precision(search: SearchInputs, *, start: Precision) -> SearchResult:
    """Try precisions from ``start`` on until one is within tolerance and delivered.

    Args:
        search: The model, images and settings of every attempt.
        start: The first precision to try; see ``fallbacks``.

    Raises:
        BuildError: If an engine cannot be built.
        MissingBackendError: If ONNX Runtime or TensorRT is not installed.
        FileError: If a file cannot be written.
    """
    attempts: list[Attempt] = []
    images = tuple(_spread(one) for one in search.images)
    search = dataclasses.replace(search, images=images)
    for precision, layers in _attempts(search, start):
        if layers is not None and not layers.keep:
            reason = f"parts kept in float32 do not help: {layers.reason}"
            attempts.append(Attempt(precision, (), False, reason))
            continue
        keep = layers.keep if layers else ()
        attempt, graph, engine = _try(search, precision, keep)
        attempts.append(attempt)
        if attempt.passed:
            return SearchResult(tuple(attempts), graph, engine)
    return SearchResult(tuple(attempts))


def _attempts(
    search: SearchInputs, start: Precision
) -> Iterator[tuple[Precision, Float32Layers | None]]:
    """Yield the precisions in order; float32 parts are chosen only once plain float16 fails."""
    for precision in fallbacks(start):
        yield precision, None
        if precision == "fp16":
            yield precision, _float32_layers(search)


def _float32_layers(search: SearchInputs) -> Float32Layers:
    """Measure the parts on the search's images, and choose those to keep in float32."""
    model = search.loaded.deploy
    parts = _ranges(search)
    if not any(part.overflows for part in parts):
        few = np.concatenate([one.images[:NOISE_IMAGES] for one in search.images])
        noise = measure_noise(model, few, precision="fp16", progress=search.progress)
        parts = tuple(dataclasses.replace(part, noise=noise[part.name]) for part in parts)
    tolerance = tolerance_for("onnx", "fp16", family=search.loaded.config.family)
    return choose_float32_layers(parts, share=fair_share(tolerance, parts))


def _ranges(search: SearchInputs) -> tuple[Part, ...]:
    images = np.concatenate([one.images for one in search.images])
    return measure_ranges(search.loaded.deploy, images, progress=search.progress)


def _try(
    search: SearchInputs, precision: Precision, keep: tuple[str, ...]
) -> tuple[Attempt, OnnxFile | None, EngineManifest | None]:
    """Make one attempt; its files are written next to the float32 graph only if it passes."""
    try:
        source = _graph(search, precision, keep)
    except ExportError as err:
        return Attempt(precision, keep, False, str(err)), None, None
    search.progress(f"{precision}: comparing with the reference")
    hops = _own_hops(_compare(search, source), precision)
    failed = next((hop for hop in hops if not hop.passed), None)
    if failed is not None:
        return Attempt(precision, keep, False, _why(search, failed, precision)), None, None
    engine = write_engine(
        source,
        source.path.with_suffix(".engine"),
        profile=search.profile,
        options=search.options,
        listener=Listener(progress=search.progress),
        force=search.force,
    )
    if isinstance(engine, RefusedEngine):
        reason = f"not delivered: {'; '.join(engine.reasons)}"
        return Attempt(precision, keep, False, reason), None, None
    attempt = Attempt(precision, keep, True, _margin(hops[-1]))
    return attempt, source.without_weights(), engine


def _graph(search: SearchInputs, precision: Precision, keep: tuple[str, ...]) -> OnnxFile:
    if precision == "fp32":
        return search.full
    paths = paths_of(search.loaded.deploy, keep)
    full = search.full.path
    path = converted_path(full, precision, folder=full.parent)
    return convert(search.full, precision, path=path, keep=paths, told=search.calibrated)


def _compare(search: SearchInputs, source: OnnxFile) -> ParityReport:
    """Compare a graph with the reference; one that is not written yet as a temporary file."""
    with contextlib.ExitStack() as stack:
        if source.source is not None:
            folder = stack.enter_context(temporary_folder(source.path.parent))
            trial = dataclasses.replace(source, path=folder / source.path.name)
            source = write_graph(trial).without_weights()
        return prove_parity(
            search.loaded,
            Made((source,)),
            images=search.images,
            batches=BATCHES,
            progress=search.progress,
        )


def _own_hops(parity: ParityReport, precision: Precision) -> list[Hop]:
    """Return the hops of this attempt that ran; the float32 hop is the same on every attempt.

    Raises:
        MissingBackendError: If nothing here can run the ONNX file or, in bfloat16, emulate it.
    """
    of_rung = [hop for hop in parity.hops if hop.precision == precision]
    hops = [hop for hop in of_rung if (hop.stage, precision) != ("deploy", "fp32")]
    ran = [hop for hop in hops if hop.passed is not None]
    if not ran or (PRECISIONS[precision].ort_cpu and not any(hop.stage == "onnx" for hop in ran)):
        missing = next((hop.not_run for hop in hops if hop.not_run), "nothing could run")
        raise MissingBackendError(
            f"{PRECISIONS[precision].dtype} cannot be compared here: {missing}"
        )
    return ran


def _why(search: SearchInputs, failed: Hop, precision: Precision) -> str:
    """Return the reason for a failure, and the first activation that overflowed, if any did."""
    worst = failed.worst
    reason = f"{failed.name}, {worst.inputs}: {worst.reason}" if worst else f"{failed.name} failed"
    beyond = first_overflow(_ranges(search)) if precision == "fp16" else None
    if beyond is None:
        return reason
    return f"{reason}; first to overflow: {beyond.name}, {beyond.max_abs:.3g} of at most 65504"


def _margin(hop: Hop) -> str:
    """Return a stage's error next to its limit, in words."""
    worst = hop.worst
    needs = ""
    if worst is not None:
        needs = f" error {worst.needed_atol:.2g}, limit {worst.tolerance.atol:.2g}"
    return f"{hop.name}{needs}; delivered by the plan"


def _spread(images: ImageSet) -> ImageSet:
    """Choose at most ``RUNG_IMAGES`` images of a set, evenly spread."""
    count = len(images.images)
    chosen: Sequence[int] = np.unique(
        np.linspace(0, count - 1, min(count, RUNG_IMAGES)).astype(int)
    ).tolist()
    return dataclasses.replace(
        images,
        images=images.images[chosen],
        names=tuple(images.names[index] for index in chosen),
        labels=None if images.labels is None else images.labels[chosen],
    )
