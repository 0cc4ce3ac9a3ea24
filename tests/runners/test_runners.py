import copy
import os
import sys
import types
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import build_reference
from exported import write_doubler
from onnx import TensorProto

from exporters.errors import (
    ComparisonError,
    ExportError,
    FileError,
    MissingBackendError,
)
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.config import notebook_config
from swin_deploy.deploy.fold import fold
from swin_deploy.parity import TOLERANCES, Case, compare
from swin_deploy.runners import CPU_PROVIDER, CUDA_PROVIDER, OrtRunner, TorchRunner, ort

BACKENDS: Any = torch.backends  # some of its parts are set when it is loaded
CONFIG = notebook_config(img_size=56, embed_dim=32, depths=(2, 2))
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 56, 56), dtype=np.float32)
SMALL = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)


@pytest.fixture(scope="module")
def reference():
    return build_reference(CONFIG)


@pytest.fixture(scope="module")
def expected(reference):
    with TorchRunner("reference", reference) as runner:
        return runner.run(IMAGES)[0]


def passes(actual, reference, stage, precision):
    tolerance = TOLERANCES[stage, precision]
    return compare(actual, reference, tolerance, Case("", 1)).passed


# PyTorch


def test_torch_runner_gives_the_modules_output(reference, expected):
    with torch.inference_mode():
        own = reference.cpu()(torch.from_numpy(IMAGES)).numpy()
    assert expected.dtype == np.float32
    assert passes(expected, own, "deploy", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_runner_never_changes_the_module(precision):
    module = build_reference(CONFIG).train()
    before = copy.deepcopy(module.state_dict())
    with TorchRunner("reference", module, arithmetic=precision) as runner:
        runner.run(IMAGES)[0]
    assert module.training
    for key, value in module.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key]), key


def test_torch_runner_runs_in_evaluation_mode(expected):
    with TorchRunner("training", build_reference(CONFIG).train()) as runner:
        np.testing.assert_array_equal(runner.run(IMAGES)[0], expected)


def test_torch_runner_in_half_is_half(reference, expected):
    with TorchRunner("half", fold(reference), arithmetic="fp16") as runner:
        actual = runner.run(IMAGES)[0]
    assert actual.dtype == np.float32
    assert passes(actual, expected, "deploy", "fp16")
    assert not passes(actual, expected, "deploy", "fp32")


def test_torch_runner_is_strict_about_float32_and_restores_the_settings():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            seen.append(torch.backends.cuda.matmul.fp32_precision)
            seen.append(BACKENDS.mkldnn.matmul.fp32_precision)
            seen.append(BACKENDS.cudnn.conv.fp32_precision)
            return images

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with TorchRunner("spy", Spy()) as runner:
            runner.run(SMALL)[0]
            assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert seen == ["ieee"] * 3
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_torch_runner_restores_the_settings_when_the_module_fails():
    class Broken(torch.nn.Module):
        def forward(self, images):
            raise ValueError("broken")

    before = BACKENDS.cudnn.conv.fp32_precision
    with TorchRunner("broken", Broken()) as runner, pytest.raises(ValueError, match="broken"):
        runner.run(SMALL)[0]
    assert BACKENDS.cudnn.conv.fp32_precision == before


def test_torch_runner_prepared_images_can_be_run_again():
    with TorchRunner("identity", torch.nn.Identity()) as runner:
        runner.prepare(SMALL)
        for _ in range(2):
            runner.execute()
            runner.synchronize()
        np.testing.assert_array_equal(runner.fetch()[0], SMALL)


# ONNX Runtime


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_ort_runner_refuses_a_name_that_is_not_utf_8(tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_doubler(tmp_path / os.fsdecode(b"\xff.onnx"))
    with pytest.raises(FileError, match="has a name that is not UTF-8"), OrtRunner(path, "fp32"):
        pass


def test_ort_runner_runs_the_exported_model(tmp_path, reference, expected):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    onnx.save(export_onnx(fold(reference), ExportSpec((3, 56, 56), ("tokens",)), metadata={}), path)
    with OrtRunner(path, "fp32") as runner:
        actual = runner.run(IMAGES)[0]
        assert (runner.name, runner.min_batch, runner.max_batch) == ("onnx fp32", 1, None)
        assert runner.backend.endswith((CPU_PROVIDER, CUDA_PROVIDER))
    assert passes(actual, expected, "onnx", "fp32")


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["fp32", "fp16"])
def test_ort_runner_takes_and_gives_float32(tmp_path, dtype):
    pytest.importorskip("onnxruntime")
    with OrtRunner(write_doubler(tmp_path / "m.onnx", dtype=dtype), "fp32") as runner:
        actual = runner.run(SMALL)[0]
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, 2 * SMALL)


def test_ort_runner_lets_go_of_its_session(tmp_path):
    """ONNX Runtime's description of an input holds the session, and its memory, too."""
    runtime = pytest.importorskip("onnxruntime")
    runner = OrtRunner(write_doubler(tmp_path / "m.onnx"), "fp32")

    def held():
        values = [one for value in vars(runner).values() for one in np.atleast_1d(value).tolist()]
        return [one for one in values if type(one).__module__.startswith(runtime.__name__)]

    with runner:
        runner.run(SMALL)
        assert held()
    assert not held()


def test_ort_runner_fixed_batch_is_its_range(tmp_path):
    pytest.importorskip("onnxruntime")
    with OrtRunner(write_doubler(tmp_path / "m.onnx", batch=2), "fp32") as runner:
        assert (runner.min_batch, runner.max_batch) == (2, 2)
        np.testing.assert_array_equal(runner.run(SMALL)[0], 2 * SMALL)
        with pytest.raises(ComparisonError, match=r"\[2, 3, 2, 2\], not \[1, 3, 2, 2\]"):
            runner.run(SMALL[:1])[0]


@pytest.mark.parametrize("images", [IMAGES, SMALL[0], SMALL[:, :1]], ids=["size", "rank", "gray"])
def test_ort_runner_other_images_are_an_error(tmp_path, images):
    pytest.importorskip("onnxruntime")
    with (
        OrtRunner(write_doubler(tmp_path / "m.onnx"), "fp32") as runner,
        pytest.raises(ComparisonError, match="takes images of shape"),
    ):
        runner.run(images)[0]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x00\x3a"])
def test_ort_runner_corrupt_file_is_one_line(tmp_path, content, capfd):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="cannot load") as caught, OrtRunner(path, "fp32"):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_ort_runner_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileError, match="does not exist"), OrtRunner(tmp_path / "m.onnx", "fp32"):
        pass


def test_ort_runner_gives_every_output(tmp_path):
    pytest.importorskip("onnxruntime")
    with OrtRunner(write_doubler(tmp_path / "m.onnx", outputs=2), "fp32") as runner:
        assert len(runner.run(SMALL)) == 2


def test_ort_runner_without_output_is_an_error(tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_doubler(tmp_path / "m.onnx", outputs=0)
    with pytest.raises(ExportError), OrtRunner(path, "fp32"):
        pass


def fake_onnxruntime(chosen):
    """An onnxruntime that offers CUDA, is asked for it, and runs on ``chosen``."""
    asked = []

    class Session:
        def __init__(self, path, options, *, providers, provider_options):
            asked.append((providers, provider_options))

        def get_providers(self):
            return [chosen]

        def get_inputs(self):
            return [types.SimpleNamespace(name="images", shape=["batch", 3, 2, 2], type="")]

        get_outputs = get_inputs

    names = ["EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf"]
    names += ["NotImplemented", "RuntimeException"]
    errors = {name: type(name, (Exception,), {}) for name in names}
    options = types.SimpleNamespace(add_session_config_entry=lambda key, value: None)
    return types.SimpleNamespace(
        __version__="1.0",
        asked=asked,
        get_available_providers=lambda: ["TensorrtExecutionProvider", CUDA_PROVIDER, CPU_PROVIDER],
        SessionOptions=lambda: options,
        InferenceSession=Session,
        capi=types.SimpleNamespace(onnxruntime_pybind11_state=types.SimpleNamespace(**errors)),
    )


def open_with(monkeypatch, tmp_path, *, chosen, gpus):
    fake = fake_onnxruntime(chosen)
    monkeypatch.setattr(ort, "load_onnxruntime", lambda: fake)
    monkeypatch.setattr(ort, "cuda_device_count", lambda: gpus)
    with OrtRunner(write_doubler(tmp_path / "m.onnx"), "fp32") as runner:
        return runner.backend, fake.asked


def test_ort_runner_other_provider_than_asked_for_is_an_error(monkeypatch, tmp_path):
    with pytest.raises(MissingBackendError, match=r"asked for CUDA.* on CPU.* pip install"):
        open_with(monkeypatch, tmp_path, chosen=CPU_PROVIDER, gpus=1)


def test_ort_runner_with_a_gpu_asks_for_cuda_without_tf32(monkeypatch, tmp_path):
    backend, asked = open_with(monkeypatch, tmp_path, chosen=CUDA_PROVIDER, gpus=1)
    assert backend == "ONNX Runtime 1.0, CUDAExecutionProvider"
    assert asked == [([CUDA_PROVIDER], [{"use_tf32": "0"}])]


def test_ort_runner_without_a_gpu_does_not_ask_for_cuda(monkeypatch, tmp_path):
    backend, asked = open_with(monkeypatch, tmp_path, chosen=CPU_PROVIDER, gpus=0)
    assert backend == "ONNX Runtime 1.0, CPUExecutionProvider"
    assert asked == [([CPU_PROVIDER], [{}])]
