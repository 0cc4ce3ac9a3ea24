"""``TrtRunner``: what can be told without a GPU, and a run with one."""

import types
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import build_reference

from exporters.artifact import manifest_path, write_artifact
from exporters.backends import Gpu, cuda_device_count
from exporters.engine.to_engine import build_engine
from exporters.errors import BuildError, DeployError, FileError, MissingBackendError
from exporters.plan import KernelPlan
from exporters.spec import BatchProfile, EngineOptions, ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.config import notebook_config
from swin_deploy.deploy.fold import fold
from swin_deploy.parity import TOLERANCES, Case, compare
from swin_deploy.runners import TorchRunner, TrtRunner, trt
from swin_deploy.runners import engine_manifest as facts
from swin_deploy.runners.refusals import ask_validity, make_logger
from swin_deploy.runners.runtime_cache import keep_runtime_cache, open_runtime_cache

ADA = Gpu("NVIDIA GeForce RTX 4090", "8.9")
FOR_ADA = {"built_on": "", "capabilities": ["8.9"], "minimum": "", "version_compatible": False}


def write_engine(path, *, data=b"engine", **changes):
    manifest = {
        "kind": "engine",
        "plan": KernelPlan(1, 0, (), "", "").to_dict(),
        "flavor": "tensorrt-rtx",
        "version": "1.0",
        "precision": "fp16",
        "profile": {"min": 1, "opt": 4, "max": 8},
        "targets": FOR_ADA,
        **changes,
    }
    write_artifact(path, data, manifest)
    return path


@pytest.fixture
def fake_tensorrt(monkeypatch):
    """A TensorRT 1.0 whose runtime must not be touched, on a machine with a GPU."""
    fake = types.SimpleNamespace(__version__="1.0")
    monkeypatch.setattr(trt, "load_tensorrt", lambda flavor: fake)
    monkeypatch.setattr(facts, "current_gpu", lambda: ADA)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", mock.MagicMock)


def test_trt_runner_knows_its_engine_from_the_manifest(tmp_path):
    runner = TrtRunner(write_engine(tmp_path / "m.engine"))
    assert (runner.name, runner.precision) == ("engine fp16", "fp16")
    assert (runner.min_batch, runner.max_batch) == (1, 8)
    assert runner.backend == "TensorRT-RTX 1.0"


def another_flavor(path, monkeypatch):
    def missing(flavor):
        raise MissingBackendError(f"{flavor} is not installed; install it: pip install tensorrt")

    monkeypatch.setattr(trt, "load_tensorrt", missing)
    write_engine(path, flavor="tensorrt")


def another_version(path, monkeypatch):
    write_engine(path, version="0.9")


def another_gpu(path, monkeypatch):
    monkeypatch.setattr(facts, "current_gpu", lambda: Gpu("NVIDIA H200", "9.0"))


def no_gpu(path, monkeypatch):
    monkeypatch.setattr(facts, "current_gpu", lambda: None)


def torch_without_cuda(path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            another_flavor,
            MissingBackendError,
            r"is an engine of tensorrt: tensorrt is not installed; install it: pip install",
        ),
        (another_version, BuildError, r"built by tensorrt-rtx 0\.9, here is 1\.0; build it again"),
        (
            another_gpu,
            MissingBackendError,
            r"m\.engine is for GPUs of compute capability 8\.9, here is NVIDIA H200 of 9\.0; build",
        ),
        (no_gpu, MissingBackendError, "needs an NVIDIA GPU and driver; none here"),
        (torch_without_cuda, MissingBackendError, "CUDA build of torch"),
    ],
)
def test_trt_runner_engine_that_cannot_run_here_never_touches_the_runtime(
    change, error, message, tmp_path, monkeypatch, fake_tensorrt
):
    path = write_engine(tmp_path / "m.engine")
    change(path, monkeypatch)
    with pytest.raises(error, match=message) as caught:
        TrtRunner(path).__enter__()
    assert "\n" not in str(caught.value)


def test_trt_runner_engine_that_fits_gets_to_the_runtime(tmp_path, fake_tensorrt):
    """So that the refusals above are not refusals of everything."""
    runner = TrtRunner(write_engine(tmp_path / "m.engine"))
    with pytest.raises(AttributeError, match="ILogger"):
        runner.__enter__()


@pytest.mark.parametrize(("here", "runs"), [("10.16.1", True), ("10.9.0", False), ("11.4", False)])
def test_trt_runner_version_compatible_engine_runs_later(here, runs, tmp_path, monkeypatch):
    module = types.SimpleNamespace(__version__=here)
    monkeypatch.setattr(trt, "load_tensorrt", lambda flavor: module)
    monkeypatch.setattr(facts, "current_gpu", lambda: None)
    targets = FOR_ADA | {"version_compatible": True}
    path = write_engine(
        tmp_path / "m.engine", flavor="tensorrt", version="10.13.0", targets=targets
    )
    refusal = "needs an NVIDIA GPU" if runs else r"built by tensorrt 10\.13\.0, here is"
    with pytest.raises(DeployError, match=refusal):
        TrtRunner(path).__enter__()


@pytest.mark.parametrize(
    "changes",
    [
        {"flavor": "openvino"},
        {"flavor": ["tensorrt"]},
        {"profile": None},
        {"profile": {"min": 1}},
        {"targets": None},
        {"targets": {"capabilities": ["8.9"]}},
        {"targets": FOR_ADA | {"capabilities": []}},
    ],
    ids=str,
)
def test_trt_runner_manifest_of_something_else_is_an_error(tmp_path, changes):
    path = write_engine(tmp_path / "m.engine", **changes)
    with pytest.raises(BuildError, match="does not describe an engine"):
        TrtRunner(path)


def test_trt_runner_changed_engine_is_an_error(tmp_path, fake_tensorrt):
    path = write_engine(tmp_path / "m.engine")
    runner = TrtRunner(path)
    path.write_bytes(b"enginE")
    with pytest.raises(FileError, match="SHA-256 differs"):
        TrtRunner(path)
    with pytest.raises(FileError, match=r"has changed since it was opened \(SHA-256 differs\)"):
        runner.__enter__()
    path.unlink()
    with pytest.raises(FileError, match="cannot read"):
        runner.__enter__()


def test_trt_runner_missing_manifest_is_an_error(tmp_path):
    path = write_engine(tmp_path / "m.engine")
    manifest_path(path).unlink()
    with pytest.raises(FileError, match="no manifest"):
        TrtRunner(path)


def test_trt_runner_onnx_manifest_is_an_error(tmp_path):
    path = tmp_path / "m.onnx"
    write_artifact(path, b"onnx", {"precision": "fp32"})
    with pytest.raises(BuildError, match="is no engine of swin-deploy"):
        TrtRunner(path)


class RuntimeCache:
    """The kernels of one engine; what it cannot read it refuses, as TensorRT-RTX does."""

    def __init__(self):
        self.kernels = b""

    def deserialize(self, data):
        self.kernels = data
        return data.startswith(b"kernels")

    def serialize(self):
        return self.kernels or b"kernels of this run"


class RuntimeConfig:
    cuda_graph_strategy = None
    given = None

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.given = cache
        return True


RTX = types.SimpleNamespace(
    __name__="tensorrt_rtx",
    __version__="1.7.1.116",
    IRuntimeConfig=RuntimeConfig,
    IRuntimeCache=RuntimeCache,
)


def test_runtime_cache_is_kept_for_the_next_run(tmp_path):
    path, config = tmp_path / "new" / "runtime.cache", RuntimeConfig()
    first = open_runtime_cache(RTX, config, path, warn=pytest.fail)
    assert config.given is first
    keep_runtime_cache(first, path, warn=pytest.fail)
    second = open_runtime_cache(RTX, RuntimeConfig(), path, warn=pytest.fail)
    assert second.kernels == b"kernels of this run"


def test_runtime_cache_of_something_else_is_made_anew(tmp_path):
    warnings: list[str] = []
    path, config = tmp_path / "runtime.cache", RuntimeConfig()
    path.write_bytes(b"junk")
    cache = open_runtime_cache(RTX, config, path, warn=warnings.append)
    assert (config.given, cache.kernels) == (cache, b"")
    assert warnings == [
        f"{path} is no runtime cache for this engine here; compiling its kernels anew"
    ]
    keep_runtime_cache(cache, path, warn=pytest.fail)
    assert path.read_bytes() == b"kernels of this run"


def test_runtime_cache_that_cannot_be_kept_is_a_warning(tmp_path):
    warnings: list[str] = []
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "runtime.cache"
    cache = open_runtime_cache(RTX, RuntimeConfig(), path, warn=warnings.append)
    keep_runtime_cache(cache, path, warn=warnings.append)
    assert len(warnings) == 2
    assert warnings[0].startswith("compiling the engine's kernels anew: cannot read")
    assert warnings[1].startswith("the engine's compiled kernels are not kept: cannot lock")


def test_runtime_cache_that_the_version_lacks_is_refused(tmp_path):
    old = types.SimpleNamespace(**vars(RTX) | {"IRuntimeCache": object})
    with pytest.raises(BuildError, match=r"has no IRuntimeCache\.deserialize"):
        open_runtime_cache(old, RuntimeConfig(), tmp_path / "x", warn=pytest.fail)


def test_trt_runner_logger_keeps_errors_and_prints_nothing(capfd):
    rtx = pytest.importorskip("tensorrt_rtx")
    logger = make_logger(rtx)
    logger.log(rtx.ILogger.VERBOSE, "a detail")
    logger.log(rtx.ILogger.WARNING, "a\nwarning")
    assert (logger.last(), list(logger.errors)) == (["a warning"], [])
    logger.log(rtx.ILogger.ERROR, "an error\n  in two lines")
    assert logger.last() == ["an error in two lines"]
    logger.forget()
    assert logger.last() == []
    assert capfd.readouterr() == ("", "")


def test_ask_validity_of_the_installed_module_names_the_reasons():
    rtx = pytest.importorskip("tensorrt_rtx")
    runtime = rtx.Runtime(make_logger(rtx))
    forecast = ask_validity(rtx, runtime, b"not an engine" * 100)
    assert forecast.describe() == "validity INVALID: MALFORMED_ENGINE"


@pytest.mark.tensorrt
@pytest.mark.skipif(cuda_device_count() == 0, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_trt_runner_runs_a_built_engine(tmp_path, precision, cuda_graph, monkeypatch):
    rtx = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("SWIN_DEPLOY_CACHE", str(tmp_path / "caches"))
    reference = build_reference(notebook_config(img_size=56, embed_dim=32, depths=(2, 2)))
    images = np.random.default_rng(0).standard_normal((3, 3, 56, 56), dtype=np.float32)
    with TorchRunner("reference", reference) as runner:
        (expected,) = runner.run(images)
    spec = ExportSpec((3, 56, 56), ("tokens",), precision=precision)
    graph = export_onnx(fold(reference.cpu()), spec, metadata={})
    options = EngineOptions(flavor="tensorrt-rtx")
    built = build_engine(graph, BatchProfile(1, 2, 4), options=options)
    path = write_engine(
        tmp_path / "m.engine",
        data=built.data,
        version=rtx.__version__,
        precision=precision,
        targets=built.targets.to_dict(),
    )
    warnings: list[str] = []
    for _ in range(2):  # the second time with the kernels that the first has kept
        with TrtRunner(path, cuda_graph=cuda_graph, warn=warnings.append) as runner:
            actual = np.concatenate([runner.run(images[:1])[0], runner.run(images[1:])[0]])
            np.testing.assert_array_equal(runner.run(images[1:])[0], actual[1:])
        tolerance = TOLERANCES["engine", precision]
        assert compare(actual, expected, tolerance, Case("", 1)).passed
    assert warnings == []
    assert len(list((tmp_path / "caches").glob("runtime-*.cache"))) == 1
