"""The fastest precision that is right: float16, float16 with float32 islands, bfloat16, float32.

Each rung is tried as it would be shipped: its graph is written and compared with the reference
(on ONNX Runtime; bfloat16, which that cannot run on a CPU, emulated in PyTorch), then its engine is
built and its plan read. The first rung that passes both is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.errors import ExportError, MissingBackendError
from exporters.half_precision import TITLES
from exporters.progress import Progress, silent
from exporters.spec import BatchProfile, EngineOptions, Precision
from exporters.staging import temporary_folder
from swin_deploy.artifacts.pipeline import (
    Converted,
    Listener,
    convert,
    graph_of,
    undelivered,
    write_converted,
    write_engine,
)
from swin_deploy.candidates import Made
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import ImageSet
from swin_deploy.parity import Hop, ParityReport, tolerance_for
from swin_deploy.parity.run import prove_parity
from swin_deploy.precision.diagnose import Islands, choose_islands, fair_share
from swin_deploy.precision.ranges import (
    Part,
    first_overflow,
    measure_noise,
    measure_ranges,
    paths_of,
)

RUNG_IMAGES = 16  # of each image set; what is taken is compared on all images afterwards
NOISE_IMAGES = 4
BATCHES = (7,)


@dataclass(frozen=True)
class Rung:
    """One precision, and what became of it.

    Attributes:
        precision: Of the graph.
        keep: Parts kept in float32.
        passed: Within tolerance, and delivered by the plan.
        reason: Why it was taken or not, in one line.
    """

    precision: Precision
    keep: tuple[str, ...]
    passed: bool
    reason: str

    @property
    def title(self) -> str:
        """The precision in words."""
        kept = f" with {', '.join(self.keep)} in float32" if self.keep else ""
        return f"{TITLES[self.precision]}{kept}"


@dataclass(frozen=True)
class Climb:
    """The rungs that were tried, the last of which passed, or none did.

    Attributes:
        rungs: In the order tried.
        graph: ONNX file of the rung taken; None without one.
        engine: Its engine.
    """

    rungs: tuple[Rung, ...]
    graph: Path | None = None
    engine: Path | None = None


@dataclass(frozen=True)
class Ladder:
    """What every rung is made from, and judged on.

    Attributes:
        loaded: The reference.
        full: Its float32 ONNX file; results go beside it.
        images: To compare on.
        profile: Batches of the engine.
        options: How to build it.
        progress: Told what is done, before it is done.
        force: Replace files that this program did not make.
    """

    loaded: LoadedModel
    full: Path
    images: tuple[ImageSet, ...]
    profile: BatchProfile
    options: EngineOptions
    progress: Progress = silent
    force: bool = False


def climb(ladder: Ladder, *, start: Precision) -> Climb:
    """Try precisions from ``start`` on until one is within tolerance and delivered.

    Args:
        ladder: What to try.
        start: ``fp16`` or ``bf16``.

    Raises:
        BuildError: If an engine cannot be built.
        MissingBackendError: If ONNX Runtime or TensorRT is not installed.
        FileError: If a file cannot be written.
    """
    rungs: list[Rung] = []
    images = tuple(_spread(one) for one in ladder.images)
    ladder = dataclasses.replace(ladder, images=images)
    for precision, islands in _rungs(ladder, start):
        if islands is not None and not islands.keep:
            reason = f"parts kept in float32 do not help: {islands.reason}"
            rungs.append(Rung(precision, (), False, reason))
            continue
        keep = islands.keep if islands else ()
        rung, graph, engine = _try(ladder, precision, keep)
        rungs.append(rung)
        if rung.passed:
            return Climb(tuple(rungs), graph, engine)
    return Climb(tuple(rungs))


def _rungs(ladder: Ladder, start: Precision) -> Iterator[tuple[Precision, Islands | None]]:
    """Precisions in order; what to keep in float32 is measured only where it comes to that."""
    if start == "fp16":
        yield "fp16", None
        yield "fp16", _islands(ladder)
    yield "bf16", None
    yield "fp32", None


def _islands(ladder: Ladder) -> Islands:
    """The parts to keep in float32, measured on the ladder's images."""
    model = ladder.loaded.deploy
    parts = _ranges(ladder)
    if not any(part.overflows for part in parts):
        few = np.concatenate([one.images[:NOISE_IMAGES] for one in ladder.images])
        noise = measure_noise(model, few, precision="fp16", progress=ladder.progress)
        parts = tuple(dataclasses.replace(part, noise=noise[part.name]) for part in parts)
    tolerance = tolerance_for("onnx", "fp16", family=ladder.loaded.config.family)
    return choose_islands(parts, share=fair_share(tolerance, parts))


def _ranges(ladder: Ladder) -> tuple[Part, ...]:
    images = np.concatenate([one.images for one in ladder.images])
    return measure_ranges(ladder.loaded.deploy, images, progress=ladder.progress)


def _try(
    ladder: Ladder, precision: Precision, keep: tuple[str, ...]
) -> tuple[Rung, Path | None, Path | None]:
    """One rung; its files are written beside the float32 graph only if it passes."""
    try:
        source = _graph(ladder, precision, keep)
    except ExportError as err:
        return Rung(precision, keep, False, str(err)), None, None
    ladder.progress(f"{precision}: comparing with the reference")
    hops = _own_hops(_compare(ladder, source), precision)
    failed = next((hop for hop in hops if not hop.passed), None)
    if failed is not None:
        return Rung(precision, keep, False, _why(ladder, failed, precision)), None, None
    path = source.path if isinstance(source, Converted) else source
    engine, plan = write_engine(
        source,
        path.with_suffix(".engine"),
        profile=ladder.profile,
        options=ladder.options,
        listener=Listener(progress=ladder.progress),
        force=ladder.force,
    )
    if engine is None:
        reason = f"not delivered: {'; '.join(undelivered(plan, graph_of(source)))}"
        return Rung(precision, keep, False, reason), None, None
    return Rung(precision, keep, True, _margin(hops[-1])), path, engine.path


def _graph(ladder: Ladder, precision: Precision, keep: tuple[str, ...]) -> Path | Converted:
    if precision == "fp32":
        return ladder.full
    paths = paths_of(ladder.loaded.deploy, keep)
    return convert(ladder.full, precision, folder=ladder.full.parent, keep=paths)


def _compare(ladder: Ladder, source: Path | Converted) -> ParityReport:
    """A graph against the reference; one that is not written yet, as a file that does not stay."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            path = source
        else:
            folder = stack.enter_context(temporary_folder(ladder.full.parent))
            trial = dataclasses.replace(source, path=folder / source.path.name)
            path = write_converted(trial).path
        return prove_parity(
            ladder.loaded,
            Made((path,)),
            images=ladder.images,
            batches=BATCHES,
            progress=ladder.progress,
        )


def _own_hops(parity: ParityReport, precision: Precision) -> list[Hop]:
    """The hops that ran and are of this rung; the float32 deploy model is the same on every rung.

    Raises:
        MissingBackendError: If nothing could run the ONNX file, nor stand in for it.
    """
    of_rung = [hop for hop in parity.hops if hop.precision == precision]
    hops = [hop for hop in of_rung if (hop.stage, precision) != ("deploy", "fp32")]
    ran = [hop for hop in hops if hop.passed is not None]
    if not ran or (precision != "bf16" and not any(hop.stage == "onnx" for hop in ran)):
        missing = next((hop.not_run for hop in hops if hop.not_run), "nothing could run")
        raise MissingBackendError(f"{TITLES[precision]} cannot be compared here: {missing}")
    return ran


def _why(ladder: Ladder, failed: Hop, precision: Precision) -> str:
    """By how much a hop failed, and what overflowed first, where something did."""
    worst = failed.worst
    reason = f"{failed.name}, {worst.inputs}: {worst.reason}" if worst else f"{failed.name} failed"
    beyond = first_overflow(_ranges(ladder)) if precision == "fp16" else None
    if beyond is None:
        return reason
    return f"{reason}; first to overflow: {beyond.name}, {beyond.max_abs:.3g} of at most 65504"


def _margin(hop: Hop) -> str:
    """How near a hop comes to its limit."""
    worst = hop.worst
    needs = ""
    if worst is not None:
        needs = f" error {worst.needed_atol:.2g}, limit {worst.tolerance.atol:.2g}"
    return f"{hop.name}{needs}; delivered by the plan"


def _spread(images: ImageSet) -> ImageSet:
    """At most ``RUNG_IMAGES`` of an image set, evenly spread."""
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
