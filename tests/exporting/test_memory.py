"""Weights are held as often as they are needed: copies that nobody asked for are found here."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import gc
import hashlib
import platform
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from command_line import Command
from conftest import TINY_WITH_HEAD, build_reference
from exported import exported, needs_rtx
from families import loaded as tiny
from torch import Tensor, nn

from exporters import memory
from exporters.progress import silent
from exporters.spec import ExportSpec, Precision
from exporters.to_onnx import export_onnx, load_onnx
from swin_deploy.artifacts import onnx_file
from swin_deploy.candidates import read_made
from swin_deploy.deploy.fold import fold
from swin_deploy.images.sets import seeded_images
from swin_deploy.precision.diagnose import diagnose
from swin_deploy.reference.alias import alias
from swin_deploy.runners import TorchRunner
from swin_deploy.runners.emulated import EmulatedRunner

SPEC = ExportSpec((3, 56, 56), ("logits",))


def addresses(module: nn.Module) -> set[int]:
    return {value.data_ptr() for value in module.state_dict().values()}


def test_alias_has_the_weights_themselves() -> None:
    module = build_reference(TINY_WITH_HEAD)
    same = alias(module)
    assert same is not module
    assert addresses(same) == addresses(module)
    images = torch.zeros(1, 3, 56, 56)
    assert torch.equal(same(images), module(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_alias_that_is_cast_has_weights_of_its_own(dtype: torch.dtype) -> None:
    module = build_reference(TINY_WITH_HEAD)
    before = copy.deepcopy(module.state_dict())
    other = alias(module).to(dtype).train()
    assert not module.training
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    floats = [value for value in other.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {dtype}
    assert not {value.data_ptr() for value in floats} & addresses(module)


def test_alias_keeps_what_is_shared_shared() -> None:
    layer: Any = nn.Linear(2, 2)
    layer.register_buffer("table", torch.ones(3))
    same: Any = alias(nn.ModuleList([layer, layer]))
    assert same[0] is same[1]
    assert type(same[0].weight) is nn.Parameter
    assert not same[0].weight.requires_grad
    assert layer.weight.requires_grad
    assert same[0].table.data_ptr() == layer.table.data_ptr()


class Tied(nn.Module):
    """Two layers with one weight, and a view of a buffer."""

    table: Tensor
    front: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(6.0))
        self.register_buffer("front", self.table[:3])


def test_alias_of_tied_weights_casts_them_once() -> None:
    module = Tied()
    other = alias(module)
    assert other.first.weight is other.second.weight
    assert addresses(other) == addresses(module)
    assert torch.equal(other.front, module.front)
    wide = other.double()
    assert wide.first.weight is wide.second.weight
    assert wide.first.weight.dtype == torch.float64
    assert module.first.weight.dtype == torch.float32


@pytest.mark.parametrize("family", ["notebook", "swin", "swinv2"])
def test_shared_deploy_model_stays_as_it_is(family: str) -> None:
    """Whoever runs, casts, measures or emulates the deploy model gives it back unchanged."""
    model = dataclasses.replace(tiny(family))
    deploy = model.deploy
    before = copy.deepcopy(deploy.state_dict())
    where = addresses(deploy)
    images = seeded_images(model.config, count=2)
    diagnose(model, images, noise_precision="fp16", progress=silent)
    for precision in ("fp16", "bf16"):
        with TorchRunner("m", deploy, arithmetic=precision) as runner:
            runner.run(images.images)
        with EmulatedRunner("m", deploy, precision, keep=()) as runner:
            runner.run(images.images)
    assert model.deploy is deploy
    assert addresses(deploy) == where
    assert not any(module.training or module._forward_hooks for module in deploy.modules())
    for name, value in deploy.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "make",
    [lambda m: TorchRunner("m", m), lambda m: TorchRunner("m", lambda: m)],
    ids=["runner", "baseline"],
)
def test_float32_runner_on_a_cpu_holds_no_weights_of_its_own(make: object) -> None:
    if torch.cuda.is_available():
        pytest.skip("weights move to the GPU")
    module = build_reference(TINY_WITH_HEAD)
    assert callable(make)
    with make(module) as runner:
        held = runner._call
        assert addresses(held) == addresses(module)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_module_is_freed_after_its_export(precision: Precision) -> None:
    """onnxscript's rewriter keeps the last graph that it saw, for ever."""
    module = fold(build_reference(TINY_WITH_HEAD))
    weights = [weakref.ref(value) for value in module.parameters()]
    spec = ExportSpec(SPEC.input_shape, SPEC.output_names, precision=precision)
    graph = export_onnx(module, spec, metadata={})
    del module
    gc.collect()
    assert graph.graph.node
    assert [ref() for ref in weights] == [None] * len(weights)


def test_loaded_model_is_folded_once() -> None:
    model = tiny("swin")
    fresh = dataclasses.replace(model)
    assert fresh.deploy is fresh.deploy
    assert not addresses(fresh.deploy) & addresses(fresh.reference)
    assert fresh == model  # what was computed is no part of the value


def test_made_files_are_read_once_and_hold_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported("digits").SerializeToString())
    read: list[Path] = []

    def noted(one: Path) -> onnx.ModelProto:
        read.append(one)
        return load_onnx(one)

    monkeypatch.setattr(onnx_file, "load_onnx", noted)
    made = read_made([path])
    assert read == [path]
    (file,) = made.onnx
    assert file.graph.ByteSize() < path.stat().st_size / 2
    assert file.whole_graph() == exported("digits")  # read again, for it was let go of
    assert read == [path, path]


@needs_rtx
def test_run_parses_and_hashes_each_file_once_at_most(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: Counter[str] = Counter()
    load, digest = onnx.load, hashlib.file_digest

    def counted_load(path: Path, **options: Any) -> onnx.ModelProto:  # noqa: ANN401 - passed along
        done[f"parse {Path(path).name}"] += 1
        return load(path, **options)

    def counted_digest(stream: Any, name: str) -> Any:  # noqa: ANN401 - passed along
        done[f"hash {Path(stream.name).name}"] += 1
        return digest(stream, name)

    monkeypatch.setattr(onnx, "load", counted_load)
    monkeypatch.setattr(hashlib, "file_digest", counted_digest)
    arguments = ("run", "--model", "notebook-digits", "--limit", "2", "--bench-seconds", "1")
    swin(*arguments).assert_done()
    assert done  # the graphs that are looked into
    assert set(done.values()) == {1}


RELEASE = """
from exporters.memory import release_memory

def resident():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if "VmRSS" in line)

blocks = [bytes(100_000) for _ in range(3000)]
last = bytes(100_000)  # glibc gives back by itself what lies at the very end
full = resident()
del blocks
kept = resident()
release_memory()
print(full, kept, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_release_memory_gives_back_what_glibc_keeps() -> None:
    command = [sys.executable, "-c", RELEASE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    full, kept, after = map(int, done.stdout.split())
    assert kept > full - 50  # MiB; without the call they stay
    assert after < full / 2


def test_release_memory_of_another_c_library_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    memory.release_memory()


EXPORT = """
import sys
from pathlib import Path
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.artifacts.onnx_file import export_spec, write_onnx
from swin_deploy.reference import build_reference

def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if name in line)

def written(embed_dim):
    config = SwinConfig(
        family="swin", img_size=28, embed_dim=embed_dim, depths=(2,), num_heads=(embed_dim // 32,)
    )
    reference = build_reference(config).eval()
    weights = sum(value.nbytes for value in reference.parameters())
    before = status("VmRSS")
    loaded = LoadedModel("m", config, reference, None, "", library_steps(config))
    write_onnx(loaded, export_spec(loaded, precision=sys.argv[1]), Path(sys.argv[2]) / "m.onnx")
    return weights, (status("VmHWM") - before) / weights

written(32)  # what PyTorch's exporter imports
print(*written(1024))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_takes_the_deploy_model_and_the_graph(precision: Precision, tmp_path: Path) -> None:
    """Peak memory beyond the reference, over the weights' 100 MB; it was 8.0 and 5.8."""
    command = [sys.executable, "-c", EXPORT, precision, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    weights, growth = map(float, done.stdout.split())
    assert 95e6 < weights < 105e6
    assert 1.5 < growth < 3.0
