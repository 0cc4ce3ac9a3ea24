"""Every step against the reference, by the judge of ``swin-deploy parity`` and its noise floor."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_suite.files import TARGETS, build, usable_onnx
from benchmarks.gpu_suite.models import Setup, suite_model
from exporters.backends import current_gpu
from exporters.errors import MissingBackendError
from exporters.spec import Flavor, Precision
from swin_deploy.artifacts.onnx_file import read_onnx
from swin_deploy.bench.contenders import one_line, relative_l2
from swin_deploy.candidates import Candidate, compiled_candidate, graph_candidate, module_candidate
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import ImageSet, extreme_images, seeded_images
from swin_deploy.parity import Hop
from swin_deploy.parity.judge import judge
from swin_deploy.parity.reference_run import ReferenceOutputs
from swin_deploy.parity.run import parity_report, reference_outputs
from swin_deploy.report.to_json import to_json
from swin_deploy.runners import TrtRunner

Keep = Callable[[dict[str, Any]], None]
Found = dict[str, Any]
# Numbers of noise images for the device and for ONNX Runtime; the largest batch of an engine
# repeats them. ONNX Runtime runs on the CPU of a GPU machine, where larger batches show nothing.
ON_DEVICE, ON_CPU = 32, 8


def pytorch_steps(name: str, setup: Setup, keep: Keep) -> Found:
    """Judge the deploy model in PyTorch: in float32, and on a GPU also in float16 and compiled.

    Args:
        name: Name of the model.
        setup: Settings of the suite.
        keep: Function that is given the results so far.
    """
    loaded = suite_model(name, setup)
    precisions: tuple[Precision, ...] = ("fp32", "fp16") if torch.cuda.is_available() else ("fp32",)
    made = {
        f"deploy model {precision}": functools.partial(
            module_candidate, loaded, loaded.deploy, precision=precision
        )
        for precision in precisions
    }
    if torch.cuda.is_available():
        made["--runner torch"] = functools.partial(compiled_candidate, loaded, "torch")
    return _judged(loaded, made, precisions, images=_images(loaded, setup, ON_DEVICE), keep=keep)


def onnx_steps(name: str, setup: Setup, keep: Keep) -> Found:
    """Judge the ONNX files in ONNX Runtime.

    Args:
        name: Name of the model.
        setup: Settings of the suite.
        keep: Function that is given the results so far.
    """
    loaded = suite_model(name, setup)
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    made = {
        f"ONNX {precision}": functools.partial(_graph, loaded, precision, setup)
        for precision in precisions
    }
    return _judged(loaded, made, precisions, images=_images(loaded, setup, ON_CPU), keep=keep)


def _graph(loaded: LoadedModel, precision: Precision, setup: Setup) -> Candidate:
    path = usable_onnx(loaded, precision, setup)
    return graph_candidate(loaded, read_onnx(path).without_weights())


def engine_step(name: str, flavor: Flavor, setup: Setup, keep: Keep) -> Found:
    """Build one engine, load it, run it at every batch, judge it, and run it as a CUDA graph.

    If TensorRT-RTX refuses the GPU, an engine for exactly this GPU is tried next.

    Args:
        name: Name of the model.
        flavor: TensorRT flavour.
        setup: Settings of the suite.
        keep: Function that is given the results so far.

    Raises:
        BuildError: If the engine cannot be built.
        MissingBackendError: If it cannot run here.
    """
    loaded = suite_model(name, setup)
    refused: list[str] = []
    found: Found = {}
    for targets in TARGETS[flavor]:
        words = ", ".join(targets) or "default"
        try:
            found = {"target": words, "refused": refused}
            found["build"] = build(loaded, flavor, setup, targets)
            keep(found)
            return _run_engine(loaded, setup.artifacts / found["build"]["file"], setup, found, keep)
        except MissingBackendError as err:
            refused.append(f"target {words}: {err}")
            keep(found)
        if current_gpu() is None:
            break
    raise MissingBackendError("; ".join(refused))


def _run_engine(loaded: LoadedModel, path: Path, setup: Setup, found: Found, keep: Keep) -> Found:
    """Add the results of an engine after each step, since any step may crash the process."""
    images = _images(loaded, setup, ON_DEVICE)
    first_calls(TrtRunner(path), loaded, setup, found=found, keep=keep)
    candidate = Candidate(TrtRunner(path), "engine", path.name, loaded.config.family)
    precision = candidate.runner.precision
    judged = _judged(loaded, {path.name: lambda: candidate}, (precision,), images=images, keep=None)
    found |= judged
    keep(found)
    graph: Found = {}
    found["as a CUDA graph"] = graph
    first_calls(
        TrtRunner(path, cuda_graph=True), loaded, setup, found=graph, keep=lambda _: keep(found)
    )
    return found


def first_calls(
    runner: TrtRunner, loaded: LoadedModel, setup: Setup, *, found: Found, keep: Keep
) -> None:
    """Open an engine and call it once at each batch; measure the time and the relative L2.

    Args:
        runner: The engine's runner, not open yet.
        loaded: The model, whose reference gives the expected outputs.
        setup: Settings of the suite, with the batches.
        found: Results, changed in place.
        keep: Function that is given ``found`` after each step.

    Raises:
        MissingBackendError: If the engine cannot run here.
    """
    start = time.perf_counter()
    with runner:
        found["backend"] = runner.backend
        found["opened in s"] = round(time.perf_counter() - start, 2)
        found["runs"] = runs = {}
        keep(found)
        reference = module_candidate(loaded, loaded.reference).runner
        for batch in setup.batches:
            images = seeded_images(loaded.config, count=batch).images
            start = time.perf_counter()
            outputs = runner.run(images)
            seconds = round(time.perf_counter() - start, 2)
            with reference:
                expected = reference.run(images)
            runs[str(batch)] = {
                "first call s": seconds,
                "relative l2": relative_l2(outputs, expected),
                "finite": bool(all(np.isfinite(one).all() for one in outputs)),
            }
            keep(found)


def _images(loaded: LoadedModel, setup: Setup, count: int) -> tuple[ImageSet, ...]:
    count = min(count, 2 * setup.max_batch)
    return (
        seeded_images(loaded.config, count=count),
        extreme_images(loaded.preprocessing),
    )


def _judged(
    loaded: LoadedModel,
    made: Mapping[str, Callable[[], Candidate]],
    precisions: Sequence[Precision],
    *,
    images: Sequence[ImageSet],
    keep: Keep | None,
) -> Found:
    """Judge each candidate; note the reason if one fails to run, and go on with the others."""
    outputs = reference_outputs(loaded, images, precisions=precisions)
    batches = sorted({1, 2, min(8, len(images[0].images)), len(images[0].images)})
    hops: list[Hop] = []
    found: Found = {"parity": None, "failed": {}, "not run": {}}
    found["no second opinion"] = missing = _no_polygraphy()
    for name, make in made.items():
        try:
            candidate = dataclasses.replace(make(), second_opinion=not missing)
            hops += judge(outputs, [candidate], batches=batches)
        except MissingBackendError as err:
            found["not run"][name] = str(err)
        except Exception as err:  # noqa: BLE001 - whatever a library raises is a row, not the end
            found["failed"][name] = one_line(err)
        found["parity"] = _report(loaded, outputs, hops)
        if keep is not None:
            keep(found)
    return found


def _no_polygraphy() -> str:
    """Return the reason why Polygraphy does not repeat the verdicts; empty if it does."""
    return "" if importlib.util.find_spec("polygraphy") else "polygraphy is not installed"


def _report(
    loaded: LoadedModel, outputs: ReferenceOutputs, hops: Sequence[Hop]
) -> dict[str, Any] | None:
    return to_json(parity_report(loaded, outputs, tuple(hops))) if hops else None
