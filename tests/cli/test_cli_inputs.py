"""What is missing or cannot be is found before PyTorch is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Outcome

MODEL_COMMANDS = ("run", "export", "precision", "parity", "bench", "evaluate")
IMAGE_COMMANDS = ("run", "precision", "parity")
FILE_COMMANDS = ("parity", "bench", "evaluate")
PROBE = """
import json, sys
from swin_deploy.cli import main
try:
    main()
finally:
    print(json.dumps(sorted({"torch", "tensorrt_rtx", "onnx"} & set(sys.modules))))
"""


def refused(*arguments: object) -> tuple[Outcome, list[str]]:
    """How a command ends in a process of its own, and which heavy modules it has imported."""
    command = [sys.executable, "-c", PROBE, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    *out, loaded = done.stdout.splitlines()
    return Outcome(done.returncode, "\n".join(out), done.stderr), json.loads(loaded)


CASES: list[tuple[str, str]] = [
    *((f"{name} --model swin_huge", "unknown model swin_huge; did you") for name in MODEL_COMMANDS),
    *((f"{name} --checkpoint no.pt", "no.pt does not exist") for name in MODEL_COMMANDS),
    *((f"{name} --classes no.txt", "no.txt does not exist") for name in MODEL_COMMANDS),
    *((f"{name} --preprocessing tim", "tim does not exist") for name in MODEL_COMMANDS),
    *((f"{name} --images no", "image folder no does not exist") for name in IMAGE_COMMANDS),
    *((f"{name} --images empty", "holds no images") for name in IMAGE_COMMANDS),
    *((f"{name} --onnx no.onnx", "no.onnx does not exist") for name in FILE_COMMANDS),
    *((f"{name} --onnx m.engine", "m.engine is not a whole ONNX file") for name in FILE_COMMANDS),
    *((f"{name} --engine no.engine", "no.engine does not exist") for name in FILE_COMMANDS),
    *((f"{name} --engine m.engine", "m.engine has no manifest") for name in FILE_COMMANDS),
    ("evaluate --data no", "no does not exist; give --data"),
    ("evaluate --model swin_tiny", "no images ship with swin_tiny_patch4_window7_224"),
    ("export --model swin_tiny --image-size 230", "image size 230 cannot be tiled"),
    ("export --model notebook-swin-t --outputs logits", "output logits needs a classifier"),
    ("export --model swin_tiny --weights ema", "--weights chooses among"),
    ("build-trt no.onnx", "no.onnx does not exist"),
    ("build-trt", "no exported ONNX file in engines"),
    ("build-trt --fp16", "no export for fp16 in engines"),
    ("plan no.onnx", "no.onnx does not exist"),
    ("plan m.engine", "m.engine has no manifest"),
    ("predict no.onnx x.png", "no.onnx does not exist"),
    ("predict swin_tiny no.png", "image no.png does not exist"),
    ("predict swin_tiny x.png --classes no.txt", "no.txt does not exist"),
    ("report no.json", "no.json"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("m.engine").write_bytes(b"engine")
    Path("x.png").write_bytes(b"")


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[one for one, _ in CASES])
def test_missing_input_is_found_before_torch_is_imported(arguments: str, message: str) -> None:
    outcome, loaded = refused(*arguments.split())
    if outcome.status == 2:
        assert f"Error: {message}" in outcome.err
    else:
        outcome.assert_error(message)
    assert not loaded


def test_probe_notices_torch(full: Path) -> None:
    shutil.copy(full, "m.onnx")
    _, loaded = refused("parity", "--model", "notebook-digits", "--onnx", "x.png", "--limit", "2")
    assert "torch" in loaded
