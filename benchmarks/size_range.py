"""One engine for a range of image sizes: an experiment on the plan, not a command.

    .venv/bin/python -m benchmarks.size_range [--depths N N N N] [--json FILE]

What depends on the size of an image are the gathers of a window's tokens, the places of pads, and
which windows have a seam. Here all of them are inputs of the graph, computed for each image size by
``size_inputs`` from the sizes alone, so one ONNX file takes any size. Every stage keeps its tokens
row by row, puts them into windows before attention, and takes them out after it. Weights are those
of a deploy model; its own file of one size is what the plan is compared with.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

import peers  # noqa: E402 - after the path

from exporters.artifact import write_atomic  # noqa: E402 - after the path
from exporters.backends import load_onnxruntime, load_tensorrt  # noqa: E402 - after the path
from exporters.engine.to_engine import build_engine  # noqa: E402 - after the path
from exporters.errors import BuildError  # noqa: E402 - after the path
from exporters.half_precision import to_half  # noqa: E402 - after the path
from exporters.plan.read import read_plan  # noqa: E402 - after the path
from exporters.spec import (  # noqa: E402 - after the path
    BatchProfile,
    EngineOptions,
    ExportSpec,
    Flavor,
)
from exporters.to_onnx import export_onnx  # noqa: E402 - after the path
from swin_deploy.bench.conditions import package_versions  # noqa: E402 - after the path
from swin_deploy.config import Size, SwinConfig  # noqa: E402 - after the path
from swin_deploy.config.windows import (  # noqa: E402 - after the path
    MASKED,
    PAD,
    boundary_mask,
    merge_order,
    raster_order,
    reorder_index,
)
from swin_deploy.deploy.fold import fold  # noqa: E402 - after the path
from swin_deploy.deploy.fold_parts import MASKED_FINITE, block_order  # noqa: E402 - after the path
from swin_deploy.deploy.model import DeployModel, PatchMerge, SwinBlock  # noqa: E402 - after the path
from swin_deploy.reference import Reference, build_reference  # noqa: E402 - after the path

SMALLEST, USUAL, LARGEST = Size(320, 320), Size(512, 512), Size(800, 1344)
CHECKED = (SMALLEST, USUAL, Size(480, 640), Size(644, 364), LARGEST)
# At this size windows of 7 leave pads in every stage, so that the fold treats all as here.
FOLDED = SMALLEST
OPSET = 17
FLAVOR: Flavor = "tensorrt-rtx"
LAYER = "LayerType: "  # in each line of the builder's list of layers
Depths = tuple[int, ...]  # number of blocks of each stage
# TensorRT's axes of the same length have one name. "slots" are tokens and pads in windows.
AXES = {
    "images": {2: "height", 3: "width"},
    "raster": {0: "tokens1"},
    **{f"put{stage}{kind}": {0: f"slots{stage}"} for stage in range(1, 5) for kind in ("", "s")},
    **{f"kept{stage}{kind}": {0: f"slots{stage}"} for stage in range(1, 5) for kind in ("", "s")},
    **{f"take{stage}{kind}": {0: f"tokens{stage}"} for stage in range(1, 5) for kind in ("", "s")},
    **{f"seams{stage}": {0: f"windows{stage}"} for stage in range(1, 5)},
    **{f"merge{stage}": {0: f"tokens{stage + 1}"} for stage in range(1, 4)},
    **{f"real{stage}": {0: f"tokens{stage + 1}"} for stage in range(1, 4)},
}


def config_at(size: Size, depths: Depths) -> SwinConfig:
    """Return the config of a detector's backbone of Swin-T's widths, at an image size."""
    return SwinConfig(
        family="swin", img_size=(size.rows, size.columns), depths=depths, window_rule="always",
        pads="pad-then-roll", remainder="pad", stage_norms=True, final_norm=False, output="stages",
    )  # fmt: skip


def size_inputs(config: SwinConfig) -> dict[str, Tensor]:
    """Return the graph's inputs that depend on the image's size, by name.

    For each stage: ``put`` [slots] and ``take`` [tokens], the gathers into windows and out of them,
    plain and shifted ("s"); ``kept`` [slots, 1, 1], 0 for a pad; ``seams`` [windows], which of four
    masks a shifted window has; ``merge`` [tokens of the next, 4] and ``real`` for odd maps.
    """
    found = {"raster": raster_order(config.stages[0].resolution)}
    for number, stage in enumerate(config.stages, start=1):
        tokens = raster_order(stage.resolution)
        for kind, shift in (("", Size(0, 0)), ("s", stage.shift_size)):
            windows = block_order(stage, shift)
            found[f"put{number}{kind}"] = reorder_index(tokens, windows)
            found[f"take{number}{kind}"] = reorder_index(windows, tokens)
            found[f"kept{number}{kind}"] = (windows != PAD).float()[:, None, None]
        rows, columns = (torch.arange(side) == side - 1 for side in stage.window_grid)
        found[f"seams{number}"] = (2 * rows.long()[:, None] + columns.long()).reshape(-1)
        if number < len(config.stages):
            following = raster_order(config.stages[number].resolution)
            four = merge_order(stage.resolution, following)
            found[f"merge{number}"] = reorder_index(tokens, four).reshape(-1, 4)
            found[f"real{number}"] = (four.reshape(-1, 4) != PAD).float()[:, None, :, None]
    return found


def _part(module: nn.Module, *path: str | int) -> nn.Module:
    """Return a module inside another."""
    return module.get_submodule(".".join(map(str, path)))


def _linear(module: nn.Module, *path: str | int) -> nn.Linear:
    """Return a linear layer inside a module.

    Raises:
        TypeError: If it is another kind of layer.
    """
    found = _part(module, *path)
    if not isinstance(found, nn.Linear):
        raise TypeError(f"{path} is a {type(found).__name__}, not a linear layer")
    return found


class RangeBlock(nn.Module):
    """A block of the deploy model over tokens [N, 1, C] row by row, its gathers given.

    Args:
        block: The block, of a stage with pads; its weights are shared.
        head_dim: Number of channels of a head.
        area: Number of tokens of a window.
    """

    def __init__(self, block: SwinBlock, head_dim: int, area: int) -> None:
        super().__init__()
        attention, bias = block.attention, block.attention.bias
        self.first = _part(block.norm_before_attention, 0)
        self.norm_before_mlp = block.norm_before_mlp
        self.qkv, self.proj, self.mlp = attention.qkv, attention.proj, block.mlp
        self.bias = _part(bias, 0) if isinstance(bias, nn.Sequential) else bias
        self.dim = self.proj.in_features
        self.heads = (area, -1, self.dim // head_dim, head_dim)

    def forward(
        self, tokens: Tensor, moves: tuple[Tensor, Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        put, take, kept = moves
        slots = self.first(tokens.index_select(0, put)) * kept  # [N, 1, C] -> [S, 1, C]
        parts = torch.split(self.qkv(slots), self.dim, dim=-1)
        query, key, value = (part.reshape(self.heads) for part in parts)  # -> [n, nW, h, d]
        scores = self.bias(torch.einsum("qbhd,kbhd->bhqk", query, key))
        scores = scores if mask is None else scores + mask
        mixed = torch.einsum("bhqk,kbhd->qbhd", scores.softmax(dim=-1), value)
        branch = self.proj(mixed.reshape(-1, 1, self.dim))  # [n, nW, h, d] -> [S, 1, C]
        tokens = tokens + branch.index_select(0, take)
        return tokens + self.mlp(self.norm_before_mlp(tokens))


class RangeModel(nn.Module):
    """A deploy model of any image size: one image [1, 3, H, W] to maps [1, C, tokens].

    Args:
        deploy: The deploy model, at a size whose stages all put their pads in and take them out.
        config: Its config.
    """

    masks: Tensor

    def __init__(self, deploy: DeployModel, config: SwinConfig) -> None:
        super().__init__()
        linear, stages = _linear(deploy.embed, 0, "linear"), config.stages
        patch, window = config.patch_size, stages[0].window_size
        self.embed = nn.Conv2d(config.in_channels, config.embed_dim, patch, patch)
        shape = self.embed.weight.shape
        values = {"weight": linear.weight.reshape(shape), "bias": linear.bias}
        self.embed.load_state_dict(values)  # [C, I * p * p] -> [C, I, p, p]
        self.norm = deploy.embed[1]
        blocks = [layer for layer in deploy.layers if isinstance(layer, SwinBlock)]
        merges = [layer for layer in deploy.layers if isinstance(layer, PatchMerge)]
        head_dim = stages[0].dim // stages[0].num_heads
        self.blocks = nn.ModuleList(RangeBlock(one, head_dim, window.area) for one in blocks)
        self.merge_norms = nn.ModuleList(merge.norm_before for merge in merges)
        self.merges = nn.ModuleList(merge.linear for merge in merges)
        self.map_norms = nn.ModuleList(_part(head, 0) for head in deploy.heads.values())
        self.depths = config.depths
        # Of a map of 2 x 2 windows: without a seam, with one between columns, rows, both.
        twice = Size(2 * window.rows, 2 * window.columns)
        masks = boundary_mask(twice, window, stages[0].shift_size)
        self.register_buffer(
            "masks", masks.masked_fill(masks == MASKED, MASKED_FINITE)[:, None]
        )  # [4, 1, n, n]

    def forward(self, images: Tensor, **given: Tensor) -> tuple[Tensor, ...]:
        # [1, C, H, W] -> [1, C, N] -> [N, 1, C]; the gather of all gives N the name of the others
        tokens = self.embed(images).reshape(1, self.embed.out_channels, -1).permute(2, 0, 1)
        tokens = self.norm(tokens.index_select(0, given["raster"]))
        blocks, maps = iter(self.blocks), []
        for number, depth in enumerate(self.depths, start=1):
            mask = self.masks.index_select(0, given[f"seams{number}"])  # [nW, 1, n, n]
            for index in range(depth):
                kind = "s" if index % 2 else ""
                moves = tuple(given[f"{name}{number}{kind}"] for name in ("put", "take", "kept"))
                tokens = next(blocks)(tokens, moves, mask if kind else None)
            maps.append(self.map_norms[number - 1](tokens).permute(1, 2, 0))  # -> [1, C, N]
            if number < len(self.depths):
                tokens = self._merged(tokens, number, given)
        return tuple(maps)

    def _merged(self, tokens: Tensor, number: int, given: dict[str, Tensor]) -> Tensor:
        four = tokens[given[f"merge{number}"]].transpose(1, 2)  # [N, 1, C] -> [M, 1, 4, C]
        linear = _linear(self, "merges", number - 1)
        wide = (four * given[f"real{number}"]).reshape(-1, 1, linear.in_features)
        return linear(self.merge_norms[number - 1](wide))


class Named(nn.Module):
    """A module whose inputs by name come one after the other, as an exporter gives them.

    Args:
        model: The model.
        names: Names of the inputs after the images.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, images: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        return self.model(images, **dict(zip(self.names, given, strict=True)))


def image_at(size: Size) -> Tensor:
    """Return an image [1, 3, H, W] with the statistics of normalised ones."""
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def export_range(model: RangeModel, config: SwinConfig) -> onnx.ModelProto:
    """Return the model as one ONNX graph for all sizes."""
    given = size_inputs(config)
    names, outputs = ["images", *given], [f"stage{number}" for number in range(1, 5)]
    axes = {name: AXES[name] for name in names}
    axes |= {name: {2: f"tokens{number}"} for number, name in enumerate(outputs, start=1)}
    file: Any = io.BytesIO()  # torch.onnx.export takes one, whatever its annotations say
    values = (image_at(config.image), *given.values())
    with warnings.catch_warnings(action="ignore"):
        # The older exporter: the newer one wants the equality of axes proved, and writes shapes.
        torch.onnx.export(
            Named(model, tuple(given)).eval(), values, file, dynamo=False, opset_version=OPSET,
            input_names=names, output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def at_size(state: Mapping[str, Tensor], size: Size, depths: Depths) -> Reference:
    """Return the reference model at an image size."""
    reference = build_reference(config_at(size, depths)).eval()
    reference.load_state_dict(state)
    return reference


def errors(
    graph: onnx.ModelProto, state: Mapping[str, Tensor], depths: Depths
) -> dict[str, dict[str, float]]:
    """Compare the graph in ONNX Runtime with the reference of each size, in units of the RMS.

    The deploy model of that size stands next to it.
    """
    library = load_onnxruntime()
    data, providers = graph.SerializeToString(), ["CPUExecutionProvider"]
    session = library.InferenceSession(data, providers=providers)
    found = {}
    for size in CHECKED:
        reference, images = at_size(state, size, depths), image_at(size)
        expected = reference(images)
        values = {"images": images, **size_inputs(reference.config)}
        given = session.run(None, {name: value.numpy() for name, value in values.items()})
        found[size.sides] = {
            "one file, ONNX Runtime": largest_error(map(torch.from_numpy, given), expected),
            "deploy model of the size, PyTorch": largest_error(fold(reference)(images), expected),
        }
    return found


@torch.no_grad()
def largest_error(found: Iterable[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of any map's value, in units of the map's RMS."""
    return max(
        float((ours.flatten(2) - theirs.flatten(2)).abs().max() / theirs.pow(2).mean().sqrt())
        for ours, theirs in zip(found, expected, strict=True)
    )


def range_figures(
    graph: onnx.ModelProto, sizes: tuple[Size, Size, Size], depths: Depths
) -> dict[str, Any]:
    """Build an engine for a range of sizes, and return the figures of its plan.

    Raises:
        BuildError: If TensorRT cannot read or build it.
    """
    data, messages, version = _build(graph, [_shapes(size, depths) for size in sizes])
    plan = read_plan(messages, 1, source=(graph, FLAVOR, version))
    layers = next(text for text in reversed(messages) if LAYER in text)
    figures = {
        "kernels": plan.kernel_count,
        "fused": plan.fused_attention,
        "host_steps": layers.count(LAYER) - len(plan.kernels),
        "engine_mb": len(data) / 1e6,
    }
    return figures | ({"megabytes": plan.bytes_moved / 1e6} if sizes[0] == sizes[2] else {})


def _build(
    graph: onnx.ModelProto, shapes: Sequence[dict[str, tuple[int, ...]]]
) -> tuple[bytes, list[str], str]:
    """Return an engine, the builder's messages, and TensorRT's version."""
    trt = load_tensorrt(FLAVOR)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.SerializeToString()):
        raise BuildError(f"TensorRT cannot read the graph: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, *(shape[name] for shape in shapes))
    config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise BuildError(f"TensorRT could not build the engine: {logger.messages[-1]}")
    return bytes(data), logger.messages, str(trt.__version__)


def _shapes(size: Size, depths: Depths) -> dict[str, tuple[int, ...]]:
    values = {"images": image_at(size), **size_inputs(config_at(size, depths))}
    return {name: tuple(value.shape) for name, value in values.items()}


def _logger(trt: Any) -> Any:  # noqa: ANN401 - a module found at run time
    class Logger(trt.ILogger):  # type: ignore[misc]  # as above
        """A log of the builder's messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, _severity: object, message: str) -> None:
            self.messages.append(message)

    return Logger()


def fixed_figures(reference: Reference) -> dict[str, Any]:
    """Return the figures of the package's own engine of the reference's size, for one image."""
    spec = ExportSpec((3, *reference.config.image), reference.config.output_names, batch=1)
    graph = to_half(export_onnx(fold(reference), spec, metadata={}), io_precision="fp32")
    built = build_engine(graph, BatchProfile(1, 1, 1), options=EngineOptions(FLAVOR))
    plan = built.plan
    figures = {"kernels": plan.kernel_count, "fused": plan.fused_attention, "host_steps": 0}
    return figures | {"engine_mb": len(built.data) / 1e6, "megabytes": plan.bytes_moved / 1e6}


def engines(
    graph: onnx.ModelProto, state: Mapping[str, Tensor], depths: Depths
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a name and the figures of each engine."""
    half = to_half(graph, io_precision="fp32")
    sizes = (SMALLEST, USUAL, LARGEST)
    yield "inputs, " + " to ".join(size.sides for size in sizes), range_figures(half, sizes, depths)
    for size in (USUAL, LARGEST):
        yield f"inputs, {size.sides} alone", range_figures(half, (size, size, size), depths)
        yield f"constants, {size.sides}", fixed_figures(at_size(state, size, depths))


def inputs_mb(size: Size, depths: Depths) -> float:
    """Return the size of what an image size's inputs hold beside the image, in MB."""
    values = size_inputs(config_at(size, depths)).values()
    return sum(value.numel() * value.element_size() for value in values) / 1e6


def measure(depths: Depths) -> dict[str, Any]:
    """Return all figures, and what they hold for."""
    config = config_at(FOLDED, depths)
    reference = peers.trained_like(build_reference(config))
    state = dict(reference.named_parameters())
    graph = export_range(RangeModel(fold(reference), config), config)
    shown = "/".join(map(str, depths))
    return {
        "conditions": {
            "model": f"Swin-T widths, {shown} blocks, windows of 7, random weights",
            "plans": "TensorRT-RTX without a GPU, float16, one image",
            **package_versions(),
        },
        "nodes": len(graph.graph.node),
        "inputs": len(graph.graph.input),
        "inputs_mb": {size.sides: inputs_mb(size, depths) for size in (USUAL, LARGEST)},
        "operators": sorted({node.op_type for node in graph.graph.node}),
        "errors": errors(graph, state, depths),
        "engines": dict(engines(graph, state, depths)),
    }


def main(arguments: Sequence[str]) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, nargs=4, default=(2, 2, 6, 2), help="blocks a stage")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args(arguments)
    if min(asked.depths) < 1:
        parser.error("--depths are 1 or more")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    text = json.dumps(measure(tuple(asked.depths)), indent=2) + "\n"
    if asked.json:
        write_atomic(asked.json, text.encode())
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
