"""``TrtRunner`` where TensorRT, CUDA or the GPU refuses, with stand-ins for them."""

from __future__ import annotations

import contextlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from cuda_stand_in import ILLEGAL, Stream, World
from small_engine import GRAPH, assert_closed, assert_right, images
from trt_stand_in import (
    VERSIONS,
    DynamicShapesKernelSpecializationStrategy,
    stand_in,
    write_stand_in,
)

from exporters.errors import BuildError, DeployError, MissingBackendError
from swin_deploy.runners import TrtRunner

pytest.importorskip("onnxruntime", reason="the stand-in computes with it")
pytest_plugins = ["stand_in_fixtures"]

ONE_LINE = r"\A[^\n]+\Z"
EAGER = DynamicShapesKernelSpecializationStrategy.EAGER


# What cannot go wrong alone: a call that only reads, made to fail, raises like any other.
REFUSED: dict[str, type[DeployError]] = {
    "Runtime": MissingBackendError,
    "Runtime.deserialize_cuda_engine": MissingBackendError,
    "ICudaEngine.create_runtime_config": BuildError,
    "ICudaEngine.create_execution_context": BuildError,
    "IExecutionContext.set_input_shape": BuildError,
    "IExecutionContext.set_tensor_address": BuildError,
    "IExecutionContext.execute_async_v3": BuildError,
}
DONE_WITHOUT = {
    "Runtime.get_engine_validity",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
}


def everything(path: Path, cuda_graph: bool) -> tuple[DeployError | None, list[str]]:
    """Every call that a runner makes; what it raised, and its warnings."""
    warnings: list[str] = []
    try:
        with TrtRunner(path, cuda_graph=cuda_graph, warn=warnings.append) as runner:
            for batch in (2, 1, 2):
                given = images(batch)
                assert_right(runner.run(given), given)
            runner.execute_with_copies()
            runner.synchronize()
    except DeployError as err:
        return err, warnings
    return None, warnings


RTX_ONLY = DONE_WITHOUT | {"ICudaEngine.create_runtime_config"}
# Calls at the end of a run that closing makes: to wait, and to read the kernels.
CLOSING = {"tensorrt": 1, "tensorrt-rtx": 2}


@pytest.mark.parametrize("how", ["refuses", "raises"])
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graph"])
def test_each_call_that_fails_is_one_clear_line_and_closing_works(
    world: World, path: Path, flavor: str, cuda_graph: bool, how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert everything(path, cuda_graph) == (None, [])  # the cache is there from now on
    world = stand_in(monkeypatch)
    assert everything(path, cuda_graph) == (None, [])
    calls = list(world.calls)
    known = REFUSED.keys() | DONE_WITHOUT
    assert known - set(calls) == (RTX_ONLY if flavor == "tensorrt" else set())
    for number, name in enumerate(calls):
        now = stand_in(monkeypatch)
        now.fail_at = number, how
        failed, warnings = everything(path, cuda_graph)
        case = f"{number}: {name} {how}: {failed}, {warnings}"
        if name in DONE_WITHOUT or number >= len(calls) - CLOSING[flavor]:
            assert failed is None, case
            assert len(warnings) == (0 if name == "Runtime.get_engine_validity" else 1), case
        else:
            assert f"{name} was made to" in str(failed), case
            assert "\n" not in str(failed), case
            assert str(path) in str(failed) or "starts no runtime on NVIDIA H100" in str(failed)
            assert type(failed) is (REFUSED if how == "refuses" else {}).get(name, BuildError), case
            assert warnings == [], case
        del failed
        assert_closed(now)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graph"])
def test_each_cuda_error_that_stays_is_one_line_and_closing_works(
    path: Path, cuda_graph: bool, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """The GPU fails before any call, and every call after that reports it."""
    assert everything(path, cuda_graph) == (None, [])
    for number in range(len(world.calls)):
        now = stand_in(monkeypatch)
        noted = now.is_called

        def note(
            name: str, refusal: Any, cuda: bool = False, *, now: World = now,
            noted: Any = noted, number: int = number,
        ) -> Any:  # fmt: skip
            if len(now.calls) == number:
                now.sticky = ILLEGAL
            return noted(name, refusal, cuda)

        now.is_called = note  # type: ignore[method-assign]
        failed, warnings = everything(path, cuda_graph)
        assert failed is None or ILLEGAL in str(failed)
        assert "\n" not in str(failed)
        del failed
        assert_closed(now)
        assert all("\n" not in line for line in warnings)
        closed = [line for line in warnings if f"closing m.engine: RuntimeError: {ILLEGAL}" in line]
        assert bool(closed) == (number > 0), warnings


def test_an_error_of_one_engine_does_not_hide_what_another_gave(
    world: World, path: Path, tmp_path: Path, flavor: str
) -> None:
    other = write_stand_in(tmp_path / "other.engine", GRAPH, flavor=flavor)
    warnings: list[str] = []
    given, results = images(2), []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(TrtRunner(path, warn=warnings.append))
        second = stack.enter_context(TrtRunner(other, warn=warnings.append))
        results.append(first.run(given))
        second.prepare(given)
        world.memory.clear()  # as if its memory were gone
        second.execute()
        with pytest.raises(BuildError, match=r"other\.engine does not run on NVIDIA H100.*illegal"):
            second.fetch()
        with pytest.raises(BuildError, match=ONE_LINE):
            first.run(given)
    assert_right(results[0], given)
    assert [line.partition(": ")[0] for line in warnings] == [
        "closing other.engine",
        "closing m.engine",
    ]
    del first, second
    assert_closed(world)


def test_closing_works_in_every_state(world: World, path: Path) -> None:
    runner = TrtRunner(path, warn=pytest.fail)
    runner.__exit__()  # never opened
    with runner:
        pass  # opened, and nothing else
    runner.__exit__()
    given = images(2)
    with runner:  # a second time
        runner.prepare(given)  # bound, not run
    with runner:
        assert_right(runner.run(given), given)
        assert runner.stream is not None
        runner.__exit__()  # closed twice
        assert runner.stream is None
    assert_closed(world)


def test_closing_goes_on_where_the_kernels_cannot_be_read(world: World, rtx: Path) -> None:
    warnings: list[str] = []
    with TrtRunner(rtx, warn=warnings.append) as runner:
        runner.run(images(1))
        runner._runtime_cache.serialize = lambda: 1 / 0
    assert warnings == ["closing m.engine: ZeroDivisionError: division by zero"]
    del runner
    assert_closed(world)


CAPABILITY = (
    "The engine cannot run on this GPU, which has compute capability 9.0.",
    "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it",
)
MEMORY = ("Requested size was 123 bytes.", "Out of memory: cudaError 2")
LOAD, CONTEXT = "Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"


@pytest.mark.parametrize(
    ("call", "lines", "bits", "error", "words"),
    [
        (LOAD, CAPABILITY, 2, MissingBackendError, "of compute capability 9.0 (The engine cannot"),
        (LOAD, (), 0, MissingBackendError, "(TensorRT gives no reason; validity INVALID)"),
        (LOAD, (), 6, MissingBackendError, "INVALID: UNSUPPORTED_CC, OLD_CUDA_DRIVER)"),
        (LOAD, MEMORY, 2, BuildError, "free GPU memory, or build it for smaller batches"),
        (CONTEXT, CAPABILITY, 0, MissingBackendError, "rebuilt for it; validity INVALID"),
        (CONTEXT, ("Myelin failed",), 2, MissingBackendError, "Myelin failed; validity INVALID"),
        (CONTEXT, ("no kernel image is available",), 0, MissingBackendError, "capability current"),
        (CONTEXT, MEMORY, 2, BuildError, "Requested size was 123 bytes.; Out of memory"),
        (CONTEXT, ("Myelin failed",), 16, BuildError, "INSUFFICIENT_GPU_MEMORY); free GPU memory"),
        (CONTEXT, ("Myelin failed",), 0, BuildError, "gets no execution context on NVIDIA H100"),
    ],
)  # fmt: skip
def test_a_gpu_that_is_refused_is_not_run_and_memory_is_an_error(
    call: str, lines: tuple[str, ...], bits: int, error: type[DeployError], words: str,
    world: World, rtx: Path,
) -> None:  # fmt: skip
    world.validity = "INVALID", bits
    world.refuses = {call: lines}
    with pytest.raises(error, match=ONE_LINE) as caught:
        TrtRunner(rtx, warn=pytest.fail).__enter__()
    assert type(caught.value) is error
    assert words in str(caught.value).replace(" (in two lines)", "")
    assert "validity INVALID" in str(caught.value)
    assert_closed(world)


def test_what_a_forecast_logs_does_not_explain_a_refusal(world: World, rtx: Path) -> None:
    """It logs errors too, of engines that run."""
    world.refuses = {"Runtime.get_engine_validity": MEMORY, LOAD: ("The tensors are wrong.",)}
    with pytest.raises(MissingBackendError, match="The tensors are wrong") as caught:
        TrtRunner(rtx).__enter__()
    assert "memory" not in str(caught.value)


def test_an_engine_that_is_called_invalid_runs_all_the_same(world: World, rtx: Path) -> None:
    world.validity = "INVALID", 2
    given = images(2)
    with TrtRunner(rtx, warn=pytest.fail) as runner:
        assert_right(runner.run(given), given)
        assert runner.backend.endswith("NVIDIA H100 80GB HBM3, validity INVALID: UNSUPPORTED_CC")


def test_a_forecast_does_not_make_a_failed_call_not_run(world: World, rtx: Path) -> None:
    """The GPU runs the engine; what fails afterwards is an error."""
    world.validity = "INVALID", 2
    with TrtRunner(rtx, warn=pytest.fail) as runner:
        runner.run(images(1))
        world.refuses = {"IExecutionContext.execute_async_v3": ("Myelin failed",)}
        with pytest.raises(BuildError, match=r"does not run on NVIDIA H100.*\(Myelin failed"):
            runner.run(images(1))


def test_closing_that_is_interrupted_leaves_nothing_open(
    world: World, rtx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stream: Stream) -> None:
        raise KeyboardInterrupt

    runner = TrtRunner(rtx, warn=pytest.fail).__enter__()
    runner.run(images(1))
    monkeypatch.setattr(Stream, "synchronize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.__exit__()
    assert_closed(world)


def test_refusal_of_an_earlier_call_does_not_explain_a_later_one(world: World, rtx: Path) -> None:
    with TrtRunner(rtx, warn=pytest.fail) as runner:
        world.refuses = {"IExecutionContext.execute_async_v3": CAPABILITY}
        with pytest.raises(MissingBackendError):
            runner.run(images(1))
        world.refuses = {}
        with pytest.raises(BuildError, match="its batches go from") as caught:
            runner.run(images(9))
    assert "capability" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    ["parity --limit 2 --batches 1", "bench --seconds 1 --batch 1"],
    ids=["parity", "bench"],
)
@pytest.mark.parametrize("call", [LOAD, CONTEXT])
def test_an_engine_that_the_gpu_refuses_is_listed_as_not_run(
    arguments: str, call: str, own_engine: Path, swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real engine and its manifest, on a GPU whose runtime refuses it."""
    monkeypatch.setenv("SWIN_DEPLOY_CACHE", "caches")
    command, *options = arguments.split()
    trt = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(VERSIONS, "tensorrt-rtx", trt.__version__)
    world = stand_in(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: _asked_by_facts())
    monkeypatch.setattr("trt_stand_in.ICudaEngine.__init__", _opaque)
    monkeypatch.setattr("trt_stand_in.ICudaEngine.num_io_tensors", 2)
    monkeypatch.setattr("swin_deploy.runners.trt.find_tensors", lambda *_: None)
    world.validity, world.refuses = ("INVALID", 2), {call: CAPABILITY}
    outcome = swin(
        command, "--model", "notebook-digits", "--engine", own_engine, *options, "--json"
    )
    assert outcome.status == 0, outcome.err
    text = json.dumps(outcome.json)
    assert "TensorRT-RTX does not support this compute capability" in text
    assert "validity INVALID: UNSUPPORTED_CC" in text


def _asked_by_facts() -> bool:
    """Only the engine's runner sees a GPU: PyTorch and its baselines stay on the CPU."""
    return any(frame.function == "require_gpu" for frame in inspect.stack()[:4])


def _opaque(self: Any, runtime: Any, data: bytes) -> None:
    """An engine of which nothing can be asked."""
    super(type(self), self).__init__(runtime._world, runtime)
