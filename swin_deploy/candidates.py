"""The candidates compared with the reference: the deploy model and every file made from it."""

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
    """One model or file to compare with the reference.

    Attributes:
        runner: The runner, not open yet.
        stage: Kind of the candidate, as in ``Hop``: ``deploy``, ``onnx`` or ``engine``.
        file: File name of the artefact; empty for a module.
        family: Family of the model, such as ``swinv2``, which may have its own tolerances.
        probed: Access to the intermediate tensors; None if only the outputs can be read.
        second_opinion: True to have Polygraphy repeat every verdict.
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
    """Return the candidate for a module in the deploy model's place, run by PyTorch.

    Args:
        loaded: The model that the module was made from.
        module: The module, in float32; it is left as it is.
        precision: Precision of weights and activations.
    """
    name = "deploy model" if precision == "fp32" else f"deploy model {precision}"
    return Candidate(
        TorchRunner(name, module, arithmetic=precision),
        "deploy",
        family=loaded.config.family,
        probed=tappable_module(module, precision),
    )


def compiled_candidate(loaded: LoadedModel, way: TorchWay) -> Candidate:
    """Return the candidate for the compiled deploy model; only its outputs can be read."""
    runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    return Candidate(runner, "deploy", family=loaded.config.family)


def graph_candidate(loaded: LoadedModel, graph: onnx.ModelProto, path: Path) -> Candidate:
    """Return the candidate for an ONNX file, run by ONNX Runtime.

    Args:
        loaded: The model that the file was made from.
        graph: The file's graph; the structure without weights is enough.
        path: Path of the file.
    """
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
    """The files made from one model, and the way that PyTorch runs the model itself.

    Attributes:
        onnx: Paths of the ONNX files.
        engines: Paths of the engines.
        runner: The way that PyTorch runs the deploy model compiled; None does not compile it.
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
        """Whether one of the files takes pixels, uint8, instead of normalised images.

        Raises:
            DeployError: If a file cannot be read.
        """
        kinds = [graph.graph.input[0].type.tensor_type.elem_type for graph in self.graphs]
        engines = [read_engine_manifest(path).get("input_type") for path in self.engines]
        return TensorProto.UINT8 in kinds or "uint8" in engines


def stages(loaded: LoadedModel, made: Made) -> list[tuple[Stage, str, Runner]]:
    """List stage, file name and runner of everything to compare with the reference, in order.

    The deploy model comes first, then the compiled deploy model if ``made`` has a runner, then the
    ONNX files and the engines in the order of ``made``.

    Raises:
        ComparisonError: If a file was not made from this model.
        DeployError: If a file cannot be read.
    """
    return [(one.stage, one.file, one.runner) for one in candidates(loaded, made)]


def candidates(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """List the deploy model and the files made from it as candidates, in the order of ``stages``.

    Raises:
        ComparisonError: If a file was not made from this model.
        DeployError: If a file cannot be read.
    """
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
    """List the deploy model in emulated half precision, once for each half type of the ONNX files.

    ONNX Runtime's CPU provider runs chains of float16 nodes in float32 without rounding between
    them, so values that overflow on a GPU stay finite there; and it has no bfloat16 kernels.

    Raises:
        ExportError: If a file cannot be read.
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
