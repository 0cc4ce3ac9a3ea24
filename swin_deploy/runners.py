"""Run a model the same way whether it is a PyTorch module, an ONNX file or a TensorRT engine.

A runner is opened with ``with``; what it needs and cannot find is reported then, not before.
``run`` takes and returns host arrays. For timing without host copies, ``prepare`` puts the images
where the model reads them, ``execute`` starts one call and ``synchronize`` waits for it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.artifact import read_manifest
from exporters.backends import cuda_device_count, load_onnxruntime, load_tensorrt
from exporters.errors import (
    BuildError,
    ComparisonError,
    ExportError,
    FileError,
    MissingBackendError,
)
from exporters.spec import Flavor, Precision

FLAVOR_TITLES: dict[Flavor, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
TORCH_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


# One array [B, ...] for each output of a model, in the model's order.
Outputs = tuple[NDArray[np.float32], ...]


class Runner(Protocol):
    """One model, ready to run once opened.

    Attributes:
        name: Short name for reports.
        precision: Of weights and activations.
        backend: What runs it and where; complete once opened.
        min_batch: Fewest images a call takes.
        max_batch: Most images a call takes; None for no limit.
    """

    name: str
    precision: Precision
    backend: str
    min_batch: int = 1
    max_batch: int | None = None

    def __enter__(self) -> Self:
        """Open the model.

        Raises:
            MissingBackendError: If this machine lacks the package or the device that it needs.
            DeployError: If the file cannot be used.
        """

    def __exit__(self, *exc_info: object) -> None:
        """Let go of the model and its memory."""

    def prepare(self, images: NDArray[np.float32]) -> None:
        """Put images [B, 3, H, W] where the model reads them, in the type that it takes.

        Raises:
            ComparisonError: If the model takes images of another shape.
        """

    def execute(self) -> None:
        """Start one call on the prepared images."""

    def synchronize(self) -> None:
        """Wait until what was started is done."""

    def fetch(self) -> Outputs:
        """The outputs of the last call, on the host."""

    def run(self, images: NDArray[np.float32]) -> Outputs:
        """The model's outputs for images [B, 3, H, W]; each has one row for each image."""
        self.prepare(images)
        self.execute()
        self.synchronize()
        return self.fetch()


class TorchRunner(Runner):
    """A module in PyTorch, on the GPU if there is one that PyTorch can use, else on the CPU.

    Float32 means float32: TF32 and every other short cut of float32 arithmetic is off during
    ``execute``, and as before afterwards.

    Args:
        name: Short name for reports.
        module: Model to run, in evaluation mode; it is copied, never changed.
        precision: ``fp16`` runs the copy with half weights and activations.
    """

    def __init__(self, name: str, module: nn.Module, precision: Precision = "fp32") -> None:
        self.name = name
        self.precision = precision
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        self.backend = f"PyTorch {torch.__version__}, {place}"
        self._source = module
        self._images = torch.empty(0)
        self._output: Tensor | tuple[Tensor, ...] = ()

    def __enter__(self) -> Self:
        dtype = TORCH_DTYPES[self.precision]
        self._module = copy.deepcopy(self._source).eval().to(self._device, dtype)
        return self

    def __exit__(self, *exc_info: object) -> None:
        del self._module
        self._images, self._output = torch.empty(0), ()

    def prepare(self, images: NDArray[np.float32]) -> None:
        dtype = TORCH_DTYPES[self.precision]
        self._images = torch.tensor(images, dtype=dtype, device=self._device)

    def execute(self) -> None:
        with torch.inference_mode(), _strict_float32():
            self._output = self._module(self._images)

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def fetch(self) -> Outputs:
        outputs = self._output if isinstance(self._output, tuple) else (self._output,)
        return tuple(np.asarray(one.float().cpu().numpy(), np.float32) for one in outputs)


class OrtRunner(Runner):
    """An ONNX file in ONNX Runtime: on the GPU if the driver offers one and the package has CUDA.

    It runs where ``backend`` says, or not at all: ONNX Runtime by itself only warns and moves to
    the CPU when a provider does not load.

    Args:
        onnx_path: File to run; one input of images.
        precision: Of the graph, for reports; the runner takes the graph as it is.
        name: Short name for reports; by default ``onnx`` and the precision.
    """

    def __init__(self, onnx_path: Path, precision: Precision, *, name: str = "") -> None:
        self.name = name or f"onnx {precision}"
        self.precision = precision
        self.backend = "ONNX Runtime"
        self._path = onnx_path
        self._binding: Any = None

    def __enter__(self) -> Self:
        if not self._path.is_file():
            raise FileError(f"{self._path} does not exist, or is not a file; name an ONNX file")
        self._ort = load_onnxruntime()
        on_gpu = CUDA_PROVIDER in self._ort.get_available_providers() and cuda_device_count() > 0
        provider = CUDA_PROVIDER if on_gpu else CPU_PROVIDER
        session = _ort_session(self._ort, self._path, provider)
        self._device = "cuda" if on_gpu else "cpu"
        self.backend = f"ONNX Runtime {self._ort.__version__}, {provider}"
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or not outputs:
            raise ExportError(
                f"{self._path} has {len(inputs)} inputs and {len(outputs)} outputs; expected one "
                "input: export the model again"
            )
        self._input, self._outputs = inputs[0], outputs
        batch = self._input.shape[0] if self._input.shape else None
        if isinstance(batch, int):
            self.min_batch = self.max_batch = batch
        self._session = session
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._binding = self._session = None

    def prepare(self, images: NDArray[np.float32]) -> None:
        _check_shape(images, tuple(self._input.shape), self.name)
        dtype = np.float16 if self._input.type == "tensor(float16)" else np.float32
        value = self._ort.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(images, dtype), self._device, 0
        )
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._input.name, value)
        for output in self._outputs:
            self._binding.bind_output(output.name, self._device, 0)

    def execute(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except _ort_errors(self._ort) as err:
            reason = " ".join(str(err).split())
            raise ExportError(f"ONNX Runtime cannot run {self._path} ({reason})") from err

    def synchronize(self) -> None:
        self._binding.synchronize_outputs()

    def fetch(self) -> Outputs:
        return tuple(np.asarray(one, np.float32) for one in self._binding.copy_outputs_to_cpu())


class TrtRunner(Runner):
    """An engine of either TensorRT flavour, with the manifest that ``build_engine`` wrote.

    The manifest names the flavour, and is checked against the file before anything is loaded: an
    engine is executable, so an engine that is not the one described does not get to the runtime.

    Args:
        engine_path: Engine file; its manifest lies beside it.
        name: Short name for reports; by default ``engine`` and the precision.

    Raises:
        FileError: If the engine or its manifest is missing, or the file was changed.
        BuildError: If the manifest is not one of an engine.
    """

    def __init__(self, engine_path: Path, *, name: str = "") -> None:
        manifest = read_manifest(engine_path)
        try:
            self._flavor: Flavor = manifest["flavor"]
            title = FLAVOR_TITLES[self._flavor]
            self._version = str(manifest["version"])
            self.precision = manifest["precision"]
            self.min_batch = int(manifest["profile"]["min"])
            self.max_batch = int(manifest["profile"]["max"])
        except (KeyError, TypeError, ValueError) as err:
            raise BuildError(
                f"the manifest of {engine_path} does not describe an engine ({err!r}); build it "
                "again with swin-deploy build-trt"
            ) from err
        self.name = name or f"engine {self.precision}"
        self.backend = f"{title} {self._version}"
        self._path = engine_path
        self._images = torch.empty(0)
        self._outputs: tuple[Tensor, ...] = ()

    def __enter__(self) -> Self:
        trt = load_tensorrt(self._flavor)
        if trt.__version__ != self._version:
            raise BuildError(
                f"{self._path} was built by {self._flavor} {self._version}, here is "
                f"{trt.__version__}; build it again, or install the other version"
            )
        _require_gpu(self._path)
        self._logger = _quiet_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        gpu = torch.cuda.get_device_name()
        if self._engine is None:
            raise MissingBackendError(
                f"{self.backend} cannot load {self._path} on {gpu} ({self._problem()}); build it "
                "again on this machine, or for a GPU of this kind"
            )
        self._find_tensors(trt)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BuildError(
                f"{self._path} gets no execution context on {gpu} ({self._problem()}); free GPU "
                "memory, or build it with a smaller batch"
            )
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.backend = f"{FLAVOR_TITLES[self._flavor]} {self._version}, {gpu}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.synchronize()
        self._context = None  # TensorRT wants this order
        self._engine = None
        self._runtime = None
        self._images, self._outputs = torch.empty(0), ()

    def prepare(self, images: NDArray[np.float32]) -> None:
        _check_shape(images, tuple(self._engine.get_tensor_shape(self._input_name)), self.name)
        self._images = torch.tensor(images, dtype=self._input_dtype, device="cuda").contiguous()
        if not self._context.set_input_shape(self._input_name, tuple(images.shape)):
            raise BuildError(
                f"{self._path} does not take images of shape {images.shape}: its batches go from "
                f"{self.min_batch} to {self.max_batch} ({self._problem()})"
            )
        self._context.set_tensor_address(self._input_name, self._images.data_ptr())
        self._outputs = tuple(
            torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype, device="cuda")
            for name, dtype in self._output_dtypes.items()
        )
        for name, output in zip(self._output_dtypes, self._outputs, strict=True):
            self._context.set_tensor_address(name, output.data_ptr())
        torch.cuda.synchronize()  # the copy ran on PyTorch's stream, the engine has its own

    def execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BuildError(f"{self._path} does not run on this GPU ({self._problem()})")

    def synchronize(self) -> None:
        self._stream.synchronize()

    def fetch(self) -> Outputs:
        return tuple(np.asarray(one.float().cpu().numpy(), np.float32) for one in self._outputs)

    def _find_tensors(self, trt: Any) -> None:  # noqa: ANN401 - either TensorRT module
        """Names and types of the one input and the outputs."""
        dtypes = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        unknown = [n for n in names if engine.get_tensor_dtype(n) not in dtypes]
        if len(inputs) != 1 or not outputs or unknown:
            raise BuildError(
                f"{self._path} has inputs {inputs} and outputs {outputs}; expected one input, and "
                "all in float32 or float16"
            )
        self._input_name = inputs[0]
        self._input_dtype = dtypes[engine.get_tensor_dtype(self._input_name)]
        self._output_dtypes = {name: dtypes[engine.get_tensor_dtype(name)] for name in outputs}

    def _problem(self) -> str:
        """What TensorRT logged last."""
        return (self._logger.errors or ["TensorRT gives no reason"])[-1]


@contextlib.contextmanager
def _strict_float32() -> Iterator[None]:
    """Compute float32 products in float32, on the GPU and on the CPU."""
    parts: Any = torch.backends  # PyTorch's annotations lack some of them
    places = (parts.cuda.matmul, parts.cudnn.conv, parts.mkldnn.matmul, parts.mkldnn.conv)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def _ort_session(ort: Any, path: Path, provider: str) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """A session that runs on ``provider``, with PyTorch's number of threads."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters arrives as an exception
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin after a call would slow down whatever runs next in the same process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    settings = {"use_tf32": "0"} if provider == CUDA_PROVIDER else {}
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[provider], provider_options=[settings]
        )
    except _ort_errors(ort) as err:
        reason = " ".join(str(err).split())
        raise ExportError(
            f"ONNX Runtime cannot load {path} as a model ({reason}); export it again"
        ) from err
    chosen = session.get_providers()[0]
    if chosen != provider:
        raise MissingBackendError(
            f"ONNX Runtime was asked for {provider} and would run {path.name} on {chosen}; "
            "pip install onnxruntime-gpu[cuda,cudnn], or hide the GPU with CUDA_VISIBLE_DEVICES="
        )
    return session


def _ort_errors(ort: Any) -> tuple[type[Exception], ...]:  # noqa: ANN401 - onnxruntime is untyped
    """What ONNX Runtime raises for a model that it cannot load or run; they share no base."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf")
    return tuple(getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException"))


def _quiet_logger(trt: Any) -> Any:  # noqa: ANN401 - either TensorRT module
    """A TensorRT logger that prints nothing and keeps the errors."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]  # trt is a module found at run time
        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401 - an enum of trt
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    logger = ErrorLog()
    logger.errors = []
    return logger


def _require_gpu(path: Path) -> None:
    if cuda_device_count() == 0:
        raise MissingBackendError(
            f"{path.name} needs an NVIDIA GPU and driver; none here: run it on the GPU machine"
        )
    if not torch.cuda.is_available():
        raise MissingBackendError(
            f"PyTorch {torch.__version__} cannot use the GPU here, and {path.name} needs it; "
            "pip install a CUDA build of torch that fits the driver"
        )


def _check_shape(images: NDArray[np.float32], wanted: tuple[Any, ...], name: str) -> None:
    """Compare what a model takes with what it gets; only fixed sizes count."""
    fixed = [size if isinstance(size, int) and size >= 0 else None for size in wanted]
    pairs = zip(fixed, images.shape, strict=False)
    if len(fixed) != images.ndim or any(size not in (None, given) for size, given in pairs):
        raise ComparisonError(
            f"{name} takes images of shape {list(wanted)}, not {list(images.shape)}; use the image "
            "size and batch that it was exported for"
        )
