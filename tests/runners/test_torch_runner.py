"""The deploy model as PyTorch ships it: ``--runner torch``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import logging
import shutil
import types
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from command_line import IMAGES, Command, run_process
from conftest import TINY_WITH_HEAD
from families import CONFIGS, trained_like
from torch import Tensor, nn

import swin_deploy
from exporters.errors import BuildError, ConfigError, MissingBackendError
from exporters.progress import silent
from exporters.spec import Precision
from swin_deploy.bench import Effort
from swin_deploy.bench.baselines import compiled
from swin_deploy.bench.throughput import _deployed, _without, measure_throughput
from swin_deploy.candidates import Made
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.cli import cli
from swin_deploy.images.sets import seeded_images
from swin_deploy.parity.run import prove_parity
from swin_deploy.report.words import headline, verdict_sentences
from swin_deploy.runners import (
    OPENVINO_WAYS,
    TORCH_WAYS,
    WAYS,
    TorchRunner,
    deploy_runner,
    deployed,
    pytorch,
)
from swin_deploy.runners.base import run_images
from swin_deploy.runners.compiling import compiling, require_compiler

compiles = pytest.mark.skipif(
    not shutil.which("g++"), reason="torch.compile on a CPU needs a C++ compiler"
)
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
# One stage of two blocks and one window: seconds to compile.
SMALL = dataclasses.replace(CONFIGS["swin"], img_size=28, depths=(2,), num_heads=(2,))
DIGITS = ("--model", "notebook-digits")
PIXELS = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)


@functools.cache
def small() -> LoadedModel:
    return LoadedModel("small", SMALL, trained_like(SMALL), None, "", library_steps(SMALL))


class Spy(nn.Module):
    """Adds up each image, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[torch.Size, torch.dtype]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((images.shape, images.dtype))
        return images.sum(dim=(1, 2, 3))[:, None] * self.weight


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine with a GPU and Triton answers before anything runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(deployed, "why_not_fused", lambda: "")


# names


@on_cpu
def test_name_says_what_a_cpu_does() -> None:
    runner = deploy_runner(SMALL, nn.Identity, "torch")
    assert (runner.name, runner.precision) == ("deploy model, compiled", "fp32")
    other = deploy_runner(SMALL, nn.Identity, "torch-max-autotune")
    assert other.name == "deploy model, compiled max-autotune"


@pytest.mark.usefixtures("gpu")
def test_name_says_what_a_gpu_does() -> None:
    config = dataclasses.replace(TINY_WITH_HEAD, embed_dim=64)
    runner = deploy_runner(config, nn.Identity, "torch")
    assert runner.name == "deploy model fp16, compiled, CUDA graph, fused attention"
    assert runner.precision == "fp16"
    # 8 channels a head have no kernel
    assert deploy_runner(SMALL, nn.Identity, "torch").name == (
        "deploy model fp16, compiled, CUDA graph"
    )


@pytest.mark.usefixtures("gpu")
def test_compiled_baselines_of_a_gpu_come_as_cuda_graphs_too() -> None:
    found = compiled("m", nn.Identity, "original", modes=["default", "max-autotune"])
    assert [one.runner.name for one in found] == [
        "m, compiled", "m, compiled, CUDA graph", "m, compiled max-autotune",
    ]  # fmt: skip
    assert {one.mode for one in found} == {"compile"}
    assert {one.precision for one in found} == {"fp16"}


@pytest.mark.parametrize("name", ["parity", "run", "bench", "evaluate", "predict"])
def test_option_takes_the_ways_there_are_and_has_help(name: str) -> None:
    (option,) = [one for one in cli.commands[name].params if "--runner" in one.opts]
    assert isinstance(option, click.Option)
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == WAYS == (*TORCH_WAYS, *OPENVINO_WAYS)
    assert "in float16, as one CUDA graph" in (option.help or "")
    assert "--runner torch" in (cli.commands[name].epilog or "")


# runner


@on_cpu
def test_cuda_graph_without_a_gpu_is_a_missing_backend() -> None:
    with (
        pytest.raises(MissingBackendError, match="needs an NVIDIA GPU"),
        TorchRunner("m", nn.Identity(), graph=True),
    ):
        pass


@on_cpu
def test_plain_runner_has_a_plain_backend_and_a_fused_one_says_why_it_is_not() -> None:
    with TorchRunner("m", nn.Identity()) as runner:
        assert runner.backend == f"PyTorch {torch.__version__}, CPU"
    with TorchRunner("m", nn.Identity(), fused=True) as runner:
        first = runner.backend
        assert first.startswith(
            f"PyTorch {torch.__version__}, CPU, window attention: PyTorch's own"
        )
    with runner:
        assert runner.backend == first


@pytest.mark.parametrize("arithmetic", ["fp32", "fp16", "bf16"])
def test_copies_are_of_float32_images_whatever_the_model_takes(arithmetic: Precision) -> None:
    spy = Spy()
    with TorchRunner("spy", lambda: spy, arithmetic=arithmetic) as runner:
        for images in (PIXELS, 2 * PIXELS, PIXELS[:2]):
            (expected,) = runner.run(images)
            runner.execute_with_copies()
            runner.synchronize()
            np.testing.assert_array_equal(runner.fetch()[0], expected)
            np.testing.assert_array_equal(runner._host.numpy(), images)
        assert runner._host.dtype == torch.float32
        seen = runner._call.seen  # type: ignore[attr-defined] # the alias of the spy
    assert {dtype for _, dtype in seen} == {pytorch.torch_dtype(arithmetic)}


def test_graph_is_captured_once_for_each_batch_and_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In which order CUDA is asked; a stand-in answers, for want of a GPU."""
    asked: list[str] = []

    class Graph:
        def replay(self) -> None:
            asked.append("replay")

    @contextlib.contextmanager
    def captured(graph: Graph, *, capture_error_mode: str) -> Iterator[None]:
        asked.append(f"capture {capture_error_mode}")
        yield

    stream = types.SimpleNamespace(wait_stream=lambda _: None)
    for name, value in {
        "Stream": lambda: stream, "current_stream": lambda: stream, "CUDAGraph": Graph,
        "stream": lambda _: contextlib.nullcontext(), "graph": captured,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    spy = Spy().eval()
    runner = TorchRunner("spy", spy, graph=True)
    runner._call = spy
    for images in (PIXELS, -PIXELS, PIXELS[:2]):
        runner.prepare(images)
        runner.execute()
        np.testing.assert_array_equal(runner._images, images)
    assert asked == ["capture thread_local", "replay", "replay", "capture thread_local", "replay"]
    assert [shape[0] for shape, _ in spy.seen] == [5] * 4 + [2] * 4  # warm-up, then the capture


def test_graph_that_could_not_be_captured_is_captured_with_the_next_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not run without a graph from then on, under the name of one that has it."""
    tried: list[int] = []

    def fail(runner: TorchRunner) -> None:
        tried.append(len(runner._images))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TorchRunner, "_capture", fail)
    runner = TorchRunner("spy", Spy().eval(), graph=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            runner.prepare(PIXELS)
    assert tried == [5, 5]


@pytest.mark.usefixtures("gpu")
def test_deploy_model_without_the_kernel_is_not_timed_under_two_names() -> None:
    (shipped,) = [_deployed(small(), "torch")]
    others = compiled("deploy model", nn.Identity, "deploy", modes=["default"])
    others += compiled("PyTorch reference", nn.Identity, "reference", modes=["default"])
    assert [one.runner.name for one in _without([shipped], others)] == [
        "deploy model, compiled", "PyTorch reference, compiled",
        "PyTorch reference, compiled, CUDA graph",
    ]  # fmt: skip


@compiles
def test_compiled_runner_keeps_to_few_shapes() -> None:
    spy = Spy()
    runner = TorchRunner("spy", spy, compile_mode="default")
    assert [runner.full_batch(n) for n in (1, 2, 3, 5, 8, 31, 32)] == [1, 2, 4, 8, 8, 32, 32]
    assert TorchRunner("spy", spy).full_batch(5) == 5
    with runner:
        (output,) = run_images(runner, PIXELS)
        assert runner._images.shape[0] == 8
    np.testing.assert_allclose(output, PIXELS.sum(axis=(1, 2, 3))[:, None], rtol=1e-5)


# what torch.compile cannot do


def _broken(*_: object, **__: object) -> None:
    raise TypeError("a first line\nthat goes on\nfor pages")


@compiles
def test_failing_torch_compile_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler("cpu")  # works, and is remembered
    monkeypatch.setattr(
        importlib.import_module("torch._inductor.compile_fx"), "compile_fx", _broken
    )
    with TorchRunner("m", Spy(), compile_mode="default") as runner:
        with pytest.raises(
            BuildError, match=r"m: torch.compile of PyTorch .* a first line"
        ) as info:
            runner.run(PIXELS)
        assert "\n" not in str(info.value)
        assert "pages" not in str(info.value)


@compiles
def test_parity_of_what_cannot_be_compiled_fails_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_compiler("cpu")
    monkeypatch.setattr(
        importlib.import_module("torch._inductor.compile_fx"), "compile_fx", _broken
    )
    images = [seeded_images(SMALL, count=2)]
    report = prove_parity(
        small(), Made(ways=("torch",)), images=images, batches=(2,), progress=silent
    )
    assert [hop.passed for hop in report.hops] == [True, False]
    assert headline(report) == "Not equal: deploy model, compiled"
    text = " ".join(verdict_sentences(report))
    assert "Deploy model, compiled failed without a result." in text
    assert text.count("torch.compile of PyTorch") == 1


def test_other_exceptions_stay_what_they_are_and_logging_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def compile_and_fail() -> None:
        with compiling("m"):
            logging.getLogger("torch._inductor").error("a page of generated code")
            raise ZeroDivisionError

    logging.disable(logging.INFO)
    try:
        with pytest.raises(ZeroDivisionError):
            compile_and_fail()
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
    assert caplog.text == ""


@pytest.mark.slow
def test_without_a_compiler_it_is_not_run(tmp_path: Path) -> None:
    lacking = {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    picture = next(IMAGES.rglob("*.png"))
    run_process("predict", *DIGITS[1:], picture, "--runner", "torch", env=lacking).assert_error(
        "install g++, or name a C++ compiler in the variable CXX"
    )
    arguments = ("parity", *DIGITS, "--limit", "2", "--batches", "1", "--runner", "torch", "--json")
    outcome = run_process(*arguments, env=lacking).assert_done()
    (hop,) = [one for one in outcome.json["hops"] if one["name"] == "deploy model, compiled"]
    assert "install g++" in hop["not_run"]
    assert len(outcome.err.splitlines()) < 20


# the stages


@compiles
def test_parity_judges_it_like_every_step() -> None:
    images = [seeded_images(SMALL, count=2)]
    report = prove_parity(
        small(), Made(ways=("torch",)), images=images, batches=(2,), progress=silent
    )
    plain, hop = report.hops
    assert (hop.name, hop.stage, hop.passed) == ("deploy model, compiled", "deploy", True)
    assert hop.results[0].tolerance == plain.results[0].tolerance
    assert "compiled (default), no CUDA graph, window attention: PyTorch's own" in hop.backend
    assert hop.drift_not_run == "only its outputs can be read"


@compiles
def test_parity_finds_a_fault_that_only_the_compiled_model_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = TorchRunner._run

    def wrong(runner: TorchRunner) -> object:
        output = run(runner)
        return output * 1.001 if runner.name.endswith("compiled") else output

    monkeypatch.setattr(TorchRunner, "_run", wrong)
    images = [seeded_images(SMALL, count=2)]
    report = prove_parity(
        small(), Made(ways=("torch",)), images=images, batches=(2,), progress=silent
    )
    assert [hop.passed for hop in report.hops] == [True, False]


@compiles
def test_bench_times_it_as_ours() -> None:
    report = measure_throughput(
        small(), Made(ways=("torch",)), batches=(2,),
        effort=Effort(warmup=1, iterations=3, seconds=2), against=("eager",),
    )  # fmt: skip
    (row,) = [one for one in report.results if one.mode == "compile"]
    assert (row.name, row.kind, row.precision) == ("deploy model, compiled", "deploy", "fp32")
    assert row.timed
    assert row.relative_l2 is not None
    assert row.relative_l2 < 1e-5
    assert {one.bar for one in report.comparisons} == {"eager"}  # it is no bar of itself


@pytest.mark.slow
@compiles
def test_commands_take_the_runner(swin: Command, tmp_path: Path) -> None:
    picture = next((IMAGES / "3").glob("*.png"))
    plain = swin("predict", *DIGITS[1:], picture, "--json").assert_done().json
    outcome = swin("predict", *DIGITS[1:], picture, "--runner", "torch", "--json").assert_done()
    assert "CPU, compiled (default), no CUDA graph" in outcome.err
    assert outcome.json["top"][0]["class"] == plain["top"][0]["class"]
    outcome = swin(
        "evaluate", *DIGITS, "--limit", "8", "--batch", "8", "--runner", "torch", "--json"
    )
    names = [one["name"] for one in outcome.assert_done().json["candidates"]]
    assert names == ["deploy model", "deploy model, compiled"]
    outcome = swin(
        "bench", *DIGITS, "--batch", "1", "--seconds", "1", "--runner", "torch", "--report", "r"
    ).assert_done()
    assert "next: swin-deploy run --model notebook-digits --runner torch" in outcome.err
    outcome = swin(
        "parity", *DIGITS, "--batches", "1", "--limit", "2", "--runner", "torch", "--report", "p"
    ).assert_done()
    for page in ("report.json", "report.md", "report.html"):
        assert "deploy model, compiled" in (tmp_path / "p" / page).read_text()
        assert "deploy model, compiled" in (tmp_path / "r" / page).read_text()


# refused


def test_file_with_a_runtime_of_its_own_takes_no_runner(swin: Command, full: Path) -> None:
    picture = next(IMAGES.rglob("*.png"))
    swin("predict", full, picture, "--runner", "torch").assert_error(
        "is run by a runtime of its own; runner torch takes a checkpoint"
    )


def test_unknown_runner_is_refused_in_python() -> None:
    for call in (
        lambda: swin_deploy.Predictor("notebook-digits", runner="cuda"),  # type: ignore[arg-type]
        lambda: swin_deploy.check(swin_deploy.load("notebook-digits"), runner="cuda"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="'cuda' is not known; use one of torch"):
            call()


# on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", CONFIGS)
def test_deployed_model_on_a_gpu_is_a_graph_with_the_kernel_and_right(family: str) -> None:
    config = dataclasses.replace(CONFIGS[family], embed_dim=64, num_heads=(2, 4))
    model = LoadedModel("m", config, trained_like(config), None, "", library_steps(config))
    images = [seeded_images(config, count=4)]
    report = prove_parity(
        model, Made(ways=("torch",)), images=images, batches=(1, 4), progress=silent
    )
    hop = report.hops[1]
    assert hop.name == "deploy model fp16, compiled, CUDA graph, fused attention"
    assert ", compiled (default), CUDA graph, window attention: Triton " in hop.backend
    assert hop.backend.endswith("in 4 of 4 blocks")
    assert hop.passed, hop.worst
