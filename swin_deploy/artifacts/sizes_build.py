"""An engine for each of several sizes, and half-precision ONNX files that share their weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from exporters.artifact import NewArtifact, artifact_outputs
from exporters.outputs import claim
from exporters.spec import BatchProfile, EngineOptions, Precision
from swin_deploy.artifacts.engine_file import Listener, RefusedEngine, built_from, new_engine
from swin_deploy.artifacts.onnx_file import (
    NOT_CALIBRATED,
    Calibrated,
    OnnxFile,
    convert,
    read_onnx,
    require_for_tensorrt,
)
from swin_deploy.artifacts.outputs import sizes_output
from swin_deploy.artifacts.sizes_file import (
    ENDING,
    NamedFile,
    OneSize,
    SizesFile,
    file_beside,
    share_weights,
    weights_beside,
    write_sizes,
)


@dataclasses.dataclass(frozen=True)
class SizesPlan:
    """The files of a build for several sizes, before the work.

    Attributes:
        source: The manifest of sizes to build from.
        converts: Precision that the ONNX files are brought to first; None for the one they have.
        path: Path of the manifest that names the engines: that of ``source``, or, if the ONNX
            files are converted, one of its own.
    """

    source: SizesFile
    converts: Precision | None
    path: Path

    def engine(self, one: OneSize) -> Path:
        """Return the path of a size's engine."""
        return file_beside(self.path, one.size, ".engine")

    def graph(self, one: OneSize) -> Path:
        """Return the path of the ONNX file that a size's engine is built from."""
        if self.converts is None:
            return self.source.path.parent / one.onnx.file
        return file_beside(self.path, one.size, ".onnx")

    def claim(self, *, force: bool = False) -> None:
        """Fail before the work if a file cannot be written; raises ``FileError``.

        Args:
            force: True to replace files that this program did not make.
        """
        made = [self.engine(one) for one in self.source.sizes]
        read = [self.source.path.parent / one.onnx.file for one in self.source.sizes]
        if self.converts:
            made += [weights_beside(self.path), *map(self.graph, self.source.sizes)]
            read.append(self.source.path)
        outputs = [output for path in made for output in artifact_outputs(path)]
        claim([*outputs, sizes_output(self.path)], inputs=read, force=force)


def plan_sizes_build(sizes: SizesFile, precision: Precision | None) -> SizesPlan:
    """Decide what a build for several sizes converts and writes, next to their manifest.

    Args:
        sizes: The manifest of sizes.
        precision: Precision of the engines; by default that of the ONNX files.
    """
    if precision in (None, sizes.precision):
        return SizesPlan(sizes, None, sizes.path)
    words = sizes.path.stem.removesuffix(ENDING).split("-")
    named = [precision if word == "fp32" else word for word in words]
    stem = "-".join(named if named != words else [*words, precision])
    return SizesPlan(sizes, precision, sizes.path.with_name(f"{stem}{ENDING}.json"))


def build_sizes(
    plan: SizesPlan,
    *,
    profile: BatchProfile | None,
    options: EngineOptions,
    listener: Listener,
    told: Calibrated = NOT_CALIBRATED,
    force: bool = False,
) -> SizesFile | RefusedEngine:
    """Build and prove an engine for each size; write all of them with their manifest, or none.

    Args:
        plan: The files to build from and to write.
        profile: Batches that the engines accept, as in ``write_engine``.
        options: Flavour and builder settings.
        listener: Functions that are told of steps and warnings.
        told: Images that FP8 is calibrated on, at each size by itself.
        force: True to replace files that this program did not make.

    Returns:
        The manifest that was written; or the first engine that was refused: nothing is written
        then.

    Raises:
        BuildError: If an engine cannot be built.
        ExportError: If an ONNX file cannot be read or converted.
        FileError: If a file is missing, has changed, cannot be written or must not be replaced.
        MissingBackendError: If the flavour is not installed, or needs a GPU that is not there.
    """
    plan.claim(force=force)
    files: list[OnnxFile] = []
    engines: list[NewArtifact] = []
    for one in plan.source.sizes:
        here = dataclasses.replace(
            listener, progress=lambda line, size=one.size: listener.progress(f"{size}: {line}")
        )
        file = _source(plan, one, dataclasses.replace(told, progress=here.progress))
        engine = new_engine(file, plan.engine(one), profile=profile, options=options, listener=here)
        if isinstance(engine, RefusedEngine):
            return engine
        engines.append(engine)
        # A converted graph is to be written, with its weights; of the others only the path counts.
        files.append(file if plan.converts else file.without_weights())
    new: Sequence[NewArtifact] = ()
    sizes = plan.source
    if plan.converts:
        new, sizes = share_weights(files, plan.path)
    built = [
        built_from(engine, plan.graph(one), one.onnx.sha256)
        for engine, one in zip(engines, sizes.sizes, strict=True)
    ]
    entries = [
        dataclasses.replace(one, engine=NamedFile(engine.path.name, engine.sha256))
        for engine, one in zip(built, sizes.sizes, strict=True)
    ]
    sizes = dataclasses.replace(sizes, sizes=tuple(entries))
    return write_sizes([*new, *built], sizes, force=force)


def _source(plan: SizesPlan, one: OneSize, told: Calibrated) -> OnnxFile:
    """Read the ONNX file of a size, and bring it to the precision that is asked for."""
    file = read_onnx(plan.source.onnx(one))
    require_for_tensorrt(file)
    if plan.converts is None:
        return file
    return convert(file, plan.converts, path=plan.graph(one), told=told)
