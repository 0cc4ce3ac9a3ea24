"""Every hop against the reference, up to the largest batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.errors import MissingBackendError
from exporters.spec import Flavor
from swin_deploy.bench.baselines import PyTorchRunner
from swin_deploy.bench.lanes import one_line
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import seeded_images
from swin_deploy.parity import compare, tolerance_for
from swin_deploy.runners import CPU_PROVIDER, OrtRunner, Outputs, Runner, TrtRunner
from swin_deploy.suite.files import build, engine_path, usable_onnx
from swin_deploy.suite.models import Setup, suite_model

REFERENCE_BATCH = 8
CPU_BATCH = 8  # where there is a GPU, ONNX Runtime on the CPU shows nothing at larger batches


def hops(name: str, setup: Setup) -> dict[str, Any]:
    """The deploy model and the ONNX files; engines are parts of their own, for they may crash."""
    loaded = suite_model(name, setup)
    made: dict[str, tuple[str, Callable[[], Runner]]] = {
        "deploy model, fp32": ("deploy", lambda: PyTorchRunner("deploy", lambda: loaded.deploy)),
        "ONNX fp32": ("onnx", lambda: OrtRunner(usable_onnx(loaded, "fp32", setup), "fp32")),
        "ONNX fp16": ("onnx", lambda: OrtRunner(usable_onnx(loaded, "fp16", setup), "fp16")),
    }
    if torch.cuda.is_available():
        made["deploy model, fp16"] = (
            "deploy",
            lambda: PyTorchRunner("deploy", lambda: loaded.deploy, arithmetic="fp16"),
        )
    images, expected = _reference(loaded, setup)
    return {
        hop: _hop(loaded, stage, make, images=images, expected=expected, setup=setup)
        for hop, (stage, make) in made.items()
    }


def engine_hop(
    name: str, flavor: Flavor, setup: Setup, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """One engine: built, deserialised, run at every batch, compared.

    Raises:
        MissingBackendError: If it cannot run here.
    """
    loaded = suite_model(name, setup)
    built = build(loaded, flavor, setup)
    keep({"build": built})  # what follows may take the process down
    with TrtRunner(engine_path(name, flavor, setup)) as runner:
        images, expected = _reference(loaded, setup)
        cases = _cases(loaded, "engine", runner, images=images, expected=expected, setup=setup)
    return {"build": built, **cases}


def _reference(loaded: LoadedModel, setup: Setup) -> tuple[NDArray[np.float32], Outputs]:
    images = seeded_images(loaded.config, count=setup.max_batch).images
    with PyTorchRunner("reference", lambda: loaded.reference) as runner:
        calls = [
            runner.run(images[start : start + REFERENCE_BATCH])
            for start in range(0, len(images), REFERENCE_BATCH)
        ]
    return images, tuple(np.concatenate(parts) for parts in zip(*calls, strict=True))


def _hop(
    loaded: LoadedModel,
    stage: str,
    make: Callable[[], Runner],
    *,
    images: NDArray[np.float32],
    expected: Outputs,
    setup: Setup,
) -> dict[str, Any]:
    """One hop, or why there is none; a hop that fails leaves the others alone."""
    try:
        with make() as runner:
            return _cases(loaded, stage, runner, images=images, expected=expected, setup=setup)
    except MissingBackendError as err:
        return {"not run": str(err)}
    except Exception as err:  # noqa: BLE001 - whatever a library raises is a row, not the end
        return {"failed": one_line(err)}


def _cases(
    loaded: LoadedModel,
    stage: str,
    runner: Runner,
    *,
    images: NDArray[np.float32],
    expected: Outputs,
    setup: Setup,
) -> dict[str, Any]:
    tolerance = tolerance_for(stage, runner.precision, family=loaded.config.family)
    slow = CPU_PROVIDER in runner.backend and torch.cuda.is_available()
    cases = []
    for batch in sorted(setup.batches):
        if slow and batch > CPU_BATCH:
            continue
        outputs = runner.run(images[:batch])
        for name, actual, wanted in zip(loaded.config.output_names, outputs, expected, strict=True):
            result = compare(
                actual, wanted[:batch], tolerance, inputs=name, batch=batch, classes=False
            )
            cases.append(
                {
                    "batch": batch,
                    "output": name,
                    "passed": result.passed,
                    "needed atol": result.needed_atol,
                    "allowed atol": result.tolerance.atol,
                    "cosine": result.cosine,
                    "relative l2": result.relative_l2,
                }
            )
    return {
        "backend": runner.backend,
        "passed": all(case["passed"] for case in cases),
        "cases": cases,
    }
