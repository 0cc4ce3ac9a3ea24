import copy
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from exported import (
    CONFIGS,
    METADATA,
    OPSETS,
    copy_of,
    deploy_model,
    exported,
    make_graph,
    run_onnx,
    spec_of,
)
from onnx import TensorProto, helper
from torch import Tensor, nn

from exporters.errors import ExportError
from exporters.spec import ExportSpec
from exporters.to_onnx import check_onnx, export_onnx, load_onnx

FORBIDDEN = {"If", "Loop", "Scan", "Shape", "NonZero", "Where", "Range"}
PATHS = (b"/home", b"/work", b"site-packages", b".py", os.getcwd().encode())
BATCHES = (1, 2, 3, 7, 32)
SPEC = ExportSpec((3, 8, 8), ("y",))
# What ONNX Runtime may differ by between batches, in units of the RMS.
ROW_TOLERANCE = {"fp32": FLOAT32_TOLERANCE, "fp16": 2e-3}


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def assert_static(graph):
    """Only operators of the default domain, none dynamic, and nothing symbolic but the batch."""
    assert {node.domain for node in graph.graph.node} == {""}
    used = {node.op_type for node in graph.graph.node}
    assert not used & FORBIDDEN
    assert not any(name.startswith("Scatter") for name in used)
    values = [*graph.graph.input, *graph.graph.output]
    assert {name for v in values for name in shape_of(v) if isinstance(name, str)} == {"batch"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("opset", OPSETS)
def test_export_onnx_at_every_opset_is_static_and_takes_any_batch(opset, precision, tmp_path):
    path = tmp_path / "x.onnx"
    onnx.save(exported("blocks", opset=opset, precision=precision), path)
    graph = load_onnx(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
    assert_static(graph)
    assert [(v.name, shape_of(v)) for v in graph.graph.input] == [("images", ["batch", 3, 56, 56])]
    assert [(v.name, shape_of(v)) for v in graph.graph.output] == [("tokens", ["batch", 196, 32])]

    images = seeded_images(CONFIGS["blocks"], batch=max(BATCHES))
    with torch.no_grad():
        expected = deploy_model("blocks")(images)
    rows = np.concatenate([run_onnx(graph, row[None])[0] for row in images.numpy()])
    allowed = {"fp32": FLOAT32_TOLERANCE, "fp16": 2e-2}[precision]
    assert rms_error(torch.from_numpy(rows), expected) < allowed
    for batch in BATCHES:
        (output,) = run_onnx(graph, images[:batch].numpy())
        error = rms_error(torch.from_numpy(output), torch.from_numpy(rows[:batch]))
        assert error < ROW_TOLERANCE[precision], batch


@pytest.mark.parametrize("opset", [17, 23])
def test_export_onnx_trained_model_gives_pytorchs_logits(opset):
    graph = exported("digits", opset=opset)
    assert_static(graph)
    assert [(v.name, shape_of(v)) for v in graph.graph.output] == [("logits", ["batch", 10])]
    images = seeded_images(CONFIGS["digits"], batch=3)
    with torch.no_grad():
        expected = deploy_model("digits")(images)
    (logits,) = run_onnx(graph, images.numpy())
    assert rms_error(torch.from_numpy(logits), expected) < FLOAT32_TOLERANCE


def test_export_onnx_fixed_batch_has_nothing_symbolic():
    graph = exported("blocks", batch=3)
    assert shape_of(graph.graph.input[0]) == [3, 3, 56, 56]
    assert shape_of(graph.graph.output[0]) == [3, 196, 32]
    images = seeded_images(CONFIGS["blocks"], batch=3).numpy()
    (fixed,) = run_onnx(graph, images)
    (dynamic,) = run_onnx(exported("blocks"), images)
    assert rms_error(torch.from_numpy(fixed), torch.from_numpy(dynamic)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    ("precision", "io_precision", "weights", "edges"),
    [
        ("fp32", "fp32", TensorProto.FLOAT, TensorProto.FLOAT),
        ("fp16", "fp32", TensorProto.FLOAT16, TensorProto.FLOAT),
        ("fp16", "fp16", TensorProto.FLOAT16, TensorProto.FLOAT16),
    ],
)
def test_export_onnx_precision_is_in_the_file(precision, io_precision, weights, edges):
    graph = exported("blocks", precision=precision, io_precision=io_precision).graph
    kinds = {tensor.data_type for tensor in graph.initializer} - {TensorProto.INT64}
    assert kinds == {weights}
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {edges}
    casts = sum(node.op_type == "Cast" for node in graph.node)
    assert casts == (2 if precision != io_precision else 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_onnx_file_holds_metadata_shapes_and_no_path(precision):
    graph = exported("digits", precision=precision)
    assert {entry.key: entry.value for entry in graph.metadata_props} == METADATA
    assert graph.producer_name == "swin-deploy"
    data = graph.SerializeToString()
    assert [text for text in PATHS if text in data] == []
    known = {value.name for value in (*graph.graph.value_info, *graph.graph.output)}
    assert {name for node in graph.graph.node for name in node.output} <= known


def test_export_onnx_nodes_are_named_by_module():
    names = [node.name for node in exported("digits").graph.node]
    assert len(set(names)) == len(names)
    assert [name for name in names if "/" not in name] == []
    assert {
        "embed.0.linear/MatMul",
        "layers.0.attention.qkv/MatMul",
        "layers.0.attention/Split",  # made by the exporter's optimiser, which records no module
        "layers.1.attention/Softmax",
        "layers.2.linear/MatMul",
        "taps.5.2/Gemm",
    } <= set(names)


def test_export_onnx_twice_gives_the_same_bytes_and_leaves_everything_as_it_was(capfd):
    model = copy.deepcopy(deploy_model("blocks"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logger = logging.getLogger("torch.onnx")
    level, filters = logger.level, list(warnings.filters)
    spec = spec_of("blocks", precision="fp16")
    first, second = (export_onnx(model, spec, metadata=METADATA) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert first == exported("blocks", precision="fp16")
    assert (logger.level, list(warnings.filters)) == (level, filters)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_export_onnx_full_size_has_at_most_400_nodes():
    graph = exported("swin-t", precision="fp16")
    assert graph.opset_import[0].version == 17
    assert len(graph.graph.node) <= 400
    assert_static(graph)


LOWERED = {
    "mean": lambda x: x.mean((1, 2)),
    "mean keeping the axis": lambda x: x.mean(-1, keepdim=True),
    "largest": lambda x: x.amax((2, 3)),
    "sum, the same at both opsets": lambda x: x.sum(1),
    "deviation": lambda x: x.std(1),
    "even split": lambda x: torch.cat([part * k for k, part in enumerate(x.split(1, dim=1))], 1),
    "uneven split": lambda x: torch.cat([p * k for k, p in enumerate(x.split(5, dim=3))], 3),
}


@pytest.mark.parametrize("function", LOWERED.values(), ids=list(LOWERED))
def test_export_onnx_lowered_to_17_equals_pytorch(function):
    graph = export_onnx(Apply(function).eval(), SPEC, metadata={})
    assert graph.opset_import[0].version == 17
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (output,) = run_onnx(graph, images.numpy())
    assert rms_error(torch.from_numpy(output), function(images)) < FLOAT32_TOLERANCE


def test_export_onnx_without_a_form_at_17_says_which_opset_has_one():
    with pytest.raises(ExportError, match=r"^Mish has no form at opset 17; use --opset 18 or"):
        export_onnx(nn.Mish().eval(), SPEC, metadata={})
    spec = ExportSpec((3, 8, 8), ("y",), opset=18)
    assert export_onnx(nn.Mish().eval(), spec, metadata={}).opset_import[0].version == 18


@pytest.mark.parametrize("opset", [16, 24])
def test_export_onnx_opset_out_of_range_is_refused(opset):
    spec = ExportSpec((3, 8, 8), ("y",), opset=opset)
    with pytest.raises(
        ExportError, match=rf"opset {opset} is not supported; use one from 17 to 23"
    ):
        export_onnx(nn.ReLU(), spec, metadata={})


def fails(_: Tensor) -> Tensor:
    raise RuntimeError("in words\nof its own")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, "could not export the model: in words of its own$"),
        (lambda x: x if x.sum() > 0 else -x, "could not export the model: .*data-dependent"),
        (lambda x: x.reshape(2, -1), "the batch of output y is 2, not batch"),
        (lambda x: x * x.shape[0], "holds dynamic operators: Shape"),
        (lambda x: torch.where(x > 0, x, -x), "holds dynamic operators: Where"),
        (lambda x: (x + 1, x + 2), "'add_6': .* to y was asked for"),
    ],
    ids=[
        "raises",
        "branches on data",
        "fixes the batch",
        "reads the batch",
        "where",
        "two outputs",
    ],
)
def test_export_onnx_of_another_kind_of_model_says_why_in_one_line(function, message):
    level, filters = logging.getLogger("torch.onnx").level, list(warnings.filters)
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(Apply(function).eval(), SPEC, metadata={})
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert (logging.getLogger("torch.onnx").level, list(warnings.filters)) == (level, filters)


def relu(opset=17, *, source="images", target="y", **edges):
    return make_graph(helper.make_node("Relu", [source], [target]), opset=opset, **edges)


def test_check_onnx_valid_graph_gets_its_shapes():
    graph = make_graph(
        helper.make_node("Relu", ["images"], ["middle"]), helper.make_node("Neg", ["middle"], ["y"])
    )
    (middle,) = check_onnx(graph, SPEC).graph.value_info
    assert (middle.name, shape_of(middle)) == ("middle", ["batch", 3, 8, 8])


ROWS, FIXED = ("batch", 3, 8, 8), (2, 3, 8, 8)
REFUSED = {
    "another opset": (relu(18), SPEC, "opset 17 was asked for, but the exporter wrote {'': 18}"),
    "a foreign domain": (
        make_graph(
            helper.make_node("Relu", ["images"], ["x"]),
            helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft"),
            domains=["com.microsoft"],
        ),
        SPEC,
        "com.microsoft",
    ),
    "an unknown operator": (
        make_graph(helper.make_node("Swin", ["images"], ["y"])),
        SPEC,
        "not valid ONNX: No Op registered for Swin",
    ),
    "an input that nothing makes": (relu(source="nothing"), SPEC, "not valid ONNX"),
    "shapes that contradict": (relu(outputs={"y": (3, 9)}), SPEC, "not valid ONNX"),
    "a dynamic operator": (
        make_graph(
            helper.make_node("Shape", ["images"], ["shape"]),
            helper.make_node("Reshape", ["images", "shape"], ["y"]),
        ),
        SPEC,
        "dynamic operators: Shape",
    ),
    "a scatter": (
        make_graph(
            helper.make_node("ScatterElements", ["images", "index", "update"], ["y"]),
            weights={
                "index": np.zeros((1, 1, 1, 1), np.int64),
                "update": np.zeros((1, 1, 1, 1), np.float32),
            },
        ),
        SPEC,
        "dynamic operators: ScatterElements",
    ),
    "a fixed batch": (relu(inputs={"images": FIXED}, outputs={"y": FIXED}), SPEC, r"'2', '3', '8'"),
    "a dynamic batch": (relu(), ExportSpec((3, 8, 8), ("y",), batch=2), "'batch', '3', '8'"),
    "another batch at the output": (
        make_graph(
            helper.make_node("Reshape", ["images", "shape"], ["y"]),
            outputs={"y": (2, "rest")},
            weights={"shape": np.array([2, -1])},
        ),
        SPEC,
        "the batch of output y is 2, not batch",
    ),
    "another input name": (relu(source="x", inputs={"x": ROWS}), SPEC, "but {'images': .* asked"),
    "another input size": (
        relu(),
        ExportSpec((3, 8, 16), ("y",)),
        "'3', '8', '16'.* was asked for",
    ),
    "another output name": (relu(target="z", outputs={"z": ROWS}), SPEC, "to y was asked for"),
    "a second input": (
        make_graph(
            helper.make_node("Add", ["images", "more"], ["y"]),
            inputs={"images": ROWS, "more": ROWS},
        ),
        SPEC,
        "'more': .* was asked for",
    ),
}


@pytest.mark.parametrize(("graph", "spec", "message"), REFUSED.values(), ids=list(REFUSED))
def test_check_onnx_not_as_asked_is_refused(graph, spec, message):
    with pytest.raises(ExportError, match=message):
        check_onnx(graph, spec)


def test_load_onnx_reads_what_was_saved_under_any_name(tmp_path):
    graph = relu()
    for name in ("x.onnx", "x.json", "x"):
        (tmp_path / name).write_bytes(graph.SerializeToString())
        assert load_onnx(tmp_path / name) == graph


def test_load_onnx_reads_external_data_and_says_when_it_is_missing(tmp_path):
    weights = {"w": np.ones((8, 8), np.float32)}
    graph = make_graph(helper.make_node("MatMul", ["images", "w"], ["y"]), weights=weights)
    path = tmp_path / "x.onnx"
    onnx.save(copy_of(graph), path, save_as_external_data=True, location="x.data", size_threshold=0)
    assert load_onnx(path).graph.initializer[0].raw_data == weights["w"].tobytes()
    (tmp_path / "x.data").unlink()
    with pytest.raises(ExportError, match=r"not a whole ONNX file: .*x\.data"):
        load_onnx(path)


def broken_files() -> dict[str, bytes]:
    whole = make_graph(
        helper.make_node("MatMul", ["images", "w"], ["y"]),
        weights={"w": np.ones((8, 8), np.float32)},
    )
    data = whole.SerializeToString()
    torn = data.replace(b"MatMul", b"Mat\xacul")
    return {
        "empty": b"",
        "first bytes": data[:20],
        "half": data[: len(data) // 2],
        "one byte short": data[:-1],
        "random": np.random.default_rng(0).bytes(5000),
        "zeros": bytes(1000),
        "text": b"This is not a model.\n" * 50,
        "json": b'{"graph": {}}',
        "a name that is not text": torn,
        "no graph": onnx.ModelProto(ir_version=8).SerializeToString(),
        "no nodes": make_graph(outputs={"images": ("batch", 3, 8, 8)}).SerializeToString(),
    }


@pytest.mark.parametrize("data", broken_files().values(), ids=list(broken_files()))
@pytest.mark.parametrize("name", ["x.onnx", "x.json", "x.onnxtxt"])
def test_load_onnx_broken_file_is_refused_in_one_line(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ExportError, match=r"is not a whole ONNX file: ") as caught:
        load_onnx(path)
    assert str(caught.value).startswith(f"{path} is not")
    assert "\n" not in str(caught.value)


def test_load_onnx_missing_file_or_folder_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.onnx", Path("")):
        with pytest.raises(ExportError, match="does not exist, or is not a file"):
            load_onnx(path)


def test_load_onnx_without_a_batch_is_refused(tmp_path):
    path = tmp_path / "x.onnx"
    constant = helper.make_node("Constant", [], ["y"], value_float=1.0)
    alone = make_graph(constant, outputs={"y": ()})
    del alone.graph.input[:]
    scalar = relu(inputs={"images": ()}, outputs={"y": ()})
    for graph in (alone, scalar):
        onnx.save(graph, path)
        with pytest.raises(ExportError, match="has no input with a batch"):
            load_onnx(path)
