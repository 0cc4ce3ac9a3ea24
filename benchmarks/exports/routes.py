"""Other libraries' models with our weights, through both of PyTorch's exporters."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from exporters.errors import ExportError, MissingBackendError
from swin_deploy.bench.originals import build_original
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.deploy.fold import fold

OURS = "swin-deploy"
SUPPORT = Path(__file__).resolve().parents[2] / "tests" / "support"


@dataclass(frozen=True)
class Route:
    """A way from weights to an ONNX graph.

    Attributes:
        library: Name of the package that has the model, or ``OURS``.
        exporter: ``dynamo`` or ``TorchScript``.
        attention: Name of the library's implementation, where it has several.
    """

    library: str
    exporter: str
    attention: str = ""

    @property
    def title(self) -> str:
        """The route's name in the table."""
        name = f"Hugging Face {self.attention}" if self.attention else self.library
        return f"{name}, {self.exporter}"


MODELS = (("timm", ""), ("torchvision", ""), ("transformers", "sdpa"), ("transformers", "eager"))
ROUTES = tuple(
    Route(library, exporter, attention)
    for library, attention in MODELS
    for exporter in ("dynamo", "TorchScript")
)


class Logits(nn.Module):
    """Another library's module, from float32 images to its logits alone, in float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        output = self.module(images.to(self.dtype))
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.float()


def load_peers() -> ModuleType:
    """``tests/support/peers.py``: trained-like weights, and torchvision's shim on CPUs."""
    if str(SUPPORT) not in sys.path:
        sys.path.append(str(SUPPORT))
    return importlib.import_module("peers")


def require(libraries: Sequence[str]) -> None:
    """Raise MissingBackendError unless all are installed."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingBackendError(
            f"not installed: {', '.join(missing)}; pip install -e '.[cpu,trt-rtx,dev,peers]'"
        )


def make_module(loaded: LoadedModel, route: Route, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return the module to export, with our weights, made anew: exporters change modules."""
    if route.library == OURS:
        return fold(loaded.reference)
    load_peers().ensure_torchvision_importable()
    model: Any = build_original(loaded, route.library)
    if route.attention:
        model.set_attn_implementation(route.attention)
    return Logits(model, dtype).eval()


def export_peer(
    loaded: LoadedModel,
    route: Route,
    images: Tensor,
    *,
    dynamic: bool,
    dtype: torch.dtype = torch.float32,
) -> onnx.ModelProto:
    """Return a library's graph.

    Args:
        loaded: The model whose weights it has.
        route: Library and exporter.
        images: Images to trace it with, [B, channels, H, W].
        dynamic: True for a graph of any batch, False for one of ``B`` images.
        dtype: Type of its weights and activations.
    """
    with warnings.catch_warnings(action="ignore"):
        return WRITE[route.exporter](make_module(loaded, route, dtype), images, dynamic)


def by_dynamo(module: nn.Module, images: Tensor, dynamic: bool) -> onnx.ModelProto:
    """Return what PyTorch's exporter writes."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if dynamic else None
    names: Any = {"input_names": ["images"], "output_names": ["logits"], "verbose": False}
    program = torch.onnx.export(module, (images,), dynamo=True, dynamic_shapes=shapes, **names)
    if program is None:
        raise ExportError("PyTorch exported nothing")
    return program.model_proto


def by_torchscript(module: nn.Module, images: Tensor, dynamic: bool) -> onnx.ModelProto:
    """Return what PyTorch's older exporter writes."""
    file: Any = io.BytesIO()  # it takes one, whatever its annotations say
    axes = {name: {0: "batch"} for name in ("images", "logits")} if dynamic else None
    names: Any = {"input_names": ["images"], "output_names": ["logits"]}
    torch.onnx.export(module, (images,), file, dynamo=False, dynamic_axes=axes, **names)
    return onnx.load_from_string(file.getvalue())


WRITE: dict[str, Callable[[nn.Module, Tensor, bool], onnx.ModelProto]] = {
    "dynamo": by_dynamo,
    "TorchScript": by_torchscript,
}


@contextlib.contextmanager
def noted(notes: list[str], what: str) -> Iterator[None]:
    """Write into ``notes`` why the block failed: libraries fail in ways of their own."""
    try:
        yield
    except Exception as err:  # noqa: BLE001 - a failure is a row of the table, not its end
        cause = err.__cause__ if isinstance(err, torch.onnx.OnnxExporterError) else None
        words = " ".join(str(cause or err).replace("|", "/").split())
        notes.append(f"{what}: {type(cause or err).__name__}: {words[:140]}")
