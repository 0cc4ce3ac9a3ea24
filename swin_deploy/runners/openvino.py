"""An ONNX file in OpenVINO on the CPU, in float32 or bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.backends import load_openvino, openvino_core, openvino_cpu, openvino_version
from exporters.errors import ExportError, FileError, MissingBackendError
from exporters.precisions import FP8_FORMS, PRECISIONS
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

OpenvinoWay = Literal["openvino", "openvino-bf16"]
OPENVINO_WAYS: tuple[OpenvinoWay, ...] = get_args(OpenvinoWay)
ARITHMETIC: dict[OpenvinoWay, Precision] = {"openvino": "fp32", "openvino-bf16": "bf16"}
# OpenVINO's names of the types that it is asked to compute in.
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
EDGE_TYPES: dict[str, type[np.number[Any]]] = {
    "f32": np.float32,
    "f16": np.float16,
    "u8": np.uint8,
}


def openvino_precision(precision: Precision, way: OpenvinoWay) -> Precision:
    """Return the precision of a file's results: the coarser of its own and the arithmetic's."""
    return max(precision, ARITHMETIC[way], key=lambda one: PRECISIONS[one].roundoff)


class OpenvinoRunner(Runner):
    """An ONNX file in OpenVINO on the CPU.

    Products are computed in the type that ``way`` says, or not at all; by itself OpenVINO takes
    bfloat16 wherever the CPU has it. The model is compiled for each shape of images, which takes
    a fraction of a second and is faster than a free batch; nothing is kept on disk.

    Args:
        onnx_path: Path of the file, which has one input of images.
        precision: Precision of the graph, for reports; quantised parts run as the graph says.
        way: Arithmetic: ``openvino`` for float32, ``openvino-bf16`` for bfloat16.
        name: Short name for reports; by default ``OpenVINO``, the precision of its results, and
            ``with bf16`` or ``with fp32`` if the rest is computed in that.
        steps: Preprocessing by which images are normalised, for a file that takes pixels.
    """

    def __init__(
        self,
        onnx_path: Path,
        precision: Precision,
        *,
        way: OpenvinoWay = "openvino",
        name: str = "",
        steps: Preprocessing | None = None,
    ) -> None:
        self.precision = openvino_precision(precision, way)
        self.name = name or _name(self.precision, ARITHMETIC[way])
        self.backend = "OpenVINO"
        self._path, self._steps = onnx_path, steps
        self._of_file, self._arithmetic = precision, ARITHMETIC[way]
        # Asked for float32, it computes what is bfloat16 in the file in that all the same.
        self._computes = "bf16" if precision == "bf16" else self._arithmetic
        self._compiled_for: tuple[int, ...] = ()
        self._request: Any = None
        self._images: NDArray[Any] | None = None

    def __enter__(self) -> Self:
        if not self._path.is_file():
            raise FileError(f"{self._path} does not exist, or is not a file; name an ONNX file")
        if self._of_file in FP8_FORMS and self._arithmetic == "bf16":
            raise MissingBackendError(
                f"{shortened(self._path)} is float16 where it is not FP8, and bfloat16 loses more "
                "than it is judged by; use --runner openvino, which computes that in float32"
            )
        self._openvino = load_openvino()
        self._core = openvino_core(self._openvino)
        self.backend = _backend(self._openvino, self._core, self._arithmetic)
        self.backend += f", computes in {PRECISIONS[self._computes].dtype}"
        self._model = _read(self._openvino, self._path)
        if len(self._model.inputs) != 1 or not self._model.outputs:
            counts = {"inputs": len(self._model.inputs), "outputs": len(self._model.outputs)}
            raise not_one_input(self._path, **counts)
        self._dtype = _edge_type(self._path, self._model)
        if self._dtype is np.uint8:
            self.backend += ", takes pixels"
        axes = self._model.inputs[0].partial_shape
        if axes.rank.is_dynamic:
            raise ExportError(f"{self._path} does not say how many axes it takes; export it again")
        self._shape = tuple(-1 if axis.is_dynamic else axis.get_length() for axis in axes)
        if self._shape and self._shape[0] >= 0:
            self.min_batch = self.max_batch = self._shape[0]
            require_image_memory(self._path, self._shape, self._dtype)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._request = self._model = self._core = None
        self._images, self._compiled_for = None, ()

    def inputs(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return typed_images(images, self._dtype, self._steps, self.name)

    def prepare(self, images: NDArray[Any]) -> None:
        ready = self.inputs(images)
        check_shape(ready, self._shape, self.name)
        if ready.shape != self._compiled_for:
            self._request, self._compiled_for = None, ()
            self._request = self._compiled(ready.shape).create_infer_request()
            self._compiled_for = ready.shape
        self._images = ready  # OpenVINO reads this memory
        tensor = self._openvino.Tensor(self._images, shared_memory=True)
        self._request.set_input_tensor(0, tensor)

    def execute(self) -> None:
        try:
            self._request.start_async()
            self._request.wait()
        except _errors(self._openvino) as err:
            raise _cannot("run", self._path, err) from err

    def synchronize(self) -> None:
        return  # a call has ended when execute returns

    def fetch(self) -> Outputs:
        tensors = self._request.output_tensors
        return tuple(np.array(one.data, dtype=np.float32, order="C") for one in tensors)

    def _compiled(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - openvino is untyped
        """Compile the model for images of one shape, with PyTorch's number of threads."""
        hint = HINTS[self._arithmetic]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Threads bound to cores would wait there for whatever else runs on them.
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else it rounds activations by itself
        }
        try:
            if shape != self._shape:
                self._model.reshape(list(shape))
            _keep_transpositions(self._openvino, self._model)
            compiled = self._core.compile_model(self._model, "CPU", settings)
        except _errors(self._openvino) as err:
            raise _cannot("compile", self._path, err) from err
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != hint:
            raise MissingBackendError(
                f"OpenVINO was asked to compute in {hint} and would compute in {taken}; use "
                "another --runner"
            )
        return compiled


def _cannot(verb: str, path: Path, err: Exception) -> MissingBackendError:
    """Make the error for a file that OpenVINO does not take: whether it is right, others tell."""
    return MissingBackendError(
        f"OpenVINO cannot {verb} {shortened(path)} ({_reason(err)}); run it in ONNX Runtime, "
        "without --runner"
    )


def _name(precision: Precision, arithmetic: Precision) -> str:
    """Return the name of a runner, which tells the two arithmetics of one file apart."""
    plain = arithmetic == precision or (arithmetic == "fp32" and precision != "bf16")
    return f"OpenVINO {precision}{'' if plain else f' with {arithmetic}'}"


def _backend(openvino: Any, core: Any, arithmetic: Precision) -> str:  # noqa: ANN401 - untyped
    """Return library, version, processor and its abilities.

    Raises:
        MissingBackendError: If the CPU does not have the arithmetic.
    """
    cpu, dtype = openvino_cpu(core), PRECISIONS[arithmetic].dtype
    title = f"OpenVINO {openvino_version(openvino)}, {cpu.name}"
    if arithmetic.upper() not in cpu.abilities:
        raise MissingBackendError(
            f"{title} has no {dtype} instructions, it has {', '.join(cpu.abilities)}; use "
            "--runner openvino, which computes in float32"
        )
    features = (torch.backends.cpu.get_cpu_capability(), *cpu.abilities)
    return f"{title} ({', '.join(features)})"


def _read(openvino: Any, path: Path) -> Any:  # noqa: ANN401 - openvino is untyped
    """Read an ONNX file, whatever its name ends with.

    Raises:
        MissingBackendError: If OpenVINO cannot read it, or lacks one of its operators.
    """
    try:
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        return reader.convert(reader.load(str(path)))
    except _errors(openvino) as err:
        raise _cannot("load", path, err) from err


def _keep_transpositions(openvino: Any, model: Any) -> None:  # noqa: ANN401 - as above
    """Spell transpositions of heads and tokens so that OpenVINO does not lose them.

    OpenVINO 2026.4.1 computes attention over a fixed batch as one kernel, in float32; where a
    window has as many tokens as heads, the transposition of both is lost (relative L2 0.3 to 0.9).
    With one more axis, of length 1, the result is right. Remove when it is right without.

    Args:
        openvino: The module.
        model: The model, of images of one shape; it is changed.
    """
    for node in model.get_ordered_ops():
        if _turns_equal_axes(node):
            new = openvino.opset13
            axis = new.constant(np.array([1]))
            longer = new.unsqueeze(node.input_value(0), axis)
            turned = new.transpose(longer, new.constant(np.array([0, 1, 3, 2, 4])))
            node.output(0).replace(new.squeeze(turned, axis).output(0))


def _turns_equal_axes(node: Any) -> bool:  # noqa: ANN401 - as above
    """Tell whether a node transposes the middle two of four axes, which have the same length."""
    if node.get_type_name() != "Transpose":
        return False
    order, shape = node.input_value(1).get_node(), node.get_input_partial_shape(0)
    if order.get_type_name() != "Constant" or list(order.get_vector()) != [0, 2, 1, 3]:
        return False
    return shape[1].is_static and shape[1] == shape[2]


def _edge_type(path: Path, model: Any) -> type[np.number[Any]]:  # noqa: ANN401 - as above
    """Return the type of the input; refuse other types than those of images and their results."""
    taken, *given = [one.element_type.get_type_name() for one in (*model.inputs, *model.outputs)]
    if taken not in EDGE_TYPES or any(one not in EDGE_TYPES for one in given):
        raise ExportError(
            f"{path} takes {taken} and gives {', '.join(given)}; export it with a float32 or "
            "float16 input and outputs"
        )
    return EDGE_TYPES[taken]


def _reason(err: Exception) -> str:
    """Return what OpenVINO says, without the places in its sources."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    places = ("Exception from ", "Check '", "FrontEnd API failed")
    said = [line for line in lines if not line.startswith(places)]
    return shortened(" ".join(said or lines), 300)


def _errors(openvino: Any) -> tuple[type[Exception], ...]:  # noqa: ANN401 - openvino is untyped
    """Return the exceptions of OpenVINO for a model that it cannot read, compile or run."""
    names = ["GeneralFailure", "InitializationFailure", "NotImplementedFailure"]
    names += ["OpConversionFailure", "OpValidationFailure"]
    return (*(getattr(openvino.frontend, name) for name in names), RuntimeError)
