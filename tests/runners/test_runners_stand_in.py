"""``TrtRunner`` whole, with stand-ins for TensorRT's runtime and PyTorch's CUDA.

The stand-ins show that the calls are right in kind, order and memory. How TensorRT computes they
do not show: that is for ``test_runners_tensorrt.py``, on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_stand_in import World
from small_engine import assert_closed, assert_right, graph_of, images
from trt_stand_in import (
    VERSIONS,
    CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy,
    make_module,
    write_stand_in,
)

from exporters.artifact import write_atomic
from exporters.errors import BuildError, ComparisonError
from swin_deploy.runners import TrtRunner, runtime_cache

pytest.importorskip("onnxruntime", reason="the stand-in computes with it")
pytest_plugins = ["stand_in_fixtures"]

ONE_LINE = r"\A[^\n]+\Z"
EAGER = DynamicShapesKernelSpecializationStrategy.EAGER


def cache_of(path: Path) -> Path:
    (found,) = (path.parent / "caches").glob("runtime-*.cache")
    return found


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graph"])
def test_run_gives_what_onnxruntime_gives_at_every_shape(
    world: World, path: Path, flavor: str, cuda_graph: bool
) -> None:
    calls = [images(batch, seed=number) for number, batch in enumerate((2, 2, 1, 3, 1, 2))]
    with TrtRunner(path, cuda_graph=cuda_graph, warn=pytest.fail) as runner:
        outputs = [runner.run(given) for given in calls]
        for given, found in zip(calls, outputs, strict=True):
            assert_right(found, given)  # after the last call: each has memory of its own
        native = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if cuda_graph else CudaGraphStrategy.DISABLED
        assert world.contexts == [(None, None) if flavor == "tensorrt" else (EAGER, native)]
        assert world.replays == (6 if cuda_graph and flavor == "tensorrt" else 0)
        assert VERSIONS[flavor] in runner.backend
        assert ("CUDA graph" in runner.backend) == cuda_graph
    assert_closed(world)


@pytest.mark.parametrize("half", [False, True])
def test_run_takes_pixels_and_gives_half_outputs(
    world: World, tmp_path: Path, flavor: str, half: bool
) -> None:
    graph = graph_of(pixels=True, half=half)
    path = write_stand_in(tmp_path / "m.engine", graph, flavor=flavor)
    given = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    with TrtRunner(path, warn=pytest.fail) as runner:
        outputs = runner.run(given)
        assert [one.dtype for one in outputs] == [np.float32] * 2
        assert_right(outputs, given, graph)
        assert "takes pixels" in runner.backend
        with pytest.raises(ComparisonError, match="takes pixels, and nothing says"):
            runner.run(images(1))
    assert_closed(world)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graph"])
def test_run_recovers_from_what_it_refuses(world: World, path: Path, cuda_graph: bool) -> None:
    given = images(2)
    with TrtRunner(path, cuda_graph=cuda_graph, warn=pytest.fail) as runner:
        assert_right(runner.run(given), given)
        for wrong in (np.zeros((2, 3, 8, 8), np.float32), np.zeros((0, 3, 4, 4), np.float32)):
            with pytest.raises(ComparisonError, match=ONE_LINE):
                runner.run(wrong)
            runner.execute()  # the images of before are still there
            assert_right(runner.fetch(), given)
        with pytest.raises(
            BuildError, match=r"its batches go from 1 to 3 \(setInputShape: .*2?4, "
        ):
            runner.run(images(4))
        for call in (runner.execute, runner.execute_with_copies, runner.fetch):
            with pytest.raises(ComparisonError, match="has no images; call prepare first"):
                call()
        assert_right(runner.run(given), given)
    assert_closed(world)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graph"])
def test_calls_out_of_order_are_refused_and_give_nothing_stale(
    world: World, path: Path, cuda_graph: bool
) -> None:
    given, runner = images(2), TrtRunner(path, cuda_graph=cuda_graph, warn=pytest.fail)
    for _ in range(2):  # never opened, and closed again
        with pytest.raises(ComparisonError, match="is not open"):
            runner.prepare(given)
        with runner:
            runner.prepare(given)
            with pytest.raises(ComparisonError, match="has no outputs; call execute first"):
                runner.fetch()  # memory that nothing was written to
            with pytest.raises(ComparisonError, match="is open; close it"):
                runner.__enter__()
            assert_right(runner.run(given), given)  # the one that is open stays so
        for call in (runner.execute, runner.fetch):
            with pytest.raises(ComparisonError, match="has no images"):
                call()
    assert_closed(world)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graph"])
def test_execute_with_copies_uploads_and_downloads_without_waiting(
    world: World, path: Path, cuda_graph: bool
) -> None:
    given = images(3)
    with TrtRunner(path, cuda_graph=cuda_graph, warn=pytest.fail) as runner:
        runner.prepare(given)
        runner.synchronize()
        for turn in range(2):
            runner._images.fill_(turn)  # on the device: the call must bring them again
            for output in (*runner._outputs, *runner._host_outputs):
                output.fill_(-1)
            waits = world.waits
            runner.execute_with_copies()
            assert world.waits == waits
            assert float(runner._host_outputs[0].max()) == -1  # not there yet
            runner.synchronize()
            assert_right([one.numpy() for one in runner._host_outputs], given)
    assert_closed(world)


def test_kernels_are_kept_after_the_first_call_at_each_shape(
    world: World, rtx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at closing only: a process may be killed."""
    written: list[bytes] = []

    def note(path: Path, data: bytes) -> None:
        written.append(data)
        write_atomic(path, data)

    monkeypatch.setattr(runtime_cache, "write_atomic", note)
    with TrtRunner(rtx, warn=pytest.fail) as runner:
        runner.run(images(2))
        assert written == [b'kernels ["2x3x4x4"]']
        runner.run(images(2, seed=1))
        runner.prepare(images(1))
        runner.synchronize()
        assert len(written) == 1  # nothing new was called
        runner.execute()
        runner.synchronize()
        assert written[1:] == [b'kernels ["1x3x4x4", "2x3x4x4"]']
        runner.run(images(2))
        read = world.calls.count("IRuntimeCache.serialize")
        runner.run(images(2))
        assert world.calls.count("IRuntimeCache.serialize") == read
    assert len(written) == 2  # unchanged, so not written
    assert cache_of(rtx).read_bytes() == written[-1]
    with TrtRunner(rtx, warn=pytest.fail) as runner:
        runner.run(images(3))
    assert written[2:] == [b'kernels ["1x3x4x4", "2x3x4x4", "3x3x4x4"]']
    assert_closed(world)


def test_kernels_that_cannot_be_kept_are_a_warning(world: World, rtx: Path) -> None:
    (rtx.parent / "caches").write_text("no folder")
    warnings: list[str] = []
    given = images(2)
    with TrtRunner(rtx, warn=warnings.append) as runner:
        assert_right(runner.run(given), given)
    assert len(warnings) == 3  # opening, the first call, closing
    assert all("\n" not in line for line in warnings)
    assert "are not kept: cannot lock" in warnings[1]
    assert warnings[2].startswith("closing m.engine: the engine's compiled kernels are not kept")
    assert_closed(world)


def test_a_version_without_eager_kernels_is_refused(
    world: World, rtx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module("tensorrt-rtx", world)
    module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY=0)
    monkeypatch.setattr("swin_deploy.runners.trt.load_tensorrt", lambda flavor: module)
    with pytest.raises(BuildError, match=r"has no DynamicShapes\w+\.EAGER, which this needs"):
        TrtRunner(rtx).__enter__()
    assert_closed(world)
