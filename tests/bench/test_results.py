"""Figures that the documentation quotes are those of the results in the repository."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.gpu_suite.document import open_document
from benchmarks.gpu_suite.markdown import render_document
from benchmarks.gpu_suite.summary import Row, rows_of

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "docs" / "results" / "nvidia-h200-2026-11-26.json"
TIMM = "timm's model, compiled, CUDA graph"
RUNNER = "deploy model fp16, compiled, CUDA graph, fused attention"
ENGINE = "tensorrt-rtx fp16, CUDA graph"
SWIN_T, SWIN_V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
SWIN_B, NOTEBOOK = "swin_base_patch4_window7_224", "notebook-swin-t"
BATCHES = (1, 8, 32, 128)

pytestmark = pytest.mark.skipif(not RESULTS.is_file(), reason="the results are not installed")


def measured(model: str, runner: str) -> list[float | None]:
    """Images/s at each batch; None where that was not run."""
    return [row["images_per_s"] if row else None for row in _rows(model, runner)]


def _rows(model: str, runner: str) -> list[Row | None]:
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    found = [
        {row["name"]: row for row in rows_of(document, f"throughput-{model}", batch)}
        for batch in BATCHES
    ]
    return [rows.get(runner) for rows in found]


def quoted(text: str) -> list[str]:
    return re.findall(r"not run|\d[\d,]*\d", text)


def as_quoted(speeds: list[float | None]) -> list[str]:
    return ["not run" if speed is None else f"{speed:,.0f}" for speed in speeds]


def test_page_of_results_is_what_the_json_says() -> None:
    document = open_document(RESULTS, dry=False)
    page = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert render_document(document) == page
    document["parts"].pop("environment")
    assert render_document(document) != page


@pytest.mark.parametrize(
    ("row", "model", "runner"),
    [
        (0, SWIN_T, TIMM),
        (1, SWIN_T, ENGINE),
        (2, SWIN_T, RUNNER),
        (3, SWIN_V2, TIMM),
        (4, SWIN_V2, RUNNER),
        (5, SWIN_B, TIMM),
        (6, SWIN_B, RUNNER),
        (7, NOTEBOOK, RUNNER),
    ],
)
def test_speeds_of_the_pytorch_page_are_measured(row: int, model: str, runner: str) -> None:
    page = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")
    lines = page.partition("| | batch 1 |")[2].splitlines()[2:]
    cells = " ".join(lines[row].split("|")[2:])
    assert quoted(cells) == as_quoted(measured(model, runner))


@pytest.mark.parametrize(
    ("start", "model"), [("| Swin-T 224 on an H200", SWIN_T), ("| the same with SwinV2", SWIN_V2)]
)
def test_speeds_of_the_readme_are_measured(start: str, model: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = (line for line in readme.splitlines() if line.startswith(start))
    _, _, usual, ours, _ = line.split("|")
    assert quoted(usual.replace(", ", " ")) == as_quoted(measured(model, TIMM))
    assert quoted(ours.replace(", ", " ")) == as_quoted(measured(model, RUNNER))


def test_ratios_of_the_pytorch_page_are_measured() -> None:
    """The smallest and the largest, as the page rounds them."""
    ratios = [
        ours / theirs
        for model in (SWIN_T, SWIN_V2, SWIN_B)
        for ours, theirs in zip(measured(model, RUNNER), measured(model, TIMM), strict=True)
        if ours and theirs
    ]
    page = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")
    assert f"That is {min(ratios):.2f} to {max(ratios):.1f} x" in page


def test_relative_l2_of_the_pytorch_page_is_measured() -> None:
    errors = [
        row["relative_l2"]
        for model in (SWIN_T, SWIN_V2, SWIN_B, NOTEBOOK)
        for row in _rows(model, RUNNER)
        if row
    ]
    page = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")
    words = f"Relative L2 to the float32 reference: {min(errors):.0e} to {max(errors):.1e}"
    assert words.replace("e-0", "e-") in page
