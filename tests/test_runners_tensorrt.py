"""``TrtRunner``: what can be told without a GPU, and a run with one."""

import types

import numpy as np
import pytest
import torch
from conftest import build_reference

from exporters.artifact import manifest_path, write_artifact
from exporters.backends import cuda_device_count
from exporters.errors import (
    BuildError,
    FileError,
    MissingBackendError,
)
from exporters.spec import BatchProfile, EngineOptions, ExportSpec
from exporters.to_engine import build_engine
from exporters.to_onnx import export_onnx
from swin_deploy import runners
from swin_deploy.config import notebook_config
from swin_deploy.fold import fold
from swin_deploy.parity import TOLERANCES, compare
from swin_deploy.runners import TorchRunner, TrtRunner


def write_engine(path, *, data=b"engine", **changes):
    manifest = {
        "flavor": "tensorrt-rtx",
        "version": "1.0",
        "precision": "fp16",
        "profile": {"min": 1, "opt": 4, "max": 8},
        **changes,
    }
    write_artifact(path, data, manifest)
    return path


@pytest.fixture
def fake_tensorrt(monkeypatch):
    """A TensorRT 1.0 whose runtime must not be touched."""
    monkeypatch.setattr(
        runners, "load_tensorrt", lambda flavor: types.SimpleNamespace(__version__="1.0")
    )


def test_trt_runner_knows_its_engine_from_the_manifest(tmp_path):
    runner = TrtRunner(write_engine(tmp_path / "m.engine"))
    assert (runner.name, runner.precision) == ("engine fp16", "fp16")
    assert (runner.min_batch, runner.max_batch) == (1, 8)
    assert runner.backend == "TensorRT-RTX 1.0"


def test_trt_runner_without_a_gpu_never_touches_the_runtime(tmp_path, monkeypatch, fake_tensorrt):
    monkeypatch.setattr(runners, "cuda_device_count", lambda: 0)
    runner = TrtRunner(write_engine(tmp_path / "m.engine"))
    with pytest.raises(MissingBackendError, match="needs an NVIDIA GPU and driver; none here"):
        runner.__enter__()


def test_trt_runner_with_a_cpu_build_of_torch_is_an_error(tmp_path, monkeypatch, fake_tensorrt):
    monkeypatch.setattr(runners, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runner = TrtRunner(write_engine(tmp_path / "m.engine"))
    with pytest.raises(MissingBackendError, match="CUDA build of torch"):
        runner.__enter__()


def test_trt_runner_engine_of_another_version_is_an_error(tmp_path, fake_tensorrt):
    runner = TrtRunner(write_engine(tmp_path / "m.engine", version="0.9"))
    with pytest.raises(BuildError, match=r"built by tensorrt-rtx 0\.9, here is 1\.0"):
        runner.__enter__()


def test_trt_runner_engine_of_a_flavor_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    def missing(flavor):
        raise MissingBackendError(f"{flavor} is not installed")

    monkeypatch.setattr(runners, "load_tensorrt", missing)
    runner = TrtRunner(write_engine(tmp_path / "m.engine", flavor="tensorrt"))
    assert runner.backend == "TensorRT 1.0"
    with pytest.raises(MissingBackendError, match="tensorrt is not installed"):
        runner.__enter__()


@pytest.mark.parametrize(
    "changes",
    [{"flavor": "openvino"}, {"flavor": ["tensorrt"]}, {"profile": None}, {"profile": {"min": 1}}],
    ids=["flavor", "type", "no profile", "half a profile"],
)
def test_trt_runner_manifest_of_something_else_is_an_error(tmp_path, changes):
    path = write_engine(tmp_path / "m.engine", **changes)
    with pytest.raises(BuildError, match="does not describe an engine"):
        TrtRunner(path)


def test_trt_runner_changed_engine_is_an_error(tmp_path):
    path = write_engine(tmp_path / "m.engine")
    path.write_bytes(b"enginE")
    with pytest.raises(FileError, match="SHA-256 differs"):
        TrtRunner(path)


def test_trt_runner_missing_manifest_is_an_error(tmp_path):
    path = write_engine(tmp_path / "m.engine")
    manifest_path(path).unlink()
    with pytest.raises(FileError, match="no manifest"):
        TrtRunner(path)


def test_trt_runner_onnx_manifest_is_an_error(tmp_path):
    path = tmp_path / "m.onnx"
    write_artifact(path, b"onnx", {"precision": "fp32"})
    with pytest.raises(BuildError, match="does not describe an engine"):
        TrtRunner(path)


def test_trt_runner_uses_names_that_tensorrt_has():
    trt = pytest.importorskip("tensorrt_rtx")
    tensors = "get_tensor_dtype get_tensor_mode get_tensor_name get_tensor_shape num_io_tensors"
    context = "execute_async_v3 get_tensor_shape set_input_shape set_tensor_address"
    used = {
        trt.Runtime: "deserialize_cuda_engine",
        trt.ICudaEngine: f"create_execution_context {tensors}",
        trt.IExecutionContext: context,
        trt.DataType: "FLOAT HALF",
        trt.TensorIOMode: "INPUT",
        trt.ILogger: "ERROR INTERNAL_ERROR",
    }
    for owner, names in used.items():
        assert [name for name in names.split() if not hasattr(owner, name)] == []


def test_trt_runner_logger_keeps_errors_and_prints_nothing(capfd):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = runners._quiet_logger(trt)
    logger.log(trt.ILogger.WARNING, "a warning")
    logger.log(trt.ILogger.ERROR, "an error\n  in two lines")
    assert logger.errors == ["an error in two lines"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.tensorrt
@pytest.mark.skipif(cuda_device_count() == 0, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_trt_runner_runs_a_built_engine(tmp_path, precision):
    trt = pytest.importorskip("tensorrt_rtx")
    reference = build_reference(notebook_config(img_size=56, embed_dim=32, depths=(2, 2)))
    images = np.random.default_rng(0).standard_normal((3, 3, 56, 56), dtype=np.float32)
    with TorchRunner("reference", reference) as runner:
        (expected,) = runner.run(images)
    spec = ExportSpec((3, 56, 56), ("tokens",), precision=precision)
    graph = export_onnx(fold(reference.cpu()), spec, metadata={})
    options = EngineOptions(flavor="tensorrt-rtx")
    built = build_engine(graph, BatchProfile(1, 2, 4), options=options)
    path = write_engine(
        tmp_path / "m.engine", data=built.data, version=trt.__version__, precision=precision
    )
    with TrtRunner(path) as runner:
        actual = np.concatenate([runner.run(images[:1])[0], runner.run(images[1:])[0]])
    tolerance = TOLERANCES["engine", precision]
    assert compare(actual, expected, tolerance, inputs="", batch=1, classes=False).passed
