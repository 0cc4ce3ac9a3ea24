"""What is held against the reference: the deploy model and every file made from it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from torch import nn

from exporters.half_precision import float32_modules, precision_of
from exporters.spec import Precision, Stage
from exporters.text_files import naming
from exporters.to_onnx import load_onnx
from exporters.weights import without_weights
from swin_deploy.artifacts.facts import check_origin, facts_in_graph, facts_in_manifest
from swin_deploy.artifacts.pipeline import read_engine_manifest
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.runners import OrtRunner, Runner, TorchRunner, TorchWay, TrtRunner, deploy_runner
from swin_deploy.runners.emulated import EmulatedRunner
from swin_deploy.runners.intermediates import Probed, tappable_graph, tappable_module


@dataclass(frozen=True)
class Candidate:
    """One stage to judge.

    Attributes:
        runner: What runs it; not open yet.
        stage: As in ``Hop``.
        file: File name of the artefact, or empty.
        family: Of the model, where its tolerance differs.
        probed: What looks into it, where that can be done.
        second_opinion: Whether Polygraphy repeats every verdict.
    """

    runner: Runner
    stage: Stage
    file: str = ""
    family: str = ""
    probed: Probed | None = None
    second_opinion: bool = True


def module_candidate(
    loaded: LoadedModel, module: nn.Module, *, precision: Precision = "fp32"
) -> Candidate:
    """A module in the deploy model's place."""
    name = "deploy model" if precision == "fp32" else f"deploy model {precision}"
    return Candidate(
        TorchRunner(name, module, arithmetic=precision),
        "deploy",
        family=loaded.config.family,
        probed=tappable_module(module, precision),
    )


def compiled_candidate(loaded: LoadedModel, way: TorchWay) -> Candidate:
    """The deploy model as PyTorch ships it; only its outputs can be read."""
    runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    return Candidate(runner, "deploy", family=loaded.config.family)


def graph_candidate(loaded: LoadedModel, graph: onnx.ModelProto, path: Path) -> Candidate:
    """An ONNX graph, of which the structure is enough, and the file that holds it."""
    precision = precision_of(graph)
    return Candidate(
        OrtRunner(path, precision, name=f"ONNX {precision}", steps=loaded.preprocessing),
        "onnx",
        path.name,
        loaded.config.family,
        tappable_graph(path, graph, precision, steps=loaded.preprocessing),
    )


@dataclass(frozen=True)
class Made:
    """What to prove: ONNX graphs and engines made from one model, and the model in PyTorch.

    Attributes:
        onnx: ONNX files.
        engines: Engine files.
        runner: How PyTorch is to run the deploy model besides; None for not at all.
    """

    onnx: tuple[Path, ...] = ()
    engines: tuple[Path, ...] = ()
    runner: TorchWay | None = None

    @functools.cached_property
    def graphs(self) -> tuple[ModelProto, ...]:
        """The structure of each ONNX file, read and checked once.

        Raises:
            ExportError: If a file cannot be read.
        """
        return tuple(without_weights(load_onnx(path)) for path in self.onnx)

    @property
    def takes_pixels(self) -> bool:
        """Whether one of the files takes pixels of 0 to 255, not normalised images.

        Raises:
            DeployError: If a file cannot be read.
        """
        kinds = [graph.graph.input[0].type.tensor_type.elem_type for graph in self.graphs]
        engines = [read_engine_manifest(path).get("input_type") for path in self.engines]
        return TensorProto.UINT8 in kinds or "uint8" in engines


def stages(loaded: LoadedModel, made: Made) -> list[tuple[Stage, str, Runner]]:
    """Stage, file name and runner of everything to compare with the reference, in order.

    The deploy model comes first, then it once more where PyTorch is to run it in another way, then
    the ONNX files and the engines as ``made`` has them.

    Raises:
        ComparisonError: If a file was not made from this model.
        DeployError: If a file cannot be read.
    """
    return [(one.stage, one.file, one.runner) for one in candidates(loaded, made)]


def candidates(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """The deploy model, and what was made from it, to judge; raises as ``stages``."""
    found = [module_candidate(loaded, loaded.deploy)]
    if made.runner:
        found.append(compiled_candidate(loaded, made.runner))
    for path, graph in zip(made.onnx, made.graphs, strict=True):
        with naming(path):
            check_origin(path, facts_in_graph(graph, path), loaded)
            found.append(graph_candidate(loaded, graph, path))
    for path in made.engines:
        manifest = read_engine_manifest(path)
        with naming(path):
            check_origin(path, facts_in_manifest(manifest, path), loaded)
        name = f"engine {manifest['precision']}"
        runner = TrtRunner(path, name=name, steps=loaded.preprocessing)
        found.append(Candidate(runner, "engine", path.name, loaded.config.family))
    return found


def emulated(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """The deploy model in the half precisions of the ONNX files, every operation rounded.

    ONNX Runtime's CPU provider runs chains of float16 nodes in float32 without rounding between
    them, so what overflows on a GPU is finite there; and it has no bfloat16 kernels.
    """
    graphs = {precision_of(graph): graph for graph in made.graphs}
    return [
        Candidate(
            EmulatedRunner(
                f"deploy model {precision}, emulated",
                loaded.deploy,
                precision,
                keep=float32_modules(graph),
            ),
            "deploy",
            family=loaded.config.family,
        )
        for precision, graph in graphs.items()
        if precision != "fp32"
    ]
