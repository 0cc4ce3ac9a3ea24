"""No command replaces what it reads, or what somebody else made; all of it is checked early."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import HALF_STEM, STEM, Command, listing
from report_samples import PASSING

from exporters.artifact import read_manifest, write_atomic
from swin_deploy.report.markdown import render_markdown

MODEL = ("--model", "notebook-digits")
THEIRS = b"somebody else's work\n" * 9
NOT_OURS = "not made by swin-deploy, or was changed since; name another output, or replace it with"


def link(name: str, target: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).symlink_to(Path(target).absolute())


def hard(name: str, target: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    os.link(target, name)


READ = [
    ("build-trt m.onnx --fp16 --output m.onnx", None),
    ("build-trt m.onnx --fp32 --output m.onnx", None),
    ("build-trt m.onnx --fp16 --output ./a/../m.onnx", None),
    ("build-trt m.onnx --fp16 --output x.engine", ("x.engine", "m.onnx")),
    ("build-trt m.onnx --fp16 --output x.engine", ("x.engine.json", "m.onnx")),
    ("build-trt m.onnx --fp16 --output x.engine", ("x.engine.json", "m.onnx.json")),
    ("build-trt m.onnx --fp16 --output x.engine", ("m-fp16.onnx", "m.onnx")),
    ("build-trt m.onnx --output x.engine --timing-cache m.onnx", None),
    ("build-trt m.onnx --output x.engine --timing-cache m.onnx.json", None),
    ("export --checkpoint w.safetensors --output w.safetensors", None),
    ("export --checkpoint w.safetensors --output x.onnx", ("x.onnx", "w.safetensors")),
    ("export --checkpoint ckpt --output x.onnx", ("x.onnx", "ckpt/model.safetensors")),
    ("export --checkpoint parts/model.safetensors.index.json --output x.onnx",
     ("x.onnx", "parts/model-1.safetensors")),
    ("plan m.onnx --svg m.onnx", None),
    ("plan m.onnx --svg m.onnx.json", None),
    ("plan m.onnx --svg x.svg", ("x.svg", "m.onnx")),
    ("report a --markdown a/report.json", None),
    ("report a/report.json --markdown a/report.json", None),
    ("report a b --markdown b/report.json", None),
    ("report a --markdown x.md", ("x.md", "a/report.json")),
    ("report a --output new", ("new/report.md", "a/report.json")),
    ("report a --evaluation evaluation.json --markdown evaluation.json", None),
    ("report a --evaluation evaluation.json --output new", ("new/report.json", "evaluation.json")),
    ("evaluate --data val.csv --output new", ("new/evaluation.md", "val.csv")),
    ("evaluate --onnx m.onnx --output new", ("new/evaluation.json", "m.onnx")),
    ("evaluate --classes val.csv --output new", ("new/evaluation.json", "val.csv")),
    ("parity --onnx m.onnx --report new", ("new/report.html", "m.onnx")),
    ("parity --checkpoint ckpt --report new", ("new/report.md", "ckpt/model.safetensors")),
    ("bench --engine m.onnx --report new", ("new/report.json", "m.onnx")),
    ("run --checkpoint w.safetensors --report new", ("new/report.json", "w.safetensors")),
    ("run --images pictures --report new", ("new/report.md", "pictures/3/x.png")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "leads", "how"),
    [
        pytest.param(arguments, leads, how, id=f"{arguments}, {how.__name__}")
        for arguments, leads in READ
        for how in ((link, hard) if leads else (link,))
    ],
)
def test_no_command_replaces_what_it_reads(
    arguments: str,
    leads: tuple[str, str] | None,
    how: Callable[[str, str], None],
    swin: Command,
    place: Path,
) -> None:
    if leads is not None:
        how(*leads)
    before = listing(place)
    outcome = swin(*arguments.split(), "--force")
    outcome.assert_error("is the file to read; name another output")
    assert listing(place) == before
    assert "Building" not in outcome.err
    assert "Exporting" not in outcome.err


def test_two_outputs_in_one_place_are_refused(swin: Command, place: Path) -> None:
    outcome = swin("report", "a", "--output", "new", "--markdown", "new/report.md")
    outcome.assert_error("are the same file; name another output")
    outcome = swin("build-trt", "m.onnx", "--output", "x.engine", "--timing-cache", "x.engine.json")
    outcome.assert_error("are the same file; name another output")
    assert not Path("new").exists()


# What somebody else made


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("report a --output new", "new/report.json"),
        ("report a --output new", "new/report.md"),
        ("report a --output new", "new/report.html"),
        ("report a --markdown x.md", "x.md"),
        ("report a b --markdown x.md", "x.md"),
        ("plan {engine} --svg x.svg", "x.svg"),
        ("export --model notebook-digits", f"engines/{STEM}.onnx"),
        ("build-trt {full} --fp16 --batch 1 --output x.engine", "x.engine"),
        ("build-trt {full} --fp16 --batch 1 --output x.engine", "x.engine.json"),
        ("build-trt {full} --fp16 --batch 1 --output x.engine", f"{HALF_STEM}.onnx"),
        ("build-trt {full} --fp16 --batch 1", f"engines/{HALF_STEM}.onnx.json"),
        ("build-trt {half} --batch 1", f"engines/{HALF_STEM}.engine"),
        ("evaluate --model notebook-digits --limit 10", "evaluation/notebook-digits/evaluation.md"),
        ("evaluate --model notebook-digits --limit 10 --output new", "new/evaluation.json"),
        ("parity --model notebook-digits --limit 2 --batches 1 --report new", "new/report.md"),
        ("bench --model notebook-digits --batch 1 --seconds 1 --report new", "new/report.html"),
    ],
)
def test_what_somebody_else_made_is_replaced_with_force_only(
    arguments: str, name: str, swin: Command, full: Path, half: Path, engine: Path, place: Path
) -> None:
    command = arguments.format(full=full, half=half, engine=engine).split()
    write_atomic(Path(name), THEIRS)
    before = listing(place)
    swin(*command).assert_error(NOT_OURS)
    assert listing(place) == before
    forced = swin(*command, "--force")
    assert (forced.status, "error" in forced.err) == (1 if " b " in arguments else 0, False)
    assert Path(name).read_bytes() != THEIRS
    again = swin(*command)  # what we made is replaced freely
    assert again.status == forced.status, again.err


@pytest.mark.parametrize("name", [f"engines/{STEM}.onnx", f"engines/{HALF_STEM}.engine",
                                  f"engines/{HALF_STEM}.onnx", "report/report.json"])  # fmt: skip
def test_run_finds_what_it_may_not_replace_before_the_work(
    name: str, swin: Command, built: Path, place: Path
) -> None:
    write_atomic(Path(name), THEIRS)
    before = listing(place)
    outcome = swin("run", *MODEL)
    outcome.assert_error(NOT_OURS)
    assert "Exporting" not in outcome.err
    assert listing(place) == before


@pytest.mark.parametrize(
    "name", [f"engines/{STEM}.engine", "engines/notebook-digits-bf16-opset17.onnx"]
)
def test_run_auto_finds_it_for_each_rung(
    name: str, swin: Command, built: Path, place: Path
) -> None:
    write_atomic(Path(name), THEIRS)
    outcome = swin("run", *MODEL, "--auto")
    outcome.assert_error(NOT_OURS)
    assert "Exporting" not in outcome.err


def test_bench_with_force_starts_a_report_anew(swin: Command, place: Path) -> None:
    write_atomic(Path("new/report.json"), THEIRS)
    bench = ("bench", *MODEL, "--batch", "1", "--seconds", "1", "--report", "new")
    swin(*bench).assert_error("is not JSON")
    swin(*bench, "--force").assert_done()
    assert json.loads(Path("new/report.json").read_text())["bench"]["results"]


def test_a_file_of_ours_that_was_changed_is_theirs(swin: Command, half: Path, place: Path) -> None:
    for command, name in (
        (("report", "a", "--markdown", "x.md"), "x.md"),
        (("report", "b", "--output", "a"), "a/report.md"),
        (("build-trt", half, "--batch", "1", "--output", "x.engine"), "x.engine"),
    ):
        swin(*command).assert_done()
        with Path(name).open("ab") as stream:
            stream.write(b"\nnotes\n")
        swin(*command).assert_error(NOT_OURS)
        swin(*command, "--force").assert_done()


def test_files_of_earlier_versions_are_replaced_freely(
    swin: Command, engine: Path, place: Path
) -> None:
    """They are not signed: a report is known from its report.json, the others from their looks."""
    for name in ("report.md", "report.html"):
        path = Path("a") / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    swin("report", "b", "--output", "a").assert_done()
    assert json.loads(Path("a/report.json").read_text())["verdict"] == "fail"
    Path("x.md").write_text(render_markdown(PASSING))
    swin("report", "a", "--markdown", "x.md").assert_done()
    swin("report", "a", "b", "--markdown", "y.md")
    Path("y.md").write_text("".join(Path("y.md").read_text().splitlines(keepends=True)[:-1]))
    assert swin("report", "a", "a", "--markdown", "y.md").assert_done()
    swin("plan", engine, "--svg", "x.svg").assert_done()
    Path("x.svg").write_text("".join(Path("x.svg").read_text().splitlines(keepends=True)[:-1]))
    swin("plan", engine, "--svg", "x.svg").assert_done()


def test_kinds_of_text_do_not_replace_each_other(swin: Command, engine: Path, place: Path) -> None:
    swin("plan", engine, "--svg", "x.svg").assert_done()
    swin("report", "a", "--markdown", "x.svg").assert_error(NOT_OURS)
    swin("report", "a", "--markdown", "m.onnx.json").assert_error(NOT_OURS)
    swin("report", "a", "--markdown", "evaluation.json").assert_error(NOT_OURS)


def test_report_takes_in_an_evaluation_where_it_lies(swin: Command, place: Path) -> None:
    swin("report", "a/", "--evaluation", "evaluation.json", "--output", "a/").assert_done()
    assert json.loads(Path("a/report.json").read_text())["evaluation"]["images"] == 360


# The half-precision graph


def test_build_trt_that_fails_leaves_no_half_precision_graph(
    swin: Command, half: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(place)
    build = ("build-trt", "m.onnx", "--fp16", "--output", "x.engine")
    graph = onnx.load("m.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, "m.onnx")
    before = listing(place)
    swin(*build, "--batch", "1,2,4").assert_error("takes batch 3 only")
    assert listing(place) == before

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    swin(*build).assert_error("No space left on device")
    assert listing(place) == before


def test_build_trt_that_fails_leaves_the_graph_of_before(
    swin: Command, half: Path, place: Path
) -> None:
    build = ("build-trt", "m.onnx", "--fp16", "--batch", "1", "--output", "x.engine")
    swin(*build).assert_done()
    assert (
        read_manifest(Path("x.engine"))["source"]["sha256"]
        == (read_manifest(Path("m-fp16.onnx"))["sha256"])
    )
    graph = onnx.load("m.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, "m.onnx")
    before = listing(place)
    swin(*build).assert_error("takes batch 3 only")
    assert listing(place) == before
