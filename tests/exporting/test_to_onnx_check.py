"""``check_onnx`` and ``load_onnx``: what is refused, and how it is said."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import (
    copy_of,
    make_graph,
)
from onnx import helper

from exporters.errors import ExportError
from exporters.spec import ExportSpec
from exporters.to_onnx import check_onnx, load_onnx

SPEC = ExportSpec((3, 8, 8), ("y",))


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


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
    "an operator of a later opset": (
        make_graph(helper.make_node("Mish", ["images"], ["y"])),
        SPEC,
        "ONNX has Mish from opset 18 on; export at opset 18 or later",
    ),
    "operators of two later opsets": (
        make_graph(
            helper.make_node("Mish", ["images"], ["x"]), helper.make_node("Gelu", ["x"], ["y"])
        ),
        SPEC,
        "ONNX has Gelu, Mish from opset 20 on; export at opset 20 or later",
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
