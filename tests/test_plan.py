import dataclasses
import json

import numpy as np
import onnx
import pytest
from exported import copy_of, exported, in_float32, make_graph, needs_rtx
from onnx import TensorProto, helper

from exporters.errors import BuildError
from exporters.plan import KernelPlan, count_attention, read_plan
from exporters.spec import BatchProfile, EngineOptions
from exporters.to_engine import build_engine

SOFTMAX = make_graph(helper.make_node("Softmax", ["images"], ["y"]))
SOURCE = (SOFTMAX, "tensorrt-rtx", "1.7.1")
AT_8 = BatchProfile(8, 8, 8)


def rtx_tensor(name, dims, datatype):
    return (
        f"{{ Name: {name}, Dimensions: [{dims}], Strides: [9,1], StrideOrder: [1,0], "
        f"Datatype: {datatype}, Format: (Linear) Row major linear format }}"
    )


def trt10_tensor(name, dims, datatype):
    return f"{{ Name: {name}, Dimensions: [{dims}], Format/Datatype: {datatype} }}"


def layer(name, kind="kgen", *, inputs=(), constants=(), outputs=(), nodes=(), tensor=rtx_tensor):
    """One line as the builder writes it."""

    def listed(title, tensors):
        shown = [tensor(*entry) for entry in tensors]
        return f"{title}: [ {', '.join(shown)}]" if shown else f"{title}: []"

    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    parts = [listed("Inputs", inputs), listed("Constants", constants), listed("Outputs", outputs)]
    if tensor is trt10_tensor and not constants:
        del parts[1]
    return (
        f"Name: {name}, LayerType: {kind}, {', '.join(parts)}, TacticName: {name}_0x95, "
        f"StreamId: 0, Metadata: {metadata}"
    )


def plan_of(*lines, batch=2):
    text = "\n".join(["Layers:", *lines, "", "Engine Metadata:", " Multi-Device: Disabled"])
    return read_plan(["Parsing node: x", text, "Engine generation completed"], batch, source=SOURCE)


def kernel_of(*arguments, **choices):
    (kernel,) = plan_of(layer(*arguments, **choices)).kernels
    return kernel


@pytest.mark.parametrize("tensor", [rtx_tensor, trt10_tensor])
def test_read_plan_reads_every_field(tensor):
    gemm = layer(
        "layers.0.attention.qkv/MatMul_myl0_3",
        "gemm",
        inputs=[("x", "98,32", "Half")],
        constants=[("w", "32,96", "Half"), ("alpha", "1", "Float")],
        outputs=[("(Unnamed Layer* 3) [Matrix]_output", "98,96", "Half")],
        nodes=["layers.0.attention.qkv/MatMul", "layers.0.attention.qkv/Add"],
        tensor=tensor,
    )
    attention = layer(
        "_gemm_mha_v2_myl0_6",
        inputs=[("q", "4,49,32", "Half"), ("k", "4,32,49", "Half"), ("v", "4,49,32", "Half")],
        outputs=[("o", "4,49,32", "Half")],
        tensor=tensor,
    )
    plan = plan_of(layer("__mye1_0_myl0_0", "shape_call"), gemm, attention, batch=2)
    first, second = plan.kernels
    assert (first.name, first.kind, first.layer_type) == (
        "layers.0.attention.qkv/MatMul_myl0_3",
        "gemm",
        "gemm",
    )
    assert first.onnx_nodes == ("layers.0.attention.qkv/MatMul", "layers.0.attention.qkv/Add")
    assert first.half_bytes == 2 * (98 * 32 + 32 * 96 + 98 * 96)
    assert first.bytes_moved == first.half_bytes + 4
    assert (second.kind, second.layer_type, second.onnx_nodes) == ("attention", "kgen", ())
    assert second.bytes_moved == second.half_bytes == 2 * 4 * (4 * 49 * 32)
    assert (plan.batch, plan.flavor, plan.version) == (2, "tensorrt-rtx", "1.7.1")
    assert (plan.kernel_count, plan.fused_attention, plan.attention_blocks) == (2, 1, 1)
    assert plan.float32_compute == ()
    assert plan.bytes_moved == first.bytes_moved + second.bytes_moved
    assert plan.bytes_moved_per_image == plan.bytes_moved / 2
    assert plan.half_byte_share == (plan.bytes_moved - 4) / plan.bytes_moved
    assert plan.half_kernel_share == 1.0
    assert plan.kernel_types == {"gemm": 1, "kgen": 1}


@pytest.mark.parametrize(
    ("dims", "datatype", "moved", "half"),
    [
        ("8,3,56,56", "Float", 8 * 3 * 56 * 56 * 4, 0),
        ("8,49", "Half", 8 * 49 * 2, 8 * 49 * 2),
        ("8,49", "BFloat16", 8 * 49 * 2, 8 * 49 * 2),
        ("196", "Int64", 196 * 8, 0),
        ("196", "Int32", 196 * 4, 0),
        ("7", "Int8", 7, 0),
        ("7", "Bool", 7, 0),
        ("8", "FP4", 4, 0),
        ("-1,49,32", "Half", 49 * 32 * 2, 49 * 32 * 2),
        ("-1,-1", "Float", 4, 0),
        ("", "Float", 4, 0),
        ("5", "Complex128", 5, 0),
    ],
)
@pytest.mark.parametrize("tensor", [rtx_tensor, trt10_tensor])
def test_read_plan_counts_bytes_by_shape_and_type(tensor, dims, datatype, moved, half):
    kernel = kernel_of("__myl_Move_myl0_1", outputs=[("t", dims, datatype)], tensor=tensor)
    assert (kernel.bytes_moved, kernel.half_bytes) == (moved, half)
    assert kernel.float32_inputs == ()


@pytest.mark.parametrize(
    ("name", "layer_type", "kind"),
    [
        ("_gemm_mha_v2_myl0_6", "kgen", "attention"),
        ("_gemm_mha_v1_myl0_14", "kgen", "attention"),
        ("__myl_fmha_myl0_2", "kgen", "attention"),
        ("layers.0.attention.qkv/MatMul_myl0_3", "gemm", "gemm"),
        ("layers.0.mha.qkv/MatMul_myl0_3", "gemm", "gemm"),
        ("/layers.0/multi_head_attention/MatMul_myl0_3", "gemm", "gemm"),
        ("mha/MatMul+mha/query/MatMul_myl0_16", "gemm", "gemm"),
        ("mha/Transpose_myl0_3", "kgen", "other"),
        ("__myl_FcAdd_myl0_3", "runtime_fusion", "gemm"),
        ("__myl_FcAddMulCastErfCastAddMulMul_myl0_14", "runtime_fusion", "gemm"),
        ("__myl_AddMulCastErfCastAddMulMul_myl0_2", "kgen", "other"),
        ("0/Conv_myl0_1", "correlation", "gemm"),
        ("/stem/Conv + /stem/Relu", "CaskConvolution", "gemm"),
        ("Reformatting CopyNode for Input Tensor 0 to /layers.0/MatMul", "Reformat", "other"),
        ("__myl_AddMaxrSubExpSumDivMul_myl0_8", "kgen", "other"),
        ("__myl_CastMeanSubMulMeanAddSqrtDivMulCastMulAdd_myl0_9", "kgen", "other"),
    ],
)
def test_read_plan_tells_attention_and_gemm_from_the_rest(name, layer_type, kind):
    assert kernel_of(name, layer_type).kind == kind


FLOAT_ROW = ("x", "98,32", "Float")
HALF_ROW = ("x", "98,32", "Half")
SCALARS = [("alpha", "1", "Float"), ("beta", "", "Float")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (layer("a/MatMul_myl0_1", "gemm", inputs=[FLOAT_ROW], outputs=[HALF_ROW]), True),
        (layer("a/MatMul_myl0_1", "gemm", inputs=[HALF_ROW], constants=[FLOAT_ROW]), True),
        (layer("_gemm_mha_v1_myl0_1", inputs=[HALF_ROW], constants=[FLOAT_ROW]), True),
        (layer("a/MatMul_myl0_1", "gemm", inputs=[("x", "-1,32", "Float")]), True),
        (layer("a/MatMul_myl0_1", "gemm", inputs=[HALF_ROW], constants=SCALARS), False),
        (layer("__myl_FcAddCast_myl0_1", "gemm", inputs=[HALF_ROW], outputs=[FLOAT_ROW]), False),
        (layer("__myl_CastMeanSubMulMean_myl0_1", inputs=[FLOAT_ROW], outputs=[HALF_ROW]), False),
        (layer("__myl_CastReshTran_myl0_0", inputs=[FLOAT_ROW], outputs=[HALF_ROW]), False),
    ],
    ids=[
        "gemm",
        "gemm with float weights",
        "attention with a float bias",
        "gemm of an open size",
        "scale factors",
        "float output",
        "layer norm",
        "input cast",
    ],
)
def test_read_plan_finds_compute_in_float32(line, found):
    plan = plan_of(line)
    assert plan.float32_compute == ((plan.kernels[0].name,) if found else ())


@pytest.mark.parametrize("host", ["shape_call", "signal", "wait"])
def test_read_plan_host_steps_are_no_kernels(host):
    line = layer("__mye14659_0_myl0_0", host, outputs=[("x", "8", "Float")])
    plan = plan_of(line, layer("__myl_Move_myl0_1"))
    assert [kernel.name for kernel in plan.kernels] == ["__myl_Move_myl0_1"]


OPAQUE = "Name: {ForeignNode[images/Cast...logits/Cast]}, LayerType: Myelin, Inputs: [], "


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["Engine generation completed in 1 s"],
        ["Layers:\nLayer(Myelin): x, LayerType: none of these lines"],
        ["Layers:\n" + layer("__mye1_0", "shape_call")],
        ["Layers:\n" + OPAQUE + "Outputs: []"],
    ],
    ids=["nothing", "no layers", "another format", "host steps only", "a part not listed"],
)
def test_read_plan_without_kernels_is_refused(messages):
    with pytest.raises(BuildError, match=r"tensorrt-rtx 1\.7\.1 did not list its kernels.* 10\.10"):
        read_plan(messages, 8, source=SOURCE)


def test_read_plan_takes_the_last_listing():
    messages = ["Layers:\n" + layer(f"__myl_Move_myl0_{index}") for index in range(3)]
    assert read_plan(messages, 8, source=SOURCE).kernels[0].name == "__myl_Move_myl0_2"


def test_count_attention_counts_both_spellings():
    node = helper.make_node
    assert count_attention(make_graph(node("Relu", ["images"], ["y"]))) == 0
    both = make_graph(
        node("Softmax", ["images"], ["x"]), node("Attention", ["x", "x", "x"], ["y"]), opset=23
    )
    assert count_attention(both) == 2


def sample_plan():
    return plan_of(
        layer("a/MatMul_myl0_1", "gemm", inputs=[FLOAT_ROW], outputs=[HALF_ROW], nodes=["a"]),
        layer("_gemm_mha_v2_myl0_2", inputs=[HALF_ROW]),
        layer("__myl_Move_myl0_3", inputs=[HALF_ROW], outputs=[HALF_ROW]),
        batch=4,
    )


def test_heaviest_is_ordered_and_cut():
    names = [kernel.name for kernel in sample_plan().heaviest(2)]
    assert names == ["a/MatMul_myl0_1", "__myl_Move_myl0_3"]


def test_half_kernel_share_needs_most_of_the_bytes():
    assert sample_plan().half_kernel_share == 2 / 3


def test_to_dict_and_back_through_json_is_the_same_plan():
    for plan in (sample_plan(), sample_plan().with_range(sample_plan())):
        assert KernelPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def without(key):
    return {name: value for name, value in sample_plan().to_dict().items() if name != key}


@pytest.mark.parametrize(
    "values",
    [
        {},
        [],
        None,
        without("kernels"),
        without("batch"),
        {**sample_plan().to_dict(), "more": 1},
        {**sample_plan().to_dict(), "kernels": [1]},
        {**sample_plan().to_dict(), "kernels": [{"name": "x"}]},
        {**sample_plan().to_dict(), "kernels": 3},
    ],
)
def test_from_dict_of_something_else_is_refused(values):
    with pytest.raises(BuildError, match="not a kernel plan"):
        KernelPlan.from_dict(values)


def test_with_range_takes_counts_from_the_engine_and_sizes_from_the_batch():
    engine = plan_of(
        layer("b/MatMul_myl0_1", "gemm", inputs=[("x", "-1,32", "Float")]),
        *[layer(f"__myl_Move_myl0_{index}", inputs=[("x", "-1", "Half")]) for index in range(5)],
    )
    at_batch = sample_plan()
    plan = at_batch.with_range(engine)
    assert (plan.kernel_count, plan.fused_attention) == (6, 0)
    assert (at_batch.kernel_count, at_batch.fused_attention) == (3, 1)
    assert plan.float32_compute == ("a/MatMul_myl0_1", "b/MatMul_myl0_1")
    assert plan.bytes_moved == at_batch.bytes_moved
    changed = ("float32_compute", "range_kernels", "range_fused_attention")
    reverted = {name: getattr(at_batch, name) for name in changed}
    assert dataclasses.replace(plan, **reverted) == at_batch


def built_plan(graph, profile=AT_8):
    return build_engine(graph, profile, options=EngineOptions("tensorrt-rtx")).plan


def single_and_half():
    return exported("digits"), exported("digits", precision="fp16")


@needs_rtx
@pytest.mark.parametrize("profile", [AT_8, BatchProfile(1, 8, 32)], ids=["8", "1 to 32"])
def test_plan_of_the_half_model_fuses_all_attention(profile):
    plan = built_plan(exported("digits", precision="fp16"), profile)
    assert (plan.fused_attention, plan.attention_blocks) == (4, 4)
    assert plan.float32_compute == ()
    assert plan.half_byte_share > 0.9
    assert plan.kernel_count <= 45
    for kernel in plan.kernels:
        assert kernel.bytes_moved > 0
        if kernel.kind == "attention":
            assert any(node.endswith("/Softmax") for node in kernel.onnx_nodes)
    images_bytes = 8 * 3 * 56 * 56 * 4
    assert any(kernel.float32_inputs == ("images",) for kernel in plan.kernels)
    assert images_bytes < plan.bytes_moved < 100 * images_bytes


@needs_rtx
def test_plan_of_the_single_model_shows_float32():
    plan = built_plan(exported("digits"))
    assert (plan.fused_attention, plan.attention_blocks) == (0, 4)
    assert len(plan.float32_compute) >= 4 * 6 + 3
    assert plan.half_byte_share == 0.0


@needs_rtx
@pytest.mark.parametrize(
    ("island", "fused", "culprits"),
    [
        (["mlp.0/MatMul", "mlp.0/Add"], 4, ["layers.1.mlp.0/MatMul"]),
        (["attention.bias/Add", "attention/Softmax"], 4, ["layers.1.attention/Softmax"]),
        (
            ["attention/MatMul", "attention.bias/Add", "attention/Softmax", "attention/MatMul_2"],
            3,
            ["layers.1.attention/MatMul", "layers.1.attention/MatMul_2"],
        ),
    ],
    ids=["a linear layer", "softmax", "an attention block"],
)  # fmt: skip
def test_plan_shows_what_was_left_in_float32(island, fused, culprits):
    names = {f"layers.1.{name}" for name in island}
    single, half = single_and_half()
    plan = built_plan(in_float32(half, single, names.__contains__))
    assert (plan.fused_attention, plan.attention_blocks) == (fused, 4)
    found = {kernel.name: kernel for kernel in plan.kernels if kernel.name in plan.float32_compute}
    assert len(found) == len(culprits)
    assert {node for kernel in found.values() for node in kernel.onnx_nodes} >= set(culprits)


@needs_rtx
def test_plan_shows_attention_that_cannot_fuse():
    graph = copy_of(exported("digits", precision="fp16"))
    (softmax,) = [n for n in graph.graph.node if n.name == "layers.3.attention/Softmax"]
    weights = helper.make_tensor_value_info(softmax.output[0], TensorProto.FLOAT16, None)
    graph.graph.output.append(weights)
    plan = built_plan(graph)
    assert (plan.fused_attention, plan.attention_blocks) == (3, 4)
    assert plan.float32_compute == ()


@needs_rtx
def test_plan_does_not_take_the_models_names_for_kernels():
    graph = copy_of(exported("digits"))
    for node in graph.graph.node:
        node.name = node.name.replace("attention", "mha")
    assert built_plan(graph).fused_attention == 0


@needs_rtx
def test_plan_of_a_convolution_in_float32_shows_it():
    weights = {"w": np.ones((4, 3, 4, 4), np.float32)}
    patches = helper.make_node("Conv", ["images", "w"], ["y"], name="stem/Conv", strides=[4, 4])
    graph = make_graph(patches, weights=weights, outputs={"y": ("batch", 4, 2, 2)})
    onnx.checker.check_model(graph, full_check=True)
    assert len(built_plan(graph).float32_compute) == 1


@needs_rtx
@pytest.mark.slow
def test_plan_of_the_full_size_fuses_all_attention_in_few_kernels():
    plan = built_plan(exported("swin-t", precision="fp16"))
    assert (plan.fused_attention, plan.attention_blocks) == (12, 12)
    assert plan.kernel_count <= 125
    assert plan.float32_compute == ()
    assert plan.bytes_moved <= 890e6
    assert plan.bytes_moved_per_image == plan.bytes_moved / 8
