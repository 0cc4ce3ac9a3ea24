"""A stand-in for the runtime halves of TensorRT and TensorRT-RTX.

It reads and writes the very addresses that it is given, with ONNX Runtime to compute, and is as
strict as the real ones: shapes and addresses before a call, memory that is still there, sizes of
the profile, an order of closing. It exposes names that the real modules have, and no others.

An engine here is a line of JSON with its profile, and an ONNX file.
"""

from __future__ import annotations

import enum
import functools
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import ILLEGAL, World, replace_cuda

from exporters.artifact import write_artifact
from exporters.backends import Gpu
from exporters.plan import KernelPlan
from swin_deploy.runners import engine_manifest as facts
from swin_deploy.runners import trt

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0")
VERSIONS = {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.6.1.120"}
FOR_ALL = {"built_on": "", "capabilities": [], "minimum": "8.0", "version_compatible": False}


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING
    INFO, VERBOSE = Severity.INFO, Severity.VERBOSE

    def log(self, severity: enum.IntEnum, message: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT, HALF, BF16, UINT8, INT64 = range(5)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class CudaGraphStrategy(enum.Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY, EAGER, NONE = range(3)


class EngineValidity(enum.Enum):
    VALID, SUBOPTIMAL, INVALID = range(3)


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    INSUFFICIENT_GPU_MEMORY = 16


class Dims(tuple[int, ...]):
    pass


TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(uint8)": (DataType.UINT8, np.uint8),
    "tensor(int64)": (DataType.INT64, np.int64),
}


class Refused(enum.Enum):
    """How calls refuse that return nothing else."""

    NONE = None


def counted(name: str, refusal: Any = None) -> Callable[[Any], Any]:
    """A call that is noted, and fails where it is to."""

    def decorate(method: Any) -> Any:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                failed = self._world.is_called(name, refusal)
            except RuntimeError:
                del self  # the real ones are not Python: no frame of theirs holds an object
                raise
            if failed is Refused.NONE:
                return None
            return method(self, *args, **kwargs) if failed is None else failed

        return call

    return decorate


class Thing:
    """An object of TensorRT: it holds no reference to what it needs, and must go before it."""

    def __init__(self, world: World, *needs: Thing) -> None:
        self._world, self._number = world, next(world.numbers)
        world.needs[self._number] = type(self).__name__, tuple(one._number for one in needs)

    def __del__(self) -> None:
        needs = self._world.needs
        needs.pop(self._number, None)
        users = [name for name, needed in needs.values() if self._number in needed]
        if users:
            self._world.crashes.append(f"{type(self).__name__} is gone before {users[0]}")


class IRuntimeCache(Thing):
    """Kernels by the shape that they are for."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._kernels: set[str] = set()

    @counted("IRuntimeCache.deserialize", False)
    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels "):
            return False
        self._kernels |= set(json.loads(blob[8:]))
        return True

    @counted("IRuntimeCache.serialize", Refused.NONE)
    def serialize(self) -> memoryview:
        return memoryview(b"kernels " + json.dumps(sorted(self._kernels)).encode())


class IRuntimeConfig(Thing):
    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self, world: World, engine: ICudaEngine) -> None:
        super().__init__(world, engine)
        self._cache: weakref.ref[IRuntimeCache] | None = None

    @counted("IRuntimeConfig.create_runtime_cache", Refused.NONE)
    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._world)

    @counted("IRuntimeConfig.set_runtime_cache", False)
    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = weakref.ref(cache)
        kind, needs = self._world.needs[self._number]
        self._world.needs[self._number] = kind, (*needs, cache._number)
        return True


class IExecutionContext(Thing):
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None = None) -> None:
        cache = None if config is None or config._cache is None else config._cache()
        super().__init__(engine._world, engine, *filter(None, (config, cache)))
        self._session, self._about = engine._session, engine._about
        self._cache = None if cache is None else weakref.ref(cache)
        self._strategy = config and config.dynamic_shapes_kernel_specialization_strategy
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._warm: set[tuple[int, ...]] = set()
        self._world.contexts.append((self._strategy, config and config.cuda_graph_strategy))

    @counted("IExecutionContext.set_input_shape", False)
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        (wanted,) = self._session.get_inputs()
        fits = self._about["min"] <= shape[0] <= self._about["max"]
        if name != wanted.name or not fits or list(shape[1:]) != wanted.shape[1:]:
            self._world.log_error(f"setInputShape: {shape} is not in the profile")
            return False
        self._shape = shape
        return True

    @counted("IExecutionContext.get_tensor_shape")
    def get_tensor_shape(self, name: str) -> Dims:
        every = [*self._session.get_inputs(), *self._session.get_outputs()]
        row = next(one.shape[1:] for one in every if one.name == name)
        return Dims((self._shape[0] if self._shape else -1, *row))

    @counted("IExecutionContext.set_tensor_address", False)
    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    @counted("IExecutionContext.execute_async_v3", False)
    def execute_async_v3(self, stream_handle: int) -> bool:
        every = [*self._session.get_inputs(), *self._session.get_outputs()]
        if not self._shape or any(one.name not in self._addresses for one in every):
            self._world.log_error("enqueueV3: not all shapes and addresses are set")
            return False
        if self._world.recording is not None and self._shape not in self._warm:
            self._world.log_error("enqueueV3: a first call at this shape cannot be captured")
            return False
        self._warm.add(self._shape)
        cache = None if self._cache is None else self._cache()
        if cache is not None:
            cache._kernels.add("x".join(map(str, self._shape)))
        work = functools.partial(_compute, self._world, self._session, self._shape)
        lazy = self._strategy is DynamicShapesKernelSpecializationStrategy.LAZY
        self._world.enqueue(functools.partial(work, dict(self._addresses), 1.001 if lazy else 1.0))
        return True


def _compute(
    world: World, session: Any, shape: tuple[int, ...], addresses: dict[str, int], off: float
) -> None:
    """One call on memory; kernels of a fallback give slightly other results."""
    (taken,) = session.get_inputs()
    images = world.array_at(addresses[taken.name], shape, TYPES[taken.type][1])
    if images is None:
        world.sticky = ILLEGAL
        return
    for given, values in zip(session.get_outputs(), session.run(None, {taken.name: images}),
                             strict=True):  # fmt: skip
        place = world.array_at(addresses[given.name], values.shape, values.dtype)
        if place is None:
            world.sticky = ILLEGAL
            return
        place[...] = values if off == 1.0 else values * off


class ICudaEngine(Thing):
    def __init__(self, runtime: Runtime, data: bytes) -> None:
        super().__init__(runtime._world, runtime)
        about, _, graph = data.partition(b"\n")
        self._about = json.loads(about)
        self._session = session_of(graph)
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @counted("ICudaEngine.get_tensor_name")
    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index].name

    @counted("ICudaEngine.get_tensor_mode")
    def get_tensor_mode(self, name: str) -> TensorIOMode:
        taken = [one.name for one in self._session.get_inputs()]
        return TensorIOMode.INPUT if name in taken else TensorIOMode.OUTPUT

    @counted("ICudaEngine.get_tensor_dtype")
    def get_tensor_dtype(self, name: str) -> DataType:
        return next(TYPES[one.type][0] for one in self._tensors if one.name == name)

    @counted("ICudaEngine.get_tensor_shape")
    def get_tensor_shape(self, name: str) -> Dims:
        return Dims((-1, *next(one.shape[1:] for one in self._tensors if one.name == name)))

    @counted("ICudaEngine.create_runtime_config", Refused.NONE)
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._world, self)

    @counted("ICudaEngine.create_execution_context", Refused.NONE)
    def create_execution_context(
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext:
        return IExecutionContext(self, runtime_config)


class Runtime(Thing):
    engine_host_code_allowed = False
    _place: World  # of every runtime of a module

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._place.log_error = functools.partial(_log_error, logger)
        super().__init__(self._place)
        if self._place.is_called("Runtime", Refused.NONE) is not None:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @counted("Runtime.deserialize_cuda_engine", Refused.NONE)
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
        self._logger.log(Severity.INFO, "Loaded engine size: 3 MiB")
        return ICudaEngine(self, serialized_engine)


class RtxRuntime(Runtime):
    @counted("Runtime.get_engine_validity")
    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        name, bits = self._world.validity
        return EngineValidity[name], bits


def _log_error(logger: ILogger, line: str) -> None:
    logger.log(Severity.ERROR, f"{line}\n (in two lines)")  # noqa: G004 - TensorRT's log


def make_module(flavor: str, world: World) -> Any:
    """The module of a flavour, as far as running engines goes."""
    full = {
        "ILogger": ILogger,
        "DataType": DataType,
        "TensorIOMode": TensorIOMode,
        "ICudaEngine": ICudaEngine,
        "IExecutionContext": IExecutionContext,
    }
    rtx = {
        "IRuntimeConfig": IRuntimeConfig,
        "IRuntimeCache": IRuntimeCache,
        "CudaGraphStrategy": CudaGraphStrategy,
        "DynamicShapesKernelSpecializationStrategy": DynamicShapesKernelSpecializationStrategy,
        "EngineValidity": EngineValidity,
        "EngineInvalidityDiagnostics": EngineInvalidityDiagnostics,
    }
    base, more = (Runtime, {}) if flavor == "tensorrt" else (RtxRuntime, rtx)
    runtime = type("Runtime", (base,), {"_place": world})
    about = {"__name__": flavor.replace("-", "_"), "__version__": VERSIONS[flavor]}
    return SimpleNamespace(**about, **full, **more, Runtime=runtime)


def stand_in(patch: pytest.MonkeyPatch, *, gpu: Gpu = H100) -> World:
    """Put the stand-ins in the place of TensorRT and CUDA."""
    world = replace_cuda(patch)
    patch.setattr(facts, "current_gpu", lambda: gpu)
    patch.setattr(trt, "load_tensorrt", lambda flavor: make_module(flavor, world))
    return world


@functools.lru_cache(maxsize=8)
def session_of(graph: bytes) -> Any:
    """What computes: the same with every caller, so that results are equal bit for bit."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def write_stand_in(
    path: Path, graph: bytes, *, flavor: str, batches: tuple[int, int] = (1, 3), **changes: Any
) -> Path:
    """An engine for the stand-in, with its manifest."""
    least, most = batches
    about = json.dumps({"min": least, "max": most}).encode()
    manifest = {
        "kind": "engine",
        "plan": KernelPlan(1, 0, (), "", "").to_dict(),
        "flavor": flavor,
        "version": VERSIONS[flavor],
        "precision": "fp32",
        "profile": {"min": least, "opt": least, "max": most},
        "targets": FOR_ALL,
        **changes,
    }
    write_artifact(path, about + b"\n" + graph, manifest)
    return path
