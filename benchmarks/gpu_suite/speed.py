"""Throughput beside PyTorch, timm and torchvision, and of ONNX Runtime beside a peer's export."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from exporters.backends import cuda_device_count, load_onnxruntime
from exporters.errors import MissingBackendError
from exporters.precision import to_half
from exporters.spec import Flavor, Precision
from exporters.to_onnx import export_onnx
from swin_deploy import pipeline
from swin_deploy.bench import BenchReport, Effort, Kind
from swin_deploy.bench.baselines import Compile, arithmetics, compiled, eager, graphed
from swin_deploy.bench.lanes import Contender
from swin_deploy.bench.originals import build_original, original_maker
from swin_deploy.bench.timing import time_runners
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import seeded_images
from swin_deploy.report.to_json import bench_to_dict
from swin_deploy.runners import CUDA_PROVIDER, OrtRunner, Runner, TrtRunner
from swin_deploy.suite.files import PRECISIONS, usable_engine, usable_onnx
from swin_deploy.suite.models import NOTEBOOK, TINY, Setup, suite_model

Keep = Callable[[dict[str, Any]], None]
PEER = "timm"
REFERENCE, DEPLOY = "PyTorch reference", "deploy model"


def throughput(
    name: str, setup: Setup, engines: dict[Flavor, str], compile_s: float, keep: Keep
) -> None:
    """Time a model in every way, one batch after the other; each is kept when it is done.

    Args:
        name: The model.
        setup: Sizes.
        engines: For each flavour, why its engine is not timed; empty where it ran before.
        compile_s: Seconds for compiling, half of what is left for each batch in turn.
        keep: Given everything so far after each batch.
    """
    loaded = suite_model(name, setup)
    models = _models(loaded)
    contenders = [*_as_they_are(models), *_files(loaded, engines, setup)]
    found: dict[str, Any] = {}
    for number, batch in enumerate(setup.batches):
        modes = _compiled(models, "default")
        allowed = compile_s / 2 ** (number + 1)
        found[str(batch)] = _time(loaded, [*contenders, *modes], batch, allowed, setup)
        keep({"batches": found})


def autotune(setup: Setup, engines: dict[Flavor, str], compile_s: float) -> dict[str, Any]:
    """torch.compile with max-autotune, which takes minutes, at the largest batch only."""
    loaded = suite_model(TINY, setup)
    models = _models(loaded)[:2]
    contenders = [*_as_they_are(models)[:1], *_files(loaded, engines, setup)]
    compiled_ones = [*_compiled(models, "max-autotune"), *_compiled(models, "default")]
    batch = setup.max_batch
    return {
        "batches": {
            str(batch): _time(loaded, [*contenders, *compiled_ones], batch, compile_s, setup)
        }
    }


def _time(
    loaded: LoadedModel, contenders: list[Contender], batch: int, compile_s: float, setup: Setup
) -> dict[str, Any]:
    report = time_runners(
        contenders,
        seeded_images(loaded.config, count=batch).images,
        model=loaded.name,
        batches=(batch,),
        effort=Effort(
            seconds=setup.timing_seconds, compile_seconds=compile_s, transfers=not setup.dry
        ),
    )
    return bench_to_dict(report)


Models = list[tuple[str, Kind, Callable[[], nn.Module]]]


def _models(loaded: LoadedModel) -> Models:
    """The baseline first: timm's model, but the reference for the notebook's."""
    ours: Models = [(DEPLOY, "deploy", lambda: loaded.deploy)]
    if loaded.name == NOTEBOOK:
        return [(REFERENCE, "reference", lambda: loaded.reference), *ours]
    first, *others = (
        (f"{library}'s model", "original", original_maker(loaded, library))
        for library in _peers(loaded)
    )
    return [first, *ours, *others]  # type: ignore[list-item] # the kind is a literal


def _as_they_are(models: Models) -> list[Contender]:
    """Each model eager in each arithmetic, and as a CUDA graph."""
    kinds = arithmetics()
    found = [one for title, kind, make in models for one in eager(title, make, kind, kinds=kinds)]
    return found + [one for title, kind, make in models for one in graphed(title, make, kind)]


def _compiled(models: Models, mode: Compile) -> list[Contender]:
    return [
        one for title, kind, make in models for one in compiled(title, make, kind, modes=[mode])
    ]


def _peers(loaded: LoadedModel) -> tuple[str, ...]:
    return (PEER, "torchvision") if loaded.name == TINY else (PEER,)


def _files(loaded: LoadedModel, engines: dict[Flavor, str], setup: Setup) -> list[Contender]:
    found = [
        _file(functools.partial(usable_onnx, loaded, precision, setup), precision)
        for precision in PRECISIONS
    ]
    for flavor, reason in engines.items():
        for graph in (False, True):
            title = f"{flavor} fp16" + (", CUDA graph" if graph else "")
            found.append(_engine(loaded, flavor, title, reason=reason, graph=graph, setup=setup))
    return found


def _file(path: Callable[[], Path], precision: Precision) -> Contender:
    """An ONNX file, on the GPU where there is one; on the CPU of a GPU machine it shows nothing."""
    title = f"ONNX {precision}"
    try:
        _require_provider()
        runner: Runner = OrtRunner(path(), precision, name=title)
    except MissingBackendError as err:
        return Contender(OrtRunner(Path(), precision, name=title), "", "onnx", "file", str(err))
    return Contender(runner, "", "onnx", "file")


def _require_provider() -> None:
    providers = load_onnxruntime().get_available_providers()
    if cuda_device_count() and CUDA_PROVIDER not in providers:
        raise MissingBackendError(
            "onnxruntime here has no CUDA provider; pip install onnxruntime-gpu instead"
        )


def _engine(
    loaded: LoadedModel, flavor: Flavor, title: str, *, reason: str, graph: bool, setup: Setup
) -> Contender:
    if not reason:
        try:
            path = usable_engine(loaded, flavor, setup)
            return Contender(TrtRunner(path, name=title, cuda_graph=graph), "", "engine", "file")
        except MissingBackendError as err:
            reason = str(err)
    absent = OrtRunner(Path(), "fp16", name=title)
    return Contender(absent, "", "engine", "file", reason)


def peer_export(setup: Setup) -> dict[str, Any]:
    """Our ONNX file in ONNX Runtime beside timm's model through the same exporter.

    Raises:
        MissingBackendError: If timm is not here, or ONNX Runtime cannot use the GPU.
    """
    _require_provider()
    loaded = suite_model(TINY, setup)
    theirs = _peer_files(loaded, setup)
    contenders = []
    for precision in PRECISIONS:
        runners = {
            f"{PEER}'s model as ONNX {precision}": ("original", theirs[precision]),
            f"ONNX {precision}": ("onnx", usable_onnx(loaded, precision, setup)),
        }
        contenders += [
            Contender(OrtRunner(path, precision, name=title), "", kind, "file")  # type: ignore[arg-type] # a Kind
            for title, (kind, path) in runners.items()
        ]
    report: BenchReport = time_runners(
        contenders,
        seeded_images(loaded.config, count=setup.max_batch).images,
        model=TINY,
        batches=setup.batches,
        effort=Effort(seconds=setup.timing_seconds * len(setup.batches)),
    )
    nodes = {
        str(path.name): len(onnx.load(path, load_external_data=False).graph.node)
        for path in theirs.values()
    }
    return {"nodes": nodes, "batches": _by_batch(report)}


def _peer_files(loaded: LoadedModel, setup: Setup) -> dict[Precision, Path]:
    """ONNX files of timm's model: those there are, or new ones."""
    paths = {p: setup.artifacts / f"{PEER}-{pipeline.onnx_name(TINY, p, 18)}" for p in PRECISIONS}
    if not all(path.is_file() for path in paths.values()):
        model = build_original(loaded, PEER)
        spec = pipeline.export_spec(loaded, opset=18)
        graph = export_onnx(model, spec, metadata={})
        setup.artifacts.mkdir(parents=True, exist_ok=True)
        onnx.save(graph, paths["fp32"])
        onnx.save(to_half(graph, io_precision="fp32"), paths["fp16"])
    return paths


def _by_batch(report: BenchReport) -> dict[str, Any]:
    values = bench_to_dict(report)
    batches: Iterable[int] = dict.fromkeys(result["batch"] for result in values["results"])
    return {
        str(batch): values | {"results": [r for r in values["results"] if r["batch"] == batch]}
        for batch in batches
    }
