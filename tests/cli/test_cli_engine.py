import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import (
    DIGITS,
    HALF_STEM,
    PLAN_KEYS,
    STEM,
    Command,
    edit_manifest,
    listing,
    no_space,
)

from exporters.artifact import manifest_path, read_manifest, sha256_of, write_artifact
from exporters.backends import choose_flavor
from exporters.errors import ExportError
from exporters.plan import read_plan
from swin_deploy.artifacts.newest import newest_export


def test_build_trt_takes_the_newest_export_and_says_so(
    swin: Command, built: Path, full: Path, tmp_path: Path
) -> None:
    (tmp_path / "engines").mkdir()
    for name, age_s in (("old", 100), ("new", 50)):
        path = tmp_path / "engines" / f"{name}-fp32.onnx"
        shutil.copy(full, path)
        os.utime(path, (time.time() - age_s,) * 2)
    (tmp_path / "engines" / "gone.onnx").symlink_to("nowhere")
    (tmp_path / "engines" / "folder.onnx").mkdir()
    for _ in range(2):  # the float16 graph that it makes is no export: the second run agrees
        outcome = swin("build-trt", "--fp16", "--batch", "2", "--json").assert_done()
        assert "taking the newest export, engines/new-fp32.onnx" in outcome.err
        assert outcome.json["path"] == "engines/new-fp16.engine"
    values = outcome.json
    assert (values["precision"], values["flavor"]) == ("fp16", choose_flavor())
    assert values["profile"] == {"min": 2, "opt": 2, "max": 2}
    half = tmp_path / "engines" / "new-fp16.onnx"
    assert values["source"] == {"file": half.name, "sha256": sha256_of(half)}
    assert read_manifest(half)["source"]["file"] == "new-fp32.onnx"
    assert values["sha256"] == sha256_of(tmp_path / values["path"])
    assert values["plan"]["float32_compute"] == []
    assert values["build_s"] > 0
    weights = [t for t in onnx.load(half).graph.initializer if ".factor." not in t.name]
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in weights}
    assert "norms folded into 4 of 4 MLPs" in outcome.err


def test_build_trt_without_a_precision_takes_the_newest_file_as_it_is(
    swin: Command, exported: Path, tmp_path: Path
) -> None:
    """After ``run`` that is the float16 graph; a precision goes back to the export itself."""
    shutil.copytree(exported / "engines", "engines")
    plain = swin("build-trt", "--batch", "1").assert_done()
    assert f"taking the newest export, engines/{STEM}.onnx, fp32" in plain.err
    assert f"{STEM}.onnx is float32, and so is its engine; --fp16" in plain.err
    swin("build-trt", "--fp16", "--batch", "1").assert_done()
    half = swin("build-trt", "--batch", "1", "--json").assert_done()
    assert f"taking the newest export, engines/{HALF_STEM}.onnx, fp16" in half.err
    assert "--fp16 builds" not in half.err
    assert half.json["precision"] == "fp16"
    again = swin("build-trt", "--fp32", "--batch", "1").assert_done()
    assert f"taking the newest export, engines/{STEM}.onnx, fp32" in again.err
    assert "--fp16 builds" not in again.err


@pytest.mark.usefixtures("swin")
def test_newest_export_passes_over_files_that_cannot_have_the_precision(exported: Path) -> None:
    folder = Path(shutil.copytree(exported / "engines", "own"))
    half = folder / "half.onnx"
    write_artifact(half, b"x", {"kind": "onnx", "precision": "fp16"})
    os.utime(half, (time.time() + 50,) * 2)
    assert newest_export(folder=folder) == newest_export("fp16", folder) == half
    assert newest_export("bf16", folder) == folder / f"{STEM}.onnx"
    (folder / f"{STEM}.onnx").unlink()
    with pytest.raises(ExportError, match="no export for bf16 in own"):
        newest_export("bf16", folder)


def test_build_trt_default_output(built: Path) -> None:
    assert sorted(listing(built / "engines")) == [
        f"{HALF_STEM}.engine",
        f"{HALF_STEM}.engine.json",
        f"{HALF_STEM}.onnx",
        f"{HALF_STEM}.onnx.json",
        f"{STEM}.onnx",
        f"{STEM}.onnx.json",
    ]
    manifest = read_manifest(built / "engines" / f"{HALF_STEM}.engine")
    assert manifest["profile"] == {"min": 1, "opt": 8, "max": 32}
    assert manifest["checkpoint_sha256"] == sha256_of(DIGITS)


def test_build_trt_progress_is_on_stderr(swin: Command, full: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    outcome = swin(
        "--verbose", "build-trt", full, "--fp32", "--batch", "1", "--optimization-level", "1",
        "--workspace", "256", "--output", "x.engine",
    ).assert_done()  # fmt: skip
    assert outcome.out.startswith("x.engine: ")
    assert outcome.out.count("\n") == 1
    assert "Building engine" in outcome.err
    assert read_manifest(Path("x.engine"))["precision"] == "fp32"


def test_build_trt_quiet_says_the_result_only(swin: Command, half: Path) -> None:
    outcome = swin("--quiet", "build-trt", half, "--batch", "1", "--output", "x.engine")
    assert outcome.assert_done().err == ""
    assert outcome.out.startswith("x.engine: ")


def test_build_trt_float32_kernels_are_status_1(
    swin: Command, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.engine import to_engine

    real = read_plan

    def with_wide_kernels(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - passed along
        return dataclasses.replace(real(*args, **options), float32_compute=("__myl_Fc_7",))

    monkeypatch.setattr(to_engine, "read_plan", with_wide_kernels)
    outcome = swin("build-trt", half, "--fp16", "--batch", "1")
    assert outcome.status == 1
    assert "failed: 1 attention or matrix product kernels would run in float32" in outcome.err
    assert "__myl_Fc_7" in outcome.err
    assert outcome.out == ""
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("folder", ["", "engines"], ids=["no-folder", "empty-folder"])
def test_build_trt_without_an_export_says_how_to_make_one(
    folder: str, swin: Command, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / folder).mkdir(exist_ok=True)
    swin("build-trt").assert_error(
        "no exported ONNX file in engines; make one with swin-deploy export"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("no.onnx", "no.onnx does not exist", id="missing"),
        pytest.param("text.onnx", "text.onnx is not a whole ONNX file", id="text"),
        pytest.param("empty.onnx", "empty.onnx is not a whole ONNX file", id="empty"),
        pytest.param("cut.onnx", "cut.onnx is not a whole ONNX file", id="truncated"),
        pytest.param("x.engine", "x.engine is not a whole ONNX file", id="engine"),
        pytest.param("whole.onnx.json", "whole.onnx.json is not a whole ONNX file", id="manifest"),
        pytest.param("damaged.onnx --fp16", "metadata of damaged.onnx is not JSON", id="metadata"),
        pytest.param("half.onnx --fp32", "is float16, what it lost cannot come back", id="fp32"),
        pytest.param("fixed.onnx --batch 1,2,4", "takes batch 3 only; use --batch 3", id="fixed"),
        pytest.param("whole.onnx --output .", ". is a folder", id="output-folder"),
        pytest.param("whole.onnx --output text.onnx/x", "cannot write", id="output-below-a-file"),
        pytest.param("whole.onnx --output whole.onnx", "is the file to read", id="over-its-source"),
        pytest.param("whole.onnx --timing-cache c", "leave --timing-cache out", id="timing-cache"),
        pytest.param("whole.onnx --flavor tensorrt", "install", id="full-tensorrt-on-a-cpu"),
    ],
)
def test_build_trt_that_cannot_be_done_is_status_3(
    arguments: str,
    message: str,
    swin: Command,
    full: Path,
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    whole = full.read_bytes()
    shutil.copy(full, "whole.onnx")
    shutil.copy(manifest_path(full), "whole.onnx.json")
    shutil.copy(half, "half.onnx")
    Path("x.engine").write_bytes(bytes(range(256)) * 40)
    Path("text.onnx").write_text("no graph " * 30)
    Path("empty.onnx").write_bytes(b"")
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    graph = onnx.load_from_string(whole)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, "fixed.onnx")
    graph = onnx.load_from_string(whole)
    next(entry for entry in graph.metadata_props if entry.key == "config").value = "{"
    onnx.save(graph, "damaged.onnx")
    before = listing(tmp_path)
    swin("build-trt", *arguments.split()).assert_error(message)
    assert listing(tmp_path) == before


def test_build_trt_refuses_a_file_cut_anywhere(swin: Command, full: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    whole = full.read_bytes()
    for share in (0.001, 0.2, 0.7, 0.97):
        Path("cut.onnx").write_bytes(whole[: int(share * len(whole))])
        outcome = swin("build-trt", "cut.onnx")
        outcome.assert_error("cut.onnx is not a whole ONNX file")


def test_build_trt_full_disk_leaves_nothing(
    swin: Command, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    outcome = swin("build-trt", half, "--batch", "1", "--output", "x.engine")
    outcome.assert_error("cannot write x.engine: No space left on device")
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("module", "arguments", "command"),
    [
        pytest.param(
            "tensorrt_rtx", "build-trt {full}", "pip install tensorrt-rtx-cu13", id="build"
        ),
        pytest.param("tensorrt_rtx", "plan {full}", "pip install tensorrt-rtx-cu13", id="plan"),
        pytest.param(
            "tensorrt_rtx", "run --model notebook-digits", "pip install tensorrt-rtx-cu13", id="run"
        ),
        pytest.param(
            "tensorrt", "build-trt {full} --flavor tensorrt", "pip install tensorrt", id="full"
        ),
    ],
)
def test_missing_backend_says_how_to_install_it(
    module: str,
    arguments: str,
    command: str,
    swin: Command,
    full: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exporters.backends.cuda_device_count", lambda: 0)
    monkeypatch.setitem(sys.modules, module, None)
    swin(*arguments.format(full=full).split()).assert_error(
        f"is not installed; install it: {command}"
    )
    assert listing(tmp_path) == {}


# plan


def test_plan_of_an_engine_is_its_manifests(swin: Command, engine: Path) -> None:
    values = swin("plan", engine, "--json").assert_done().json
    assert values.keys() >= PLAN_KEYS
    assert values["fused_attention"] == values["attention_blocks"] == 4
    assert values["batch"] == 8
    assert values["bytes_moved_per_image"] == pytest.approx(values["bytes_moved"] / 8)
    assert values["half_byte_share"] > 0.9
    assert sum(values["kernel_types"].values()) > 0
    shown = swin("plan", engine).assert_done()
    assert "layers.0" in shown.out


def test_plan_of_an_onnx_file_is_built_in_memory(
    swin: Command, full: Path, built: Path, tmp_path: Path
) -> None:
    outcome = swin("plan", full, "--batch", "2", "--json").assert_done()
    assert outcome.json.keys() >= PLAN_KEYS
    assert outcome.json["batch"] == 2
    assert outcome.json["half_byte_share"] == 0
    assert "attention fuses in half precision" in outcome.err
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda path: path.unlink(), "does not exist", id="missing"),
        pytest.param(
            lambda path: manifest_path(path).unlink(), "has no manifest", id="no-manifest"
        ),
        pytest.param(lambda path: path.write_bytes(b"x"), "SHA-256 differs", id="other-file"),
        pytest.param(
            lambda path: manifest_path(path).write_text("{}"),
            "is not a manifest",
            id="empty-manifest",
        ),
        pytest.param(
            lambda path: edit_manifest(path, kind="onnx"), "is no engine of swin-deploy", id="onnx"
        ),
        pytest.param(
            lambda path: edit_manifest(path, plan={"kernels": 3}), "not a kernel plan", id="plan"
        ),
        pytest.param(
            lambda path: edit_manifest(path, precision="int4"), "is no engine", id="precision"
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "parity", "bench"])
def test_damaged_engine_is_status_3(
    command: str, damage: Callable[[Path], None], message: str, swin: Command, own_engine: Path
) -> None:
    damage(own_engine)
    options = [] if command == "plan" else ["--model", "notebook-digits", "--engine"]
    swin(command, *options, own_engine).assert_error(message)


def test_plan_at_another_batch_than_the_engines_is_status_3(swin: Command, engine: Path) -> None:
    swin("plan", engine, "--batch", "3").assert_error("is for batch 8; give its ONNX file")
