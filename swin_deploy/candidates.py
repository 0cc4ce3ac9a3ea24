"""Judge a model against a loaded reference in one call, without files of its own.

The reference and its noise are computed once, for as many candidates as there are:

    outputs = reference_outputs(loaded, image_sets, precisions=("fp32",))
    report = check_parity(loaded, outputs, fold(loaded.reference))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import nn

from exporters.precision import precision_of
from exporters.spec import Precision
from exporters.staging import temporary_folder
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.chance import chance_doubt
from swin_deploy.images.sets import ImageSet
from swin_deploy.judge import DEFAULT_BATCHES, Candidate, judge
from swin_deploy.oracle import ReferenceOutputs, run_reference, trace_reference
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.progress import Progress, silent, within
from swin_deploy.runners import OrtRunner, TorchRunner, TorchWay, deploy_runner
from swin_deploy.samples import make_samples
from swin_deploy.taps import tappable_graph, tappable_module


def reference_outputs(
    loaded: LoadedModel,
    images: Sequence[ImageSet],
    *,
    precisions: Sequence[Precision],
    progress: Progress = silent,
) -> ReferenceOutputs:
    """The reference's outputs, its tokens on the way, and its noise in these precisions.

    Raises:
        ComparisonError: If there are no images.
    """
    outputs = run_reference(
        TorchRunner("PyTorch reference", loaded.reference),
        images,
        names=loaded.config.output_names,
        progress=within(progress, 0, 0.5),
    )
    return trace_reference(
        outputs, loaded.reference, precisions=precisions, progress=within(progress, 0.5, 1)
    )


def module_candidate(
    loaded: LoadedModel, module: nn.Module, *, precision: Precision = "fp32"
) -> Candidate:
    """A module in the deploy model's place."""
    name = "deploy model" if precision == "fp32" else f"deploy model {precision}"
    return Candidate(
        TorchRunner(name, module, arithmetic=precision),
        "deploy",
        family=loaded.config.family,
        tappable=tappable_module(module, precision),
    )


def compiled_candidate(loaded: LoadedModel, way: TorchWay) -> Candidate:
    """The deploy model as PyTorch ships it; only its outputs can be read."""
    runner = deploy_runner(loaded.config, lambda: loaded.deploy, way)
    return Candidate(runner, "deploy", family=loaded.config.family)


def graph_candidate(loaded: LoadedModel, graph: onnx.ModelProto, path: Path) -> Candidate:
    """An ONNX graph, of which the structure is enough, and the file that holds it."""
    precision = precision_of(graph)
    return Candidate(
        OrtRunner(path, precision, name=f"ONNX {precision}", steps=loaded.preprocessing),
        "onnx",
        path.name,
        loaded.config.family,
        tappable_graph(path, graph, precision, steps=loaded.preprocessing),
    )


def check_parity(
    loaded: LoadedModel,
    outputs: ReferenceOutputs,
    candidate: nn.Module | onnx.ModelProto,
    *,
    precision: Precision = "fp32",
    batches: Sequence[int] = DEFAULT_BATCHES,
) -> ParityReport:
    """Judge a module in the deploy model's place, or an ONNX graph, on the outputs' images.

    Args:
        loaded: The reference.
        outputs: From ``reference_outputs``, with the noise in the candidate's precision.
        candidate: Of the same inputs and outputs as the reference.
        precision: To run a module in; a graph has its own.
        batches: Batch sizes.

    Raises:
        ComparisonError: If the candidate's output has another shape than the reference's.
        DeployError: If it cannot run.
    """
    if isinstance(candidate, nn.Module):
        one = module_candidate(loaded, candidate, precision=precision)
        return parity_report(loaded, outputs, judge(outputs, [one], batches=batches))
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        onnx.save(candidate, path)
        one = graph_candidate(loaded, candidate, path)
        return parity_report(loaded, outputs, judge(outputs, [one], batches=batches))


def parity_report(
    loaded: LoadedModel, outputs: ReferenceOutputs, hops: tuple[Hop, ...]
) -> ParityReport:
    """The report on some hops."""
    return ParityReport(
        model=loaded.name,
        weights=loaded.weights,
        reference_backend=outputs.backend,
        inputs={entry.name: entry.description for entry in outputs.image_sets},
        reference_top1_accuracy=outputs.top1_accuracy,
        hops=hops,
        samples=make_samples(outputs, loaded.preprocessing),
        labelled=sum(len(s.images) for s in outputs.image_sets if s.labels is not None),
        doubt=_doubt(loaded, outputs),
    )


def _doubt(loaded: LoadedModel, outputs: ReferenceOutputs) -> str:
    """Why accuracy shows nothing; empty for random weights, of which nobody expects any."""
    if loaded.checkpoint is None or "logits" not in outputs.names:
        return ""
    place = outputs.names.index("logits")
    for images, output in zip(outputs.image_sets, outputs.outputs, strict=True):
        if images.labels is not None and images.order is not None:
            return chance_doubt(
                int((output[place].argmax(axis=1) == images.labels).sum()),
                len(images.labels),
                num_classes=loaded.config.num_classes,
                order=images.order,
                known=loaded.class_names,
            )
    return ""
