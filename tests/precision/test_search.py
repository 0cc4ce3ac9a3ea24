"""``run --auto``: the first precision that is right, on models that were built to overflow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import IMAGES, Command
from overflowing import State, attention, attention_and_offset, mlp, write_checkpoint

from exporters.engine.to_engine import build_engine
from exporters.half_precision import FLOAT32_ASKED, float32_modules, precision_of
from exporters.spec import BatchProfile, EngineOptions
from swin_deploy.artifacts import engine_file
from swin_deploy.artifacts.onnx_file import export_spec, write_onnx
from swin_deploy.checkpoints.load import load_model
from swin_deploy.images.sets import load_images
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.precision import search as ladder_module
from swin_deploy.precision.search import SearchInputs, SearchResult, search_precision

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")

MODEL = "notebook-digits"


def make_search(folder: Path, change: Callable[[State], None] | None) -> SearchInputs:
    checkpoint = write_checkpoint(folder, change) if change else None
    loaded = load_model(MODEL, checkpoint)
    path = folder / "engines" / "m-fp32.onnx"
    full = write_onnx(loaded, export_spec(loaded), path).without_weights()
    images = (load_images(IMAGES, loaded.preprocessing, num_classes=10, limit=8),)
    profile = BatchProfile(2, 2, 2)
    return SearchInputs(loaded, full, images, profile, EngineOptions("tensorrt-rtx"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "engines").iterdir())


def files_of(found: SearchResult) -> list[str]:
    stems = {one.path.name for one in (found.graph, found.engine) if one}
    every = {"m-fp32.onnx", *stems}
    return sorted(every | {f"{name}.json" for name in every})


@pytest.mark.parametrize(
    ("change", "attempts", "reasons"),
    [
        (None, ["float16"], ["delivered by the plan"]),
        (
            mlp,
            ["float16", "float16 with layers.3.mlp in float32"],
            ["first to overflow: layers.3.mlp.0/linear", "delivered by the plan"],
        ),
        (
            attention,
            ["float16", "float16", "bfloat16"],
            [
                "first to overflow: layers.3.attention.qkv/linear",
                "parts kept in float32 do not help: layers.3.attention",
                "bf16, emulated error",
            ],
        ),
        (
            attention_and_offset,
            ["float16", "float16", "bfloat16", "float32"],
            [
                "first to overflow",
                "parts kept in float32 do not help",
                "bf16, emulated",
                "ONNX fp32 error",
            ],
        ),
    ],
    ids=["trained", "mlp", "attention", "attention-and-offset"],
)
def test_climb_stops_at_the_first_rung_that_is_right(
    change: Callable[[State], None] | None, attempts: list[str], reasons: list[str], tmp_path: Path
) -> None:
    found = search_precision(make_search(tmp_path, change), start="fp16")
    assert [attempt.title for attempt in found.attempts] == attempts
    assert [attempt.passed for attempt in found.attempts] == [False] * (len(attempts) - 1) + [True]
    for attempt, reason in zip(found.attempts, reasons, strict=True):
        assert reason in attempt.reason
    assert names(tmp_path) == files_of(found)  # nothing of the other attempts is left
    assert found.graph is not None
    graph = onnx.load(found.graph.path)
    taken = found.attempts[-1]
    assert precision_of(graph) == taken.precision
    assert bool(float32_modules(graph, FLOAT32_ASKED)) == bool(taken.keep)


def test_climb_takes_no_rung_whose_plan_does_not_deliver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build_engine

    def undone(*args: Any, **options: Any) -> object:  # noqa: ANN401 - passed along
        built = real(*args, **options)
        plan = dataclasses.replace(built.plan, lost_float32=("layers.3.mlp.0",))
        return dataclasses.replace(built, plan=plan)

    monkeypatch.setattr(engine_file, "build_engine", undone)
    found = search_precision(make_search(tmp_path, mlp), start="fp16")
    assert [attempt.passed for attempt in found.attempts] == [False, False, False, True]
    assert "layers.3.mlp.0 would not run in float32" in found.attempts[1].reason
    assert names(tmp_path) == files_of(found)


def test_climb_without_a_right_rung_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(tmp_path, None)
    hops = tuple(
        Hop(f"ONNX {precision}", "onnx", precision, "m.onnx", "ONNX Runtime")  # no case passed
        for precision in ("bf16", "fp32")
    )
    failing = ParityReport(MODEL, "", "", (), None, hops)
    monkeypatch.setattr(ladder_module, "prove_parity", lambda *_, **__: failing)
    found = search_precision(search, start="bf16")
    assert [attempt.precision for attempt in found.attempts] == ["bf16", "fp32"]
    assert (found.graph, found.engine) == (None, None)
    assert names(tmp_path) == files_of(found)


def test_run_auto_reports_every_rung(swin: Command, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, mlp)
    outcome = swin(
        "run", "--model", MODEL, "--checkpoint", checkpoint, "--images", IMAGES, "--limit", 40,
        "--auto", "--batch", 2, "--bench-seconds", 1, "--json",
    ).assert_done()  # fmt: skip
    failed, taken = (f"precision {n}" for n in ("1, failed", "2, taken"))
    conditions = outcome.json["conditions"]
    assert conditions[failed].startswith("float16: deploy model fp16, emulated, images: ")
    assert conditions[taken].startswith("float16 with layers.3.mlp in float32: ")
    assert "failed: float16: " in outcome.err
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["conditions"] == conditions
    for name in ("report.md", "report.html"):
        assert "float16 with layers.3.mlp in float32" in (tmp_path / "report" / name).read_text()
    accuracy = {hop["name"]: hop["top1_accuracy"] for hop in outcome.json["parity"]["hops"]}
    assert accuracy["ONNX fp16"] == outcome.json["parity"]["reference_top1_accuracy"] > 0.9


def test_run_without_auto_fails_where_float16_overflows(swin: Command, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, mlp)
    outcome = swin(
        "run", "--model", MODEL, "--checkpoint", checkpoint, "--images", IMAGES, "--limit", 8,
        "--fp16", "--batch", 2, "--bench-seconds", 1, "--json",
    )  # fmt: skip
    assert outcome.status == 1
    passed = {hop["name"]: hop["passed"] for hop in outcome.json["parity"]["hops"]}
    assert passed["deploy model fp16, emulated"] is False
    # Why it is emulated: ONNX Runtime's CPU provider does not round between these nodes.
    assert passed["ONNX fp16"] is True


@pytest.mark.parametrize("order", ["all half first", "kept first"])
def test_parity_emulates_every_file_of_a_precision_that_rounds_otherwise(
    order: str, swin: Command, tmp_path: Path
) -> None:
    """A file that overflows is not saved by another one that keeps the part in float32."""
    model = ("--model", MODEL, "--checkpoint", write_checkpoint(tmp_path, mlp))
    half, kept = tmp_path / "half.onnx", tmp_path / "kept.onnx"
    swin("export", *model, "--precision", "fp16", "--output", half).assert_done()
    keep = ("--keep-float32", "layers.3.mlp")
    swin("export", *model, "--precision", "fp16", *keep, "--output", kept).assert_done()
    files = [half, kept] if order == "all half first" else [kept, half]
    named = [word for one in (*files, kept) for word in ("--onnx", one)]
    outcome = swin("parity", *model, *named, "--images", IMAGES, "--limit", 8, "--json")
    assert outcome.status == 1
    passed = {hop["name"]: hop["passed"] for hop in outcome.json["hops"]}
    emulated = {name: one for name, one in passed.items() if "emulated" in name}
    assert emulated == {
        "deploy model fp16, emulated, half.onnx": False,
        "deploy model fp16, emulated, kept.onnx": True,
    }


def test_run_bf16_says_what_was_not_run(swin: Command) -> None:
    outcome = swin(
        "run", "--model", MODEL, "--bf16", "--limit", 8, "--batch", 2, "--bench-seconds", 1,
        "--json",
    ).assert_done()  # fmt: skip
    hops = {hop["name"]: hop for hop in outcome.json["parity"]["hops"]}
    assert "lacks bfloat16 kernels" in hops["ONNX bf16"]["not_run"]
    assert hops["deploy model bf16, emulated"]["passed"] is True
    assert outcome.json["plan"]["float32_compute"] == []
    assert outcome.json["plan"]["fused_attention"] == 4


def test_auto_after_fp32_is_wrong_usage(swin: Command) -> None:
    outcome = swin("run", "--model", MODEL, "--fp32", "--auto")
    assert (outcome.status, "--auto has nothing to try after --fp32" in outcome.err) == (2, True)
