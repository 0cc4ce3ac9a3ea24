"""An engine in the TensorRT flavour that built it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.backends import load_tensorrt
from exporters.caches import runtime_cache_path
from exporters.errors import BuildError, MissingBackendError
from exporters.flavors import require
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.runners.base import Outputs, Runner, check_shape, pixel_images, plain_images
from swin_deploy.runners.engine_manifest import (
    read_engine,
    read_facts,
    require_gpu,
    require_version,
)
from swin_deploy.runners.runtime_cache import keep_runtime_cache, open_runtime_cache

LOG = logging.getLogger(__name__)


class TrtRunner(Runner):
    """An engine of either TensorRT flavour, with the manifest that ``build-trt`` wrote.

    The manifest names the flavour, its version and the GPUs, and is checked against the file, the
    packages and the GPU here before anything is loaded: an engine is executable, so an engine that
    is not the one described does not get to the runtime.

    Copies, the engine and CUDA graphs all go to one stream, ``stream``, of the runner's own. Host
    memory on both ends is pinned: ``run`` starts the copies and the call, and waits once, at the
    end. ``execute`` alone leaves images and outputs on the device.

    Args:
        engine_path: Engine file; its manifest lies beside it.
        name: Short name for reports; by default ``engine`` and the precision.
        cuda_graph: Launch the kernels as one CUDA graph, captured once for each input shape.
        steps: Way that images are normalised, for an engine that takes pixels.
        warn: Called with one line where a cache cannot be used; by default it is logged.

    Raises:
        FileError: If the engine or its manifest is missing, or the file was changed.
        BuildError: If the manifest is not one of an engine.
    """

    def __init__(
        self,
        engine_path: Path,
        *,
        name: str = "",
        cuda_graph: bool = False,
        steps: Preprocessing | None = None,
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        self._facts = read_facts(engine_path)
        self._traits = self._facts.traits
        self._path = engine_path
        self._cuda_graph = cuda_graph
        self._steps = steps
        self._warn = warn
        self.precision = self._facts.precision
        self.min_batch = self._facts.min_batch
        self.max_batch = self._facts.max_batch
        self.name = name or f"engine {self.precision}"
        self.backend = f"{self._traits.title} {self._facts.version}"
        self.stream: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._runtime_config: Any = None
        self._runtime_cache: Any = None
        self._context: Any = None
        self._graph: Any = None
        self._outputs: tuple[Tensor, ...] = ()
        self._host_outputs: tuple[Tensor, ...] = ()
        self._drop_buffers()

    def __enter__(self) -> Self:
        trt = self._load()
        require_version(self._facts, self._path, trt.__version__)
        gpu = require_gpu(self._facts, self._path)
        data = read_engine(self._facts, self._path)
        self._logger = _quiet_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        if self._facts.targets.version_compatible:
            require(trt, "version_compatible")
            self._runtime.engine_host_code_allowed = True  # the engine brings a runtime along
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise MissingBackendError(
                f"{self.backend} cannot load {self._path} on {gpu.name} ({self._problem()}); build "
                "it again on this machine, or for a GPU of this kind"
            )
        self._find_tensors(trt)
        self._open_context(trt, gpu.name)
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        other = self._facts.targets.built_on not in ("", gpu.name)
        built = f", built on {self._facts.targets.built_on}" if other else ""
        graph = ", CUDA graph" if self._cuda_graph else ""
        pixels = ", takes pixels" if self._input_dtype == torch.uint8 else ""
        self.backend = f"{self._traits.title} {trt.__version__}, {gpu.name}{built}{graph}{pixels}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stream.synchronize()
        if self._runtime_cache is not None:
            keep_runtime_cache(self._runtime_cache, self._cache_path, warn=self._warn)
        self._graph = None
        # TensorRT wants this order.
        self._context = None
        self._runtime_config = None
        self._runtime_cache = None
        self._engine = None
        self._runtime = None
        self._drop_buffers()

    def inputs(self, images: NDArray[np.float32]) -> NDArray[Any]:
        if self._input_dtype == torch.uint8:
            return pixel_images(images, self._steps, self.name)
        return plain_images(images, self.name)

    def prepare(self, images: NDArray[Any]) -> None:
        ready = self.inputs(images)
        check_shape(ready, tuple(self._engine.get_tensor_shape(self._input_name)), self.name)
        self.synchronize()  # a call under way may still use the buffers
        if self._images.shape != ready.shape:
            self._bind(tuple(ready.shape))
        self._host_images.copy_(torch.from_numpy(ready))
        self._upload()

    def execute(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            with torch.cuda.stream(self.stream):
                self._graph.replay()

    def synchronize(self) -> None:
        self.stream.synchronize()

    def fetch(self) -> Outputs:
        self._download()
        self.synchronize()
        # Copied, for the next call writes to the same host memory.
        return tuple(np.array(one.float().numpy(), np.float32) for one in self._host_outputs)

    def run(self, images: NDArray[Any]) -> Outputs:
        self.prepare(images)
        self.execute()
        return self.fetch()  # waits, once for the copies and the call

    def _load(self) -> Any:
        try:
            return load_tensorrt(self._facts.flavor)
        except MissingBackendError as err:
            flavor = self._facts.flavor
            raise MissingBackendError(f"{self._path} is an engine of {flavor}: {err}") from err

    def _open_context(self, trt: Any, gpu: str) -> None:
        """The execution context, configured as far as the flavour has a configuration for it."""
        if self._traits.runtime_cache:
            self._runtime_config = self._engine.create_runtime_config()
            self._cache_path = runtime_cache_path(
                self._facts.flavor, trt.__version__, gpu=gpu, sha256=self._facts.sha256
            )
            self._runtime_cache = open_runtime_cache(
                trt, self._runtime_config, self._cache_path, warn=self._warn
            )
            if self._cuda_graph and self._traits.native_cuda_graph:
                require(trt, "native_cuda_graph")
                strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                self._runtime_config.cuda_graph_strategy = strategy
            self._context = self._engine.create_execution_context(self._runtime_config)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BuildError(
                f"{self._path} gets no execution context on {gpu} ({self._problem()}); free GPU "
                "memory, or build it with a smaller batch"
            )

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Buffers for images of a shape, and the CUDA graph that uses them."""
        self._graph = None
        self._drop_buffers()
        if not self._context.set_input_shape(self._input_name, shape):
            raise BuildError(
                f"{self._path} does not take images of shape {shape}: its batches go from "
                f"{self.min_batch} to {self.max_batch} ({self._problem()})"
            )
        images = torch.empty(shape, dtype=self._input_dtype, device="cuda")
        outputs = tuple(
            torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype, device="cuda")
            for name, dtype in self._output_dtypes.items()
        )
        buffers = dict(zip(self._output_dtypes, outputs, strict=True))
        for name, buffer in (buffers | {self._input_name: images}).items():
            if not self._context.set_tensor_address(name, buffer.data_ptr()):
                raise BuildError(f"{self._path} takes no memory for {name} ({self._problem()})")
        torch.cuda.synchronize()  # PyTorch's stream may still use what the memory held before
        if self._cuda_graph and not self._traits.native_cuda_graph:
            self._graph = self._capture()
        self._images, self._outputs = images, outputs
        self._host_images = _pinned_like(images)
        self._host_outputs = tuple(_pinned_like(output) for output in outputs)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record the kernels of one call, after a first call, as TensorRT wants it."""
        self._enqueue()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._enqueue()
        return graph

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.stream.cuda_stream):
            raise BuildError(f"{self._path} does not run on this GPU ({self._problem()})")

    def _upload(self) -> None:
        with torch.cuda.stream(self.stream):
            self._images.copy_(self._host_images, non_blocking=True)

    def _download(self) -> None:
        with torch.cuda.stream(self.stream):
            for host, output in zip(self._host_outputs, self._outputs, strict=True):
                host.copy_(output, non_blocking=True)

    def _drop_buffers(self) -> None:
        self._images = self._host_images = torch.empty(0)
        self._outputs = self._host_outputs = ()

    def _find_tensors(self, trt: Any) -> None:
        """Names and types of the one input and the outputs."""
        dtypes = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.UINT8: torch.uint8,
        }
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        unknown = [n for n in names if engine.get_tensor_dtype(n) not in dtypes]
        if len(inputs) != 1 or not outputs or unknown:
            raise BuildError(
                f"{self._path} has inputs {inputs} and outputs {outputs}; expected one input, and "
                "all in float32, float16 or bfloat16, or pixels in uint8"
            )
        self._input_name = inputs[0]
        self._input_dtype = dtypes[engine.get_tensor_dtype(self._input_name)]
        self._output_dtypes = {name: dtypes[engine.get_tensor_dtype(name)] for name in outputs}

    def _problem(self) -> str:
        """What TensorRT logged last."""
        return (self._logger.errors or ["TensorRT gives no reason"])[-1]


def _pinned_like(tensor: Tensor) -> Tensor:
    """Host memory that the GPU copies from and to without a wait."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def _quiet_logger(trt: Any) -> Any:
    """A TensorRT logger that prints nothing and keeps the errors."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]  # trt is a module found at run time
        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    logger = ErrorLog()
    logger.errors = []
    return logger
