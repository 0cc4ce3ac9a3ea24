import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from safetensors.torch import load_file

from exporters.artifact import manifest_path, read_manifest, sha256_of, write_artifact
from exporters.backends import choose_flavor
from swin_deploy import __version__
from swin_deploy.cli import cli, main
from swin_deploy.config import BUNDLED_IMAGES, BUNDLED_WEIGHTS, VARIANTS
from swin_deploy.reference import count_parameters

DIGITS = BUNDLED_WEIGHTS["notebook-digits"]
IMAGES = BUNDLED_IMAGES["notebook-digits"]
STEM = "notebook-digits-fp32-opset17"
HALF_STEM = "notebook-digits-fp16-opset17"
COMMANDS = ["bench", "build-trt", "doctor", "export", "models", "parity", "plan", "run"]
PLAN_KEYS = {
    "kernels",
    "attention_blocks",
    "fused_attention",
    "bytes_moved",
    "bytes_moved_per_image",
    "half_byte_share",
    "kernel_types",
}
SMALL_PARITY = ("--model", "notebook-digits", "--limit", "6", "--batches", "1,3")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)

    def assert_done(self) -> "Outcome":
        assert self.status == 0, self.err
        assert "error:" not in self.err
        return self

    def assert_error(self, message: str) -> None:
        """Status 3, one line that says it, no result and no traceback."""
        assert self.status == 3, (self.out, self.err)
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
        assert self.err.rstrip().endswith(errors[0])
        assert "Traceback" not in self.err
        assert self.out == ""


Command = Callable[..., Outcome]


def call_main(arguments: tuple[object, ...]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["swin-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            main()
    assert isinstance(info.value.code, int)
    return info.value.code


@pytest.fixture
def swin(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """The command line in this process, in an empty folder; native output is seen too."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = call_main(arguments)
        return Outcome(status, *capfd.readouterr())

    return call


def listing(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` and its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose engines/ has the float32 export of the digits model."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call_main(("--quiet", "export", "--model", "notebook-digits")) == 0
    return folder


@pytest.fixture(scope="session")
def built(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose engines/ has the export, its float16 form and the engine of that."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(exported / "engines", folder / "engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call_main(("--quiet", "build-trt", "--fp16", "--flavor", "tensorrt-rtx")) == 0
    return folder


@pytest.fixture
def full(exported: Path) -> Path:
    return exported / "engines" / f"{STEM}.onnx"


@pytest.fixture
def half(built: Path) -> Path:
    return built / "engines" / f"{HALF_STEM}.onnx"


@pytest.fixture
def engine(built: Path) -> Path:
    return built / "engines" / f"{HALF_STEM}.engine"


@pytest.fixture
def own_engine(engine: Path, tmp_path: Path) -> Path:
    """A copy of the engine and its manifest, to damage."""
    copy = tmp_path / "own.engine"
    shutil.copy(engine, copy)
    shutil.copy(manifest_path(engine), manifest_path(copy))
    return copy


# Help, version, usage


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert f"swin-deploy {command}" in result.output.split("Examples:")[1]
    assert result.output == CliRunner().invoke(cli, [command, "-h"]).output


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert sorted(cli.commands) == COMMANDS
    assert all(f"  {command} " in result.output for command in COMMANDS)
    assert "Examples:\n" in result.output
    assert "Exit status: 0 done" in result.output


def test_version_is_the_packages() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"swin-deploy, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("", "Usage:", id="no-command"),
        pytest.param("nonsense", "No such command 'nonsense'", id="unknown-command"),
        pytest.param("--verbose --quiet models", "exclude each other", id="verbose-and-quiet"),
        pytest.param("export --nonsense", "No such option", id="unknown-option"),
        pytest.param("export extra", "unexpected extra argument", id="extra-argument"),
        pytest.param("export --opset 16", "16 is not in the range 17<=x<=23", id="opset-low"),
        pytest.param("export --opset 24", "24 is not in the range 17<=x<=23", id="opset-high"),
        pytest.param("run --opset 16", "16 is not in the range 17<=x<=23", id="run-opset"),
        pytest.param("export --opset x", "'x' is not a valid integer", id="opset-word"),
        pytest.param("export --precision int8", "'int8' is not one of", id="precision"),
        pytest.param("export --io-precision fp16", "needs --precision fp16", id="io-precision"),
        pytest.param("export --image-size 0", "0 is not in the range", id="image-size"),
        pytest.param("export --batch 0", "'0' is neither 'dynamic' nor", id="batch-0"),
        pytest.param("export --batch -1", "'-1' is neither 'dynamic' nor", id="batch-negative"),
        pytest.param("export --batch 1,2", "'1,2' is neither 'dynamic' nor", id="batch-list"),
        pytest.param("export --batch 1.5", "'1.5' is neither 'dynamic' nor", id="batch-fraction"),
        pytest.param("export --batch 65537", "is neither 'dynamic' nor", id="batch-huge"),
        pytest.param(f"export --batch {'9' * 5000}", "is neither 'dynamic' nor", id="batch-long"),
        pytest.param("build-trt --batch 8,4,1", "order minimum,optimum,maximum", id="order"),
        pytest.param("build-trt --batch 1,2", "is not a batch such as 8", id="range-of-two"),
        pytest.param("build-trt --batch 0,1,2", "is not a batch such as 8", id="range-from-0"),
        pytest.param("build-trt --batch 1,,3", "is not a batch such as 8", id="range-gap"),
        pytest.param("run --batch a,b,c", "is not a batch such as 8", id="range-letters"),
        pytest.param("build-trt --flavor cuda", "'cuda' is not one of", id="flavor"),
        pytest.param("build-trt --workspace 0", "0 is not in the range", id="workspace"),
        pytest.param(
            f"build-trt --workspace {1 << 40}", "is not in the range", id="workspace-huge"
        ),
        pytest.param("build-trt --optimization-level 6", "6 is not in the range", id="level"),
        pytest.param("plan", "Missing argument 'FILE'", id="plan-of-nothing"),
        pytest.param("plan x.onnx --batch 0", "0 is not in the range", id="plan-batch"),
        pytest.param("parity --batches 1;2", "is not a list of batches", id="batches"),
        pytest.param("parity --limit 0", "0 is not in the range", id="limit"),
        pytest.param("bench --seconds 0", "0.0 is not in the range", id="seconds"),
        pytest.param("bench --seconds nan", "not in the range", id="seconds-nan"),
        pytest.param("bench --seconds inf", "not in the range", id="seconds-inf"),
        pytest.param("run --bench-seconds 0.5", "0.5 is not in the range", id="bench-seconds"),
    ],
)
def test_wrong_usage_is_status_2(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, arguments.split())
    assert result.exit_code == 2
    assert message in result.output
    assert os.listdir() == []


def test_wrong_usage_through_main(swin: Command) -> None:
    outcome = swin("export", "--opset", "16")
    assert outcome.status == 2
    assert "Error: Invalid value for '--opset'" in outcome.err
    assert outcome.out == ""


# models and doctor


def test_models(swin: Command) -> None:
    outcome = swin("models").assert_done()
    assert all(name in outcome.out for name in VARIANTS)
    values = swin("models", "--json").assert_done().json
    assert [entry["name"] for entry in values["models"]] == list(VARIANTS)
    assert values["default"] == "notebook-swin-t"
    assert {m["name"]: m["parameters"] for m in values["models"]} == {
        name: count_parameters(config) for name, config in VARIANTS.items()
    }


def test_doctor(swin: Command) -> None:
    outcome = swin("doctor", "--json")
    states = {name: entry["state"] for name, entry in outcome.json.items()}
    builds = "ok" in (states["tensorrt"], states["tensorrt-rtx"])
    assert outcome.status == (0 if builds and "broken" not in states.values() else 1)
    shown = swin("doctor")
    assert shown.status == outcome.status
    assert all(name in shown.out for name in states)


def test_doctor_without_tensorrt_is_status_1(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = swin("doctor")
    assert outcome.status == 1
    assert "pip install tensorrt-rtx-cu13" in outcome.out
    assert "engines cannot be built" in outcome.err


def test_tables_fit_a_terminal_of_few_signs(engine: Path) -> None:
    outcome = run_process("plan", engine, env={"PYTHONIOENCODING": "latin-1"}).assert_done()
    assert "_gemm_mha" in outcome.out


# export


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
    monkeypatch.setattr("swin_deploy.load.BUNDLED_WEIGHTS", {})
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
        pytest.param("--model swin-x", "unknown model swin-x; known are", id="unknown-model"),
        pytest.param("--checkpoint no.pt", "no.pt does not exist", id="missing"),
        pytest.param("--checkpoint .", "is a folder", id="folder"),
        pytest.param("--checkpoint text.pt", "text.pt is not a checkpoint", id="text"),
        pytest.param("--checkpoint cut.pt", "truncated or damaged", id="truncated"),
        pytest.param("--checkpoint object.pt", "could run code", id="object"),
        pytest.param("--checkpoint nan.pt", "NaN or infinity in head.bias", id="nan"),
        pytest.param("--checkpoint odd.pt", "missing keys: head.bias; unknown keys: x", id="keys"),
        pytest.param("--checkpoint shape.pt", "head.bias is [9], not [10]", id="shapes"),
        pytest.param("--checkpoint escape.pt", r"unknown keys: \x1b[2J\nerror: x", id="escapes"),
        pytest.param(
            "--model notebook-digits --image-size 57", "multiple of 56: 56, 112, 168", id="size"
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


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    assert "✗ Exporting ONNX, opset 17, fp32 (0.0 s)" in outcome.err


# build-trt


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
    precisions = {t.data_type for t in onnx.load(half).graph.initializer}
    assert onnx.TensorProto.FLOAT not in precisions


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
    from exporters import to_engine

    real = to_engine.read_plan

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
        pytest.param("damaged.onnx --fp16", "metadata is damaged", id="metadata"),
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


def test_missing_onnxruntime_is_a_hop_not_run(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    values = swin("parity", *SMALL_PARITY, "--onnx", full, "--json").json
    hop = values["hops"][1]
    assert hop["passed"] is not True
    assert "pip install onnxruntime" in hop["not_run"]


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
    assert "_gemm_mha" in shown.out


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
            lambda path: edit_manifest(path, precision="int8"), "is no engine", id="precision"
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


def edit_manifest(path: Path, **changes: object) -> None:
    beside = manifest_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changes))


def test_plan_at_another_batch_than_the_engines_is_status_3(swin: Command, engine: Path) -> None:
    swin("plan", engine, "--batch", "3").assert_error("is for batch 8; give its ONNX file")


# parity and bench


def nudge(source: Path, target: Path) -> None:
    """Change one value of one weight; the metadata stays."""
    graph = onnx.load(source)
    weights = [t for t in graph.graph.initializer if len(t.dims) == 2 and min(t.dims) > 8]
    values = numpy_helper.to_array(weights[-1]).copy()
    values[0, 0] += 1.0
    weights[-1].CopyFrom(numpy_helper.from_array(values, weights[-1].name))
    onnx.save(graph, target)


def test_parity_passes_and_writes_the_report(
    swin: Command, full: Path, engine: Path, half: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    outcome = swin(
        "parity", *SMALL_PARITY, "--onnx", full, "--onnx", half, "--engine", engine,
        "--images", IMAGES, "--report", "proof", "--json",
    ).assert_done()  # fmt: skip
    deploy, single, double, last = outcome.json["hops"]
    assert [hop["passed"] for hop in (deploy, single, double)] == [True, True, True]
    assert {result["inputs"].split(",")[0] for result in single["results"]} == {"images", "seeded"}
    if not torch.cuda.is_available():
        assert last["passed"] is not True
        assert "needs an NVIDIA GPU" in last["not_run"]
    assert sorted(listing(tmp_path)) == [
        "proof/report.html",
        "proof/report.json",
        "proof/report.md",
    ]
    report = json.loads(Path("proof/report.json").read_text())
    assert [entry["file"] for entry in report["artifacts"]] == [full.name, half.name, engine.name]
    assert "wrote proof/report.html" in outcome.err


def test_parity_nudged_weight_is_status_1(swin: Command, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nudge(full, tmp_path / "nudged.onnx")
    outcome = swin("parity", *SMALL_PARITY, "--onnx", "nudged.onnx")
    assert outcome.status == 1
    assert "fail" in outcome.out.lower()
    assert "error" not in outcome.err
    values = swin("parity", *SMALL_PARITY, "--onnx", "nudged.onnx", "--json")
    assert values.status == 1
    assert [hop["passed"] for hop in values.json["hops"]] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("--onnx {engine}", "is not a whole ONNX file", id="engine-as-onnx"),
        pytest.param("--engine {half}", "is no engine of swin-deploy", id="onnx-as-engine"),
        pytest.param("--onnx {full} --image-size 112", "use the same --model", id="image-size"),
        pytest.param("--onnx {full} --checkpoint other.pt", "was made from", id="other-weights"),
        pytest.param("--engine {engine} --checkpoint other.pt", "was made from", id="engine-too"),
        pytest.param("--images nowhere", "image folder nowhere does not exist", id="no-images"),
        pytest.param("--images empty", "image folder empty holds no images", id="empty-folder"),
        pytest.param("--images other.pt", "other.pt is not a folder", id="file-as-folder"),
        pytest.param("--images torn", "image torn/x.png cannot be read", id="torn-image"),
        pytest.param("--report other.pt", "cannot write in other.pt", id="report-is-a-file"),
    ],
)
def test_parity_that_cannot_be_done_is_status_3(
    arguments: str,
    message: str,
    swin: Command,
    full: Path,
    half: Path,
    engine: Path,
    tmp_path: Path,
) -> None:
    state = load_file(DIGITS)
    torch.save({**state, "head.bias": state["head.bias"] + 1}, "other.pt")
    Path("empty").mkdir()
    Path("torn").mkdir()
    Path("torn/x.png").write_bytes(next(IMAGES.rglob("*.png")).read_bytes()[:60])
    before = listing(tmp_path)
    filled = arguments.format(full=full, half=half, engine=engine)
    swin("parity", *SMALL_PARITY, *filled.split()).assert_error(message)
    assert listing(tmp_path) == before


def test_parity_engine_of_another_version_is_status_3(swin: Command, own_engine: Path) -> None:
    edit_manifest(own_engine, version="1.0.0")
    outcome = swin("parity", *SMALL_PARITY, "--engine", own_engine)
    outcome.assert_error("was built by tensorrt-rtx 1.0.0, here is")


def test_parity_engine_of_another_flavor_is_not_run(
    swin: Command, own_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    edit_manifest(own_engine, flavor="tensorrt")
    values = swin("parity", *SMALL_PARITY, "--engine", own_engine, "--json").json
    assert "install it: pip install tensorrt" in values["hops"][1]["not_run"]


def test_bench_joins_the_report(swin: Command, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    parity = ("parity", *SMALL_PARITY, "--report", "proof")
    swin(*parity).assert_done()
    outcome = swin(
        "bench", "--model", "notebook-digits", "--onnx", full, "--batches", "1", "--seconds", "1",
        "--report", "proof", "--json",
    ).assert_done()  # fmt: skip
    assert len(outcome.json["results"]) == 3
    report = json.loads(Path("proof/report.json").read_text())
    assert report["parity"]["hops"]
    assert report["bench"]["results"] == outcome.json["results"]
    shown = Path("proof/report.md").read_text()
    assert "images/s" in shown.lower() or "images per s" in shown.lower()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda path: path.write_text("{"), "is not a report", id="damaged"),
        pytest.param(lambda path: path.mkdir(), "is a folder", id="folder"),
    ],
)
def test_bench_report_that_cannot_be_joined_is_found_before_the_work(
    write: Callable[[Path], None], message: str, swin: Command
) -> None:
    Path("proof").mkdir()
    write(Path("proof/report.json"))
    outcome = swin("bench", "--model", "notebook-digits", "--report", "proof")
    outcome.assert_error(message)
    assert "Measuring" not in outcome.err


def test_bench_report_of_another_model_is_refused(swin: Command) -> None:
    swin("parity", *SMALL_PARITY, "--report", "proof").assert_done()
    values = json.loads(Path("proof/report.json").read_text())
    Path("proof/report.json").write_text(json.dumps(values | {"model": "notebook-swin-t"}))
    outcome = swin("bench", "--model", "notebook-digits", "--report", "proof")
    outcome.assert_error("is about notebook-swin-t, not notebook-digits; choose another folder")


# run


@pytest.mark.slow
def test_run_does_the_whole_line(swin: Command, built: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    outcome = swin(
        "run", "--model", "notebook-digits", "--limit", "10", "--bench-seconds", "1",
        "--batch", "1,2,4", "--json",
    ).assert_done()  # fmt: skip
    assert sorted(listing(tmp_path)) == [
        *(f"engines/{name}" for name in sorted(listing(built / "engines"))),
        "report/report.html",
        "report/report.json",
        "report/report.md",
    ]
    values = outcome.json
    assert values["verdict"] == "pass"
    assert values == json.loads(Path("report/report.json").read_text())
    assert len(values["artifacts"]) == 3
    for entry in values["artifacts"]:
        assert sha256_of(tmp_path / "engines" / entry["file"]) == entry["sha256"]
    assert "open report/report.html" in outcome.err
    html = Path("report/report.html").read_text()
    assert "<html" in html
    assert str(tmp_path) not in html


def test_run_report_that_cannot_be_written_is_found_before_the_work(
    swin: Command, built: Path, tmp_path: Path
) -> None:
    Path("file").write_text("in the way")
    outcome = swin("run", "--model", "notebook-digits", "--report", "file")
    outcome.assert_error("cannot write in file")
    assert list(listing(tmp_path)) == ["file"]


# Real processes: what only they show


def run_process(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Outcome:  # noqa: ANN401
    command = [sys.executable, "-m", "swin_deploy", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    done = subprocess.run(command, check=False, text=True, env=os.environ | (env or {}), **streams)
    return Outcome(done.returncode, done.stdout or "", done.stderr or "")


def test_process_result_and_progress_go_to_their_streams(engine: Path) -> None:
    outcome = run_process("plan", engine, "--json").assert_done()
    assert outcome.json.keys() >= PLAN_KEYS
    assert "Reading the plan" in outcome.err


def test_process_error_is_one_line_and_status_3(tmp_path: Path) -> None:
    outcome = run_process("export", "--checkpoint", "no.pt", cwd=tmp_path)
    outcome.assert_error("no.pt does not exist; give a checkpoint file")
    assert os.listdir(tmp_path) == []


def test_process_name_that_is_no_text_gets_an_answer(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.pt")
    run_process("export", "--checkpoint", name, cwd=tmp_path).assert_error(
        r"\udcff\udcfe.pt does not"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_process_result_that_cannot_be_written_is_status_3() -> None:
    with open("/dev/full", "w") as device:
        outcome = run_process("models", stdout=device)
    outcome.assert_error("cannot write the result to standard output: No space left on device")


def test_process_reader_that_goes_away_is_no_failed_check() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = run_process("models", stdout=writer)
    os.close(writer)
    assert outcome.status == 141
    assert "Traceback" not in outcome.err
    assert "Exception" not in outcome.err


def start_and_wait_for(text: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command and wait until it says ``text``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "swin_deploy", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any(text in line for line in process.stderr)
    return process


@pytest.mark.parametrize("text", ["Loading ONNX", "Building x.engine"])
def test_process_interrupted_is_status_130(
    text: str, full: Path, built: Path, tmp_path: Path
) -> None:
    process = start_and_wait_for(text, "build-trt", full, "--output", "x.engine", cwd=tmp_path)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert err.endswith("interrupted; nothing half-written is left\n")
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir(tmp_path) == []


def assert_whole(folder: Path) -> None:
    """Every file under a final name is complete."""
    for path in folder.iterdir():
        if path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path), full_check=True)
        if path.suffix in (".onnx", ".engine") and manifest_path(path).exists():
            read_manifest(path)
        assert path.name.startswith(".") or path.suffix in (".onnx", ".engine", ".json")


def kill_when_a_file_appears(process: subprocess.Popen[str], folder: Path) -> None:
    before = set(os.listdir(folder))
    while process.poll() is None and set(os.listdir(folder)) == before:
        time.sleep(0.0005)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_process_export_killed_leaves_only_whole_files(tmp_path: Path) -> None:
    arguments = ("export", "--model", "notebook-digits", "--output", "x.onnx")
    process = start_and_wait_for("Exporting", *arguments, cwd=tmp_path)
    kill_when_a_file_appears(process, tmp_path)
    assert_whole(tmp_path)


@pytest.mark.slow
def test_process_build_killed_leaves_only_whole_files(
    full: Path, built: Path, tmp_path: Path
) -> None:
    arguments = ("build-trt", full, "--fp16", "--batch", "1", "--output", "x.engine")
    for text in ("Writing", "Building"):
        process = start_and_wait_for(text, *arguments, cwd=tmp_path)
        kill_when_a_file_appears(process, tmp_path)
        assert_whole(tmp_path)
    process = start_and_wait_for("next:", *arguments, cwd=tmp_path)
    process.communicate()
    assert process.returncode == 0
    assert_whole(tmp_path)
    read_manifest(tmp_path / "x.engine")
