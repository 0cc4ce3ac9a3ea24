"""Operations and the floor of graphs that are small enough to count by hand."""

import numpy as np
import onnx
import pytest
from exported import CONFIGS, exported, make_graph
from onnx import TensorProto, helper

from exporters.plan.values import infer_values
from exporters.plan.work import count_work

node = helper.make_node


def weight(*shape):
    return np.zeros(shape, np.float32)


def work_of(*nodes, images=("batch", 4, 6), batch=2, weights=None, opset=17):
    """Operations and floor of nodes that begin at ``images``; float32, so 4 bytes a value."""
    graph = make_graph(
        *nodes, inputs={"images": images}, outputs={}, weights=weights or {}, opset=opset
    )
    return count_work(graph, infer_values(graph, batch))


def flops_of(*nodes, **choices):
    return sum(work_of(*nodes, **choices).flops.values())


def floor_of(*nodes, **choices):
    """In values, not bytes."""
    return sum(work_of(*nodes, **choices).floor_bytes.values()) / 4


def linear(source, target, width, name="w"):
    return node("MatMul", [source, name], [target]), {name: weight(*width)}


@pytest.mark.parametrize(
    ("made", "images", "weights", "flops"),
    [
        (node("MatMul", ["images", "w"], ["y"]), ("b", 4, 6), weight(6, 5), 2 * 2 * 4 * 6 * 5),
        (node("MatMul", ["images", "w"], ["y"]), ("b", 6), weight(6, 5), 2 * 2 * 6 * 5),
        (node("Gemm", ["images", "w"], ["y"]), ("b", 6), weight(6, 5), 2 * 2 * 6 * 5),
        (node("Gemm", ["images", "w"], ["y"], transB=1), ("b", 6), weight(5, 6), 2 * 2 * 6 * 5),
        (node("Gemm", ["w", "images"], ["y"], transA=1), ("b", 6), weight(2, 5), 2 * 5 * 2 * 6),
        (node("Conv", ["images", "w"], ["y"], strides=[4, 4]), ("b", 3, 8, 8), weight(5, 3, 4, 4),
         2 * (2 * 5 * 2 * 2) * 3 * 4 * 4),
        (node("Conv", ["images", "w"], ["y"], group=4), ("b", 4, 8, 8), weight(4, 1, 1, 1),
         2 * (2 * 4 * 8 * 8)),
        (node("Einsum", ["images", "w"], ["y"], equation="bhnd,chd->bnc"), ("b", 3, 7, 4),
         weight(12, 3, 4), 2 * 2 * 3 * 7 * 4 * 12),
        (node("Add", ["images", "w"], ["y"]), ("b", 6), weight(6), 0),
    ],
    ids=["matmul", "matmul of rows", "gemm", "gemm transposed", "gemm transposed input",
         "patches", "one channel a group", "einsum", "no product"],
)  # fmt: skip
def test_flops_are_two_a_multiply_accumulate(made, images, weights, flops):
    assert flops_of(made, images=images, weights={"w": weights}) == flops


@pytest.mark.parametrize("equation", ["...d,cd->...c", "bnd,cde->bnc", "bnd->bn"])
def test_an_einsum_of_another_form_is_counted_as_unsized(equation):
    made = node("Einsum", ["images", "w"], ["y"], equation=equation)
    work = work_of(made, weights={"w": weight(5, 6)})
    assert (sum(work.flops.values()), work.unsized) == (0, 1)


def test_a_product_behind_an_unknown_operator_is_counted_as_unsized():
    own = node("Fancy", ["images"], ["x"], domain="com.example")
    product, weights = linear("x", "y", (6, 5))
    graph = make_graph(
        own, product, inputs={"images": ("b", 6)}, outputs={}, weights=weights,
        domains=("com.example",),
    )  # fmt: skip
    work = count_work(graph, infer_values(graph, 2))
    assert (work.unsized, sum(work.flops.values())) == (1, 0)


def test_a_product_of_constants_is_computed_by_the_builder():
    made = node("MatMul", ["w", "v"], ["y"])
    assert flops_of(made, weights={"w": weight(5, 6), "v": weight(6, 7)}) == 0


def test_shapes_computed_in_the_graph_are_followed():
    """As PyTorch's older exporter writes ``x.view(x.shape[0] * 4, 6)``."""
    nodes = (
        node("Shape", ["images"], ["shape"]),
        node("Constant", [], ["zero"], value=helper.make_tensor("v", TensorProto.INT64, [], [0])),
        node("Constant", [], ["four"], value=helper.make_tensor("v", TensorProto.INT64, [], [4])),
        node("Constant", [], ["axis"], value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        node("Constant", [], ["six"], value=helper.make_tensor("v", TensorProto.INT64, [1], [6])),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Mul", ["batch", "four"], ["rows"]),
        node("Unsqueeze", ["rows", "axis"], ["rows1"]),
        node("Concat", ["rows1", "six"], ["target"], axis=0),
        node("Reshape", ["images", "target"], ["x"]),
        node("MatMul", ["x", "w"], ["y"]),
    )
    graph = make_graph(
        *nodes, inputs={"images": ("b", 4, 6)}, outputs={}, weights={"w": weight(6, 5)}
    )
    values = infer_values(graph, 3)
    assert values["x"].shape == (12, 6)
    assert values["y"].bytes == 12 * 5 * 4
    assert (values["target"].constant, values["x"].constant) == (True, False)
    assert sum(count_work(graph, values).flops.values()) == 2 * 12 * 6 * 5


def test_a_fixed_batch_stays_what_it_is():
    graph = make_graph(node("Relu", ["images"], ["y"]), inputs={"images": (3, 5)}, outputs={})
    assert infer_values(graph, 8)["y"].shape == (3, 5)


X = 2 * 4 * 6  # values of images


@pytest.mark.parametrize(
    ("nodes", "weights", "floor"),
    [
        ([linear("images", "y", (6, 5))[0]], {"w": (6, 5)}, X + 30 + 2 * 4 * 5),
        ([linear("images", "y", (6, 5))[0], node("Relu", ["y"], ["z"])], {"w": (6, 5)},
         X + 30 + 2 * 4 * 5),
        ([linear("images", "q", (6, 6))[0], linear("images", "k", (6, 6), "v")[0]],
         {"w": (6, 6), "v": (6, 6)}, X + 36 + X + 36 + X),
        ([node("LayerNormalization", ["images", "g"], ["n"])], {"g": (6,)}, 2 * X),
        ([node("LayerNormalization", ["images", "g"], ["n"]),
          node("LayerNormalization", ["n", "g"], ["m"])], {"g": (6,)}, 3 * X),
        ([node("LayerNormalization", ["images", "g"], ["n"]),
          node("ReduceMean", ["n"], ["m"], axes=[1], keepdims=0)], {"g": (6,)}, X),
        ([linear("images", "p", (6, 6))[0], node("Add", ["images", "p"], ["y"])],
         {"w": (6, 6)}, X + 36 + X + X),
        ([linear("images", "p", (6, 6))[0], node("Mul", ["p", "p"], ["y"]),
          node("Add", ["p", "y"], ["z"])], {"w": (6, 6)}, X + 36 + X),
        ([node("Transpose", ["images"], ["y"]), node("Identity", ["y"], ["z"])], {}, 0),
    ],
    ids=["product", "activation", "shared input", "norm", "two norms", "norm and mean",
         "residual", "gate of one value", "copies"],
)  # fmt: skip
def test_floor_by_hand(nodes, weights, floor):
    made = {name: weight(*shape) for name, shape in weights.items()}
    assert floor_of(*nodes, weights=made) == floor


@pytest.mark.parametrize("weights", ["half", "rounded"])
def test_what_is_rounded_to_8_bits_is_written_and_read_so(weights):
    """Two images of 4 tokens: a norm of 6 values, a product to 5, and one of these to 3."""
    stored = [TensorProto(name=f"{name}8", data_type=TensorProto.FLOAT8E4M3FN, dims=shape,
              raw_data=bytes(30)) for name, shape in (("w", (6, 5)), ("v", (5, 3)))]  # fmt: skip
    stored.append(TensorProto(name="zero", data_type=stored[0].data_type, raw_data=bytes(1)))
    rounded = [node("QuantizeLinear", [one, "scale", "zero"], [f"{one}8"]) for one in ("n", "z")]
    back = [node("DequantizeLinear", [f"{one}8", "scale"], [f"{one}_back"]) for one in "nzwv"]
    first, second = ("w_back", "v_back") if weights == "rounded" else ("w", "v")
    graph = make_graph(
        node("LayerNormalization", ["images", "gain"], ["n"]),
        rounded[0], back[0], back[2], back[3],
        node("MatMul", ["n_back", first], ["y"]),
        node("Relu", ["y"], ["z"]),
        rounded[1], back[1],
        node("MatMul", ["z_back", second], ["last"]),
        inputs={"images": ("batch", 4, 6)},
        outputs={},
        weights={"gain": weight(6), "w": weight(6, 5), "v": weight(5, 3),
                 "scale": np.array(1, np.float32)},
        opset=19,
    )  # fmt: skip
    stored[1].raw_data = bytes(15)
    graph.graph.initializer.extend(stored)
    floor = sum(count_work(graph, infer_values(graph, 2)).floor_bytes.values())
    item = 1 if weights == "rounded" else 4
    norm, products = 48 * 4 + 48, (48 + 30 * item + 40) + (40 + 15 * item + 24 * 4)
    assert floor == norm + products


def test_a_norm_spelt_out_counts_as_one():
    spelt = (
        node("ReduceMean", ["images"], ["mean"], axes=[-1]),
        node("Sub", ["images", "mean"], ["d"]),
        node("Pow", ["d", "two"], ["dd"]),
        node("ReduceMean", ["dd"], ["var"], axes=[-1]),
        node("Sqrt", ["var"], ["sd"]),
        node("Div", ["d", "sd"], ["y"]),
    )
    assert floor_of(*spelt, weights={"two": weight(1)}) == 2 * X


def block(*, norm_first):
    """A transformer block of one head over images [2, 4, 6], its MLP four times as wide."""
    weights = {
        "wqkv": weight(6, 18), "wo": weight(6, 6), "w1": weight(6, 24), "w2": weight(24, 6),
        "g": weight(6), "bias": weight(1, 4, 4),
    }  # fmt: skip

    def norm(source, target):
        return node("LayerNormalization", [source, "g"], [target])

    attention = (
        node("MatMul", ["n1" if norm_first else "x0", "wqkv"], ["qkv"]),
        node("Split", ["qkv"], ["q", "k", "v"], axis=2),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Add", ["s", "bias"], ["sb"]),
        node("Softmax", ["sb"], ["p"]),
        node("MatMul", ["p", "v"], ["o"]),
        node("MatMul", ["o", "wo"], ["a"]),
    )
    mlp = (
        node("MatMul", ["n2" if norm_first else "x1", "w1"], ["h"]),
        node("Erf", ["h"], ["e"]),
        node("Mul", ["h", "e"], ["g1"]),
        node("MatMul", ["g1", "w2"], ["m"]),
    )
    # The stream comes from a sum, as that of a block before.
    nodes = [node("Add", ["images", "wide"], ["x0"])]
    if norm_first:
        nodes += [norm("x0", "n1"), *attention, node("Add", ["x0", "a"], ["x1"])]
        nodes += [norm("x1", "n2"), *mlp, node("Add", ["x1", "m"], ["x2"])]
    else:
        nodes += [*attention, norm("a", "n1"), node("Add", ["x0", "n1"], ["x1"])]
        nodes += [*mlp, norm("m", "n2"), node("Add", ["x1", "n2"], ["x2"])]
    return nodes, weights | {"wide": weight(1, 4, 6)}


@pytest.mark.parametrize("norm_first", [True, False], ids=["v1", "v2"])
def test_a_block_is_26_units_of_tokens_times_channels_and_its_weights(norm_first):
    nodes, weights = block(norm_first=norm_first)
    size = 6 * 18 + 6 * 6 + 6 * 24 + 24 * 6
    assert floor_of(*nodes, weights=weights) == 26 * X + size
    tokens = 2 * 4
    assert flops_of(*nodes, weights=weights) == 2 * tokens * (size + 2 * 4 * 6)
    work = work_of(*nodes, weights=weights)
    assert len(work.attention) == 1


@pytest.mark.parametrize(
    ("first", "blocks"),
    [
        (node("MatMul", ["queries", "turned"], ["s"]), 1),
        (node("Identity", ["square"], ["s"]), 0),  # weights of a mean, and no queries
    ],
    ids=["queries to each other", "weights of a mean"],
)
def test_attention_that_is_the_same_for_all_images_counts_where_it_is_computed(first, blocks):
    """A decoder's queries attend to each other before they have seen an image."""
    work = work_of(
        first,
        node("Add", ["s", "square"], ["masked"]),
        node("Softmax", ["masked"], ["p"]),
        node("MatMul", ["p", "queries"], ["o"]),
        node("MatMul", ["images", "o"], ["y"]),
        images=("b", 3, 4),
        weights={"queries": weight(4, 6), "turned": weight(6, 4), "square": weight(4, 4)},
    )
    assert len(work.attention) == blocks
    assert list(work.flops) == ["node_of_y"]


def test_attention_in_one_node_counts_as_its_pieces():
    made = node("Attention", ["images"] * 3, ["y"])
    work = work_of(made, images=("b", 3, 4, 6), opset=23)
    assert sum(work.flops.values()) == 2 * 2 * 3 * 4 * 4 * 6 * 2
    assert sum(work.floor_bytes.values()) == 4 * (2 * 3 * 4 * 6) * 4
    assert len(work.attention) == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_operations_of_an_export_are_those_of_its_config(precision):
    graph = exported("digits", precision=precision)
    work = count_work(graph, infer_values(graph, 8))
    total = sum(work.flops.values())
    assert total == pytest.approx(2e9 * 8 * CONFIGS["digits"].gmacs, rel=1e-9)
    assert (len(work.attention), work.unsized) == (4, 0)


def test_half_precision_halves_the_floor_but_for_the_images_and_folded_norms():
    """The norm before an MLP is folded into it, and its result is never written."""
    floors = []
    for precision in ("fp32", "fp16"):
        graph = exported("digits", precision=precision)
        floors.append(sum(count_work(graph, infer_values(graph, 8)).floor_bytes.values()))
    images = 8 * 3 * 56 * 56 * 4
    normed = sum(
        8 * stage.resolution.area * stage.dim * 2 * stage.depth
        for stage in CONFIGS["digits"].stages
    )
    assert floors[1] - images == pytest.approx((floors[0] - images) / 2 - normed, rel=1e-3)


def test_a_node_that_is_not_as_its_operator_asks_does_no_harm():
    work = work_of(node("Reshape", ["images"], ["y"]), node("MatMul", ["y", "y"], ["z"]))
    assert (work.unsized, sum(work.floor_bytes.values())) == (1, 0)


def test_onnx_of_the_block_is_valid():
    for norm_first in (True, False):
        nodes, weights = block(norm_first=norm_first)
        graph = make_graph(
            *nodes, inputs={"images": ("b", 4, 6)}, outputs={"x2": ("b", 4, 6)}, weights=weights
        )
        onnx.checker.check_model(graph, full_check=True)
