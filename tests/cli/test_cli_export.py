import json
import os
from importlib import metadata as packages
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import DIGITS, STEM, Command, listing, no_space
from safetensors.torch import load_file

from exporters.artifact import read_manifest, sha256_of, write_artifact


def test_export_writes_onnx_and_manifest_into_engines(exported: Path, full: Path) -> None:
    assert list(listing(exported)) == [f"engines/{STEM}.onnx", f"engines/{STEM}.onnx.json"]
    manifest = read_manifest(full)
    graph = onnx.load(full)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert graph.opset_import[0].version == manifest["opset"] == 17
    assert manifest["model"] == facts["model"] == "notebook-digits"
    assert manifest["checkpoint_sha256"] == facts["checkpoint_sha256"] == sha256_of(DIGITS)
    assert manifest["config"] == json.loads(facts["config"])
    assert manifest["preprocessing"] == json.loads(facts["preprocessing"])
    assert manifest["precision"] == facts["precision"] == "fp32"
    assert manifest["versions"] == json.loads(facts["versions"])
    assert manifest["versions"]["torch"] == packages.version("torch")
    assert manifest["batch"] == "dynamic"
    assert manifest["nodes"] <= 400
    assert [value.name for value in (graph.graph.input[0], graph.graph.output[0])] == [
        "images",
        "logits",
    ]


def test_export_json_and_choices(swin: Command, tmp_path: Path) -> None:
    torch.save(load_file(DIGITS), tmp_path / "mine.pt")
    outcome = swin(
        "export", "--checkpoint", "mine.pt", "--opset", "20", "--precision", "fp16",
        "--io-precision", "fp16", "--batch", "3", "--image-size", "112",
        "--output", "deep/er/x.onnx", "--json",
    ).assert_done()  # fmt: skip
    values = outcome.json
    assert values["path"] == "deep/er/x.onnx"
    assert (values["opset"], values["precision"], values["batch"]) == (20, "fp16", 3)
    assert values["config"]["img_size"] == 112
    shape = onnx.load("deep/er/x.onnx").graph.input[0].type.tensor_type
    assert [dim.dim_value for dim in shape.shape.dim] == [3, 3, 112, 112]
    assert shape.elem_type == onnx.TensorProto.FLOAT16
    assert "Exporting ONNX, opset 20, fp16 ..." in outcome.err
    assert "next: swin-deploy build-trt" in outcome.err
    assert sorted(listing(tmp_path)) == ["deep/er/x.onnx", "deep/er/x.onnx.json", "mine.pt"]


def test_export_random_weights_are_said_plainly(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swin_deploy.checkpoints.load.BUNDLED_WEIGHTS", {})
    outcome = swin("--quiet", "export", "--model", "notebook-digits").assert_done()
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("warning: the weights are random")
    assert outcome.out.startswith(f"engines/{STEM}.onnx: ")


def test_export_overwrites_file_and_manifest(swin: Command, full: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path / "x.onnx", b"stale", {"kind": "stale", "opset": 1})
    swin(
        "export", "--model", "notebook-digits", "--opset", "18", "--output", "x.onnx"
    ).assert_done()
    assert read_manifest(tmp_path / "x.onnx")["opset"] == 18
    assert sorted(listing(tmp_path)) == ["x.onnx", "x.onnx.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("--model swin-x", "unknown model swin-x; did you mean", id="unknown-model"),
        pytest.param("--checkpoint no.pt", "no.pt does not exist", id="missing"),
        pytest.param("--checkpoint .", ". holds none of model.safetensors, ", id="folder"),
        pytest.param("--checkpoint text.pt", "text.pt is not a checkpoint", id="text"),
        pytest.param("--checkpoint cut.pt", "truncated or damaged", id="truncated"),
        pytest.param("--checkpoint object.pt", "no Swin checkpoint of", id="object"),
        pytest.param("--checkpoint nan.pt", "NaN or infinity in head.bias", id="nan"),
        pytest.param("--checkpoint odd.pt", "missing keys: head.bias; unknown keys: x", id="keys"),
        pytest.param("--checkpoint shape.pt", "head.bias is [9], not [10]", id="shapes"),
        pytest.param("--checkpoint escape.pt", r"unknown keys: \x1b[2J\nerror: x", id="escapes"),
        pytest.param(
            "--model notebook-digits --image-size 57", "use one of 56, 112, 168, 224", id="size"
        ),
        pytest.param(
            "--model notebook-swin-t --checkpoint whole.pt", "is no notebook-swin-t", id="other"
        ),
        pytest.param("--checkpoint whole.pt --output .", "is a folder", id="output-folder"),
        pytest.param(
            "--checkpoint whole.pt --output text.pt/x.onnx", "cannot write", id="below-a-file"
        ),
        pytest.param("--checkpoint whole.pt --output pipe", "is a device or a pipe", id="pipe"),
        pytest.param(
            "--checkpoint whole.pt --output ./whole.pt", "is the file to read", id="over-its-source"
        ),
    ],
)
def test_export_that_cannot_be_done_is_status_3(
    arguments: str, message: str, swin: Command, tmp_path: Path
) -> None:
    state = load_file(DIGITS)
    bias = state.pop("head.bias")
    torch.save({**state, "head.bias": bias}, "whole.pt")
    Path("cut.pt").write_bytes(Path("whole.pt").read_bytes()[:9000])
    Path("text.pt").write_text("no weights")
    torch.save(torch.nn.Linear(1, 1), "object.pt")
    torch.save({**state, "head.bias": bias * np.nan}, "nan.pt")
    torch.save({**state, "x": bias}, "odd.pt")
    torch.save({**state, "head.bias": bias[:9]}, "shape.pt")
    torch.save({**state, "head.bias": bias, "\x1b[2J\nerror: x": bias}, "escape.pt")
    os.mkfifo("pipe")
    before = listing(tmp_path)
    swin("export", *arguments.split()).assert_error(message)
    assert listing(tmp_path) == before


def test_export_full_disk_leaves_the_old_files(
    swin: Command, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path / "x.onnx", b"old", {"kind": "old"})
    before = listing(tmp_path)
    monkeypatch.setattr(os, "fsync", no_space)
    outcome = swin("export", "--model", "notebook-digits", "--output", "x.onnx")
    outcome.assert_error("cannot write x.onnx: No space left on device")
    assert listing(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody may write")
def test_export_unwritable_folder_is_found_before_the_work(swin: Command) -> None:
    outcome = swin("export", "--model", "notebook-digits", "--output", "/proc/x/y.onnx")
    outcome.assert_error("cannot write in /proc/x: ")
    assert "Loading" not in outcome.err
