"""An engine in the TensorRT flavour that built it."""

from __future__ import annotations

import ctypes
import functools
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.backends import Gpu, load_tensorrt
from exporters.caches import runtime_cache_path
from exporters.errors import BuildError, ComparisonError, DeployError, MissingBackendError
from exporters.flavors import require
from exporters.text_files import shortened
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.runners.base import Outputs, Runner, check_shape, pixel_images, plain_images
from swin_deploy.runners.engine_manifest import (
    EngineManifest,
    read_engine,
    read_engine_manifest,
    require_gpu,
    require_version,
)
from swin_deploy.runners.refusals import Validity, ask_validity, make_logger, refusal
from swin_deploy.runners.runtime_cache import keep_runtime_cache, open_runtime_cache
from swin_deploy.runners.tensors import find_tensors

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def _in_one_line(
    method: Callable[Concatenate[TrtRunner, P], R],
) -> Callable[Concatenate[TrtRunner, P], R]:
    """Turn a ``RuntimeError`` of PyTorch or the bindings into an error of this project.

    CUDA reports the failure of one call at some later call, so every call may raise it.
    """

    @functools.wraps(method)
    def call(runner: TrtRunner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(runner, *args, **kwargs)
        except RuntimeError as err:
            raise runner._failure(err) from err

    return call


class TrtRunner(Runner):
    """An engine of either TensorRT flavour, with the manifest that ``build-trt`` wrote.

    The manifest names the flavour, its version and the GPUs, and is checked against the file, the
    packages and the GPU here before anything is loaded: an engine is executable, so an engine that
    is not the one described does not get to the runtime.

    Copies, the engine and CUDA graphs all go to one stream, ``stream``, of the runner's own. Host
    memory on both ends is pinned: ``run`` starts the copies and the call, and waits once, at the
    end. ``execute`` alone leaves images and outputs on the device.

    A refusal of CUDA or TensorRT is an error of one line: ``MissingBackendError`` if the engine is
    not for this GPU or driver, else ``BuildError``. Closing raises nothing, whatever the state of
    the runner and the GPU.

    Args:
        engine: The engine's manifest, or the path of an engine file with its manifest next to it.
        name: Short name for reports; by default ``engine`` and the precision.
        cuda_graph: True to launch the kernels as one CUDA graph, captured once for each input
            shape.
        steps: Preprocessing by which images are normalised, for an engine that takes pixels.
        warn: Function that is given one line if a cache cannot be used or closing fails; by
            default the line is logged.

    Raises:
        FileError: If the engine or its manifest is missing, or the file was changed.
        BuildError: If the manifest is not one of an engine.
    """

    def __init__(
        self,
        engine: EngineManifest | Path,
        *,
        name: str = "",
        cuda_graph: bool = False,
        steps: Preprocessing | None = None,
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        self._facts = read_engine_manifest(engine) if isinstance(engine, Path) else engine
        self._traits = self._facts.traits
        self._path = self._facts.path
        self._cuda_graph = cuda_graph
        self._steps = steps
        self._warn = warn
        self.precision = self._facts.precision
        self.min_batch = self._facts.profile.min
        self.max_batch = self._facts.profile.max
        self.name = name or f"engine {self.precision}"
        self.backend = f"{self._traits.title} {self._facts.version}"
        self._gpu = Gpu("", "")
        self._validity = Validity()
        self._logger: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._runtime_config: Any = None
        self._runtime_cache: Any = None
        self._context: Any = None
        self.stream: Any = None
        self._graph: Any = None
        self._outputs: tuple[Tensor, ...] = ()
        self._host_outputs: tuple[Tensor, ...] = ()
        self._called = self._kept = False
        self._drop_buffers()

    @_in_one_line
    def __enter__(self) -> Self:
        if self._runtime is not None:  # else open objects are freed in an order that crashes
            raise ComparisonError(f"{self.name} is open; close it before it is opened again")
        try:
            self._open()
        except BaseException as err:
            traceback.clear_frames(err.__traceback__)  # they hold what must be freed in order
            self.__exit__()  # with does not close a runner that did not open
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        problems: list[str] = []
        try:
            if not _succeeds(self._wait, problems):
                self._abandon_pinned_memory()
            _succeeds(functools.partial(self._keep_kernels, problems.append), problems)
        finally:  # an interrupt leaves nothing open either
            self._let_go()
        for problem in problems:
            self._warn(f"closing {self._path.name}: {problem}")

    def inputs(self, images: NDArray[np.float32]) -> NDArray[Any]:
        if self._tensors.input_dtype == torch.uint8:
            return pixel_images(images, self._steps, self.name)
        return plain_images(images, self.name)

    @_in_one_line
    def prepare(self, images: NDArray[Any]) -> None:
        if self._context is None:
            raise ComparisonError(f"{self.name} is not open; use it inside a with statement")
        ready = self.inputs(images)
        check_shape(
            ready, tuple(self._engine.get_tensor_shape(self._tensors.input_name)), self.name
        )
        self.synchronize()  # a call under way may still use the buffers
        if self._images.shape != ready.shape:
            self._bind(tuple(ready.shape))
        self._host_images.copy_(torch.from_numpy(ready))
        self._upload()

    @_in_one_line
    def execute(self) -> None:
        self._require_images()
        self._called = False  # a failed call must not return the outputs of the one before
        if self._graph is None:
            self._enqueue()
        else:
            with torch.cuda.stream(self.stream):
                self._graph.replay()
        self._called = True

    @_in_one_line
    def execute_with_copies(self) -> None:
        """Start a call with its copies: prepared images from the host, outputs back to it."""
        self._upload()
        self.execute()
        self._download()

    @_in_one_line
    def synchronize(self) -> None:
        self._wait()
        if self._called and not self._kept:
            self._kept = True  # kept at once: the process may be killed later
            self._keep_kernels(self._warn)

    @_in_one_line
    def fetch(self) -> Outputs:
        self._require_images()
        if not self._called:
            raise ComparisonError(f"{self.name} has no outputs; call execute first")
        self._download()
        self.synchronize()
        # Copied, because the next call writes to the same host memory.
        return tuple(np.array(one.float().numpy(), np.float32) for one in self._host_outputs)

    def run(self, images: NDArray[Any]) -> Outputs:
        self.prepare(images)
        self.execute()
        return self.fetch()  # waits, once for the copies and the call

    def _failure(self, err: RuntimeError) -> DeployError:
        """Make the error for an exception that a library raised while it ran this engine."""
        logged = [] if self._logger is None else self._logger.errors
        lines = [*logged, shortened(str(err).partition("\n")[0], 300)]
        does_not = f"{self._path} does not run on {self._gpu.name}"
        return refusal(does_not, lines=lines, validity=self._validity, otherwise=BuildError)

    def _open(self) -> None:
        trt = self._load()
        require_version(self._facts, trt.__version__)
        self._gpu = gpu = require_gpu(self._facts)
        data = read_engine(self._facts)
        # PyTorch makes the CUDA context here, which TensorRT then uses.
        self.stream = torch.cuda.Stream()
        self._load_engine(trt, data)
        self._tensors = find_tensors(trt, self._engine, self._path)
        self._open_context(trt, gpu.name)
        other = self._facts.targets.built_on not in ("", gpu.name)
        built = f", built on {self._facts.targets.built_on}" if other else ""
        graph = ", CUDA graph" if self._cuda_graph else ""
        pixels = ", takes pixels" if self._tensors.input_dtype == torch.uint8 else ""
        forecast = "" if self._validity.name in ("", "VALID") else f", {self._validity.describe()}"
        title = f"{self._traits.title} {trt.__version__}"
        self.backend = f"{title}, {gpu.name}{built}{graph}{pixels}{forecast}"
        self._validity = Validity()  # it explains a failure to open, and no later one

    def _load(self) -> Any:
        try:
            return load_tensorrt(self._facts.flavor)
        except MissingBackendError as err:
            flavor = self._facts.flavor
            raise MissingBackendError(f"{self._path} is an engine of {flavor}: {err}") from err

    def _load_engine(self, trt: Any, data: bytes) -> None:
        """Create the runtime, ask for its forecast, and load the engine."""
        self._logger = make_logger(trt)
        try:
            self._runtime = trt.Runtime(self._logger)
        except TypeError as err:  # raised by the bindings when the library makes none
            raise self._refused(
                f"{self._traits.title} {trt.__version__} starts no runtime on {self._gpu.name}",
                MissingBackendError,
            ) from err
        if self._facts.targets.version_compatible:
            require(trt, "version_compatible")
            self._runtime.engine_host_code_allowed = True  # the engine brings a runtime along
        if self._traits.engine_validity:
            self._validity = ask_validity(trt, self._runtime, data)
            self._logger.errors.clear()  # those of the forecast
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            # The digest is right, so the file is intact and does not fit this machine.
            raise self._refused(
                f"{self.backend} cannot load {self._path} on {self._gpu.name} of compute "
                f"capability {self._gpu.capability}",
                MissingBackendError,
            )

    def _open_context(self, trt: Any, gpu: str) -> None:
        """Create the execution context, with the flavour's runtime configuration if it has one."""
        self._logger.forget()
        if self._traits.runtime_cache:
            self._runtime_config = self._engine.create_runtime_config()
            if self._runtime_config is None:
                raise self._refused(f"{self._path} gets no configuration on {gpu}", BuildError)
            self._cache_path = runtime_cache_path(
                self._facts.flavor, trt.__version__, gpu=gpu, sha256=self._facts.sha256
            )
            self._runtime_cache = open_runtime_cache(
                trt, self._runtime_config, self._cache_path, warn=self._warn
            )
            self._configure(trt, self._runtime_config)
            self._context = self._engine.create_execution_context(self._runtime_config)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._refused(f"{self._path} gets no execution context on {gpu}", BuildError)

    def _configure(self, trt: Any, runtime_config: Any) -> None:
        if self._traits.eager_kernels:
            require(trt, "eager_kernels")
            # The default (LAZY) runs fallback kernels while the specialised ones compile in other
            # threads. Parity would compare other kernels than those that serve, timings would
            # settle on them, and a CUDA graph would not be captured yet. EAGER compiles within the
            # first call at a shape.
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
        if self._cuda_graph and self._traits.native_cuda_graph:
            require(trt, "native_cuda_graph")
            runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Allocate the buffers for images of a shape, and capture the CUDA graph that uses them."""
        self._drop_buffers()
        self._logger.forget()
        if not self._context.set_input_shape(self._tensors.input_name, shape):
            raise self._refused(
                f"{self._path} does not take images of shape {shape}: its batches go from "
                f"{self.min_batch} to {self.max_batch}",
                BuildError,
            )
        images = torch.empty(shape, dtype=self._tensors.input_dtype, device="cuda")
        outputs = tuple(
            torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype, device="cuda")
            for name, dtype in self._tensors.output_dtypes.items()
        )
        buffers = dict(zip(self._tensors.output_dtypes, outputs, strict=True))
        for name, buffer in (buffers | {self._tensors.input_name: images}).items():
            if not self._context.set_tensor_address(name, buffer.data_ptr()):
                raise self._refused(f"{self._path} takes no memory for {name}", BuildError)
        torch.cuda.synchronize()  # PyTorch's stream may still use what the memory held before
        host_images = _pinned_like(images)
        host_outputs = tuple(_pinned_like(output) for output in outputs)
        if self._cuda_graph and not self._traits.native_cuda_graph:
            self._graph = self._capture()
        self._images, self._outputs = images, outputs
        self._host_images, self._host_outputs = host_images, host_outputs

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record the kernels of one call, after a first call, which TensorRT requires."""
        self._enqueue()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._enqueue()
        return graph

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.stream.cuda_stream):
            raise self._refused(f"{self._path} does not run on {self._gpu.name}", BuildError)

    def _upload(self) -> None:
        with torch.cuda.stream(self.stream):
            self._images.copy_(self._host_images, non_blocking=True)

    def _download(self) -> None:
        with torch.cuda.stream(self.stream):
            for host, output in zip(self._host_outputs, self._outputs, strict=True):
                host.copy_(output, non_blocking=True)

    def _wait(self) -> None:
        if self.stream is not None:
            self.stream.synchronize()

    def _keep_kernels(self, warn: Callable[[str], None]) -> None:
        if self._runtime_cache is not None:
            keep_runtime_cache(self._runtime_cache, self._cache_path, warn=warn)

    def _require_images(self) -> None:
        """Refuse to run without prepared images."""
        if not self._outputs:
            raise ComparisonError(f"{self.name} has no images; call prepare first")

    def _abandon_pinned_memory(self) -> None:
        """Keep pinned memory allocated until the process ends.

        PyTorch records a CUDA event when it frees pinned memory that was copied from or to. After a
        CUDA failure it cannot, and raises in a destructor: the process ends and its results are
        lost.
        """
        for tensor in (self._host_images, *self._host_outputs):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(tensor))

    def _let_go(self) -> None:
        """Release what is open, in the order that TensorRT requires."""
        self._graph = None
        self._context = None
        self._runtime_config = None
        self._runtime_cache = None
        self._engine = None
        self._runtime = None
        self.stream = None
        self._drop_buffers()

    def _drop_buffers(self) -> None:
        self._graph = None
        self._images = self._host_images = torch.empty(0)
        self._outputs = self._host_outputs = ()
        self._called = self._kept = False

    def _refused(self, does_not: str, otherwise: type[DeployError]) -> DeployError:
        """Make the error for a refusal of TensorRT, with the lines that it logged."""
        lines = self._logger.last()
        return refusal(does_not, lines=lines, validity=self._validity, otherwise=otherwise)


def _succeeds(step: Callable[[], None], problems: list[str]) -> bool:
    """Run a step of closing, add an exception to the problems, and tell whether it succeeded."""
    try:
        step()
    except Exception as err:  # noqa: BLE001 - closing goes on, whatever a library raises
        line = str(err).partition("\n")[0]
        problems.append(shortened(f"{type(err).__name__}: {line}", 300))
        return False
    return True


def _pinned_like(tensor: Tensor) -> Tensor:
    """Allocate pinned host memory, from and to which the GPU copies asynchronously."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
