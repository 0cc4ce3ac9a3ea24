"""``swin-deploy plan`` at the border: tables, JSON, two files, the picture, refusals."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command, edit_manifest, listing, no_space
from exported import make_graph
from onnx import helper

from exporters.artifact import manifest_path
from exporters.plan import KernelPlan
from swin_deploy.cli.plan import GPU_NAMES
from swin_deploy.config import VARIANTS

BLOCKS = ["embed", "layers.0", "layers.1", "layers.2", "layers.3", "layers.4", "heads"]
GFLOPS = 2 * VARIANTS["notebook-digits"].gmacs


def to_older_release(path: Path) -> None:
    """Leave out of an engine's manifest what older releases did not write."""
    plan = json.loads(manifest_path(path).read_text())["plan"]
    for name in ("blocks", "unsized_products", "lost_float32"):
        del plan[name]
    for kernel in plan["kernels"]:
        kinds = ("bytes_by_type", "float32_constants")
        for name in ("bytes_written", "flops", "block", "operators", *kinds):
            del kernel[name]
    KernelPlan.from_dict(plan)
    edit_manifest(path, plan=plan)


def test_plan_shows_every_part_of_a_small_model_unasked(swin: Command, engine: Path) -> None:
    outcome = swin("plan", engine).assert_done()
    for name in (*BLOCKS, "Of the minimum", "GFLOP per image", "all"):
        assert name in outcome.out
    assert "--kernels" in outcome.err


def test_plan_kernels_shows_each_in_launch_order(
    swin: Command, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    values = swin("plan", engine, "--json").assert_done().json
    for part in (values, *values["launches"], *values["blocks"]):
        assert sum(part["bytes_by_type"].values()) == part["bytes_moved"]
    assert values["bytes_by_type"]["FP16"] == values["half_byte_share"] * values["bytes_moved"]
    lines = swin("plan", engine, "--kernels").assert_done().out.splitlines()
    rows = [line.split() for line in lines if len(line.split()) > 2]  # not ends of long names
    rows = [row for row in rows if row[0].isdecimal()]
    numbers = [int(row[0]) for row in rows]
    assert numbers == list(range(1, values["kernels"] + 1))
    shown = [(row[1], row[2]) for row in rows]
    assert shown == [(launch["block"], launch["kind"]) for launch in values["launches"]]


@pytest.mark.parametrize("detail", ["--blocks", "--kernels"])
def test_plan_bounds_the_details_by_one_gpu(detail: str, swin: Command, engine: Path) -> None:
    shown = swin("plan", engine, detail, "--gpu", "h200").assert_done().out
    assert " H200 " in shown
    assert "A bound from published peaks, not a measurement" in shown
    assert "L2 cache" in shown


def test_plan_json_has_everything(swin: Command, engine: Path) -> None:
    values = swin("plan", engine, "--json").assert_done().json
    assert [block["name"] for block in values["blocks"]] == BLOCKS
    assert values["flops"] == pytest.approx(8e9 * GFLOPS, rel=1e-9)
    assert values["floor_ratio"] == pytest.approx(values["bytes_moved"] / values["floor_bytes"])
    assert [bound["gpu"]["name"] for bound in values["roofline"]] == list(GPU_NAMES)
    for bound in values["roofline"]:
        assert len(bound["kernel_us_at_least"]) == values["kernels"]
        assert bound["compute_ms"] < bound["latency_ms_at_least"]
    attention = next(launch for launch in values["launches"] if launch["kind"] == "attention")
    assert attention["operators"].count("Softmax") == 1 < len(attention["operators"])
    assert 0 < attention["bytes_written"] < attention["bytes_moved"]


def test_plan_json_has_the_gpus_asked_for(swin: Command, engine: Path) -> None:
    bounds = swin("plan", engine, "--json", "--gpu", "T4", "--gpu", "L4").json["roofline"]
    assert [bound["gpu"]["name"] for bound in bounds] == ["T4", "L4"]


def test_plan_of_two_files_compares_them(swin: Command, engine: Path, full: Path) -> None:
    outcome = swin("plan", engine, full, "--gpu", "H200").assert_done()
    for text in (engine.name, full.name, "B/A", "Block of B", "H200 ms at least"):
        assert text in outcome.out
    values = swin("plan", engine, full, "--json").assert_done().json
    first, second = values["first"], values["second"]
    assert (first["fused_attention"], second["fused_attention"]) == (4, 0)
    assert (first["file"], second["file"]) == (engine.name, full.name)
    assert first["batch"] == second["batch"] == 8
    assert [pair["first"]["name"] for pair in values["blocks"]] == BLOCKS
    more = sum(pair["more_bytes"] for pair in values["blocks"])
    assert more == second["bytes_moved"] - first["bytes_moved"] > 0


def test_plan_fp16_is_the_plan_of_the_float16_form(
    swin: Command, full: Path, half: Path, tmp_path: Path
) -> None:
    asked = swin("plan", full, "--fp16", "--json").assert_done().json
    assert asked["fused_attention"] == 4
    assert asked["bytes_moved"] == swin("plan", half, "--json").json["bytes_moved"]
    assert listing(tmp_path) == {}


def test_plan_svg_is_one_picture_that_loads_nothing(swin: Command, engine: Path) -> None:
    swin("plan", engine, "--svg", "out/plan.svg").assert_done()
    text = Path("out/plan.svg").read_text()
    root = ElementTree.fromstring(text)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(BLOCKS) <= set(texts)
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    width = float(root.attrib["viewBox"].split()[2])
    rects = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert all(float(r.attrib["x"]) + float(r.attrib["width"]) <= width for r in rects)
    assert {rect.attrib["class"] for rect in rects} == {
        "attention", "gemm", "norm", "copy", "track"
    }  # fmt: skip


def test_plan_svg_on_a_full_disk_leaves_nothing(
    swin: Command, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    swin("plan", engine, "--svg", "plan.svg").assert_error("cannot write plan.svg")
    assert listing(tmp_path) == {}


def test_plan_of_an_older_engine_shows_what_it_has(swin: Command, own_engine: Path) -> None:
    to_older_release(own_engine)
    shown = swin("plan", own_engine).assert_done().out
    assert "4 of 4" in shown
    assert "not known: planned by an older release" in shown
    assert "_gemm_mha" in shown
    values = swin("plan", own_engine, "--json").assert_done().json
    assert (values["blocks"], values["flops"], values["floor_ratio"]) == ([], None, None)
    assert values["roofline"] == []


@pytest.mark.parametrize("asked", ["--blocks", "--kernels", "--gpu H200", "--svg x.svg", "{other}"])
def test_plan_of_an_older_engine_refuses_what_it_has_not(
    asked: str, swin: Command, own_engine: Path, engine: Path, tmp_path: Path
) -> None:
    to_older_release(own_engine)
    before = listing(tmp_path)
    outcome = swin("plan", own_engine, *asked.format(other=engine).split())
    outcome.assert_error("made by an older release, without blocks, operations and minimum")
    assert listing(tmp_path) == before


def write_convolutions() -> None:
    weights = {"w": np.zeros((3, 3, 3, 3), np.float32)}
    made = helper.make_node("Conv", ["images", "w"], ["y"], pads=[1] * 4)
    classes = helper.make_node("Softmax", ["y"], ["z"])
    onnx.save(make_graph(made, classes, weights=weights, outputs={"z": "bchw"}), "resnet.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("resnet.onnx", "resnet.onnx has no attention", id="no-swin"),
        pytest.param("text.onnx", "text.onnx is not a whole ONNX file", id="text"),
        pytest.param("cut.onnx", "cut.onnx is not a whole ONNX file", id="truncated"),
        pytest.param("{full} no.onnx", "no.onnx does not exist", id="second-missing"),
        pytest.param("{engine} --fp16", "is no ONNX file", id="fp16-of-an-engine"),
        pytest.param("{full} {engine} --batch 2", "is for batch 8", id="two-batches"),
        pytest.param("{engine} --svg .", "is a folder", id="svg-folder"),
    ],
)
def test_plan_that_cannot_be_done_is_status_3(
    arguments: str, message: str, swin: Command, full: Path, engine: Path
) -> None:
    write_convolutions()
    Path("text.onnx").write_text("no graph " * 30)
    Path("cut.onnx").write_bytes(full.read_bytes()[:40_000])
    swin("plan", *arguments.format(full=full, engine=engine).split()).assert_error(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.onnx b.onnx --svg x.svg", "--svg and --kernels take one FILE"),
        ("a.onnx b.onnx --kernels", "--svg and --kernels take one FILE"),
        ("a.onnx --gpu GTX", "'GTX' is not one of"),
        ("a.onnx b.onnx c.onnx", "unexpected extra argument"),
    ],
)
def test_plan_asked_wrongly_is_status_2(arguments: str, message: str, swin: Command) -> None:
    for name in ("a.onnx", "b.onnx"):
        Path(name).touch()
    outcome = swin("plan", *arguments.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
