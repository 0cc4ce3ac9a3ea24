import copy
import dataclasses
import functools
import math
from typing import Any

import onnx
import pytest
import torch
from families import CONFIGS, loaded, outputs, trained_like
from fault_parts import blocks
from onnx import numpy_helper
from torch import nn

from exporters.errors import ComparisonError
from exporters.half_precision import to_half
from exporters.spec import ExportSpec, Runtime
from exporters.to_onnx import export_onnx
from swin_deploy.artifacts.onnx_file import FOR
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel, Reorder, SwinBlock
from swin_deploy.images.sets import seeded_images
from swin_deploy.parity import TOLERANCES, Hop
from swin_deploy.parity.run import check_parity, reference_outputs
from swin_deploy.reference import build_reference

every_family = pytest.mark.parametrize("family", CONFIGS)


def judged(family: str, candidate: nn.Module | onnx.ModelProto, **choices: Any) -> Hop:  # noqa: ANN401 - passed along
    return check_parity(loaded(family), outputs(family), candidate, **choices).hops[0]


def deploy(family: str, runtime: Runtime = "tensorrt") -> DeployModel:
    return fold(loaded(family).reference, runtime)


@functools.cache
def graph(family: str, runtime: Runtime = "tensorrt") -> onnx.ModelProto:
    config = CONFIGS[family]
    spec = ExportSpec((3, *config.image), config.output_names)
    return export_onnx(deploy(family, runtime), spec, metadata={FOR: runtime})


def changed(family: str, node_path: str, runtime: Runtime = "tensorrt") -> onnx.ModelProto:
    """The graph with one value of the weight of a linear layer 1 % larger."""
    made = copy.deepcopy(graph(family, runtime))
    (name,) = {node.input[1] for node in made.graph.node if node.name == f"{node_path}/MatMul"}
    (tensor,) = [one for one in made.graph.initializer if one.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values[3, 3] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return made


@every_family
def test_check_right_model_passes_in_float32_and_float16(family: str) -> None:
    single = judged(family, deploy(family))
    half = judged(family, deploy(family), precision="fp16")
    assert single.passed, single.worst
    assert half.passed, half.worst
    assert single.located == half.located == ""
    assert half.drift[0].floor > 100 * single.drift[0].floor


@pytest.mark.parametrize("wrong", [0.0, 1e-4], ids=["right", "wrong-head"])
def test_check_model_of_one_class_rejects_a_wrong_head(wrong: float) -> None:
    config = dataclasses.replace(CONFIGS["swin"], num_classes=1)
    reference = trained_like(config)
    model = LoadedModel("one", config, reference, None, "", library_steps(config))
    expected = reference_outputs(model, (seeded_images(config, count=8),), precisions=["fp32"])
    candidate = fold(reference)
    head = [one for one in candidate.modules() if isinstance(one, nn.Linear)][-1]
    with torch.no_grad():
        head.weight[0, 3] += wrong
    hop = check_parity(model, expected, candidate).hops[0]
    assert hop.passed == (not wrong), hop.worst
    assert hop.results[0].tolerance.l2_rule == "12 x noise"


@pytest.mark.parametrize("family", ["swin", pytest.param("swinv2", marks=pytest.mark.slow)])
def test_check_right_graph_passes(family: str) -> None:
    pytest.importorskip("onnxruntime")
    hop = judged(family, graph(family))
    assert hop.passed, hop.worst
    assert len(hop.drift) == len(judged(family, deploy(family)).drift)
    half = judged(family, to_half(graph(family), io_precision="fp32"))
    assert half.precision == "fp16"
    assert half.passed, half.worst


def test_check_right_graph_of_more_tokens_than_the_exporter_folds_passes() -> None:
    """96 x 96 tokens, as of every model of 384 pixels: an index is no constant of its gather."""
    pytest.importorskip("onnxruntime")
    config = SwinConfig(
        family="swin", img_size=384, window_size=12, embed_dim=8, depths=(2,), num_heads=(2,),
        output="tokens",
    )  # fmt: skip
    large = LoadedModel("large map", config, trained_like(config), None, "", library_steps(config))
    spec = ExportSpec((3, 384, 384), config.output_names)
    made = export_onnx(fold(large.reference), spec, metadata={})
    reordered = {
        node.op_type for node in made.graph.node if node.name.startswith("layers.1.reorder_before")
    }
    assert reordered == {"Gather", "Reshape"}
    images = (seeded_images(config, count=2),)
    expected = reference_outputs(large, images, precisions=("fp32",))
    hop = check_parity(large, expected, made, batches=(1, 2)).hops[0]
    assert hop.passed, hop.located
    assert [point.module for point in hop.drift] == ["embed", "layers.0", "layers.1"]


@every_family
def test_check_drift_follows_every_part_of_the_model(family: str) -> None:
    hop = judged(family, deploy(family))
    seeded = [point for point in hop.drift if point.inputs == "seeded"]
    assert [point.place for point in seeded] == [
        "embedding",
        "stage 1, block 1",
        "stage 1, block 2",
        "merge behind stage 1",
        "stage 2, block 1",
        "stage 2, block 2",
        "features",
    ]
    assert all(0 < point.relative_l2 <= point.allowed < 1e-5 for point in seeded)
    assert {result.inputs for result in hop.results} >= {"seeded, features", "extreme, features"}


def test_check_ceiling_that_pytorch_itself_reaches_is_no_fault_of_a_part() -> None:
    """Where the floor is near the ceiling of its precision, the model is not fit for it."""
    model = loaded("swin")
    found = outputs("swin")
    low = dataclasses.replace(TOLERANCES["deploy", "fp16"], atol=1e-5, rtol=5e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TOLERANCES, ("deploy", "fp16"), low)
        hop = check_parity(model, found, fold(model.reference), precision="fp16").hops[0]
    assert hop.passed is False
    assert "PyTorch itself loses" in hop.results[0].reason
    assert hop.located == (
        "no part of the model is beyond its noise: PyTorch itself loses as much in fp16"
    )


FAULTS = {
    "qkv": (lambda block: block.attention.qkv.weight[3, 3].mul_(1.01), "qkv"),
    "bias": (lambda block: _bias(block)[..., 5].add_(1e-2), "attention bias and mask"),
    "projection": (
        lambda block: block.attention.proj.weight[3, 3].add_(1e-3),
        "projection",
    ),
    "mlp": (lambda block: block.mlp[2].bias[3].add_(1e-3), "MLP, second layer"),
    "gelu": (lambda block: setattr(block.mlp[1], "approximate", "tanh"), "MLP, activation"),
}


def _bias(block: SwinBlock) -> torch.Tensor:
    named = block.attention.named_buffers()
    return next(value for name, value in named if name.endswith("bias") and "query" not in name)


@pytest.mark.parametrize(
    ("family", "fault"),
    [*((("notebook", "swinv2")[i % 2], fault) for i, fault in enumerate(FAULTS)), ("swin", "bias")],
)
def test_check_small_fault_fails_and_is_located(family: str, fault: str) -> None:
    change, words = FAULTS[fault]
    model = deploy(family)
    with torch.no_grad():
        change(blocks(model)[1])
    hop = judged(family, model)
    assert hop.passed is False
    assert hop.located.startswith(f"first wrong: layers.1 (stage 1, block 2), {words}: ")
    assert hop.located.endswith("times the noise there")


@pytest.mark.parametrize(
    ("path", "words"),
    [("layers.3.attention.qkv", "qkv"), ("layers.4.mlp.0", "MLP, first layer")],
)
def test_check_fault_in_a_graph_is_located(path: str, words: str) -> None:
    pytest.importorskip("onnxruntime")
    hop = judged("swin", changed("swin", path))
    assert hop.passed is False
    assert hop.located.startswith(f"first wrong: {path[:8]} (stage 2, block ")
    assert f"), {words}: " in hop.located


@pytest.mark.parametrize("family", ["notebook", "swinv2"])
@pytest.mark.parametrize(("part", "words"), [("query", "queries"), ("key", "keys")])
def test_check_fault_in_the_layout_for_cpus_is_located(family: str, part: str, words: str) -> None:
    """There q, k and v are three layers."""
    pytest.importorskip("onnxruntime")
    hop = judged(family, changed(family, f"layers.1.attention.qkv.{part}", "cpu"))
    assert hop.passed is False
    assert hop.located.startswith(f"first wrong: layers.1 (stage 1, block 2), qkv: {words}: ")


@pytest.mark.parametrize("family", ["notebook", "swin"])
def test_check_fault_in_a_merge_in_the_layout_for_cpus_is_located(family: str) -> None:
    """The exporter joins the reshape of the merge's gather with the one after it."""
    pytest.importorskip("onnxruntime")
    hop = judged(family, changed(family, "layers.2.linear", "cpu"))
    assert hop.passed is False
    assert hop.located.startswith("first wrong: layers.2 (merge behind stage 1), linear layer: ")


def test_check_that_finds_other_shapes_inside_keeps_its_verdict() -> None:
    """A further node, of the name of a module: what it gives is taken for what the module gives."""
    pytest.importorskip("onnxruntime")
    model = changed("swin", "layers.1.mlp.2")
    inside = [node for node in model.graph.node if node.name.startswith("layers.1.mlp.1/")]
    name = "layers.1.mlp.1/ReduceMean"
    node = onnx.helper.make_node("ReduceMean", [inside[-1].output[0]], ["further"], name=name)
    model.graph.node.insert(list(model.graph.node).index(inside[-1]) + 1, node)
    hop = judged("swin", model)
    assert (hop.passed, hop.first_fault) == (False, None)
    assert hop.drift_not_run.startswith("the output has shape [1, 1, 1]")


def test_check_wrong_token_order_is_located() -> None:
    model = deploy("swin")
    reorder = blocks(model)[1].reorder_before
    assert isinstance(reorder, Reorder)
    index = reorder.index
    index[:2] = index[:2].flip(0)
    hop = judged("swin", model)
    assert hop.passed is False
    assert hop.located.startswith("first wrong: layers.1 (stage 1, block 2), token order: ")


def test_check_fault_behind_the_features_is_located_there() -> None:
    model = deploy("swin")
    heads: Any = model.heads
    with torch.no_grad():
        heads["5"][-1].bias[0] += 1e-3
    hop = judged("swin", model)
    assert hop.passed is False
    assert hop.located == (
        "every part of the model is within its noise: wrong behind the last of them"
    )


def test_check_reference_that_overflows_in_float16_leaves_the_ceiling_alone() -> None:
    config = CONFIGS["swin"]
    model = copy.deepcopy(loaded("swin"))
    layers: Any = model.reference.layers
    with torch.no_grad():
        layers[0].blocks[0].mlp.fc1.weight.mul_(1e4)
        layers[0].blocks[0].mlp.fc2.weight.mul_(1e-4)
    images = (seeded_images(config, count=2),)
    found = reference_outputs(model, images, precisions=("fp16",))
    hop = check_parity(model, found, fold(model.reference), precision="fp16").hops[0]
    assert hop.results[0].tolerance.floor is not None
    assert hop.results[0].tolerance.floor.atol == math.inf
    assert hop.passed is False  # the candidate overflows, too


def test_check_model_with_other_modules_is_judged_by_its_outputs() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = deploy("swin")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images)

    hop = judged("swin", Wrapped())
    assert hop.passed
    assert hop.drift == ()
    assert hop.drift_not_run == "it has no part named embed"


def test_check_output_of_another_shape_is_an_error() -> None:
    other = dataclasses.replace(CONFIGS["swin"], num_classes=3)
    model = LoadedModel(
        "other", other, build_reference(other).eval(), None, "", library_steps(other)
    )
    with pytest.raises(ComparisonError, match=r"\[1, 3\]|\[7, 3\]"):
        check_parity(loaded("swin"), outputs("swin"), fold(model.reference))


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("seed", range(20))
def test_check_right_model_passes_whatever_its_values(family: str, seed: int) -> None:
    model = loaded(family, seed)
    found = outputs(family, seed, ("fp32",))
    hop = check_parity(model, found, fold(model.reference)).hops[0]
    assert hop.passed, hop.worst
