"""The stand-in of TensorRT refuses what the real one refuses, and has no names of its own."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_stand_in import World, replace_cuda
from small_engine import GRAPH, assert_closed, expected, images
from trt_stand_in import make_module, write_stand_in

pytest.importorskip("onnxruntime", reason="the stand-in computes with it")

FLAVORS = ("tensorrt", "tensorrt-rtx")
LISTS = Path(__file__).parent.parent / "tensorrt_names"


@pytest.fixture(params=FLAVORS)
def flavor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def public(owner: type) -> set[str]:
    if issubclass(owner, enum.Enum):
        return set(owner.__members__)
    return {name for name in dir(owner) if not name.startswith("_")}


def classes(flavor: str, world: World) -> Iterator[tuple[str, type]]:
    """The classes that the stand-in exposes."""
    for name, value in vars(make_module(flavor, world)).items():
        if inspect.isclass(value):
            yield name, value


@pytest.mark.parametrize("release", [path.stem for path in sorted(LISTS.glob("*.json"))])
def test_stand_in_has_names_that_the_release_has(release: str) -> None:
    flavor = release.rpartition("-")[0]
    listed = json.loads((LISTS / f"{release}.json").read_text())["classes"]
    found = dict(classes(flavor, World()))
    assert {"Runtime", "ICudaEngine", "IExecutionContext", "ILogger"} <= found.keys()
    for name, owner in found.items():
        assert public(owner) <= set(listed[name]), name


def test_stand_in_has_names_and_numbers_of_the_installed_module() -> None:
    trt: Any = importlib.import_module("tensorrt_rtx") if _has_rtx() else None
    if trt is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    for name, owner in classes("tensorrt-rtx", World()):
        real = getattr(trt, name)
        assert public(owner) <= set(dir(real)), name
        if issubclass(owner, enum.IntEnum):
            assert {n: int(m) for n, m in owner.__members__.items()}.items() <= {
                n: int(m) for n, m in real.__members__.items()
            }.items()


def _has_rtx() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


Step = Callable[[Any, Any, World], None]


def no_shape(context: Any, memory: Any, world: World) -> None:
    assert not context.execute_async_v3(77)


def no_address(context: Any, memory: Any, world: World) -> None:
    context.set_input_shape("images", (1, 3, 4, 4))
    assert not context.execute_async_v3(77)


def memory_that_is_gone(context: Any, memory: Any, world: World) -> None:
    context.set_input_shape("images", (1, 3, 4, 4))
    for name, one in memory.items():
        context.set_tensor_address(name, one.data_ptr())
    del one
    memory.clear()
    assert context.execute_async_v3(77)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        world.wait()


def memory_that_is_too_small(context: Any, memory: Any, world: World) -> None:
    context.set_input_shape("images", (2, 3, 4, 4))
    for name, one in memory.items():
        context.set_tensor_address(name, one.data_ptr())
    assert context.execute_async_v3(77)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        world.wait()


def capture_without_a_first_call(context: Any, memory: Any, world: World) -> None:
    context.set_input_shape("images", (1, 3, 4, 4))
    for name, one in memory.items():
        context.set_tensor_address(name, one.data_ptr())
    world.recording = []
    assert not context.execute_async_v3(77)
    world.recording = None
    assert context.execute_async_v3(77)
    world.recording = []
    assert context.execute_async_v3(77)
    with pytest.raises(RuntimeError, match="capturing"):
        world.wait()


def lazy_kernels(context: Any, memory: Any, world: World) -> None:
    given = images(1)
    context.set_input_shape("images", given.shape)
    for name, one in memory.items():
        context.set_tensor_address(name, one.data_ptr())
    memory["images"].fill_(0.5)
    assert context.execute_async_v3(77)
    assert np.isnan(memory["logits"].numpy()).all()  # nobody waited yet
    world.wait()
    wanted = expected(np.full_like(given, 0.5))[0]
    same = np.array_equal(memory["logits"].numpy(), wanted)
    assert same == (world.contexts[-1][0] is None)


@pytest.mark.parametrize(
    "step",
    [
        no_shape,
        no_address,
        memory_that_is_gone,
        memory_that_is_too_small,
        capture_without_a_first_call,
        lazy_kernels,
    ],
)
def test_stand_in_refuses_what_tensorrt_refuses(
    step: Step, flavor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replace_cuda(monkeypatch)
    path = write_stand_in(tmp_path / "m.engine", GRAPH, flavor=flavor)
    runtime = make_module(flavor, world).Runtime(_Quiet())
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    configured = [] if flavor == "tensorrt" else [engine.create_runtime_config()]
    context = engine.create_execution_context(*configured)
    sizes = {"images": (1, 3, 4, 4), "logits": (1, 5), "tokens": (1, 48)}
    memory = {name: torch.empty(size, device="cuda") for name, size in sizes.items()}
    world.wait()
    step(context, memory, world)
    del context, configured, engine, runtime
    assert_closed(world)


@pytest.mark.parametrize("first", ["runtime", "engine", "config", "cache"])
def test_stand_in_crashes_where_the_order_of_closing_is_wrong(first: str, tmp_path: Path) -> None:
    world = World()
    path = write_stand_in(tmp_path / "m.engine", GRAPH, flavor="tensorrt-rtx")
    things: dict[str, Any] = {"runtime": make_module("tensorrt-rtx", world).Runtime(_Quiet())}
    things["engine"] = things["runtime"].deserialize_cuda_engine(path.read_bytes())
    things["config"] = things["engine"].create_runtime_config()
    things["cache"] = things["config"].create_runtime_cache()
    assert things["config"].set_runtime_cache(things["cache"])
    things["context"] = things["engine"].create_execution_context(things["config"])
    del things[first]
    assert len(world.crashes) == 1
    assert "is gone before" in world.crashes[0]


class _Quiet:
    def log(self, severity: int, message: str) -> None:
        """Say nothing."""
