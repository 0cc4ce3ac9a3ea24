"""The tiles on top of a report: what they say, and in which colour."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from report_samples import (
    BARE,
    DEPLOY,
    ENGINE_NOT_RUN,
    FAILED,
    FAILING,
    HALF,
    PARTLY,
    PASSING,
    make_bench,
    make_evaluation,
    make_parity,
    make_report,
)

from swin_deploy.bench import BenchReport, BenchResult, Comparison
from swin_deploy.report.html import render_html, state_of
from swin_deploy.report.markdown import render_markdown
from swin_deploy.report.results import Report
from swin_deploy.report.summary import Tile, tiles


def by_question(report: Report) -> dict[str, Tile]:
    return {tile.question: tile for tile in tiles(report)}


def test_tiles_of_a_passing_report_have_figures_and_are_green() -> None:
    found = by_question(PASSING)
    assert list(found) == ["Equal?", "Right?", "Fast?", "Size", "Attention fused"]
    assert found["Equal?"].state == "good"
    assert found["Equal?"].value.endswith("% of the limit")
    assert found["Right?"].state == "good"
    assert "→" in found["Right?"].value
    assert "at 95 %" in found["Right?"].detail
    assert found["Size"].value == "58.1 MB"
    assert (found["Attention fused"].value, found["Attention fused"].state) == ("12 of 12", "good")
    assert state_of(PASSING) == "good"


def test_what_is_shipped_and_was_not_run_is_amber_not_green() -> None:
    found = by_question(PARTLY)["Equal?"]
    assert found.state == "warn"
    assert "not run: engine fp16" in found.detail
    assert state_of(PARTLY) == "warn"


def test_a_failure_is_red_and_names_the_step() -> None:
    found = by_question(FAILING)["Equal?"]
    assert (found.value, found.state) == ("No", "bad")
    assert "onnx" in found.detail
    assert state_of(FAILING) == "bad"


def test_share_of_the_limit_is_rounded_up() -> None:
    worst = DEPLOY.worst
    assert worst is not None
    (tile, *_) = tiles(make_report(make_parity(DEPLOY)))
    share = 100 * worst.deciding.share
    assert share <= int(tile.value.split()[0]) < share + 1


def test_nothing_known_is_grey_or_absent() -> None:
    found = by_question(BARE)
    assert list(found) == ["Right?"]
    assert found["Right?"].state == "none"
    unseen = by_question(make_report(make_parity(ENGINE_NOT_RUN)))["Equal?"]
    assert (unseen.value, unseen.state) == ("Not run", "warn")


def test_accuracy_of_parity_is_of_what_is_shipped() -> None:
    half = dataclasses.replace(HALF, stage="onnx", top1_accuracy=0.95)
    parity = make_parity(DEPLOY, half, reference_top1_accuracy=0.97, labelled=100)
    found = by_question(make_report(parity))["Right?"]
    assert found.value == "97.0% → 95.0%"
    assert found.state == "warn"
    assert "100 images" in found.detail
    guessing = dataclasses.replace(parity, doubt="guessing")
    assert "no better than guessing" in by_question(make_report(guessing))["Right?"].detail


def test_evaluation_decides_over_parity() -> None:
    evaluation = make_evaluation()
    found = by_question(make_report(make_parity(DEPLOY), evaluation=evaluation))["Right?"]
    assert evaluation.reference.top1 is not None
    assert f"{evaluation.images:,} images" in found.detail or str(evaluation.images) in found.detail


def bench_of(ratio: float, low: float, high: float, **changes: Any) -> BenchReport:  # noqa: ANN401
    results = (
        BenchResult("PyTorch reference", 8, "fp32", "CPU", 10, 20.0, 21.0, 400.0, 1.0),
        BenchResult("ONNX fp16", 8, "fp16", "CPU", 10, 10.0, 11.0, 800.0, 2.0, kind="onnx"),
        BenchResult("engine", 8, "fp16", "", kind="engine", **changes),
    )
    compared = Comparison(8, "eager", "ONNX fp16", "PyTorch reference", ratio, low, high)
    return BenchReport("m", 56, results, {"device": "CPU"}, (compared,))


@pytest.mark.parametrize(
    ("bench", "value", "state"),
    [
        (bench_of(2.0, 1.8, 2.2), "2.00x PyTorch", "good"),
        (bench_of(2.0, 1.8, 2.2, not_run="no GPU"), "2.00x PyTorch", "warn"),
        (bench_of(0.5, 0.4, 0.6), "0.50x PyTorch", "bad"),
        (bench_of(1.0, 0.9, 1.1), "No difference", "none"),
        (bench_of(9.0, 0.0, 0.0), "Not decided", "none"),
    ],
    ids=["faster", "engine not timed", "slower", "undecided", "few rounds"],
)
def test_speed_is_only_told_where_it_is_decided(bench: BenchReport, value: str, state: str) -> None:
    found = by_question(make_report(bench=bench))["Fast?"]
    assert (found.value, found.state) == (value, state)
    if value.endswith("PyTorch"):
        assert found.detail.startswith("800 images/s; ONNX fp16 against PyTorch, batch 8, CPU")
    assert "9.00x" not in render_html(make_report(bench=bench))


def test_a_ratio_that_is_not_decided_is_printed_nowhere() -> None:
    few = dataclasses.replace(make_bench(), comparisons=())
    results = tuple(dataclasses.replace(r, ratio_low=0.0, ratio_high=0.0) for r in few.results)
    report = make_report(bench=dataclasses.replace(few, results=results))
    assert "2.13x" in render_html(make_report())
    assert "2.13x" not in render_html(report)
    assert "2.13x" not in render_markdown(report)


def test_page_has_the_command_and_where_the_model_is_from() -> None:
    page = render_html(PARTLY)
    assert "<code>swin-deploy parity --engine a.engine</code>" in page
    assert "squash to 224" in page
    assert "image size: assuming 224 px" in page
    text = render_markdown(PARTLY)
    assert "squash to 224" in text
    assert "image size: assuming 224 px" in text


def test_failed_samples_keep_a_row_of_their_own() -> None:
    page = render_html(make_report(make_parity(DEPLOY, FAILED)))
    assert "reference and deploy" in page
    assert "models agree" not in page
