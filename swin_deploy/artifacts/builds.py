"""Which files a build converts and writes, decided before the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.artifact import artifact_outputs
from exporters.half_precision import precision_of
from exporters.outputs import claim
from exporters.spec import Precision
from exporters.to_onnx import load_onnx
from swin_deploy.artifacts.pipeline import Converted, convert, converted_path


@dataclass(frozen=True)
class BuildPlan:
    """The files of a build, before the work.

    Attributes:
        onnx: The ONNX file to build from.
        converts: Precision that it is brought to first; None where it has it.
        graph: The place of the graph that the engine is made from; ``onnx`` where nothing is
            converted, else a file that is written with the engine.
        engine: The place of the engine.
    """

    onnx: Path
    converts: Precision | None
    graph: Path
    engine: Path

    @property
    def written(self) -> tuple[Path, ...]:
        """The places of the artefacts that the build writes."""
        return (self.engine, self.graph) if self.converts else (self.engine,)

    def source(self) -> Path | Converted:
        """The graph to build from, converted where it must be; raises as ``convert``."""
        if self.converts is None:
            return self.onnx
        return convert(self.onnx, self.converts, folder=self.graph.parent)


def plan_build(
    onnx_file: Path, engine: Path | None, *, precision: Precision | None, folder: Path
) -> BuildPlan:
    """Decide what a build converts and writes.

    Args:
        onnx_file: The ONNX file to build from.
        engine: Place of the engine; by default in ``folder``, named after the graph.
        precision: Precision of the engine; by default the file's.
        folder: Place of what is written where ``engine`` is not named.

    Raises:
        ExportError: If the ONNX file cannot be read.
    """
    has = precision_of(load_onnx(onnx_file))
    converts = None if precision in (None, has) else precision
    folder = engine.parent if engine else folder
    graph = converted_path(onnx_file, converts, folder=folder) if converts else onnx_file
    return BuildPlan(onnx_file, converts, graph, engine or folder / f"{graph.stem}.engine")


def claim_build(files: BuildPlan, *, force: bool = False) -> None:
    """Fail before the work where a file of a build cannot be written, or must stay as it is.

    Raises:
        FileError: As ``exporters.outputs.claim``.
    """
    outputs = [output for path in files.written for output in artifact_outputs(path)]
    claim(outputs, inputs=[files.onnx], force=force)


def refusal(reasons: Sequence[str]) -> str:
    """Say why no engine was written; the reasons are those of ``missing_precision``."""
    return (
        f"{'; '.join(reasons)}: not the precision that was asked for, so no engine was written. "
        "Look at the graph with swin-deploy plan"
    )
