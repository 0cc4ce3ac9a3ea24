"""Hugging Face's Optimum for ONNX, from a folder of its own: it wants an older transformers.

pip installs it, without what the test environment has already, into the user's cache, once for each
set of pins; where that fails the tests are skipped with the reason.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest

from exporters.caches import cache_folder

PINS = (
    "optimum==2.1.0",
    "optimum-onnx==0.1.0",
    "transformers==4.57.6",
    "huggingface-hub==0.36.2",
    "tokenizers==0.22.2",
    "requests==2.32.5",
    "urllib3==2.6.3",
    "charset-normalizer==3.4.4",
    "certifi==2026.5.20",
    "idna==3.20",
)
PATIENCE = ("--retries", "1", "--timeout", "20")
MOST_SECONDS = 300
SUPPORT = Path(__file__).parent
CLASSIFY = """
import json, sys
import peers
peers.ensure_torchvision_importable()
from optimum.onnxruntime import ORTModelForImageClassification
from transformers import AutoImageProcessor, pipeline
model = ORTModelForImageClassification.from_pretrained(sys.argv[1])
processor = AutoImageProcessor.from_pretrained(sys.argv[1], use_fast=False)
classify = pipeline("image-classification", model=model, image_processor=processor)
print(json.dumps([classify(path, top_k=3) for path in sys.argv[2:]]))
"""


def classify(folder: Path, pictures: list[Path]) -> list[list[dict[str, Any]]]:
    """What ``pipeline("image-classification")`` says of pictures with the model in a folder."""
    found = _installed()
    if isinstance(found, str):
        pytest.skip(found)
    out = _run(found, CLASSIFY, str(folder), *map(str, pictures))
    answers: list[list[dict[str, Any]]] = json.loads(out.splitlines()[-1])
    return answers


def run_readme(folder: Path) -> str:
    """What the program in a folder's ``README.md`` prints, run in the folder as it is there."""
    found = _installed()
    if isinstance(found, str):
        pytest.skip(found)
    text = (folder / "README.md").read_text(encoding="utf-8")
    program = text.split("```python\n")[1].split("```")[0]
    start = "import peers\npeers.ensure_torchvision_importable()\n"
    return _run(found, start + program, cwd=folder)


def _run(found: Path, program: str, *arguments: str, cwd: Path | None = None) -> str:
    path = os.pathsep.join(map(str, (found, SUPPORT, SUPPORT.parent.parent)))
    variables = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *arguments]
    run = subprocess.run(
        command, capture_output=True, text=True, env=variables, check=False, cwd=cwd
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@functools.cache
def _installed() -> Path | str:
    """The folder, or the reason why there is none."""
    digest = hashlib.sha256(" ".join(PINS).encode()).hexdigest()[:12]
    base = cache_folder() / "test-optimum"
    base.mkdir(parents=True, exist_ok=True)
    whole = base / digest / "whole"
    with filelock.FileLock(base / f"{digest}.lock"):
        if not whole.exists():
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
            command += ["--target", str(whole.parent), *PATIENCE, *PINS]
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS)
            except subprocess.TimeoutExpired:
                return f"pip did not install optimum-onnx within {MOST_SECONDS} s"
            if run.returncode:
                last = [text for text in run.stderr.splitlines() if text.startswith("ERROR")][-1:]
                return f"pip cannot install optimum-onnx: {' '.join(last) or run.stderr[-200:]}"
            whole.touch()
    return whole.parent
