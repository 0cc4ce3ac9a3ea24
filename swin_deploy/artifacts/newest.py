"""The export that a command takes if no file is named."""

from __future__ import annotations

from pathlib import Path

from exporters.artifact import read_manifest
from exporters.errors import ExportError, FileError
from exporters.spec import Precision
from swin_deploy.artifacts.outputs import is_sizes

ENGINES = Path("engines")


def newest_export(precision: Precision | None = None, folder: Path = ENGINES) -> Path:
    """Find the ONNX file written last to ``folder``, or the manifest of sizes that names it.

    Args:
        precision: Precision to bring the file to, or None for any file as it is. Files that are
            neither in it nor in float32 are skipped, and so are those converted from another ONNX
            file: the export itself is converted again. Files for other runtimes than TensorRT are
            skipped, too.
        folder: Folder of the exports.

    Raises:
        ExportError: If there is none.
    """
    files = [path for path in folder.glob("*.onnx") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _can_have(path, precision):
            return _whole_set(path)
    what = "exported ONNX file" if precision in (None, "fp32") else f"export for {precision}"
    raise ExportError(f"no {what} in {folder}; make one with swin-deploy export, or name one")


def _whole_set(path: Path) -> Path:
    """Return the manifest of sizes that an ONNX file belongs to; else the file itself."""
    try:
        manifest = path.parent / str(read_manifest(path).get("sizes") or path.name)
    except FileError:
        return path
    return manifest if is_sizes(manifest) else path


def _can_have(path: Path, precision: Precision | None) -> bool:
    """Tell whether a file for TensorRT is in a precision, or an export in float32.

    It is, if it has no manifest.
    """
    try:
        manifest = read_manifest(path)
    except FileError:
        return True
    if manifest.get("for") == "cpu":
        return False
    if precision is None:
        return True
    return "source" not in manifest and manifest.get("precision") in (precision, "fp32")
