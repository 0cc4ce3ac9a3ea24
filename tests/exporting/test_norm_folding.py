"""The norm before an MLP, folded into its first layer: exact, bounded, and only where it can be."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from conftest import rms_error, seeded_images
from exported import CONFIGS, copy_of, deploy_model, exported, run_onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters.errors import ExportError
from exporters.half_precision import float32_modules, to_half
from exporters.norm_folding import balanced, fold_norm, norms_before_mlps
from exporters.plan.float32 import lost_float32
from exporters.precisions import PRECISIONS, PrecisionTraits
from swin_deploy.deploy.half_form import half_form
from swin_deploy.deploy.model import SwinBlock
from swin_deploy.runners.emulated import Emulated

FP16, BF16 = PRECISIONS["fp16"], PRECISIONS["bf16"]
WIDE = dataclasses.replace(FP16, dtype="float64", largest=1e300)  # no rounding: the fold alone
CHANNELS = 96


@dataclasses.dataclass(frozen=True)
class Layers:
    """A LayerNorm and a linear layer with trained-like weights, in float64."""

    gain: np.ndarray
    shift: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    eps: float = 1e-5

    def exact(self, tokens: np.ndarray) -> np.ndarray:
        mean = tokens.mean(axis=1, keepdims=True)
        normed = (tokens - mean) / np.sqrt(tokens.var(axis=1, keepdims=True) + self.eps)
        return (normed * self.gain + self.shift) @ self.weight + self.bias

    def folded(self, tokens: np.ndarray, traits: PrecisionTraits, *, balance: bool = True):
        """The folded form, every step rounded to the precision but the statistics."""

        def rounded(values):
            return np.asarray(values).astype(traits.dtype).astype(np.float64)

        folded = fold_norm(
            gain=self.gain, shift=self.shift, eps=self.eps,
            weight=self.weight, bias=self.bias, traits=traits,
        )  # fmt: skip
        assert folded is not None
        weight = balanced(folded.weight, traits) if balance else rounded(folded.weight)
        factor = folded.scale / np.sqrt(tokens.var(axis=1, keepdims=True) + folded.eps)
        product = rounded(tokens @ weight.astype(np.float64))
        return rounded(rounded(product * rounded(factor)) + rounded(folded.bias))

    def apart(self, tokens: np.ndarray, traits: PrecisionTraits) -> np.ndarray:
        """The norm where it was, its result and the product rounded to the precision."""

        def rounded(values):
            return np.asarray(values).astype(traits.dtype).astype(np.float64)

        mean = tokens.mean(axis=1, keepdims=True)
        normed = (tokens - mean) / np.sqrt(tokens.var(axis=1, keepdims=True) + self.eps)
        normed = rounded(rounded(normed * rounded(self.gain)) + rounded(self.shift))
        return rounded(rounded(normed @ rounded(self.weight)) + rounded(self.bias))


def layers(seed: int = 0, channels: int = CHANNELS, eps: float = 1e-5) -> Layers:
    random = np.random.default_rng(seed)
    return Layers(
        gain=np.exp(0.3 * random.standard_normal(channels)),
        shift=0.3 * random.standard_normal(channels),
        weight=random.standard_normal((channels, 4 * channels)) * 0.6 / channels**0.5,
        bias=0.3 * random.standard_normal(4 * channels),
        eps=eps,
    )


def stream(traits: PrecisionTraits, *, mean=0.0, one_channel=0.0, deviation=1.0, channels=CHANNELS):
    tokens = np.random.default_rng(1).standard_normal((500, channels)) * deviation + mean
    tokens[:, 5] += one_channel
    return tokens.astype(traits.dtype).astype(np.float64)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_fold_norm_without_rounding_is_the_norm_and_the_layer():
    tokens = stream(FP16, mean=3.0, one_channel=60.0)
    assert relative(layers().folded(tokens, WIDE), layers().exact(tokens)) < 1e-12


STREAMS = {
    "plain": {},
    "common mean of 3 deviations": {"mean": 3.0},
    "common mean of 30 deviations": {"mean": 30.0},
    "one channel at 60": {"one_channel": 60.0},
    "one channel at 3000": {"one_channel": 3000.0},
    "deviation 100": {"deviation": 100.0},
    "deviation 0.01": {"deviation": 0.01},
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("traits", [FP16, BF16], ids=["fp16", "bf16"])
def test_folded_form_loses_no_more_than_the_norm_apart(kind, traits):
    tokens = stream(traits, **STREAMS[kind])
    exact = layers().exact(tokens)
    lost = relative(layers().folded(tokens, traits), exact)
    assert lost <= 1.1 * relative(layers().apart(tokens, traits), exact)


def test_columns_that_are_only_rounded_let_a_common_mean_through():
    tokens = stream(FP16, mean=30.0)
    exact = layers().exact(tokens)
    plain = relative(layers().folded(tokens, FP16, balance=False), exact)
    assert plain > 5 * relative(layers().apart(tokens, FP16), exact)


@pytest.mark.parametrize("channels", [8, 96, 384])
def test_balanced_keeps_weights_within_a_step_and_columns_at_zero(channels):
    random = np.random.default_rng(0)
    weight = random.standard_normal((channels, 50)) * 0.05
    weight -= weight.mean(axis=0)
    rounded = balanced(weight, FP16).astype(np.float64)
    plain = weight.astype(np.float16).astype(np.float64)
    assert np.abs(rounded.sum(axis=0)).max() <= np.abs(plain.sum(axis=0)).max()
    if channels > 16:
        assert np.abs(rounded.sum(axis=0)).max() < 0.05 * np.abs(plain.sum(axis=0)).max()
        assert relative(rounded, weight) < 1.2 * relative(plain, weight)


@pytest.mark.parametrize(("times", "reach"), [(1, 65504.0), (20, 65504.0), (100, 8188.0)])
def test_product_stays_in_range_while_the_tokens_are(times, reach):
    """Tokens of two values: for each column the token that makes its product the largest."""
    one = dataclasses.replace(layers(), weight=layers().weight * times)
    folded = fold_norm(
        gain=one.gain, shift=one.shift, eps=one.eps, weight=one.weight, bias=one.bias, traits=FP16
    )
    assert folded is not None
    worst = reach * np.sign(folded.weight).T
    unscaled = np.abs(worst @ (folded.weight * folded.scale)).max()
    assert np.abs(worst @ folded.weight).max() <= FP16.largest < unscaled


def test_fold_norm_of_weights_that_no_power_of_two_keeps_in_range_is_none():
    one = dataclasses.replace(layers(), weight=layers().weight * 1000)
    values = {"gain": one.gain, "shift": one.shift, "weight": one.weight, "bias": one.bias}
    assert fold_norm(**values, eps=1e-5, traits=FP16) is None
    assert fold_norm(**values, eps=1e-5, traits=BF16) is not None


@pytest.mark.parametrize(("eps", "folds"), [(1e-5, True), (1e-6, True), (1e-12, False), (0, False)])
def test_fold_norm_where_the_factor_of_a_constant_token_overflows_is_none(eps, folds):
    one = layers(eps=eps)
    folded = fold_norm(
        gain=one.gain, shift=one.shift, eps=eps, weight=one.weight, bias=one.bias, traits=FP16
    )
    assert (folded is not None) == folds
    if folded is not None:
        assert folded.scale / eps**0.5 <= FP16.largest


def centre_of(graph: onnx.ModelProto, path: str) -> np.ndarray:
    (found,) = (t for t in graph.graph.initializer if t.name == f"{path}.centred_weight")
    return numpy_helper.to_array(found)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("kind", ["digits", "blocks"])
def test_to_half_folds_the_norm_before_every_mlp(kind, opset):
    graph = exported(kind, opset=opset)
    _, apart = norms_before_mlps(graph)
    assert apart
    half = to_half(graph, io_precision="fp32")
    onnx.checker.check_model(half, full_check=True)
    folded, left = norms_before_mlps(half)
    assert (len(folded), left) == (len(apart), ())
    assert {f"{path}.factor" for path in folded} <= set(float32_modules(half))
    for path in folded:
        assert centre_of(half, path).dtype == np.float16
        assert np.abs(centre_of(half, path).astype(np.float64).sum(axis=0)).max() < 1e-5


def test_to_half_that_folds_keeps_weights_of_outputs_and_branches():
    """Mask2Former's first queries are an output, and no node takes them."""
    graph = onnx.ModelProto()
    graph.CopyFrom(exported("blocks"))
    values = np.array([1, 2], np.float32)
    for name in ("queries", "chosen", "other", "told"):
        graph.graph.initializer.append(numpy_helper.from_array(values, name))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    answers = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("queries", "y")]
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["told", name], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2])],
        )
        for name in ("chosen", "other")
    ]
    choice = {"then_branch": branches[0], "else_branch": branches[1]}
    graph.graph.node.append(helper.make_node("If", ["true"], ["y"], name="If", **choice))
    graph.graph.output.extend(answers)
    half = to_half(graph, io_precision="fp32")
    assert norms_before_mlps(half)[0]
    onnx.checker.check_model(half, full_check=True)
    _, queries, y = run_onnx(half, seeded_images(CONFIGS["blocks"], 1).numpy())
    np.testing.assert_array_equal(queries, values)
    np.testing.assert_array_equal(y, 2 * values)


def test_export_of_norms_behind_the_branches_folds_nothing(swin, tmp_path):
    path = tmp_path / "v2.onnx"
    model = ("--model", "swinv2_tiny_window8_256", "--image-size", "256", "--precision", "fp16")
    result = swin("export", *model, "--output", path).assert_done()
    manifest = json.loads((tmp_path / "v2.onnx.json").read_text())
    assert (manifest["folded_norms"], manifest["norms_apart"]) == ([], [])
    assert "norms folded" not in result.err


def test_to_half_leaves_the_norm_of_a_kept_mlp_and_of_a_tiny_epsilon():
    graph = exported("digits")
    mlp = [f"layers.0.mlp{end}" for end in ("", ".0", ".1", ".2")]
    kept = to_half(graph, io_precision="fp32", keep=mlp)
    assert norms_before_mlps(kept)[1] == ("layers.0.norm_before_mlp",)
    tiny = onnx.ModelProto()
    tiny.CopyFrom(graph)
    norms = [n for n in tiny.graph.node if n.name.startswith("layers.1.norm_before_mlp/")]
    for entry in norms[0].attribute:
        if entry.name == "epsilon":
            entry.f = 1e-12
    assert norms_before_mlps(to_half(tiny, io_precision="fp32"))[1] == ("layers.1.norm_before_mlp",)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_to_half_names_the_weights_that_are_not_finite(value: float) -> None:
    graph = copy_of(exported("digits"))
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    tensor = weights[products_of(graph)[0].input[1]]
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ExportError, match=f"^{tensor.name} holds {value}, beyond"):
        to_half(graph, io_precision="fp32")


def products_of(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in graph.graph.node if node.name.endswith(".mlp.0/MatMul")]


def turned(graph: onnx.ModelProto, *, perm: list[int] | None) -> onnx.ModelProto:
    """The graph with the weights of its MLPs' first layers behind a Transpose."""
    graph = copy_of(graph)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    for product in products_of(graph):
        tensor, name = weights[product.input[1]], f"{product.name}/turned"
        values = numpy_helper.to_array(tensor)
        values = values if perm == [0, 1] else np.ascontiguousarray(values.T)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        turn = helper.make_node("Transpose", [tensor.name], [name], name=name)
        if perm is not None:
            turn.attribute.append(helper.make_attribute("perm", perm))
        product.input[1] = name
        graph.graph.node.insert(0, turn)
    return graph


@pytest.mark.parametrize("perm", [None, [1, 0]])
def test_to_half_folds_into_weights_that_a_transpose_turns(perm: list[int] | None) -> None:
    """As in whole models that have their Swin at two sizes, with the weights once."""
    graph = exported("digits")
    half = to_half(turned(graph, perm=perm), io_precision="fp32")
    onnx.checker.check_model(half, full_check=True)
    plain = to_half(graph, io_precision="fp32")
    assert norms_before_mlps(half) == norms_before_mlps(plain)
    assert not [node for node in half.graph.node if node.name.endswith("/turned")]
    images = seeded_images(CONFIGS["digits"], 2).numpy()
    np.testing.assert_array_equal(run_onnx(half, images)[0], run_onnx(plain, images)[0])


def test_to_half_leaves_a_norm_before_weights_that_no_swap_turns() -> None:
    half = to_half(turned(exported("digits"), perm=[0, 1]), io_precision="fp32")
    assert not norms_before_mlps(half)[0]


def test_to_half_folds_constants_that_two_layers_share_once() -> None:
    graph = copy_of(exported("digits"))
    nodes = {node.name: node for node in graph.graph.node}
    for name, inputs in (("norm_before_mlp/LayerNormalization", (1, 2)), ("mlp.0/MatMul", (1,))):
        for index in inputs:
            nodes[f"layers.1.{name}"].input[index] = nodes[f"layers.0.{name}"].input[index]
    nodes["layers.1.mlp.0/Add"].input[1] = nodes["layers.0.mlp.0/Add"].input[1]
    half = to_half(graph, io_precision="fp32")
    onnx.checker.check_model(half, full_check=True)
    names = [tensor.name for tensor in half.graph.initializer]
    assert "layers.0.mlp.0.centred_weight" in names
    assert "layers.1.mlp.0.centred_weight" not in names
    assert len(norms_before_mlps(half)[0]) == 4
    images = seeded_images(CONFIGS["digits"], 4).numpy()
    single, ours = (torch.from_numpy(run_onnx(one, images)[0]) for one in (graph, half))
    assert 0 < rms_error(ours, single) < 1e-2


def test_folded_graph_equals_the_emulated_model_and_the_float32_one():
    images = seeded_images(CONFIGS["digits"], 4)
    graph = exported("digits")
    (single,) = run_onnx(graph, images.numpy())
    (half,) = run_onnx(to_half(graph, io_precision="fp32"), images.numpy())
    with torch.inference_mode():
        emulated = Emulated(deploy_model("digits"), "fp16")(images)
    exact = torch.from_numpy(single)
    lost = rms_error(emulated, exact)
    assert 0 < rms_error(torch.from_numpy(half), exact) <= 3 * lost < 1e-2


def test_half_form_shares_all_weights_but_those_it_folds():
    model = deploy_model("digits")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    paths = [name for name, _ in model.named_modules()]
    form = half_form(model, "fp16", paths)
    blocks = [one for one in form.modules() if isinstance(one, SwinBlock)]
    assert all(isinstance(one.norm_before_mlp, nn.Identity) for one in blocks)
    ours = {value.data_ptr() for value in model.state_dict().values()}
    new = [n for n, value in form.state_dict().items() if value.data_ptr() not in ours]
    assert all(name.split(".")[2:4] == ["mlp", "0"] for name in new)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert half_form(model, "fp16", paths[:1]) is model


def test_emulated_model_folds_where_the_mlp_is_in_half_alone():
    model = deploy_model("digits")
    kept = Emulated(model, "fp16", keep=["layers.0.mlp.0"]).module.get_submodule("layers.0")
    other = Emulated(model, "fp16", keep=["layers.0.mlp.0"]).module.get_submodule("layers.1")
    assert isinstance(kept.norm_before_mlp, nn.LayerNorm)
    assert isinstance(other.norm_before_mlp, nn.Identity)


def test_lost_float32_of_a_sum_of_two_tensors_is_told_and_of_an_epsilon_not():
    half = to_half(exported("digits"), io_precision="fp32", keep=["layers.0"])
    lost = lost_float32([], half)
    assert "layers.0" in lost
    assert not any(path.endswith(".factor") for path in lost)
