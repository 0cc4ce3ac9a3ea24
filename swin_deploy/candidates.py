"""The candidates compared with the reference: the deploy model and every file made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import nn

from exporters.errors import ComparisonError
from exporters.half_precision import float32_modules
from exporters.precisions import REDUCED
from exporters.quantisation import quantised_scales, quantised_weights
from exporters.spec import Precision, Stage
from exporters.text_files import naming
from swin_deploy.artifacts.facts import check_origin, facts_in_manifest
from swin_deploy.artifacts.onnx_file import OnnxFile, read_onnx
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.runners import (
    OpenvinoRunner,
    OpenvinoWay,
    OrtRunner,
    Runner,
    TorchRunner,
    TorchWay,
    TrtRunner,
    Way,
    deploy_runner,
    openvino_ways,
    torch_ways,
)
from swin_deploy.runners.emulated import EmulatedRunner, Stored
from swin_deploy.runners.engine_manifest import EngineManifest, read_engine_manifest
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
        way: Way that it is run in, if it was asked for; None for the module's or file's own.
        source: The file with its digest; None for a module.
    """

    runner: Runner
    stage: Stage
    file: str = ""
    family: str = ""
    probed: Probed | None = None
    second_opinion: bool = True
    way: Way | None = None
    source: OnnxFile | EngineManifest | None = None


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
    """Return the candidate for the compiled deploy model; only its outputs can be read.

    Args:
        loaded: The model.
        way: Way in which PyTorch runs it: ``torch``, or ``torch-max-autotune``.
    """
    runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    return Candidate(runner, "deploy", family=loaded.config.family, way=way)


def graph_candidate(
    loaded: LoadedModel, file: OnnxFile, way: OpenvinoWay | None = None
) -> Candidate:
    """Return the candidate for an ONNX file, of which the graph's structure is enough.

    Args:
        loaded: The model.
        file: The file.
        way: Way in which OpenVINO runs it; None for ONNX Runtime.
    """
    precision, steps = file.precision, loaded.preprocessing
    runner: Runner = OrtRunner(file.path, precision, name=f"ONNX {precision}", steps=steps)
    if way is not None:
        runner = OpenvinoRunner(file.path, precision, way=way, steps=steps)
    return Candidate(
        runner,
        "onnx",
        file.path.name,
        loaded.config.family,
        tappable_graph(
            file.path, file.graph, precision, steps=steps, runtime=file.runtime, way=way
        ),
        way=way,
        source=file,
    )


@dataclass(frozen=True)
class Made:
    """The files made from one model, and further ways to run them and the model itself.

    Attributes:
        onnx: ONNX files, without their weights.
        engines: Manifests of the engines.
        ways: Ways in which PyTorch also runs the compiled deploy model, and OpenVINO the ONNX
            files.
    """

    onnx: tuple[OnnxFile, ...] = ()
    engines: tuple[EngineManifest, ...] = ()
    ways: tuple[Way, ...] = ()

    @property
    def takes_pixels(self) -> bool:
        """True if one of the files takes pixels of 0 to 255, not normalised images."""
        types = [one.input_type for one in self.onnx]
        types += [one.input_type for one in self.engines]
        return "uint8" in types


def read_made(
    onnx: Iterable[Path] = (), engines: Iterable[Path] = (), ways: Iterable[Way] = ()
) -> Made:
    """Read files made from a model.

    Args:
        onnx: Paths of ONNX files; only the structure of their graphs is kept.
        engines: Paths of engines with their manifests.
        ways: Ways in which PyTorch also runs the compiled deploy model, and OpenVINO the ONNX
            files.

    Raises:
        ComparisonError: If OpenVINO is to run ONNX files, and there is none.
        DeployError: As ``read_onnx`` and ``read_engine_manifest``.
    """
    graphs = tuple(read_onnx(path).without_weights() for path in onnx)
    of_files = openvino_ways(ways)
    if of_files and not graphs:
        raise ComparisonError(
            f"runner {of_files[0]} runs ONNX files, and none is given; make one with swin-deploy "
            "export and name it"
        )
    return Made(graphs, tuple(map(read_engine_manifest, engines)), tuple(ways))


def stages(loaded: LoadedModel, made: Made) -> list[tuple[Stage, str, Runner]]:
    """List stage, file name and runner of everything to compare with the reference, in order.

    The deploy model comes first, then the compiled deploy model in the ways of ``made``, then each
    ONNX file in ONNX Runtime and in those of OpenVINO, then the engines.

    Args:
        loaded: The reference model.
        made: Files made from it.

    Raises:
        ComparisonError: If a file was not made from this model.
        DeployError: If a file cannot be read.
    """
    return [(one.stage, one.file, one.runner) for one in candidates(loaded, made)]


def candidates(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """List the deploy model and the files made from it as candidates.

    Arguments, order and errors are those of ``stages``.
    """
    found = [module_candidate(loaded, loaded.deploy)]
    found += [compiled_candidate(loaded, way) for way in torch_ways(made.ways)]
    for file in made.onnx:
        with naming(file.path):
            check_origin(file.path, file.facts, loaded)
            ways = (None, *openvino_ways(made.ways))
            found += [graph_candidate(loaded, file, way) for way in ways]
    for engine in made.engines:
        with naming(engine.path):
            facts = facts_in_manifest(engine.values, engine.path)
            check_origin(engine.path, facts, loaded)
        name = f"engine {engine.precision}"
        runner = TrtRunner(engine, name=name, steps=loaded.preprocessing)
        name, family = engine.path.name, loaded.config.family
        found.append(Candidate(runner, "engine", name, family, source=engine))
    tell_apart([(one.runner, one.source.path) for one in found if one.source is not None])
    return found


def tell_apart(runners: Sequence[tuple[Runner, Path]]) -> None:
    """Add the file to the names of runners that have the same name.

    Args:
        runners: Runners with the path of the file that each runs.
    """
    names = Counter(runner.name for runner, _ in runners)
    files = Counter((runner.name, path.name) for runner, path in runners)
    for runner, path in runners:
        if names[runner.name] > 1:
            runner.name += f", {path.name if files[runner.name, path.name] == 1 else path}"


def stored_in(graph: onnx.ModelProto) -> dict[str, Stored]:
    """Return the rounding to FP8 of the linear layers of a graph, by path."""
    weights = quantised_weights(graph)
    return {
        path: Stored(scale, weights.get(path, "half"))
        for path, scale in quantised_scales(graph).items()
    }


def emulated(loaded: LoadedModel, made: Made) -> list[Candidate]:
    """List the deploy model in emulated half precision, once for each rounding of the ONNX files.

    ONNX Runtime's CPU provider runs chains of float16 nodes in float32 without rounding between
    them, so values that overflow on a GPU stay finite there; and it has no bfloat16 kernels. Files
    of one precision that keep other parts in float32, or have other scales, round differently.

    Args:
        loaded: The reference model.
        made: Files made from it, of which the ONNX files give the half types.

    Raises:
        ExportError: If a file cannot be read.
    """
    found: dict[Hashable, tuple[EmulatedRunner, Path]] = {}
    for file in made.onnx:
        if file.precision not in REDUCED:
            continue
        kept, stored = float32_modules(file.graph), stored_in(file.graph)
        rounding = (file.precision, frozenset(kept), frozenset(stored.items()))
        if rounding not in found:
            name = f"deploy model {file.precision}, emulated"
            runner = EmulatedRunner(name, loaded.deploy, file.precision, keep=kept, stored=stored)
            found[rounding] = runner, file.path
    tell_apart(list(found.values()))
    family = loaded.config.family
    return [Candidate(runner, "deploy", family=family) for runner, _ in found.values()]
