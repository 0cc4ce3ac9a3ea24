"""Groups of hostile input, and the honest files that they are made from."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_checkpoints
import hostile_json
import hostile_onnx
import hostile_options
from command_line import IMAGES, call_main
from hostile_run import Case

GROUPS: dict[str, Callable[[Path, int], Iterator[Case]]] = {
    "checkpoints": hostile_checkpoints.cases,
    "onnx": hostile_onnx.cases,
    "json": hostile_json.cases,
    "options": hostile_options.cases,
}


def make_honest(folder: Path) -> Path:
    """Export, build, prove and evaluate the digits model, in a process of its own."""
    folder.mkdir()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        _make()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the honest files could not be made")
    return folder


def _make() -> None:
    shutil.copytree(IMAGES, "images")
    stem = "engines/notebook-digits-fp32-opset17"
    model = ("--model", "notebook-digits")
    made = ("--onnx", f"{stem}.onnx", "--engine", f"{stem.replace('fp32', 'fp16')}.engine")
    code = 0
    try:
        for command in (
            ("export", *model),
            ("build-trt", "--fp16"),
            ("parity", *model, "--limit", "6", "--batches", "1", *made, "--report", "report"),
            ("evaluate", *model, "--limit", "20", *made),
        ):
            sys.stdout = open(os.devnull, "w")
            code |= call_main(("-q", *command))
    finally:
        os._exit(code)
