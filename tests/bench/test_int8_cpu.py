"""Int8 beside other tools: quoted as measured, and judged by what the figures mean."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.int8_cpu import EVERY, judged, timed, training_images
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.images.sets import ImageSet

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "docs" / "results" / "int8-cpu.json"
on_disk = pytest.mark.skipif(not RESULTS.is_file(), reason="the results are not installed")


def rows(page: str) -> dict[str, list[str]]:
    """The cells of every table row of a page, by the first cell."""
    lines = [line.replace("*", "") for line in page.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in found}


@on_disk
def test_page_quotes_the_measured_errors_and_times() -> None:
    quoted = rows((ROOT / "docs" / "exports.md").read_text(encoding="utf-8"))
    result: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    seen = 0
    for one in result["accuracy"]:
        title = {"none": "nothing", "NNCF": "NNCF, defaults"}.get(one["quantised_by"])
        if one["runtime"] == "ONNX Runtime" and one["quantised_by"] != "swin-deploy":
            cells = quoted[title or one["quantised_by"]]
            assert cells[one["float32_file"] != "ours"] == f"{one['relative_l2']:.4f}"
            seen += 1
    ours = next(one for one in result["accuracy"] if one["quantised_by"] == "swin-deploy")
    assert quoted["`export --for cpu --precision int8`"][0] == f"{ours['relative_l2']:.4f}"
    times: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in result["times"]["rows"]:
        times[one["runtime"], one["file"]].append(f"{one['ratio']:.3f}")
    assert quoted["ONNX Runtime, int8"] == times["ONNX Runtime", "ours"]
    assert quoted["OpenVINO, int8"] == times["OpenVINO", "ours"]
    assert quoted["OpenVINO, float32"] == times["OpenVINO", "float32"]
    dynamic = quoted["ONNX Runtime, its dynamic int8 of the float32 file"]
    assert dynamic == times["ONNX Runtime", "ONNX Runtime dynamic"]
    assert seen == 13


def test_judged_counts_answers_and_measures_the_distance() -> None:
    expected = np.array([[2, 0], [0, 2]], np.float32)
    images = ImageSet(
        "images", "2", np.zeros((2, 3, 1, 1), np.float32), ("a", "b"), np.array([0, 0])
    )
    same = judged(expected, expected, images)
    assert same == {"relative_l2": 0.0, "top1": 50.0, "agreement": 100.0}
    other = judged(expected[:, ::-1], expected, images)
    assert other["agreement"] == 0.0
    assert other["relative_l2"] > 1


def test_training_images_are_none_of_the_judged(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    images = training_images(tmp_path)
    held_out = {path.name for path in BUNDLED_IMAGES["notebook-digits"].rglob("*.png")}
    taken = {Path(path).name for path in images.paths}
    assert (len(taken), images.found, EVERY) == (64, 206, 7)
    assert not taken & held_out


def test_timed_takes_ratios_to_the_first() -> None:
    def work(times: int) -> Any:  # noqa: ANN401 - a call
        return lambda images: [np.sort(images) for _ in range(times)]

    images = np.random.default_rng(0).standard_normal((40, 5000)).astype(np.float32)
    found = timed({("a", ""): work(1), ("b", ""): work(8)}, images, rounds=5)
    assert found["a", ""] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert found["b", ""]["ratio"] > 3
