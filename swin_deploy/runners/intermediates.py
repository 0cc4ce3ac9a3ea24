"""The intermediate tensors of a model, which enter or leave its modules, as further outputs.

Modules are named by their path. An exported ONNX graph has the same paths in the names of its
nodes, so a module and the graph exported from it are probed in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from exporters.errors import ComparisonError
from exporters.spec import Precision, Runtime
from exporters.staging import temporary_folder
from exporters.weights import serialized
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.runners import OpenvinoRunner, OpenvinoWay, OrtRunner, Runner, TorchRunner

Side = Literal["in", "out"]
REORDERS = (
    "reorder_before",
    "reorder_after",
)  # children of a layer that change the order of its tokens


@dataclass(frozen=True)
class Tap:
    """A tensor inside a model: the input or the output of a module's first call.

    Attributes:
        path: Path of the module.
        side: ``in`` for its input, ``out`` for its output.
    """

    path: str
    side: Side = "out"


@dataclass(frozen=True)
class Probed:
    """A model whose intermediate tensors can be read.

    Attributes:
        paths: Paths of the modules.
        reorders: Gather index of each module that reorders a layer's tokens, by path.
        open: Function that opens a runner whose outputs are the model's, then the taps.
        runtime: Runtimes that its tokens are laid out for.
    """

    paths: frozenset[str]
    reorders: Mapping[str, NDArray[np.int64]]
    open: Callable[[tuple[Tap, ...]], AbstractContextManager[Runner]]
    runtime: Runtime = "tensorrt"


class TappedModule(nn.Module):
    """A module whose outputs are followed by its taps.

    Args:
        module: The module to probe; it is left as it is.
        taps: The tensors to return, in order; each from the first run of its module.
    """

    def __init__(self, module: nn.Module, taps: tuple[Tap, ...]) -> None:
        super().__init__()
        self.module = module
        self.taps = taps

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: dict[Tap, Tensor] = {}
        with contextlib.ExitStack() as stack:
            for tap in self.taps:
                target = self.module.get_submodule(tap.path)
                stack.enter_context(target.register_forward_hook(_keep(found, tap)))
            outputs = self.module(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return (*outputs, *(found[tap] for tap in self.taps))


def _keep(found: dict[Tap, Tensor], tap: Tap) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.setdefault(tap, inputs[0] if tap.side == "in" else output)

    return hook


def tappable_module(
    module: nn.Module, precision: Precision, *, runtime: Runtime = "tensorrt"
) -> Probed:
    """Make a module that PyTorch runs in a precision readable inside.

    Args:
        module: The module, in float32; it is left as it is.
        precision: Precision of weights and activations.
        runtime: Runtimes that its tokens are laid out for.
    """
    reorders = {
        name.removesuffix(".index"): value.cpu().numpy()
        for name, value in module.state_dict().items()
        if name.split(".")[-2:-1] and name.split(".")[-2] in REORDERS
    }
    paths = frozenset(name for name, _ in module.named_modules())
    return Probed(
        paths,
        reorders,
        lambda taps: TorchRunner("taps", TappedModule(module, taps), arithmetic=precision),
        runtime,
    )


def tappable_graph(
    path: Path,
    graph: onnx.ModelProto,
    precision: Precision,
    *,
    steps: Preprocessing | None = None,
    runtime: Runtime = "tensorrt",
    way: OpenvinoWay | None = None,
) -> Probed:
    """Make an ONNX file readable inside; its nodes are named by module.

    A tensor that is read is written to memory: OpenVINO then fuses no operations across it.

    Args:
        path: Path of the file.
        graph: The file's graph; the structure without weights is enough.
        precision: Precision of the graph.
        steps: Preprocessing by which images are normalised, for a graph that takes pixels.
        runtime: Runtimes that its tokens are laid out for.
        way: Way in which OpenVINO runs it; None for ONNX Runtime.
    """

    def runner_of(tapped: Path) -> Runner:
        if way is not None:
            return OpenvinoRunner(tapped, precision, way=way, name="taps", steps=steps)
        return OrtRunner(tapped, precision, name="taps", steps=steps)

    paths: set[str] = set()
    for node in graph.graph.node:
        module = _path(node)
        paths.update(module[:end] for end, mark in enumerate(f"{module}.") if mark == ".")
    return Probed(
        frozenset(paths),
        dict(_reorders(graph.graph)),
        lambda taps: _open_tapped_graph(path, tap_outputs(graph, taps), runner_of),
        runtime,
    )


def _reorders(body: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield path and index of each gather that reorders a layer's tokens.

    PyTorch's exporter passes an index through a Reshape to [-1], and folds that into a constant
    only for up to 8192 tokens.
    """
    constants = {tensor.name: tensor for tensor in body.initializer}
    shaped = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Reshape"}
    for node in body.node:
        path = _path(node)
        gathers = node.op_type == "Gather" and len(node.input) > 1
        if gathers and path.split(".")[-1] in REORDERS:
            index = constants.get(shaped.get(node.input[1], node.input[1]))
            if index is not None:
                yield path, numpy_helper.to_array(index).reshape(-1)


@contextlib.contextmanager
def _open_tapped_graph(
    path: Path, outputs: onnx.ModelProto, runner_of: Callable[[Path], Runner]
) -> Iterator[Runner]:
    with temporary_folder() as folder:
        tapped = folder / "tapped.onnx"
        _write_merged(path, outputs, tapped)
        with runner_of(tapped) as runner:
            yield runner


def _write_merged(path: Path, outputs: onnx.ModelProto, target: Path) -> None:
    """Write a file's graph with more outputs to another file; release the graph on return."""
    graph = onnx.load(path, format="protobuf")
    graph.MergeFrom(outputs)
    with target.open("wb") as stream:
        stream.writelines(serialized(graph))


def tap_outputs(graph: onnx.ModelProto, taps: tuple[Tap, ...]) -> onnx.ModelProto:
    """Make the nodes and outputs that, merged into a graph, give each tap as a float32 output.

    Raises:
        ComparisonError: If no node is named after a tap's module.
    """
    extra = onnx.ModelProto()
    for number, tap in enumerate(taps):
        name = f"tap_{number}"
        source = _tensor(graph.graph, tap)
        extra.graph.node.append(
            helper.make_node("Cast", [source], [name], name=name, to=TensorProto.FLOAT)
        )
        extra.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return extra


def _tensor(body: onnx.GraphProto, tap: Tap) -> str:
    """Return the name of a tap's tensor: the module's last result, or its first outer input."""
    inside = [node for node in body.node if _belongs(node, tap.path)]
    if not inside:
        raise ComparisonError(f"the ONNX graph has no node of {tap.path}; export it again")
    if tap.side == "out":  # a Split without a record of its module has the name of the one before
        return [node for node in inside if node.op_type != "Split"][-1].output[0]
    own = {name for node in inside for name in node.output}
    constants = {tensor.name for tensor in body.initializer}
    taken = [name for node in inside for name in node.input]
    return next(name for name in taken if name and name not in own | constants)


def _path(node: onnx.NodeProto) -> str:
    """Return the path of the module that a node is named after."""
    return node.name.rpartition("/")[0]


def _belongs(node: onnx.NodeProto, path: str) -> bool:
    return f"{_path(node)}.".startswith(f"{path}.")
