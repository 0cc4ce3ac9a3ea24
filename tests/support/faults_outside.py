"""Faults that some batches or inputs show, of half precision, and in the ONNX file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from fault_parts import AbsentPartError, biased, blocks, fault, mask_parts, mlp_layers, qkv_rows
from onnx import numpy_helper
from torch import Tensor, nn

from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.model import DeployModel, SwinBlock

# --- what only some batches or some inputs show


class Disturbed(nn.Module):
    """A module, and what happens to its input first."""

    def __init__(self, module: nn.Module, disturb: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.disturb = disturb

    def forward(self, values: Tensor) -> Tensor:
        return self.module(self.disturb(values))


def disturb(model: DeployModel, change: Callable[[Tensor], Tensor]) -> None:
    model.embed[0] = Disturbed(model.embed[0], change)


@fault("the last row of larger batches is off")
def _(model: DeployModel, config: SwinConfig) -> None:
    def change(images: Tensor) -> Tensor:
        if len(images) < 3:
            return images
        return torch.cat((images[:-1], images[-1:] * 1.001))

    disturb(model, change)


@fault("rows depend on the batch's mean")
def _(model: DeployModel, config: SwinConfig) -> None:
    disturb(model, lambda images: images + 1e-3 * images.mean(dim=0, keepdim=True))


@fault("rows of a batch exchanged")
def _(model: DeployModel, config: SwinConfig) -> None:
    disturb(model, lambda images: images.flip(0) if len(images) == 3 else images)


@fault("the first row of a batch for all of them, where they are alike")
def _(model: DeployModel, config: SwinConfig) -> None:
    def change(images: Tensor) -> Tensor:
        near = (images - images[:1]).abs().amax((1, 2, 3), keepdim=True) < 5.0
        return torch.where(near, images[:1], images)

    disturb(model, change)


@fault("NaN for an image that is zero everywhere")
def _(model: DeployModel, config: SwinConfig) -> None:
    def change(images: Tensor) -> Tensor:
        size = images.abs().amax((1, 2, 3), keepdim=True)
        return images * (size / size)

    disturb(model, change)


@fault("bright pixels clipped")
def _(model: DeployModel, config: SwinConfig) -> None:
    white = min((1 - m) / s for m, s in zip(*_levels(config), strict=True))
    disturb(model, lambda images: images.clamp(max=0.98 * white))


@fault("dark pixels clipped")
def _(model: DeployModel, config: SwinConfig) -> None:
    black = max(-m / s for m, s in zip(*_levels(config), strict=True))
    disturb(model, lambda images: images.clamp(min=0.98 * black))


def _levels(config: SwinConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    steps = library_steps(config)
    if config.family == "notebook":  # the trained one
        steps = load_model("notebook-digits").preprocessing
    return steps.mean, steps.std


@fault("one pixel of the image ignored")
def _(model: DeployModel, config: SwinConfig) -> None:
    def change(images: Tensor) -> Tensor:
        images = images.clone()
        images[:, 0, images.shape[2] // 2, images.shape[3] // 2] = 0.0
        return images

    disturb(model, change)


# --- half precision


@fault("overflow in one block", precision="fp16")
def _(model: DeployModel, config: SwinConfig) -> None:
    scale_values(blocks(model)[-1], 2.0**17)


@fault("underflow in one block", precision="fp16")
def _(model: DeployModel, config: SwinConfig) -> None:
    scale_values(blocks(model)[-1], 2.0**-22)


def scale_values(block: SwinBlock, factor: float) -> None:
    """Values times a power of two, the projection divided by it: the same in float32."""
    for rows in qkv_rows(block):
        rows[2] *= factor
    block.attention.proj.weight.data /= factor


@fault("weights of every MLP in eight bits", precision="fp16")
def _(model: DeployModel, config: SwinConfig) -> None:
    for block in blocks(model):
        for layer in mlp_layers(block):
            step = layer.weight.data.abs().max() / 127
            layer.weight.data = (layer.weight.data / step).round() * step


@fault("mask missing, float16", precision="fp16")
def _(model: DeployModel, config: SwinConfig) -> None:
    for mask in mask_parts(model):
        mask.zero_()


@fault("bias table transposed, float16", precision="fp16")
def _(model: DeployModel, config: SwinConfig) -> None:
    bias = biased(model).bias
    bias.copy_(bias.transpose(-1, -2).clone())


# --- the ONNX file


def nodes(graph: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    found = [node for node in graph.graph.node if node.op_type == operator]
    if not found:
        raise AbsentPartError(f"no {operator}")
    return found


def change_constant(
    graph: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    tensor = next(entry for entry in graph.graph.initializer if entry.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def constants(graph: onnx.ModelProto, ending: str) -> list[str]:
    found = [entry.name for entry in graph.graph.initializer if entry.name.endswith(ending)]
    if not found:
        raise AbsentPartError(f"no constant {ending}")
    return found


@fault("softmax over the queries", target="graph")
def _(graph: onnx.ModelProto) -> None:
    nodes(graph, "Softmax")[-1].attribute[0].i = -2


@fault("LayerNorm epsilon", target="graph")
def _(graph: onnx.ModelProto) -> None:
    for attribute in nodes(graph, "LayerNormalization")[0].attribute:
        if attribute.name == "epsilon":
            attribute.f = 1e-3


@fault("Tanh for Erf in one block", target="graph")
def _(graph: onnx.ModelProto) -> None:
    nodes(graph, "Erf")[-1].op_type = "Tanh"


@fault("two entries of a gather swapped", target="graph")
def _(graph: onnx.ModelProto) -> None:
    name = nodes(graph, "Gather")[0].input[1]

    def swapped(index: np.ndarray) -> np.ndarray:
        index[[0, 9]] = index[[9, 0]]
        return index

    change_constant(graph, name, swapped)


@fault("a residual lost", target="graph")
def _(graph: onnx.ModelProto) -> None:
    """The last sum of two activations of one block gets the branch twice."""
    known = {entry.name for entry in graph.graph.initializer}
    sums = [
        node
        for node in nodes(graph, "Add")
        if not set(node.input) & known and node.name.count("/") <= 2
    ]
    sums[-1].input[0] = sums[-1].input[1]


@fault("one weight bit-flipped in the file", target="graph")
def _(graph: onnx.ModelProto) -> None:
    def flipped(values: np.ndarray) -> np.ndarray:
        values.view(np.int32).reshape(-1)[7] ^= 1 << 23
        return values

    largest = max(
        (entry for entry in graph.graph.initializer if entry.data_type == 1),
        key=lambda entry: np.prod(entry.dims),
    )
    change_constant(graph, largest.name, flipped)


@fault("mask missing in the file", target="graph")
def _(graph: onnx.ModelProto) -> None:
    change_constant(graph, constants(graph, ".rows")[0], np.zeros_like)
    change_constant(graph, constants(graph, ".columns")[0], np.zeros_like)


@fault("mask of columns missing in the file", target="graph")
def _(graph: onnx.ModelProto) -> None:
    change_constant(graph, constants(graph, ".columns")[0], np.zeros_like)
