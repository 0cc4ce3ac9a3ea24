"""Models to inject faults into, and what parity says of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import onnx
import peers
from faults import Fault

from exporters.half_precision import to_half
from exporters.spec import Precision
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.onnx_file import export_spec
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel
from swin_deploy.parity import ParityReport
from swin_deploy.parity.reference_run import ReferenceOutputs
from swin_deploy.parity.run import check_parity, image_sets, reference_outputs
from swin_deploy.reference import build_reference

IMAGES = 4
BATCHES = (1, 3)
SIZES: dict[str, Any] = {
    "img_size": 64,
    "window_size": 4,
    "embed_dim": 32,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "num_classes": 10,
}
MODELS = ("trained", "random V1", "random V2")


@dataclass(frozen=True)
class Subject:
    """A correct model, and what its reference computes in each precision."""

    loaded: LoadedModel
    outputs: ReferenceOutputs


@functools.cache
def subject(kind: str, seed: int = 0) -> Subject:
    """A model of ``MODELS``; the trained one has images, all have noise and extreme inputs."""
    loaded = load_model("notebook-digits") if kind == "trained" else _random(kind, seed)
    sets = image_sets(loaded, None, limit=IMAGES)
    outputs = reference_outputs(loaded, sets, precisions=("fp32", "fp16"))
    return Subject(loaded, outputs)


def _random(kind: str, seed: int) -> LoadedModel:
    config = SwinConfig(family="swinv2" if kind.endswith("V2") else "swin", **SIZES)
    reference = peers.trained_like(build_reference(config), seed=seed)
    return LoadedModel(kind, config, reference.eval(), None, "", library_steps(config))


def faultless(one: Subject) -> DeployModel:
    """The deploy model as it should be, made anew."""
    return fold(one.loaded.reference)


@functools.cache
def exported(kind: str, seed: int = 0) -> onnx.ModelProto:
    """Its float32 graph."""
    one = subject(kind, seed)
    return export_onnx(faultless(one), export_spec(one.loaded), metadata={})


def judge_fault(fault: Fault, kind: str) -> ParityReport:
    """What parity says of a model with a fault.

    Raises:
        AbsentPartError: If the model has no part for it.
    """
    one = subject(kind)
    if fault.target == "graph":
        graph = onnx.ModelProto()
        graph.CopyFrom(exported(kind))
        fault.inject(graph)
        return check_parity(one.loaded, one.outputs, graph, batches=BATCHES)
    model = faultless(one)
    fault.inject(model, one.loaded.config)
    return check_parity(one.loaded, one.outputs, model, precision=fault.precision, batches=BATCHES)


def judge_faultless(kind: str, seed: int, *, stage: str, precision: Precision) -> ParityReport:
    """What parity says of a correct deploy model (``deploy``) or ONNX graph (``onnx``)."""
    one = subject(kind, seed)
    if stage == "deploy":
        candidate = faultless(one)
        return check_parity(
            one.loaded, one.outputs, candidate, precision=precision, batches=BATCHES
        )
    graph = exported(kind, seed)
    half = to_half(graph, io_precision="fp32") if precision == "fp16" else graph
    return check_parity(one.loaded, one.outputs, half, batches=BATCHES)
