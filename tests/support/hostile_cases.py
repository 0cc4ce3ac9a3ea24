"""Groups of hostile input, and the honest files that they are made from."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_checkpoints
import hostile_images
import hostile_json
import hostile_onnx_files
import hostile_options
from command_line import IMAGES, call_main
from hostile_folders import FOLDERS, write_folder, write_parts
from hostile_run import Case

GROUPS: dict[str, Callable[[Path, int], Iterator[Case]]] = {
    "checkpoints": hostile_checkpoints.cases,
    "onnx": hostile_onnx_files.cases,
    "json": hostile_json.cases,
    "images": hostile_images.cases,
    "options": hostile_options.cases,
}


def make_honest(folder: Path) -> Path:
    """Export, build, prove and evaluate the digits model, in a process of its own."""
    folder.mkdir()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            status = _make()
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the honest files could not be made")
    return folder


def _make() -> int:
    shutil.copytree(IMAGES, "images")
    for library in FOLDERS:
        write_folder(library, Path(library))
    write_parts(Path("parts"))
    stem = "engines/notebook-digits-fp32-opset17"
    model = ("--model", "notebook-digits")
    made = ("--onnx", f"{stem}.onnx", "--engine", f"{stem.replace('fp32', 'fp16')}.engine")
    status = 0
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
        for command in (
            ("export", *model),
            ("build-trt", "--fp16"),
            ("parity", *model, "--limit", "6", "--batches", "1", *made, "--report", "report"),
            ("evaluate", *model, "--limit", "20", *made),
        ):
            status |= call_main(("-q", *command))
    return status
