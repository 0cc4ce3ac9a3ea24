import dataclasses
import json

import pytest
from exported import make_graph
from onnx import helper

from exporters.errors import BuildError
from exporters.plan import KernelPlan, count_attention, read_plan

ATTENTION = make_graph(
    helper.make_node("MatMul", ["images", "images"], ["scores"], name="attn/MatMul"),
    helper.make_node("Softmax", ["scores"], ["weights"], name="attn/Softmax"),
    helper.make_node("MatMul", ["weights", "images"], ["y"], name="attn/MatMul_2"),
)
SOURCE = (ATTENTION, "tensorrt-rtx", "1.7.1")


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
    assert first.bytes_by_type == {"FP16": first.half_bytes, "FP32": 4}
    assert plan.bytes_by_type == {"FP16": plan.bytes_moved - 4, "FP32": 4}
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
    ("dims", "datatype", "name", "moved", "half"),
    [
        ("8,3,56,56", "Float", "FP32", 8 * 3 * 56 * 56 * 4, 0),
        ("8,49", "Half", "FP16", 8 * 49 * 2, 8 * 49 * 2),
        ("8,49", "BFloat16", "BF16", 8 * 49 * 2, 8 * 49 * 2),
        ("196", "Int64", "INT64", 196 * 8, 0),
        ("196", "Int32", "INT32", 196 * 4, 0),
        ("7", "Int8", "INT8", 7, 0),
        ("7", "FP8", "FP8", 7, 0),
        ("7", "Bool", "BOOL", 7, 0),
        ("8", "FP4", "FP4", 4, 0),
        ("-1,49,32", "Half", "FP16", 49 * 32 * 2, 49 * 32 * 2),
        ("-1,-1", "Float", "FP32", 4, 0),
        ("", "Float", "FP32", 4, 0),
        ("5", "Complex128", "COMPLEX128", 5, 0),
    ],
)
@pytest.mark.parametrize("tensor", [rtx_tensor, trt10_tensor])
def test_read_plan_counts_bytes_by_shape_and_type(tensor, dims, datatype, name, moved, half):
    kernel = kernel_of("__myl_Move_myl0_1", outputs=[("t", dims, datatype)], tensor=tensor)
    assert (kernel.bytes_moved, kernel.half_bytes) == (moved, half)
    assert kernel.bytes_by_type == {name: moved}
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
        ("mha/Transpose_myl0_3", "kgen", "elementwise"),
        ("__myl_FcAdd_myl0_3", "runtime_fusion", "gemm"),
        ("__myl_FcAddMulCastErfCastAddMulMul_myl0_14", "runtime_fusion", "gemm"),
        ("__myl_AddMulCastErfCastAddMulMul_myl0_2", "kgen", "elementwise"),
        ("0/Conv_myl0_1", "correlation", "gemm"),
        ("/stem/Conv + /stem/Relu", "CaskConvolution", "gemm"),
        ("Reformatting CopyNode for Input Tensor 0 to /layers.0/MatMul", "Reformat", "copy"),
        ("__myl_AddMaxrSubExpSumDivMul_myl0_8", "kgen", "norm"),
        ("__myl_CastMeanSubMulMeanAddSqrtDivMulCastMulAdd_myl0_9", "kgen", "norm"),
        ("__myl_ReshTranSlicSlicTranSlicReshMoveReshMoveReshMove_myl0_4", "kgen", "copy"),
        ("__myl_ReshGath_myl0_20", "kgen", "copy"),
        ("__myl_Move_myl0_6", "kgen", "copy"),
        ("__myl_SlicMul_myl0_6", "kgen", "elementwise"),
    ],
)
def test_read_plan_tells_the_kinds_of_kernels(name, layer_type, kind):
    assert kernel_of(name, layer_type).kind == kind


@pytest.mark.parametrize(
    ("operators", "kind"),
    [
        (("Reshape", "Transpose"), "copy"),
        (("Reshape", "Add"), "elementwise"),
        (("Add", "LayerNormalization"), "norm"),
        (("ReduceMean",), "norm"),
    ],
)
def test_read_plan_tells_kinds_from_onnx_nodes_where_names_say_nothing(operators, kind):
    nodes = [helper.make_node(op, ["images"], ["y"], name=f"a/{op}") for op in operators]
    line = layer("a/fused", nodes=[node.name for node in nodes])
    source = (make_graph(*nodes), "tensorrt", "10.13")
    (kernel,) = read_plan(["Layers:\n" + line], 2, source=source).kernels
    assert (kernel.kind, kernel.operators) == (kind, operators)


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


@pytest.mark.parametrize("kind", ["reshape", "cast"])
@pytest.mark.parametrize(
    ("shape", "datatype", "launches"),
    [("1", "Int64", False), ("8", "Int64", True), ("1", "Half", True), ("1, 1000", "Half", True)],
)
def test_read_plan_steps_that_make_one_size_are_no_kernels(kind, shape, datatype, launches):
    line = layer("cast_hvar^7i64_myl0_6", kind, outputs=[("x", shape, datatype)])
    plan = plan_of(line, layer("__myl_Move_myl0_7"))
    assert len(plan.kernels) == 1 + launches


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
    assert count_attention(ATTENTION) == 1
    one = make_graph(node("Attention", ["images"] * 3, ["y"]), opset=23)
    assert count_attention(one) == 1


def test_count_attention_leaves_out_the_softmax_of_a_classifier():
    assert count_attention(make_graph(helper.make_node("Softmax", ["images"], ["y"]))) == 0


def sample_plan():
    return plan_of(
        layer("a/MatMul_myl0_1", "gemm", inputs=[FLOAT_ROW], outputs=[HALF_ROW], nodes=["a"]),
        layer("_gemm_mha_v2_myl0_2", inputs=[HALF_ROW]),
        layer("__myl_Move_myl0_3", inputs=[HALF_ROW], outputs=[HALF_ROW]),
        batch=4,
    )


@pytest.mark.parametrize(
    ("kinds", "precision", "wrong"),
    [
        (("Half", "Half", "Half"), "fp16", False),
        (("Half", "BFloat16", "Half"), "bf16", False),
        (("Half", "Half", "Half"), "bf16", True),
        (("FP8", "FP8", "BFloat16"), "fp16", True),
        (("Int8", "Int8", "Half"), "fp16", False),
        (("Float", "Half", "BFloat16"), "fp16", False),  # float32: told by float32_compute
    ],
)
@pytest.mark.parametrize("name", ["a/MatMul_myl0_1", "_gemm_mha_v2_myl0_2", "__myl_Move_myl0_3"])
def test_wrong_products_are_those_without_the_precision(name, kinds, precision, wrong):
    """Kinds of the input, the weights and the output; only products are judged."""
    shown = [[(place, "4,49", kind)] for place, kind in zip("xwy", kinds, strict=True)]
    plan = plan_of(layer(name, inputs=shown[0], constants=shown[1], outputs=shown[2]))
    judged = wrong and "Move" not in name
    assert plan.wrong_products(precision) == ((name,) if judged else ())


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


def test_from_dict_reads_the_plan_of_an_older_release():
    new = ("blocks", "unsized_products", "lost_float32")
    of_kernels = (
        "bytes_written", "flops", "block", "operators", "float32_constants", "bytes_by_type",
    )  # fmt: skip
    values = {name: value for name, value in sample_plan().to_dict().items() if name not in new}
    values["kernels"] = [
        {name: value for name, value in kernel.items() if name not in of_kernels}
        for kernel in values["kernels"]
    ]
    plan = KernelPlan.from_dict(json.loads(json.dumps(values)))
    assert plan.bytes_moved == sample_plan().bytes_moved
    assert (plan.blocks, plan.floor_ratio) == ((), None)
    assert (plan.bytes_by_type, plan.wrong_products("bf16")) == ({}, ())
    assert plan.half_byte_share == sample_plan().half_byte_share


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
