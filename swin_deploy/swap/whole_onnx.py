"""The whole of a model around the deploy model, as an ONNX file that is compared with the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from exporters.backends import load_onnxruntime
from exporters.errors import ComparisonError, ExportError
from exporters.text_files import error_words, shortened
from exporters.to_onnx import export_any
from exporters.weights import serialized
from swin_deploy.parity.checks import Tolerance
from swin_deploy.parity.tolerances import tolerance_for
from swin_deploy.swap.prove import OutputError, compare_outputs, noise
from swin_deploy.swap.replace import Swap
from swin_deploy.swap.structures import named_tensors

INPUT = "images"
TRACE_BATCH = 2
OTHER_BATCH = 3  # that a dynamic file is compared at, too


class FlatModel(nn.Module):
    """A model whose outputs, of whatever form, come as a tuple of tensors.

    Args:
        model: The model.
        names: Names of the tensors, as ``named_tensors`` gives them.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # The input itself as an output would take its name: ONNX has one name a value.
        found = named_tensors(self.model(images.clone()))
        return tuple(found[name] for name in self.names)


@dataclass(frozen=True)
class WholeOnnx:
    """A whole model as ONNX, and its distance from the unmodified model.

    Attributes:
        graph: The graph with its weights.
        batch: Number of images of a call; None for any number.
        errors: Distance of every output from the unmodified model's, in ONNX Runtime.
        notes: Reasons for what is not as asked.
    """

    graph: onnx.ModelProto = field(repr=False)
    batch: int | None
    errors: tuple[OutputError, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every output is within its limit."""
        return all(one.passed for one in self.errors)


def export_whole(
    original: nn.Module, swap: Swap, *, opset: int, batch: int | None = None
) -> WholeOnnx:
    """Export a model with its Swin replaced, and compare the file with the unmodified model.

    1. With ``batch`` None any number of images is tried first. Where the rest of the model does not
       allow it, or its file is wrong at another number, the file takes one image, and a note says
       why.
    2. Every output is compared in ONNX Runtime.

    Args:
        original: The unmodified model, which takes images alone.
        swap: The model with its Swin replaced.
        opset: ONNX operator set, from 18.
        batch: Number of images of a call; None for any number.

    Raises:
        ComparisonError: If ONNX Runtime does not run the file.
        ExportError: If PyTorch cannot export the model.
        MissingBackendError: If ONNX Runtime is not installed.
    """
    limit = tolerance_for("onnx", "fp32", family=swap.family)
    if batch is not None:
        return _exported(original, swap, limit, opset=opset, batch=batch)
    try:  # 1
        whole = _exported(original, swap, limit, opset=opset, batch=None)
    except (ExportError, ComparisonError) as err:
        reason = shortened(str(err))
    else:
        if whole.passed:
            return whole
        worst = max(whole.errors, key=lambda one: one.error)
        reason = worst.text
    note = f"the file takes one image a call: with any number, {reason}"
    one = _exported(original, swap, limit, opset=opset, batch=1)
    return WholeOnnx(one.graph, one.batch, one.errors, (note,))


def _exported(
    original: nn.Module, swap: Swap, limit: Tolerance, *, opset: int, batch: int | None
) -> WholeOnnx:
    images = _noise(swap, batch or TRACE_BATCH)
    names = _names(_run(original, images))
    graph = _graph_of(swap.model, images, names, opset=opset, dynamic=batch is None)
    errors: list[OutputError] = []
    session = _session(graph)
    for count in (TRACE_BATCH, OTHER_BATCH, 1) if batch is None else (batch,):  # 2
        images = _noise(swap, count)
        theirs = named_tensors(_run(original, images))
        ours = dict(zip(names, _outputs(session, images), strict=True))
        errors += compare_outputs(ours, theirs, limit, of=f"ONNX, batch {count}")
    return WholeOnnx(graph, batch, tuple(errors))


def export_original(
    original: nn.Module, swap: Swap, *, opset: int, batch: int | None
) -> onnx.ModelProto:
    """Export the unmodified model alike, to be compared with: nothing is replaced or checked.

    Args:
        original: The unmodified model, which takes images alone.
        swap: The model with its Swin replaced, for the sizes.
        opset: ONNX operator set, from 18.
        batch: Number of images of a call; None for any number.

    Raises:
        ExportError: If PyTorch cannot export the model.
    """
    images = _noise(swap, batch or TRACE_BATCH)
    names = _names(_run(original, images))
    return _graph_of(original, images, names, opset=opset, dynamic=batch is None)


def _names(outputs: object) -> tuple[str, ...]:
    """Return the names of a model's outputs.

    Raises:
        ExportError: If one is complex, which no output of ONNX Runtime is.
    """
    found = named_tensors(outputs)
    for name, one in found.items():
        if one.is_complex():
            raise ExportError(
                f"output {name!r} is complex, which a file's output cannot be; return "
                "torch.view_as_real of it"
            )
    return tuple(found)


def _graph_of(
    model: nn.Module, images: Tensor, names: tuple[str, ...], *, opset: int, dynamic: bool
) -> onnx.ModelProto:
    if INPUT in names:
        raise ExportError(f"an output is called {INPUT}, as the input is; give it another name")
    flat = FlatModel(model, names).eval()
    return export_any(flat, (images,), ((INPUT,), names), opset=opset, dynamic=dynamic)


def _noise(swap: Swap, batch: int) -> Tensor:
    return noise(swap.sizes[0], swap.channels, batch)


@torch.no_grad()
def _run(model: nn.Module, images: Tensor) -> Any:  # noqa: ANN401 - any form
    """Run the unmodified model on images.

    Raises:
        ExportError: If it does not run on this many.
    """
    try:
        return model(images)
    except Exception as err:  # their code may raise anything
        reason = error_words(err)
        raise ExportError(
            f"{type(model).__name__} does not run on {len(images)} images: {reason}"
        ) from err


def _session(graph: onnx.ModelProto) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.log_severity_level = 4
    data = b"".join(serialized(graph))
    try:
        return library.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # its errors have no class in common
        raise ComparisonError(f"ONNX Runtime does not load the file: {error_words(err)}") from err


def _outputs(session: Any, images: Tensor) -> list[Tensor]:  # noqa: ANN401 - as above
    try:
        found = session.run(None, {INPUT: images.numpy()})
    except Exception as err:
        raise ComparisonError(
            f"ONNX Runtime does not run the file on {len(images)} images: {error_words(err)}"
        ) from err
    return [torch.from_numpy(one) for one in found]
