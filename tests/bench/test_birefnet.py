"""BiRefNet's page: its table is what was measured; its deformable convolution is the definition."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error

from benchmarks.birefnet import BIREFNET, INSPYRENET, OURS, Job, run
from benchmarks.birefnet_whole import by_grid_sample

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "docs" / "results" / "birefnet-cpu.json"
JOBS = ["swin_v1_t 512", "swin_v1_t 1024", "swin_v1_l 512", "swin_v1_l 1024"]
NAMES = {"swin_v1_t": "Swin-T", "swin_v1_l": "Swin-L"}
ROUTES = {OURS: "ours", INSPYRENET: "InSPyReNet's class", BIREFNET: "BiRefNet's class"}


def row(job: str, steps: dict[str, Any], route: str) -> str:
    """A line of the page's table."""
    export, plan = steps[f"export {route}"], steps[f"plan {route}"]
    best = plan["forms"][plan["best"]]
    times = steps["times"].get(route, {})
    model, size = job.split()
    cells = [
        f"{NAMES[model]} {size}",
        ROUTES[route],
        f"{export['nodes']:,}",
        f"{export['mb']:.0f}",
        f"{steps['errors'][f'{route} in ONNX Runtime']:.1e}",
        str(best["kernels"]),
        f"{best['fused']} of {best['attention_blocks']}",
        f"{best['megabytes']:,.0f}",
        f"{best['engine_mb']:.0f}",
        "{ratio:.2f} ({least:.2f} to {most:.2f})".format(**times) if times else "1.00",
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.skipif(not RESULTS.is_file(), reason="the results are not installed")
@pytest.mark.parametrize("job", JOBS)
def test_table_of_the_birefnet_page_is_measured(job: str) -> None:
    steps = json.loads(RESULTS.read_text(encoding="utf-8"))["jobs"][job]
    page = (ROOT / "docs" / "birefnet.md").read_text(encoding="utf-8").splitlines()
    for route in ROUTES:
        assert row(job, steps, route) in page


@pytest.mark.skipif(not RESULTS.is_file(), reason="the results are not installed")
def test_ranges_of_the_birefnet_page_are_measured() -> None:
    jobs = json.loads(RESULTS.read_text(encoding="utf-8"))["jobs"].values()
    page = " ".join((ROOT / "docs" / "birefnet.md").read_text(encoding="utf-8").split())
    for kind in ("own rounding", "deploy", "BiRefNet's class"):
        assert ends([job["errors"][kind] for job in jobs], ".1e") in page
    assert not any(job["errors"]["reference"] for job in jobs)
    for route in (INSPYRENET, BIREFNET):
        assert ends([megabytes(job, OURS) / megabytes(job, route) for job in jobs], ".2f") in page


def megabytes(job: dict[str, Any], route: str) -> float:
    plan = job[f"plan {route}"]
    return plan["forms"][plan["best"]]["megabytes"]


def ends(values: list[float], form: str) -> str:
    """The least and the largest, as the page has them."""
    return f"{min(values):{form}} to {max(values):{form}}"


def sample(image: torch.Tensor, row: float, column: float) -> torch.Tensor:
    """The bilinear sample [C] of an image [C, H, W] with zeros around it."""
    total = torch.zeros(len(image))
    top, left = math.floor(row), math.floor(column)
    for y, x in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
            total += (1 - abs(row - y)) * (1 - abs(column - x)) * image[:, y, x]
    return total


def naive(images, offset, weight, mask, *, stride: int, padding: int) -> torch.Tensor:
    """The definition, place by place."""
    out = torch.zeros(len(images), len(weight), *offset.shape[-2:])
    places = list(itertools.product(*map(range, weight.shape[2:])))
    for one, y, x in itertools.product(*map(range, (len(images), *out.shape[-2:]))):
        for place, (i, j) in enumerate(places):
            down, across = offset[one, 2 * place : 2 * place + 2, y, x].tolist()
            at = y * stride - padding + i + down, x * stride - padding + j + across
            taken = sample(images[one], *at) * mask[one, place, y, x]
            out[one, :, y, x] += weight[:, :, i, j] @ taken
    return out


@pytest.mark.parametrize(("kernel", "stride"), [((1, 1), 1), ((3, 3), 1), ((3, 2), 2)])
def test_by_grid_sample_equals_the_definition(kernel: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    images, weight = torch.randn(2, 3, 7, 6), torch.randn(4, 3, *kernel)
    padding, places = kernel[0] // 2, kernel[0] * kernel[1]
    side = torch.nn.functional.conv2d(images, weight, stride=stride, padding=padding).shape[-2:]
    offset, mask = 2 * torch.randn(2, 2 * places, *side), torch.rand(2, places, *side)
    sides: dict[str, Any] = {"stride": (stride, stride), "padding": padding}
    found = by_grid_sample(images, offset, weight, torch.ones(4), mask=mask, **sides)
    expected = naive(images, offset, weight, mask, stride=stride, padding=padding) + 1
    assert rms_error(found, expected) < FLOAT32_TOLERANCE
    swapped = offset.reshape(2, places, 2, *side).flip(2).reshape(offset.shape)
    wrong = by_grid_sample(images, swapped, weight, torch.ones(4), mask=mask, **sides)
    assert rms_error(wrong, expected) > REJECTED


@pytest.mark.slow
def test_run_of_a_small_model_writes_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    job, results = Job("tiny", 64, tmp_path, None, rounds=2), tmp_path / "results.json"
    with torch.no_grad():
        run(job, results)
        steps = json.loads(results.read_text())["jobs"]["tiny 64"]
        assert not [name for name, step in steps.items() if "failed" in step]
        assert max(steps["errors"].values()) < FLOAT32_TOLERANCE
        steps["times"] = {"rounds": 0}
        results.write_text(json.dumps({"jobs": {"tiny 64": steps}}))
        run(job, results)
    assert json.loads(results.read_text())["jobs"]["tiny 64"]["times"] == {"rounds": 0}
