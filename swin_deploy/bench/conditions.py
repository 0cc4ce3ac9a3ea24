"""Conditions of a run: device, versions and method."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from exporters.backends import tensorrt_version
from exporters.flavors import FLAVORS
from swin_deploy.bench import BenchResult, Effort
from swin_deploy.bench.gpu import device_name
from swin_deploy.checkpoints.known import ORIGINALS
from swin_deploy.intervals import MIN_PAIRS, SETTLED_ROUNDS

PACKAGES = ("torch", "triton", "onnxruntime", "onnxruntime-gpu", *ORIGINALS.values())


def conditions_of(
    effort: Effort, results: Sequence[BenchResult], gpu: Mapping[str, str]
) -> dict[str, str]:
    """Describe the device, the versions and the method of a run.

    Args:
        effort: Method and length of the measurement.
        results: Results of the run.
        gpu: State of the GPU in words, by moment; empty texts are skipped.

    Returns:
        Text of each condition, by name.
    """
    conditions = {
        "device": device_name(),
        "cpu": cpu_name(),
        "threads": f"{torch.get_num_threads()} for PyTorch and for ONNX Runtime on the CPU",
        **{f"GPU {when}": state for when, state in gpu.items() if state},
        "copies": _copies(effort),
        "order": "interleaved: each round calls every runner once",
        "interval": "95 %, of the ratio of medians: bootstrap over whole rounds, at least "
        f"{MIN_PAIRS} of them",
        "float32": "strict in rows of fp32: TF32 off",
        "warm-up": _warmup(effort, results),
        "iterations": f"{effort.iterations} rounds, or {effort.seconds:g} s for all batches; "
        f"at least {effort.min_iterations} rounds",
        "python": platform.python_version(),
    }
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        conditions["driver"] = driver.read_text(encoding="utf-8").splitlines()[0]
    return conditions | package_versions()


def package_versions(*others: str) -> dict[str, str]:
    """Return the versions of the packages that take part in a measurement, if installed.

    Args:
        others: Names of more packages.
    """
    versions = {}
    for package in (*PACKAGES, *others):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    flavors = {flavor: tensorrt_version(flavor) for flavor in FLAVORS}
    return versions | {flavor: version for flavor, version in flavors.items() if version}


def _copies(effort: Effort) -> str:
    if not effort.transfers:
        return "not included: images and outputs stay on the device"
    return (
        "median ms: not included, images and outputs stay on the device; with copies: from host "
        "memory and back to it in each call, the same bytes for all, pinned on a GPU but for ONNX "
        "Runtime, nothing at the same time"
    )


def _warmup(effort: Effort, results: Sequence[BenchResult]) -> str:
    rule = (
        f"until the medians of two runs of {SETTLED_ROUNDS} rounds are within 2 %, at most "
        f"{effort.warmup} rounds or a quarter of the time"
    )
    timed = [result for result in results if result.timed]
    unsettled = [f"{result.name} at batch {result.batch}" for result in timed if not result.stable]
    if not unsettled:
        return f"{rule}; all settled"
    if len(unsettled) == len(timed):
        return f"{rule}; nothing had settled by then"
    return f"{rule}; not settled by then: {', '.join(unsettled)}"


def cpu_name() -> str:
    """Return the CPU's model name as the kernel gives it, or the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
