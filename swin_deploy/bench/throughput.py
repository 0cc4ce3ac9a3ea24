"""Throughput of one model and the files made from it, with the baselines that others would run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import nn

from exporters.progress import Progress, silent
from swin_deploy.bench import BenchReport, Effort
from swin_deploy.bench.baselines import arithmetics, compiled, eager, graphed
from swin_deploy.bench.contenders import Contender
from swin_deploy.bench.originals import library_of, original_maker
from swin_deploy.bench.timing import time_runners
from swin_deploy.candidates import Made, stages, tell_apart
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.config.memory import require_memory
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.sets import seeded_images, to_pixel_values
from swin_deploy.runners import TorchWay, TrtRunner, deploy_runner, torch_ways
from swin_deploy.runners.deployed import DEPLOY_MODEL, way_text

Against = Literal["eager", "compile", "max-autotune", "original"]
AGAINST: tuple[Against, ...] = get_args(Against)
BASELINE = "PyTorch reference"


def measure_throughput(
    loaded: LoadedModel,
    made: Made,
    *,
    batches: Sequence[int],
    effort: Effort,
    against: Sequence[Against] = ("eager",),
    progress: Progress = silent,
) -> BenchReport:
    """Time the reference, the deploy model and each file made from it, with other baselines.

    Args:
        loaded: The model.
        made: Its files, and the ways to run them and the deploy model.
        batches: Batch sizes, in images a call.
        effort: Method and length of the measurement.
        against: Kinds of baseline. ``eager``: on a GPU also TF32, float16, autocast and CUDA
            graphs. ``compile``: torch.compile of every PyTorch model here, on a GPU also as CUDA
            graphs. ``max-autotune``: its slower setting, too. ``original``: the model of the
            library that the checkpoint comes from.
        progress: Function that is told what is done, before it is done.

    Raises:
        ComparisonError: If a file was not made from this model.
        ConfigError: If this machine does not have the memory for a batch.
        DeployError: If a file cannot be read.
    """
    require_memory(loaded.config, batch=max(batches))
    files = [
        Contender(runner, kind="onnx" if stage == "onnx" else "engine", mode="file")
        for stage, _, runner in stages(loaded, made)
        if stage != "deploy"
    ]
    files += graphed_engines(made, loaded.preprocessing)
    shipped = [_deployed(loaded, way) for way in torch_ways(made.ways)]
    images = seeded_images(loaded.config, count=max(batches))
    if made.takes_pixels:
        images = to_pixel_values(images, loaded.preprocessing)
    report = time_runners(
        [*_without(shipped, _pytorch(loaded, against)), *shipped, *files],
        images.images,
        model=loaded.name,
        batches=batches,
        effort=effort,
        progress=progress,
    )
    conditions = {"left out": _left_out(loaded, against)}
    if loaded.config.in_channels != 3:
        conditions["channels"] = str(loaded.config.in_channels)
    return _with_conditions(report, {name: text for name, text in conditions.items() if text})


def graphed_engines(made: Made, steps: Preprocessing) -> list[Contender]:
    """Make a contender of each engine that launches its kernels as one CUDA graph.

    Args:
        made: The files.
        steps: Preprocessing of the model.

    Returns:
        One contender for each engine; none without a GPU.
    """
    if not torch.cuda.is_available():
        return []
    runners = [TrtRunner(engine, cuda_graph=True, steps=steps) for engine in made.engines]
    tell_apart([(one, engine.path) for one, engine in zip(runners, made.engines, strict=True)])
    models = [runner.name for runner in runners]
    for runner in runners:
        runner.name += ", CUDA graph"
    return [
        Contender(runner, kind="engine", mode="file", model=model, way="CUDA graph")
        for runner, model in zip(runners, models, strict=True)
    ]


def _deployed(loaded: LoadedModel, way: TorchWay) -> Contender:
    runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    text = way_text(loaded.config, way)
    return Contender(runner, kind="deploy", mode="compile", model=DEPLOY_MODEL, way=text)


def _without(shipped: Sequence[Contender], others: Sequence[Contender]) -> list[Contender]:
    """Drop the others that are also shipped in the same way, so that each is timed once."""
    ways = {(one.model, one.way, one.runner.precision) for one in shipped}
    return [one for one in others if (one.model, one.way, one.runner.precision) not in ways]


def _pytorch(loaded: LoadedModel, against: Sequence[Against]) -> list[Contender]:
    """Make the PyTorch contenders, first the baseline: the reference in strict float32."""
    models = _models(loaded, against)
    found: list[Contender] = []
    for kind, (name, make) in models.items():
        kinds = arithmetics() if "eager" in against else arithmetics()[:1]
        found += eager(name, make, kind, kinds=kinds)
    for kind, (name, make) in models.items():
        found += graphed(name, make, kind) if "eager" in against else []
        if "compile" in against:
            found += compiled(name, make, kind, modes=["default"])
        if "max-autotune" in against:
            found += compiled(name, make, kind, modes=["max-autotune"])
    return found


Models = dict[Literal["reference", "deploy", "original"], tuple[str, Callable[[], nn.Module]]]


def _models(loaded: LoadedModel, against: Sequence[Against]) -> Models:
    found: Models = {
        "reference": (BASELINE, lambda: loaded.reference),
        "deploy": (DEPLOY_MODEL, lambda: loaded.deploy),
    }
    library = library_of(loaded)
    if "original" in against and library:
        found["original"] = (f"{library}'s model", original_maker(loaded, library))
    return found


def _left_out(loaded: LoadedModel, against: Sequence[Against]) -> str:
    """Describe the baselines that were asked for and do not exist, and those not asked for."""
    notes = []
    if "original" in against and not library_of(loaded):
        notes.append("original: the PyTorch reference is the notebook's own code")
    if len(arithmetics()) == 1 and "eager" in against:
        notes.append("TF32, float16, autocast and CUDA graphs of PyTorch: they are for GPUs")
    missing = [name for name in AGAINST if name not in against]
    if missing:
        notes.append(f"not asked for: {', '.join(missing)} (bench --against)")
    return "; ".join(notes)


def _with_conditions(report: BenchReport, more: dict[str, str]) -> BenchReport:
    conditions = report.conditions | more
    return BenchReport(
        report.model, report.img_size, report.results, conditions, report.comparisons
    )
