"""Options of build-trt about an engine's life, at the border of the command."""

from pathlib import Path
from typing import Any

import pytest
from command_line import Command, listing

from exporters import caches
from exporters.artifact import read_manifest
from exporters.backends import Gpu
from exporters.engine import to_engine
from exporters.spec import CacheFile
from swin_deploy.cli import engine_options as life
from swin_deploy.cli.console import NORMAL, QUIET, Console
from swin_deploy.cli.engine_options import EngineBuildOptions

PLAIN: dict[str, Any] = {
    "timing_cache": None,
    "no_timing_cache": False,
    "hardware_compatibility": "none",
    "version_compatible": False,
    "compute_capability": (),
}


@pytest.mark.parametrize(
    ("arguments", "targets", "said"),
    [
        (
            "",
            {"capabilities": [], "minimum": "8.0"},
            "for GPUs of compute capability 8.0 and later",
        ),
        (
            "--compute-capability 8.6,8.9,12.0 --no-timing-cache",
            {"capabilities": ["8.6", "8.9", "12.0"], "minimum": ""},
            "for GPUs of compute capability 8.6, 8.9, 12.0",
        ),
        (
            "--compute-capability 7.5",
            {"capabilities": ["7.5"], "minimum": ""},
            "for GPUs of compute capability 7.5",
        ),
    ],
)
def test_build_trt_records_what_the_engine_is_for(
    arguments: str, targets: dict[str, object], said: str, swin: Command, half: Path
) -> None:
    options = ["--flavor", "tensorrt-rtx", "--batch", "1", "--output", "x.engine"]
    outcome = swin("build-trt", half, *options, *arguments.split()).assert_done()
    assert said in outcome.err
    assert "engines executed with 1.6.1, float16, on an H200" in outcome.err
    manifest = read_manifest(Path("x.engine"))
    assert manifest["targets"] == {"built_on": "", "version_compatible": False, **targets}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tensorrt-rtx --timing-cache x", "has no --timing-cache: it times no kernels"),
        ("tensorrt-rtx --version-compatible", "has no --version-compatible: build the engine"),
        ("tensorrt-rtx --hardware-compatibility ampere-plus", "has no --hardware-compatibility"),
        ("tensorrt-rtx --compute-capability 9.0", "builds for no GPU of compute capability 9.0"),
        (
            "tensorrt --compute-capability 8.6",
            "tensorrt has no --compute-capability: it builds",
        ),
    ],
)
def test_build_trt_refuses_what_the_flavor_does_not_have(
    arguments: str, message: str, swin: Command, half: Path, tmp_path: Path
) -> None:
    swin("build-trt", half, "--flavor", *arguments.split()).assert_error(message)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--compute-capability 86", "not a list of compute capabilities such as 8.6,8.9"),
        ("--compute-capability 8.6,", "not a list of compute capabilities"),
        ("--compute-capability currently", "such as 8.6,8.9, nor current"),
        ("--compute-capability current,8.6", "current stands alone, without other GPUs"),
        ("--compute-capability 8.6,8.6", "names a compute capability twice"),
        ("--hardware-compatibility all", "'all' is not one of 'none', 'ampere-plus'"),
        ("--timing-cache x --no-timing-cache", "exclude each other"),
    ],
)
def test_build_trt_wrong_usage_is_status_2(arguments: str, message: str, swin: Command) -> None:
    Path("x.onnx").touch()  # what is missing is told first
    outcome = swin("build-trt", "x.onnx", *arguments.split())
    assert outcome.status == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    "arguments", ["build-trt {half} --output x.engine", "run --model notebook-digits --quick"]
)
def test_current_gpu_as_target_without_a_gpu_is_an_error(
    arguments: str, swin: Command, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "current_gpu", lambda: None)
    flavor = ["--flavor", "tensorrt-rtx", "--compute-capability", "current"]
    outcome = swin(*arguments.format(half=half).split(), *flavor)
    outcome.assert_error("compute capability current needs an NVIDIA GPU and driver, and none is")
    assert listing(tmp_path) == {}


def test_run_takes_the_gpus_to_build_for(swin: Command) -> None:
    options = ["--flavor", "tensorrt-rtx", "--compute-capability", "8.9", "--quick"]
    swin("run", "--model", "notebook-digits", *options).assert_done()
    (path,) = Path("engines").glob("*.engine")
    assert read_manifest(path)["targets"]["capabilities"] == ["8.9"]


def test_build_trt_for_the_current_gpu_records_it(
    swin: Command, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a GPU answers what is current, so the builder is not asked for it here."""
    monkeypatch.setattr(life, "current_gpu", lambda: Gpu("NVIDIA H200", "9.0"))
    monkeypatch.setattr(to_engine, "current_gpu", lambda: Gpu("NVIDIA H200", "9.0"))
    monkeypatch.setattr(to_engine, "ask_for_targets", lambda *_: None)
    options = ["--flavor", "tensorrt-rtx", "--compute-capability", "current"]
    outcome = swin("build-trt", half, *options, "--output", "x.engine").assert_done()
    assert "for GPUs of compute capability 9.0 (built on NVIDIA H200)" in outcome.err
    assert read_manifest(Path("x.engine"))["targets"] == {
        "built_on": "NVIDIA H200",
        "capabilities": ["9.0"],
        "minimum": "",
        "version_compatible": False,
    }


def test_timing_cache_is_the_users_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        __version__ = "11.4.0.106"

    monkeypatch.setenv("SWIN_DEPLOY_CACHE", str(tmp_path))
    monkeypatch.setattr(caches, "load_tensorrt", lambda flavor: Module)
    monkeypatch.setattr(caches, "current_gpu", lambda: Gpu("NVIDIA L4", "8.9"))
    default = CacheFile(tmp_path / "timing-tensorrt-11.4.0.106-NVIDIA_L4.cache")
    assert EngineBuildOptions(**PLAIN).options("tensorrt").timings == default
    assert EngineBuildOptions(**PLAIN).options("tensorrt-rtx").timings is None
    none = EngineBuildOptions(**PLAIN | {"no_timing_cache": True})
    assert none.options("tensorrt").timings is None
    own = EngineBuildOptions(**PLAIN | {"timing_cache": Path("own")}).options(
        "tensorrt", workspace_mib=64
    )
    assert own.timings == CacheFile(Path("own"), named=True)
    assert own.workspace_mib == 64
    assert not listing(tmp_path)


@pytest.mark.parametrize("level", [QUIET, NORMAL])
def test_a_warning_of_a_build_is_seen_at_every_level(
    level: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console(level).step("Building x.engine") as step:
        step.warn("x is no timing cache")
    captured = capsys.readouterr()
    assert "warning: x is no timing cache\n" in captured.err
    assert captured.out == ""
