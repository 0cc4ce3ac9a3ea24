"""Timing of one model in many ways, kept runner by runner and batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.gpu_suite.files import PRECISIONS, usable_onnx
from benchmarks.gpu_suite.lanes import (
    PEER,
    Engines,
    by_compiler,
    deployed,
    engines,
    in_float32,
    judge_of,
    models_of,
    onnx_files,
    plain,
    require_provider,
)
from benchmarks.gpu_suite.models import TINY, Setup, suite_model
from exporters.half_precision import to_half
from exporters.spec import Precision
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.onnx_file import export_spec, onnx_name
from swin_deploy.bench import BenchReport, Effort
from swin_deploy.bench.baselines import arithmetics
from swin_deploy.bench.contenders import Contender
from swin_deploy.bench.originals import build_original
from swin_deploy.bench.timing import time_in_steps, time_runners
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import seeded_images
from swin_deploy.report.to_json import to_json
from swin_deploy.runners import OrtRunner

Keep = Callable[[dict[str, Any]], None]
Found = dict[str, Any]


@dataclass(frozen=True)
class Memory:
    """Results of a part that outlive its process.

    Attributes:
        earlier: Results of this part when it was cut short; empty for a new start.
        keep: Function that is given all results so far, whenever there are more.
    """

    earlier: Found
    keep: Keep


ALONE = 5  # calls of a runner on its own, in case the run ends before the rounds
# Share of the time for compiling that the first batch has: it is that of the goals.
FIRST_SHARE = 0.4
BY_BATCH = ("results", "comparisons")  # parts of a report that are split by batch


def pytorch(name: str, setup: Setup, memory: Memory, compile_s: float) -> Found:
    """Time every model in PyTorch: as it is, compiled, and each of these as a CUDA graph.

    Args:
        name: Name of the model.
        setup: Settings of the suite.
        memory: Earlier results, and the function that keeps more.
        compile_s: Budget for compiling, in seconds.
    """
    loaded = suite_model(name, setup)
    models = models_of(loaded)
    lanes = [
        judge_of(loaded),
        *plain(models),
        *by_compiler(models[:1], "default"),
        *deployed(loaded),
        *by_compiler(models[1:2], "default"),
    ]
    return _timed(loaded, lanes, setup, memory, compile_s=compile_s)


def files(name: str, setup: Setup, memory: Memory, found: Engines, compile_s: float) -> Found:
    """Time engines and ONNX files in the same rounds as the fastest ways of PyTorch.

    Args:
        name: Name of the model.
        setup: Settings of the suite.
        memory: Earlier results, and the function that keeps more.
        found: Engines of the model.
        compile_s: Budget for compiling, in seconds.
    """
    loaded = suite_model(name, setup)
    baseline, ours, *_ = models_of(loaded)
    lanes = [
        judge_of(loaded),
        *by_compiler([baseline], "default"),
        *plain([ours])[-1:],
        *deployed(loaded),
        *engines(loaded, found, setup),
        *onnx_files(loaded, setup),
    ]
    return _timed(loaded, lanes, setup, memory, compile_s=compile_s)


def float32(name: str, setup: Setup, memory: Memory, found: Engines, compile_s: float) -> Found:
    """Time models with float32 weights in the same rounds as our float16 runners.

    Args:
        name: Name of the model.
        setup: Settings of the suite.
        memory: Earlier results, and the function that keeps more.
        found: Engines of the model.
        compile_s: Budget for compiling, in seconds.
    """
    loaded = suite_model(name, setup)
    models = models_of(loaded)[:2]
    kinds = [kind for kind in arithmetics() if kind != "fp16"]
    lanes = [
        *in_float32(models, kinds),
        *plain(models[1:])[-1:],
        *deployed(loaded),
        *engines(loaded, found, setup, graphs=[True]),
    ]
    return _timed(loaded, lanes, setup, memory, compile_s=compile_s)


def autotune(setup: Setup, memory: Memory, found: Engines, compile_s: float) -> Found:
    """Time torch.compile with max-autotune, which takes minutes, at the largest batch only.

    Args:
        setup: Settings of the suite.
        memory: Earlier results, and the function that keeps more.
        found: Engines of the model.
        compile_s: Budget for compiling, in seconds.
    """
    loaded = suite_model(TINY, setup)
    models = models_of(loaded)[:2]
    lanes = [
        judge_of(loaded),
        *engines(loaded, found, setup, graphs=[True]),
        *plain(models[1:])[-1:],
        *deployed(loaded, "torch-max-autotune"),
        *by_compiler(models, "max-autotune"),
        *by_compiler(models[:1], "default"),
    ]
    batches = (setup.max_batch,)
    return _timed(loaded, lanes, setup, memory, compile_s=compile_s, batches=batches)


def _timed(
    loaded: LoadedModel,
    lanes: Sequence[Contender],
    setup: Setup,
    memory: Memory,
    *,
    compile_s: float,
    batches: Sequence[int] = (),
) -> Found:
    """Time one batch after the other; skip a batch that an earlier command finished."""
    batches = batches or setup.batches
    done: dict[str, Any] = dict(memory.earlier.get("batches", {}))
    images = seeded_images(loaded.config, count=setup.max_batch).images
    for number, batch in enumerate(batches):
        if str(batch) in done:
            continue
        share = FIRST_SHARE if not number else (1 - FIRST_SHARE) / max(1, len(batches) - 1)
        effort = Effort(
            seconds=setup.timing_seconds,
            min_iterations=setup.min_rounds,
            compile_seconds=compile_s * (share if len(batches) > 1 else 1.0),
            transfers=not setup.dry,
            alone=1 if setup.dry else ALONE,
        )
        for report in time_in_steps(
            lanes, images[:batch], model=loaded.name, batches=(batch,), effort=effort
        ):
            so_far = to_json(report)
            memory.keep({"batches": done, "under way": {str(batch): so_far}})
        done[str(batch)] = so_far
        memory.keep({"batches": done})
    return {"batches": done}


def peer_export(setup: Setup) -> Found:
    """Time our ONNX file in ONNX Runtime against timm's model through the same exporter.

    Args:
        setup: Settings of the suite.

    Raises:
        MissingBackendError: If timm or our ONNX file is missing, or ONNX Runtime cannot use the
            GPU.
    """
    require_provider()
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
    paths = {p: setup.artifacts / f"{PEER}-{onnx_name(TINY, p, 18)}" for p in PRECISIONS}
    if not all(path.is_file() for path in paths.values()):
        model = build_original(loaded, PEER)
        spec = export_spec(loaded, opset=18)
        graph = export_onnx(model, spec, metadata={})
        setup.artifacts.mkdir(parents=True, exist_ok=True)
        onnx.save(graph, paths["fp32"])
        onnx.save(to_half(graph, io_precision="fp32"), paths["fp16"])
    return paths


def _by_batch(report: BenchReport) -> dict[str, Any]:
    values = to_json(report)
    batches: Iterable[int] = dict.fromkeys(result["batch"] for result in values["results"])
    return {
        str(batch): values
        | {key: [one for one in values[key] if one["batch"] == batch] for key in BY_BATCH}
        for batch in batches
    }
