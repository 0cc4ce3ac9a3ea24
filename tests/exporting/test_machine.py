import json
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from exporters.backends import Gpu
from exporters.errors import MissingBackendError
from swin_deploy import doctor as machine
from swin_deploy.doctor import Finding, check_machine, to_dict

CUDA = "CUDAExecutionProvider"


def found(name: str) -> Finding:
    return next(finding for finding in check_machine() if finding.name == name)


def give_packages(patch: pytest.MonkeyPatch, *names: str | None) -> None:
    entries = [SimpleNamespace(metadata={"Name": name}) for name in names]
    patch.setattr(metadata, "distributions", lambda: entries)


def give_runtime(patch: pytest.MonkeyPatch, *providers: str) -> None:
    runtime = SimpleNamespace(__version__="1.2.3", get_available_providers=lambda: list(providers))
    patch.setattr(machine, "load_onnxruntime", lambda: runtime)


def give_tensorrt(patch: pytest.MonkeyPatch, *flavors: str) -> None:
    def load(flavor: str) -> Any:  # noqa: ANN401 - stands for a module
        if flavor in flavors:
            return SimpleNamespace(__version__="10.0")
        raise MissingBackendError(f"{flavor} is not installed; install it: pip install {flavor}")

    patch.setattr(machine, "load_tensorrt", load)


def test_examine_finds_something_of_everything() -> None:
    findings = check_machine()
    assert [finding.name for finding in findings] == [
        "machine", "python", "GPU", "torch", "packages",
        "onnxruntime", "openvino", "tensorrt-rtx", "tensorrt", "polygraphy",
    ]  # fmt: skip
    for finding in findings:
        assert finding.state in ("ok", "missing", "broken")
        assert finding.detail
        assert bool(finding.remedy) == (finding.state != "ok")
    assert set(json.loads(json.dumps(to_dict(findings)))) == {entry.name for entry in findings}


@pytest.mark.parametrize("gpus", [0, 2])
def test_gpu(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_device_count", lambda: gpus)
    finding = found("GPU")
    assert finding.state == ("ok" if gpus else "missing")
    assert ("2 NVIDIA" if gpus else "not run") in finding.detail


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ("9.0", "compute capability 9.0, with FP8"),
        ("8.9", "compute capability 8.9, with FP8"),
        ("12.0", "compute capability 12.0, with FP8"),
        ("8.6", "compute capability 8.6, without FP8, which 8.9 and later have"),
        ("7.5", "compute capability 7.5, without FP8, which 8.9 and later have"),
        ("", "1 NVIDIA device(s)"),
    ],
)
def test_gpu_says_whether_it_has_fp8(
    capability: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("Some GPU", capability) if capability else None
    monkeypatch.setattr(machine, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(machine, "current_gpu", lambda: gpu)
    detail = found("GPU").detail
    assert detail.endswith(words)
    assert ("FP8" in detail) is bool(gpu)


@pytest.mark.parametrize(
    ("gpus", "cuda", "state", "words"),
    [
        pytest.param(0, False, "ok", "CPU only", id="cpu"),
        pytest.param(
            1, False, "broken", "the GPU is there, but CUDA is not", id="cpu-build-on-gpu"
        ),
        pytest.param(1, True, "ok", "CUDA on H200", id="cuda"),
    ],
)
def test_torch(
    gpus: int, cuda: bool, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(machine, "cuda_device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    finding = found("torch")
    assert (finding.state, words in finding.detail) == (state, True)


@pytest.mark.parametrize(
    ("installed", "state", "words"),
    [
        pytest.param(("onnxruntime",), "ok", "1.2.3, providers CPU", id="cpu-build"),
        pytest.param(("onnxruntime-gpu",), "ok", "1.2.3, providers CPU", id="gpu-build"),
        pytest.param(
            ("onnxruntime", "ONNXRuntime-GPU", None), "broken", "overwrite each other", id="both"
        ),
    ],
)
def test_onnxruntime_flavours(
    installed: tuple[str | None, ...], state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_packages(monkeypatch, *installed)
    give_runtime(monkeypatch, "CPUExecutionProvider")
    monkeypatch.setattr(machine, "cuda_device_count", lambda: 0)
    finding = found("onnxruntime")
    assert (finding.state, words in finding.detail) == (state, True)
    assert ("pip uninstall onnxruntime onnxruntime-gpu" in finding.remedy) == (state == "broken")


@pytest.mark.parametrize(("providers", "state"), [((), "missing"), ((CUDA,), "ok")])
def test_onnxruntime_on_a_gpu_machine_needs_cuda(
    providers: tuple[str, ...], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cuda_device_count", lambda: 1)
    give_packages(monkeypatch, "onnxruntime")
    give_runtime(monkeypatch, *providers)
    finding = found("onnxruntime")
    assert finding.state == state
    assert ("pip install onnxruntime-gpu" in finding.remedy) == (state == "missing")


def test_onnxruntime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise MissingBackendError("onnxruntime is not installed; install it: pip ...")

    monkeypatch.setattr(machine, "load_onnxruntime", refuse)
    finding = found("onnxruntime")
    assert finding.state == "broken"
    assert "pip install onnxruntime" in finding.remedy


@pytest.mark.parametrize(
    ("flavors", "gpus", "expected"),
    [
        pytest.param((), 0, {"tensorrt-rtx": "missing", "tensorrt": "missing"}, id="none"),
        pytest.param(("tensorrt-rtx",), 0, {"tensorrt-rtx": "ok", "tensorrt": "missing"}, id="rtx"),
        pytest.param(
            ("tensorrt-rtx", "tensorrt"), 1, {"tensorrt-rtx": "ok", "tensorrt": "ok"}, id="both"
        ),
    ],
)
def test_tensorrt_flavours(
    flavors: tuple[str, ...], gpus: int, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cuda_device_count", lambda: gpus)
    give_tensorrt(monkeypatch, *flavors)
    give_runtime(monkeypatch, CUDA)
    findings = {finding.name: finding for finding in check_machine()}
    assert {name: findings[name].state for name in expected} == expected
    for name, state in expected.items():
        assert ("pip install tensorrt" in findings[name].remedy) == (state == "missing")
        if state == "ok":
            assert ("runs engines" in findings[name].detail) == bool(gpus)


def test_full_tensorrt_without_a_gpu_says_that_it_cannot_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "cuda_device_count", lambda: 0)
    give_tensorrt(monkeypatch, "tensorrt")
    assert "needs a GPU to build" in found("tensorrt").detail


def test_polygraphy_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", refuse)
    finding = found("polygraphy")
    assert (finding.state, finding.remedy) == ("broken", "pip install polygraphy")
