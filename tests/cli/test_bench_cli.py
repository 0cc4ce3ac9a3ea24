"""``swin-deploy bench`` at the border."""

import sys
from pathlib import Path

import pytest
from command_line import Command

SMALL = ("bench", "--model", "notebook-digits", "--batch", "1", "--seconds", "1")


@pytest.mark.parametrize("asked", ["eager,speed", "", "alle"])
def test_bench_against_something_unknown_is_wrong_usage(swin: Command, asked: str) -> None:
    outcome = swin(*SMALL, "--against", asked)
    assert outcome.status == 2
    assert "known are eager, compile, max-autotune, original, all" in outcome.err


def test_bench_json_has_the_comparisons(swin: Command, full: Path) -> None:
    pytest.importorskip("onnxruntime")
    values = swin(*SMALL, "--onnx", full, "--against", "eager", "--json").assert_done().json
    found = values["comparisons"]
    assert [(one["bar"], one["batch"]) for one in found] == [("eager", 1)]
    assert [result["kind"] for result in values["results"]] == ["reference", "deploy", "onnx"]
    assert all(result["relative_l2"] < 1e-3 for result in values["results"])


def test_bench_says_what_was_left_out_and_what_to_do_next(swin: Command) -> None:
    outcome = swin(*SMALL, "--against", "original", "--transfers").assert_done()
    assert "the PyTorch reference is the notebook's own code" in " ".join(outcome.out.split())
    assert "with" in outcome.out
    assert "next: " in outcome.err


def test_bench_file_that_does_not_run_is_shown_and_is_status_1(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = pytest.importorskip("onnxruntime")

    def broken(*_: object, **__: object) -> None:
        raise ort.capi.onnxruntime_pybind11_state.Fail("no\nkernel")

    monkeypatch.setattr(ort, "InferenceSession", broken)
    outcome = swin(*SMALL, "--onnx", full, "--against", "eager", "--json")
    assert outcome.status == 1
    assert "no kernel" in outcome.json["results"][2]["failed"]
    assert outcome.json["results"][1]["failed"] == ""


class WithoutTimm:
    """A finder of modules by which timm is not installed."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")


def test_bench_original_that_is_missing_is_a_row(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutTimm, *sys.meta_path])
    values = swin(
        "bench", "--model", "swin_tiny_patch4_window7_224", "--batch", "1", "--seconds", "1",
        "--against", "original", "--json",
    ).assert_done().json  # fmt: skip
    (row,) = (result for result in values["results"] if result["kind"] == "original")
    assert "install it: pip install timm" in row["not_run"]
    assert row["images_per_s"] is None
