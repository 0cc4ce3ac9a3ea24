"""Files that a build converts and writes, decided before the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporters.artifact import artifact_outputs
from exporters.outputs import claim
from exporters.spec import Precision
from swin_deploy.artifacts.onnx_file import OnnxFile, convert, converted_path, require_for_tensorrt


@dataclass(frozen=True)
class BuildPlan:
    """The files of a build, before the work.

    Attributes:
        onnx: Path of the ONNX file to build from.
        converts: Precision that it is brought to first; None if it has the precision already.
        graph: Path of the graph that the engine is made from: ``onnx`` if nothing is converted,
            else a file that is written with the engine.
        engine: Path of the engine.
    """

    onnx: Path
    converts: Precision | None
    graph: Path
    engine: Path

    @property
    def written(self) -> tuple[Path, ...]:
        """Paths of the artefacts that the build writes."""
        return (self.engine, self.graph) if self.converts else (self.engine,)

    def source(self, file: OnnxFile) -> OnnxFile:
        """Return the graph to build from: ``file``, or its converted form; raises as ``convert``.

        Args:
            file: The ONNX file at ``onnx``.
        """
        return file if self.converts is None else convert(file, self.converts, path=self.graph)


def plan_build(
    file: OnnxFile, engine: Path | None, *, precision: Precision | None, folder: Path
) -> BuildPlan:
    """Decide what a build converts and writes.

    Args:
        file: The ONNX file to build from.
        engine: Path of the engine; by default in ``folder``, named after the graph.
        precision: Precision of the engine; by default the file's.
        folder: Folder of the files that are written, if ``engine`` is not given; else its folder
            is used.

    Raises:
        ExportError: If the file is not laid out for TensorRT.
    """
    require_for_tensorrt(file)
    converts = None if precision in (None, file.precision) else precision
    folder = engine.parent if engine else folder
    graph = converted_path(file.path, converts, folder=folder) if converts else file.path
    return BuildPlan(file.path, converts, graph, engine or folder / f"{graph.stem}.engine")


def claim_build(files: BuildPlan, *, force: bool = False) -> None:
    """Fail before the work if a file of a build cannot be written, or must stay as it is.

    Args:
        files: The files of the build.
        force: True to replace files that this program did not make.

    Raises:
        FileError: If a file cannot be written, is the ONNX file to build from, or, without
            ``force``, was made by somebody else.
    """
    outputs = [output for path in files.written for output in artifact_outputs(path)]
    claim(outputs, inputs=[files.onnx], force=force)
