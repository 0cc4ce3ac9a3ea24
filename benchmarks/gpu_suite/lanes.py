"""Runners that are timed in the same rounds: PyTorch's ways, ONNX files and engines of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks.gpu_suite.files import PRECISIONS, usable_engine, usable_onnx
from benchmarks.gpu_suite.models import NOTEBOOK, TINY, Setup
from exporters.backends import cuda_device_count, load_onnxruntime
from exporters.errors import MissingBackendError
from exporters.spec import Flavor, Precision
from swin_deploy.bench import Kind
from swin_deploy.bench.baselines import (
    best_arithmetic,
    compiled,
    eager,
    graphed,
)
from swin_deploy.bench.contenders import Contender
from swin_deploy.bench.originals import original_maker
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.runners import CUDA_PROVIDER, OrtRunner, Runner, TrtRunner
from swin_deploy.runners.compiling import CompileMode
from swin_deploy.runners.deployed import TorchWay, deploy_runner, way_text
from swin_deploy.runners.fused import why_not_fused
from swin_deploy.runners.pytorch import Arithmetic

PEER = "timm"
REFERENCE, DEPLOY = "PyTorch reference", "deploy model"


@dataclass(frozen=True)
class PyTorchModel:
    """A model that PyTorch runs.

    Attributes:
        title: Name for the results.
        kind: Kind of model: the reference, the deploy model or the original library's.
        make: Function that gives the module.
    """

    title: str
    kind: Kind
    make: Callable[[], nn.Module]


@dataclass(frozen=True)
class Engine:
    """An engine to time, or the reason why there is none.

    Attributes:
        file: Name of the file among the artefacts.
        missing: Reason why it is not timed; empty if its own part ran it.
    """

    file: str
    missing: str


Engines = dict[Flavor, Engine]


def models_of(loaded: LoadedModel) -> list[PyTorchModel]:
    """List the models to time in PyTorch, the baseline first.

    The baseline is timm's model, or the reference for the notebook's model.
    """
    ours = PyTorchModel(DEPLOY, "deploy", lambda: loaded.deploy)
    if loaded.name == NOTEBOOK:
        return [PyTorchModel(REFERENCE, "reference", lambda: loaded.reference), ours]
    libraries = (PEER, "torchvision") if loaded.name == TINY else (PEER,)
    first, *others = (
        PyTorchModel(f"{library}'s model", "original", original_maker(loaded, library))
        for library in libraries
    )
    return [first, ours, *others]


def judge_of(loaded: LoadedModel) -> Contender:
    """Make the contender whose output the others are compared with.

    It is the reference in strict float32, and is not timed.
    """
    (found,) = eager(REFERENCE, lambda: loaded.reference, "reference", kinds=["fp32"])
    return Contender(found.runner, found.precision, found.kind, found.mode, timed=False)


def plain(models: Sequence[PyTorchModel]) -> list[Contender]:
    """Make contenders of each model as it is in the fastest arithmetic, and as a CUDA graph."""
    best = [best_arithmetic()]
    return [
        lane
        for one in models
        for lane in (
            *eager(one.title, one.make, one.kind, kinds=best),
            *graphed(one.title, one.make, one.kind),
        )
    ]


def in_float32(models: Sequence[PyTorchModel], kinds: Sequence[Arithmetic]) -> list[Contender]:
    """Make contenders of each model with float32 weights, one for each arithmetic."""
    return [lane for one in models for lane in eager(one.title, one.make, one.kind, kinds=kinds)]


def by_compiler(models: Sequence[PyTorchModel], mode: CompileMode) -> list[Contender]:
    """Make contenders of each model through torch.compile, and as a CUDA graph of that."""
    return [
        lane for one in models for lane in compiled(one.title, one.make, one.kind, modes=[mode])
    ]


def deployed(loaded: LoadedModel, way: TorchWay = "torch") -> list[Contender]:
    """Make a contender of the deploy model as ``--runner torch`` runs it.

    There is none if its attention cannot be one kernel: it would be the compiled deploy model,
    which is among the others already.
    """
    if why_not_fused():
        return []
    runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    text = way_text(loaded.config, way)
    return [Contender(runner, kind="deploy", mode="compile", model=DEPLOY, way=text)]


def onnx_files(loaded: LoadedModel, setup: Setup) -> list[Contender]:
    """Make contenders of the ONNX files.

    They run on the GPU if there is one; if ONNX Runtime cannot use it, they have the reason in
    ``not_run``, since the CPU of a GPU machine shows nothing.
    """
    return [
        _file(functools.partial(usable_onnx, loaded, precision, setup), precision)
        for precision in PRECISIONS
    ]


def _file(path: Callable[[], Path], precision: Precision) -> Contender:
    title = f"ONNX {precision}"
    try:
        require_provider()
        runner: Runner = OrtRunner(path(), precision, name=title)
    except MissingBackendError as err:
        return Contender(OrtRunner(Path(), precision, name=title), "", "onnx", "file", str(err))
    return Contender(runner, "", "onnx", "file")


def require_provider() -> None:
    """Fail if there is a GPU that ONNX Runtime cannot use.

    Raises:
        MissingBackendError: If ONNX Runtime is not installed, or cannot use the GPU.
    """
    providers = load_onnxruntime().get_available_providers()
    if cuda_device_count() and CUDA_PROVIDER not in providers:
        raise MissingBackendError(
            "onnxruntime here has no CUDA provider; pip install onnxruntime-gpu instead"
        )


def engines(
    loaded: LoadedModel, found: Engines, setup: Setup, *, graphs: Sequence[bool] = (False, True)
) -> list[Contender]:
    """Make contenders of each engine, as it is and as a CUDA graph.

    Args:
        loaded: The model.
        found: Engines of the model; one that is missing gives a contender with the reason.
        setup: Settings of the suite.
        graphs: True for a CUDA graph, False for the engine as it is; one contender each.
    """
    return [
        _engine(loaded, flavor, one, graph=graph, setup=setup)
        for flavor, one in found.items()
        for graph in graphs
    ]


def _engine(
    loaded: LoadedModel, flavor: Flavor, engine: Engine, *, graph: bool, setup: Setup
) -> Contender:
    model, how = f"{flavor} fp16", "CUDA graph" if graph else ""
    title = ", ".join(filter(None, (model, how)))
    reason = engine.missing
    if not reason:
        try:
            path = usable_engine(loaded, engine.file, setup)
            runner = TrtRunner(path, name=title, cuda_graph=graph)
            return Contender(runner, "", "engine", "file", model=model, way=how)
        except MissingBackendError as err:
            reason = str(err)
    absent = OrtRunner(Path(), "fp16", name=title)
    return Contender(absent, "", "engine", "file", reason, model=model, way=how)
