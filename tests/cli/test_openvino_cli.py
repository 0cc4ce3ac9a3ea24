"""``--runner openvino`` on the command line: judged, timed, evaluated and used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import several_sizes
from command_line import IMAGES, SMALL_PARITY, Command, edit_manifest
from onnx import helper, numpy_helper
from openvino_support import refuse_to_compile

from exporters.artifact import manifest_path, sha256_of
from exporters.backends import load_openvino, openvino_cpu
from exporters.errors import MissingBackendError

try:
    ABILITIES = openvino_cpu(load_openvino().Core()).abilities
except MissingBackendError as err:
    pytest.skip(str(err), allow_module_level=True)
pytest.importorskip("onnxruntime")
BOTH = ("--runner", "openvino", "--runner", "openvino-bf16")


def test_parity_judges_each_way_and_follows_its_tokens(swin: Command, full: Path) -> None:
    values = swin("parity", *SMALL_PARITY, "--onnx", full, *BOTH, "--json").assert_done().json
    found = {hop["name"]: hop for hop in values["hops"]}
    assert list(found) == ["deploy model", "ONNX fp32", "OpenVINO fp32", "OpenVINO bf16"]
    assert found["OpenVINO fp32"]["passed"] is True
    assert found["OpenVINO fp32"]["drift"]
    assert found["OpenVINO bf16"]["passed"] is (True if "BF16" in ABILITIES else None)
    for hop in (found["OpenVINO fp32"], found["OpenVINO bf16"]):
        assert hop["backend"].startswith("OpenVINO ")
        assert hop["file"] == full.name


def test_bench_times_it_next_to_onnx_runtime(swin: Command, full: Path) -> None:
    few = ("--model", "notebook-digits", "--batch", 2, "--seconds", 1, "--against", "eager")
    rows = swin("bench", *few, "--onnx", full, *BOTH[:2], "--json").assert_done().json["results"]
    (row,) = [one for one in rows if one["name"] == "OpenVINO fp32"]
    assert row["kind"] == "onnx"
    assert row["images_per_s"] > 0
    assert row["relative_l2"] < 1e-5


def test_evaluate_keeps_the_answers_of_each_way_apart(swin: Command, full: Path) -> None:
    few = ("evaluate", "--model", "notebook-digits", "--limit", 20, "--onnx", full, *BOTH[:2])
    values = swin(*few, "--json").assert_done().json
    assert [one["name"] for one in values["candidates"]][-2:] == ["ONNX fp32", "OpenVINO fp32"]
    again = swin(*few, "--json").assert_done()
    assert again.err.count("takes over 20 of 20 images") == 1 + len(values["candidates"])


def test_openvino_that_cannot_start_is_one_line(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its part for CPUs is missing."""

    def none() -> None:
        raise RuntimeError("Device with CPU name is not registered in the OpenVINO Runtime")

    monkeypatch.setattr(load_openvino(), "Core", none)
    message = "openvino does not run on this CPU (RuntimeError: Device with CPU name"
    swin("predict", full, IMAGES / "3", "--runner", "openvino").assert_error(message)
    values = swin("parity", *SMALL_PARITY, "--onnx", full, *BOTH[:2], "--json").assert_done().json
    assert values["hops"][-1]["not_run"].startswith(message)
    first = swin("run", "--for", "cpu", "--model", "notebook-digits", "--quick", "--json")
    assert message in first.assert_done().json["conditions"]["refused"]


@pytest.fixture(params=["load", "compile"])
def refused(
    request: pytest.FixtureRequest, tmp_path: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    """A right file that ONNX Runtime runs and OpenVINO does not, and why."""
    if request.param == "compile":
        refuse_to_compile(monkeypatch)
        return full, f"OpenVINO cannot compile {full} (no kernel for it)"
    path = tmp_path / full.name
    graph = onnx.load(full)
    (last,) = [node for node in graph.graph.node if "logits" in node.output]
    last.output[0] = "before"
    graph.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), "eye"))
    graph.graph.node.append(helper.make_node("Det", ["eye"], ["one"]))  # no rule in OpenVINO
    graph.graph.node.append(helper.make_node("Mul", ["before", "one"], ["logits"]))
    onnx.save(graph, path)
    manifest_path(path).write_bytes(manifest_path(full).read_bytes())
    edit_manifest(path, sha256=sha256_of(path))
    return path, f"OpenVINO cannot load {path} ("


def test_file_that_openvino_does_not_run_leaves_the_other_steps(
    swin: Command, refused: tuple[Path, str]
) -> None:
    path, why = refused
    of_file = ("--onnx", path, *BOTH[:2], "--json")
    hops = swin("parity", *SMALL_PARITY, *of_file).assert_done().json["hops"]
    assert {hop["name"]: hop["passed"] for hop in hops} == {
        "deploy model": True,
        "ONNX fp32": True,
        "OpenVINO fp32": None,
    }
    few = ("--model", "notebook-digits", "--batch", 2, "--seconds", 1, "--against", "eager")
    rows = swin("bench", *few, *of_file).assert_done().json["results"]
    values = swin("evaluate", "--model", "notebook-digits", "--limit", 20, *of_file).assert_done()
    rest = values.json["candidates"]
    for found in (hops, rows, rest):
        reasons = {one["name"]: one["not_run"] for one in found}
        assert reasons.pop("OpenVINO fp32").startswith(why)
        assert not any(reasons.values())
    assert all(one["top1"] for one in rest[:-1])
    swin("predict", path, IMAGES / "3", "--runner", "openvino").assert_error(why)


def test_tokens_that_openvino_does_not_give_leave_the_verdict(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_compile(monkeypatch, most_outputs=1)
    values = swin("parity", *SMALL_PARITY, "--onnx", full, *BOTH[:2], "--json").assert_done().json
    hop: dict[str, Any] = values["hops"][-1]
    assert (hop["name"], hop["passed"]) == ("OpenVINO fp32", True)
    assert hop["drift_not_run"].startswith("OpenVINO cannot compile")


def test_predict_gives_the_answers_of_onnx_runtime(swin: Command, full: Path) -> None:
    plain = swin("predict", full, IMAGES / "3", "--json").assert_done()
    for way in ("openvino", *(["openvino-bf16"] if "BF16" in ABILITIES else [])):
        outcome = swin("predict", full, IMAGES / "3", "--runner", way, "--json").assert_done()
        assert "OpenVINO" in outcome.err
        for ours, theirs in zip(outcome.out.splitlines(), plain.out.splitlines(), strict=True):
            assert ours.split('"index"')[0] == theirs.split('"index"')[0]


def test_predict_takes_a_manifest_of_sizes(swin: Command, tmp_path: Path) -> None:
    sizes = several_sizes.export_digits(tmp_path)
    outcome = swin("predict", sizes, IMAGES / "3", "--runner", "openvino").assert_done()
    assert "OpenVINO" in outcome.err


@pytest.mark.parametrize("command", ["parity", "bench", "evaluate"])
def test_without_an_onnx_file_it_is_wrong_usage(swin: Command, command: str) -> None:
    outcome = swin(command, "--model", "notebook-digits", *BOTH)
    assert outcome.status == 2
    assert "--runner openvino runs ONNX files; give one with --onnx" in outcome.err


def test_predict_of_a_checkpoint_is_refused(swin: Command) -> None:
    swin("predict", "notebook-digits", IMAGES / "3", "--runner", "openvino").assert_error(
        "takes an ONNX file"
    )


def test_missing_package_is_one_line(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    install = 'openvino is not installed; install it: pip install "swin-deploy[openvino]"'
    swin("predict", full, IMAGES / "3", "--runner", "openvino").assert_error(install)
    values = swin("parity", *SMALL_PARITY, "--onnx", full, *BOTH[:2], "--json").assert_done().json
    assert values["hops"][-1]["not_run"] == install
    found = swin("doctor", "--json").assert_done().json["openvino"]
    assert (found["state"], found["remedy"]) == ("missing", install.split(": ")[1])
