"""What is held against the reference: the deploy model and every file made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from exporters.half_precision import float32_modules
from exporters.spec import Precision, Stage
from exporters.text_files import naming
from swin_deploy.artifacts.facts import check_origin, facts_in_manifest
from swin_deploy.artifacts.onnx_file import OnnxFile, read_onnx
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.runners import OrtRunner, Runner, TorchRunner, TorchWay, TrtRunner, deploy_runner
from swin_deploy.runners.emulated import EmulatedRunner
from swin_deploy.runners.engine_manifest import EngineManifest, read_engine_manifest
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


def graph_candidate(loaded: LoadedModel, file: OnnxFile) -> Candidate:
    """An ONNX file, of which the graph's structure is enough."""
    precision, steps = file.precision, loaded.preprocessing
    return Candidate(
        OrtRunner(file.path, precision, name=f"ONNX {precision}", steps=steps),
        "onnx",
        file.path.name,
        loaded.config.family,
        tappable_graph(file.path, file.graph, precision, steps=steps),
    )


@dataclass(frozen=True)
class Made:
    """What to prove: ONNX graphs and engines made from one model, and the model in PyTorch.

    Attributes:
        onnx: ONNX files, without their weights.
        engines: Engines.
        runner: How PyTorch is to run the deploy model besides; None for not at all.
    """

    onnx: tuple[OnnxFile, ...] = ()
    engines: tuple[EngineManifest, ...] = ()
    runner: TorchWay | None = None

    @property
    def takes_pixels(self) -> bool:
        """Whether one of the files takes pixels of 0 to 255, not normalised images."""
        types = [one.input_type for one in self.onnx]
        types += [one.input_type for one in self.engines]
        return "uint8" in types


def read_made(
    onnx: Iterable[Path] = (), engines: Iterable[Path] = (), runner: TorchWay | None = None
) -> Made:
    """Read files made from a model; raises as ``read_onnx`` and ``read_engine_manifest``."""
    graphs = tuple(read_onnx(path).without_weights() for path in onnx)
    return Made(graphs, tuple(map(read_engine_manifest, engines)), runner)


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
    for file in made.onnx:
        with naming(file.path):
            check_origin(file.path, file.facts, loaded)
            found.append(graph_candidate(loaded, file))
    for engine in made.engines:
        with naming(engine.path):
            facts = facts_in_manifest(engine.values, engine.path)
            check_origin(engine.path, facts, loaded)
        name = f"engine {engine.precision}"
        runner = TrtRunner(engine, name=name, steps=loaded.preprocessing)
        found.append(Candidate(runner, "engine", engine.path.name, loaded.config.family))
    return found


def emulated(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """The deploy model in the half precisions of the ONNX files, every operation rounded.

    ONNX Runtime's CPU provider runs chains of float16 nodes in float32 without rounding between
    them, so what overflows on a GPU is finite there; and it has no bfloat16 kernels.
    """
    graphs = {file.precision: file.graph for file in made.onnx}
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
