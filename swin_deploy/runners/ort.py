"""An ONNX file in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.arrays import plain_array
from exporters.backends import cuda_device_count, load_onnxruntime
from exporters.errors import ExportError, FileError, MissingBackendError
from exporters.precisions import PRECISIONS
from exporters.spec import Precision
from exporters.text_files import shortened
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.runners.base import (
    Outputs,
    Runner,
    check_shape,
    not_one_input,
    require_image_memory,
    typed_images,
)

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
INPUT_TYPES: dict[str, type[np.number[Any]]] = {
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class OrtRunner(Runner):
    """An ONNX file in ONNX Runtime: on the GPU if the driver offers one and the package has CUDA.

    It runs on the provider that ``backend`` names, or not at all: ONNX Runtime by itself only warns
    and moves to the CPU when a provider does not load.

    Args:
        onnx_path: Path of the file, which has one input of images.
        precision: Precision of the graph, for reports; the runner takes the graph as it is.
        name: Short name for reports; by default ``onnx`` and the precision.
        steps: Preprocessing by which images are normalised, for a file that takes pixels.
    """

    def __init__(
        self,
        onnx_path: Path,
        precision: Precision,
        *,
        name: str = "",
        steps: Preprocessing | None = None,
    ) -> None:
        self.name = name or f"onnx {precision}"
        self.precision = precision
        self.backend = "ONNX Runtime"
        self._path = onnx_path
        self._steps = steps
        self._binding: Any = None

    def __enter__(self) -> Self:
        if not self._path.is_file():
            raise FileError(f"{self._path} does not exist, or is not a file; name an ONNX file")
        _require_utf8(self._path)
        self._ort = load_onnxruntime()
        on_gpu = CUDA_PROVIDER in self._ort.get_available_providers() and cuda_device_count() > 0
        provider = CUDA_PROVIDER if on_gpu else CPU_PROVIDER
        session = _ort_session(self._ort, self._path, provider, self.precision)
        self._device = "cuda" if on_gpu else "cpu"
        self.backend = f"ONNX Runtime {self._ort.__version__}, {provider}"
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or not outputs:
            raise not_one_input(self._path, inputs=len(inputs), outputs=len(outputs))
        # Names and sizes only: ONNX Runtime's own descriptions keep the session alive.
        self._input, self._shape = inputs[0].name, tuple(inputs[0].shape)
        self._dtype = INPUT_TYPES.get(inputs[0].type, np.float32)
        if self._dtype is np.uint8:
            self.backend += ", takes pixels"
        self._outputs = [output.name for output in outputs]
        batch = self._shape[0] if self._shape else None
        if isinstance(batch, int):
            self.min_batch = self.max_batch = batch
            require_image_memory(self._path, self._shape, self._dtype)
        self._session = session
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._binding = self._session = None

    def inputs(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return typed_images(images, self._dtype, self._steps, self.name)

    def prepare(self, images: NDArray[Any]) -> None:
        ready = self.inputs(images)
        check_shape(ready, self._shape, self.name)
        value = self._ort.OrtValue.ortvalue_from_numpy(ready, self._device, 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._input, value)
        for name in self._outputs:
            self._binding.bind_output(name, self._device, 0)

    def execute(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except _ort_errors(self._ort) as err:
            raise ExportError(
                f"ONNX Runtime cannot run {shortened(self._path)} ({_reason(err)}); export it again"
            ) from err

    def synchronize(self) -> None:
        self._binding.synchronize_outputs()

    def fetch(self) -> Outputs:
        return tuple(plain_array(one, np.float32) for one in self._binding.copy_outputs_to_cpu())


def _require_utf8(path: Path) -> None:
    """Refuse a name that ONNX Runtime cannot take."""
    try:
        str(path).encode()
    except UnicodeEncodeError as err:
        raise FileError(
            f"{path} has a name that is not UTF-8, which ONNX Runtime does not open; rename it"
        ) from err


def _ort_session(
    ort: Any,  # noqa: ANN401 - onnxruntime is untyped
    path: Path,
    provider: str,
    precision: Precision,
) -> Any:  # noqa: ANN401 - as above
    """Open a session that runs on ``provider``, with PyTorch's number of threads.

    Raises:
        ExportError: If ONNX Runtime cannot load the file.
        MissingBackendError: If the provider does not load, or has no bfloat16 kernels.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors arrive as exceptions
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin after a call would slow down whatever runs next in the same process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if PRECISIONS[precision].carrier:
        # ONNX Runtime 1.31 moves FP8 before a Transpose, which takes none at opset 19. Remove when
        # it loads a QuantizeLinear to FP8 after a Transpose.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    settings = {"use_tf32": "0"} if provider == CUDA_PROVIDER else {}
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[provider], provider_options=[settings]
        )
    except _ort_errors(ort) as err:
        reason = _reason(err)
        lacking = ort.capi.onnxruntime_pybind11_state.NotImplemented
        if not PRECISIONS[precision].ort_cpu and isinstance(err, lacking):
            raise MissingBackendError(
                f"ONNX Runtime's {provider} lacks {PRECISIONS[precision].dtype} kernels "
                f"({reason}); run it on a GPU; parity takes the emulated deploy model instead"
            ) from err
        raise ExportError(
            f"ONNX Runtime cannot load {shortened(path)} as a model ({reason}); export it again"
        ) from err
    chosen = session.get_providers()[0]
    if chosen != provider:
        raise MissingBackendError(
            f"ONNX Runtime was asked for {provider} and would run {path.name} on {chosen}; "
            "pip install onnxruntime-gpu[cuda,cudnn], or hide the GPU with CUDA_VISIBLE_DEVICES="
        )
    return session


def _reason(err: Exception) -> str:
    return shortened(" ".join(str(err).split()), 300)


def _ort_errors(ort: Any) -> tuple[type[Exception], ...]:  # noqa: ANN401 - onnxruntime is untyped
    """Return the exceptions of ONNX Runtime for a model that it cannot load or run."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf")
    own = (getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException"))
    return (*own, RuntimeError)
