"""Plans of engines that TensorRT-RTX builds, without a GPU."""

import numpy as np
import onnx
import pytest
from exported import CONFIGS, copy_of, exported, in_float32, make_graph, needs_rtx
from onnx import TensorProto, helper

from exporters.engine.to_engine import build_engine
from exporters.plan.totals import block_totals
from exporters.spec import BatchProfile, EngineOptions

AT_8 = BatchProfile(8, 8, 8)


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
    assert plan.flops == pytest.approx(2e9 * 8 * CONFIGS["digits"].gmacs, rel=1e-9)
    assert plan.unsized_products == 0
    assert 1 <= plan.floor_ratio < 1.6


@needs_rtx
def test_every_kernel_of_an_engine_has_its_block():
    plan = built_plan(exported("digits", precision="fp16"))
    names = [block.name for block in plan.blocks]
    layers = [f"layers.{index}" for index in range(5)]
    assert names == ["embed", *layers, "heads"]
    assert [block.attention for block in plan.blocks] == [0, 1, 1, 0, 1, 1, 0]
    assert {kernel.block for kernel in plan.kernels} == set(names)
    starts = [names.index(kernel.block) for kernel in plan.kernels]
    assert starts == sorted(starts)
    totals = block_totals(plan)
    assert sum(total.bytes_moved for total in totals) == plan.bytes_moved
    assert sum(total.kernels for total in totals) == plan.kernel_count
    assert sum(total.flops for total in totals) == plan.flops
    for total in totals:
        assert total.bytes_by_kind.get("attention", 0) > 0 or not total.attention


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
        (["mlp.2/MatMul", "mlp.2/Add"], 4, ["layers.1.mlp.2/MatMul"]),
        (["attention.bias/Add", "attention/Softmax"], 4, ["layers.1.attention/Softmax"]),
        (
            ["attention/Einsum", "attention.bias/Add", "attention/Softmax", "attention/Einsum_2"],
            3,
            ["layers.1.attention/Einsum", "layers.1.attention/Einsum_2"],
        ),
    ],
    ids=["a linear layer", "softmax", "an attention block"],
)  # fmt: skip
def test_plan_shows_what_was_left_in_float32(island, fused, culprits):
    names = {f"layers.1.{name}" for name in island}
    single, half = single_and_half()
    assert names <= {node.name for node in half.graph.node}
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
