import numpy as np
import onnx
import pytest
import torch
from conftest import rms_error, seeded_images
from exported import CONFIGS, copy_of, deploy_model, exported, make_graph, run_onnx, spec_of
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from exporters.errors import ExportError
from exporters.half_precision import precision_of, to_half
from exporters.to_onnx import export_onnx
from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import BUNDLED_IMAGES
from swin_deploy.deploy.fold import fold
from swin_deploy.images.sets import load_images

ROW = ("batch", 4)
FLOAT16_LARGEST = np.float32(65504)


class HalfModule(nn.Module):
    """A module run in float16 between float32 images and float32 outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images.half()).float()


def scaled(weight, *, output="y", opset=17):
    """Images times one weight."""
    return make_graph(
        helper.make_node("Mul", ["images", "w"], [output], name="scale"),
        inputs={"images": ROW},
        outputs={output: ROW},
        weights={"w": np.full(4, weight, np.float32)},
        opset=opset,
    )


def test_to_half_equals_the_export_of_the_half_module():
    images = load_images(
        BUNDLED_IMAGES["notebook-digits"], load_model("notebook-digits").preprocessing, limit=32
    ).images
    module = HalfModule(fold(load_model("notebook-digits").reference))
    exported_half = export_onnx(module.eval(), spec_of("digits"), metadata={})
    single, ours, theirs = (
        torch.from_numpy(run_onnx(graph, images)[0]).double()
        for graph in (
            exported("digits"),
            to_half(exported("digits"), io_precision="fp32"),
            exported_half,
        )
    )
    lost = rms_error(theirs, single)
    assert 0 < rms_error(ours, single) <= 1.5 * lost < 1e-2
    assert rms_error(ours, theirs) <= lost
    assert torch.equal(ours.argmax(1), single.argmax(1))


@pytest.mark.parametrize("io_precision", ["fp32", "fp16"])
def test_to_half_keeps_the_graph_and_its_indices(io_precision):
    graph = exported("blocks")
    before = graph.SerializeToString()
    half = to_half(graph, io_precision=io_precision)
    assert graph.SerializeToString() == before
    onnx.checker.check_model(half, full_check=True)
    kept = [node for node in half.graph.node if node.op_type != "Cast"]
    # The norm before an MLP is folded into the MLP: tests/exporting/test_norm_folding.py.
    folded = ("norm_before_mlp/", "mlp.0/", "mlp.0.factor/")
    ours, theirs = (
        [(n.op_type, n.name) for n in nodes if not any(word in n.name for word in folded)]
        for nodes in (kept, graph.graph.node)
    )
    assert ours == theirs
    originals = {tensor.name: tensor for tensor in graph.graph.initializer}
    same = [t for t in half.graph.initializer if ".mlp.0." not in t.name]
    assert len(same) > 20
    for tensor in same:
        original = originals[tensor.name]
        if original.data_type == TensorProto.INT64:
            assert tensor == original
        else:
            expected = numpy_helper.to_array(original).astype(np.float16)
            assert np.array_equal(numpy_helper.to_array(tensor), expected)
    assert {tensor.data_type for tensor in originals.values()} == {
        TensorProto.FLOAT,
        TensorProto.INT64,
    }
    for norm in (node for node in kept if node.op_type == "LayerNormalization"):
        attributes = {entry.name: entry.i for entry in norm.attribute}
        assert attributes.get("stash_type", 1) == TensorProto.FLOAT


@pytest.mark.parametrize("io_precision", ["fp32", "fp16"])
def test_to_half_names_and_types_of_the_edges(io_precision):
    half = to_half(scaled(0.1), io_precision=io_precision)
    onnx.checker.check_model(half, full_check=True)
    edges = [*half.graph.input, *half.graph.output]
    kind = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}[io_precision]
    assert [(v.name, v.type.tensor_type.elem_type) for v in edges] == [
        ("images", kind),
        ("y", kind),
    ]
    images = np.ones((2, 4), {"fp32": np.float32, "fp16": np.float16}[io_precision])
    (output,) = run_onnx(half, images)
    assert output.dtype == images.dtype
    assert np.all(output == np.float16(0.1))


def test_to_half_several_inputs_and_outputs_and_constants():
    graph = make_graph(
        helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.array([0.1] * 4, np.float32))
        ),
        helper.make_node("Mul", ["images", "c"], ["first"]),
        helper.make_node("Add", ["first", "more"], ["second"]),
        helper.make_node("Gather", ["second", "index"], ["third"], axis=1),
        inputs={"images": ROW, "more": ROW},
        outputs={"first": ROW, "third": ROW},
        weights={"index": np.array([3, 2, 1, 0])},
    )
    half = to_half(graph, io_precision="fp32")
    onnx.checker.check_model(half, full_check=True)
    one, row = np.ones((2, 4), np.float32), np.arange(8, dtype=np.float32).reshape(2, 4)
    first, third = run_onnx(half, one, row)
    assert np.array_equal(first, np.float16(0.1) * one)
    assert np.allclose(third, (first + row)[:, ::-1], rtol=1e-3)


@pytest.mark.parametrize("weight", [FLOAT16_LARGEST, -FLOAT16_LARGEST, 6e-8, 0.0])
def test_to_half_takes_what_float16_holds(weight):
    half = to_half(scaled(weight), io_precision="fp32")
    assert np.all(numpy_helper.to_array(half.graph.initializer[0]) == np.float16(weight))
    assert np.isfinite(numpy_helper.to_array(half.graph.initializer[0])).all()


@pytest.mark.parametrize(
    ("weight", "shown"),
    [(65505, "6.55e+04"), (-1e5, "1e+05"), (np.inf, "inf"), (-np.inf, "inf"), (np.nan, "nan")],
)
def test_to_half_names_the_weight_that_float16_cannot_hold(weight, shown):
    graph = scaled(0.5)
    values = np.array([1, 2, weight, 3], np.float32)
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "layers.0.mlp.0.bias"))
    graph.graph.node[0].input[1] = "layers.0.mlp.0.bias"
    with pytest.raises(
        ExportError, match=r"^layers\.0\.mlp\.0\.bias holds .* of float16"
    ) as caught:
        to_half(graph, io_precision="fp32")
    assert f"holds {shown}, beyond the 65504 of float16; use float32" in str(caught.value)


def test_to_half_names_the_node_whose_constant_float16_cannot_hold():
    value = numpy_helper.from_array(np.array([1e6] * 4, np.float32))
    graph = make_graph(
        helper.make_node("Constant", [], ["c"], value=value, name="scale/Constant"),
        helper.make_node("Mul", ["images", "c"], ["y"]),
        inputs={"images": ROW},
        outputs={"y": ROW},
    )
    with pytest.raises(ExportError, match=r"^scale/Constant holds 1e\+06"):
        to_half(graph, io_precision="fp32")


def test_to_half_of_a_mixed_graph_is_refused():
    half = to_half(scaled(0.1), io_precision="fp32")
    with pytest.raises(
        ExportError, match=r"casts to half precision by itself \(images/Cast\).*plain float32"
    ):
        to_half(half, io_precision="fp32")


def passing_through() -> onnx.ModelProto:
    graph = scaled(0.1)
    graph.graph.output.append(graph.graph.input[0])
    return graph


def weight_as_input() -> onnx.ModelProto:
    graph = scaled(0.1)
    graph.ir_version = 3
    graph.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    return graph


@pytest.mark.parametrize("make", [passing_through, weight_as_input])
def test_to_half_of_a_form_it_does_not_know_never_passes_the_checker(make):
    graph = make()
    onnx.checker.check_model(graph, full_check=True)
    half = to_half(graph, io_precision="fp32")
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        onnx.checker.check_model(half, full_check=True)


def test_precision_of_counts_weights():
    graph = scaled(0.1)
    half = to_half(graph, io_precision="fp32")
    assert precision_of(graph) == "fp32"
    assert precision_of(half) == "fp16"
    mixed = copy_of(half)
    mixed.graph.initializer.append(numpy_helper.from_array(np.zeros(5, np.float32), "more"))
    assert precision_of(mixed) == "fp32"
    integers = copy_of(half)
    integers.graph.initializer.append(numpy_helper.from_array(np.zeros(99, np.int64), "index"))
    assert precision_of(integers) == "fp16"
    bare = make_graph(helper.make_node("Relu", ["images"], ["y"]))
    assert precision_of(bare) == "fp32"
    assert precision_of(exported("digits", precision="fp16")) == "fp16"
    assert precision_of(exported("digits")) == "fp32"


def test_to_half_of_blocks_loses_no_more_than_float16_does():
    images = seeded_images(CONFIGS["blocks"], batch=4)
    with torch.no_grad():
        expected = deploy_model("blocks")(images)
    (output,) = run_onnx(exported("blocks", precision="fp16"), images.numpy())
    assert 1e-5 < rms_error(torch.from_numpy(output), expected) < 2e-2
