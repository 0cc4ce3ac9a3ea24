"""The digits model at two sizes whose files share their weights, and what tests do with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from command_line import call_main

SIDES = (112, 56)
STEM = "notebook-digits-fp32-opset17"
MANIFEST = f"{STEM}-sizes.json"
WORDS = ("export", "--model", "notebook-digits", "--image-size", "112", "--image-size", "56")


def export_digits(folder: Path, *more: str) -> Path:
    """Export the digits model at both sizes to a folder; returns the manifest of sizes."""
    path = folder / MANIFEST
    assert call_main(("--quiet", *WORDS, *more, "--output", path)) == 0
    return path


def copied(manifest: Path, folder: Path) -> Path:
    """A copy of a manifest of sizes and of all its files, to damage."""
    shutil.copytree(manifest.parent, folder)
    return folder / manifest.name


def edit(manifest: Path, **changes: Any) -> None:  # noqa: ANN401 - JSON values
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
