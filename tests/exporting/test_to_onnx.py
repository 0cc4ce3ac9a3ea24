import copy
import logging
import os
import warnings

import numpy as np
import onnx
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from exported import (
    CONFIGS,
    METADATA,
    OPSETS,
    deploy_model,
    exported,
    make_graph,
    run_onnx,
    spec_of,
)
from onnx import TensorProto, helper, numpy_helper
from peers import trained_like
from torch import Tensor, nn

from exporters import to_onnx
from exporters.errors import ExportError
from exporters.half_precision import FLOAT32_MODULES
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx, load_onnx
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference

FORBIDDEN = {"If", "Loop", "Scan", "Shape", "NonZero", "Where", "Range"}
PATHS = (b"/home", b"site-packages", b".py", os.getcwd().encode())
BATCHES = (1, 2, 3, 7, 32)
SPEC = ExportSpec((3, 8, 8), ("y",))
# What ONNX Runtime may differ by between batches, in units of the RMS.
ROW_TOLERANCE = {"fp32": FLOAT32_TOLERANCE, "fp16": 4e-3}  # some roundings to half differ


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
    own = [t for t in graph.initializer if ".factor." not in t.name]  # of norms: always float32
    assert {tensor.data_type for tensor in own} - {TensorProto.INT64} == {weights}
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {edges}
    casts = [n for n in graph.node if n.op_type == "Cast" and ".factor" not in str(n)]
    assert len(casts) == (2 if precision != io_precision else 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_onnx_file_holds_metadata_shapes_and_no_path(precision):
    graph = exported("digits", precision=precision)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert {key: metadata.get(key) for key in METADATA} == METADATA
    assert set(metadata) - set(METADATA) == (set() if precision == "fp32" else {FLOAT32_MODULES})
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
        "layers.0.attention.qkv/Split",  # made by the exporter's optimiser, which records no module
        "layers.1.attention/Softmax",
        "layers.2.linear/MatMul",
        "heads.5.2/Gemm",
    } <= set(names)


@pytest.mark.usefixtures("traced_anew")
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
@pytest.mark.parametrize(("precision", "nodes"), [("fp32", 400), ("fp16", 400 + 12 * 9)])
def test_export_onnx_full_size_has_few_nodes(precision, nodes):
    """In float16 a folded norm has 12 nodes where it had 3."""
    graph = exported("swin-t", precision=precision)
    assert graph.opset_import[0].version == 17
    assert len(graph.graph.node) <= nodes
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


class Repeating(nn.Module):
    """Three equal tensors, one of the same bytes in another shape, and one that differs.

    PyTorch's exporter shares equal tensors too, but not above 1024 values.
    """

    first: Tensor
    second: Tensor
    third: Tensor
    shaped: Tensor
    other: Tensor

    def __init__(self) -> None:
        super().__init__()
        values = torch.linspace(-1.0, 1.0, 64 * 64).reshape(64, 64)
        for name in ("first", "second", "third"):
            self.register_buffer(name, values.clone())
        self.register_buffer("shaped", values.clone()[None])
        self.register_buffer("other", values + 0.5)

    def forward(self, images: Tensor) -> Tensor:
        added = (images + self.first).relu() * self.second - self.third
        return (added * self.shaped).relu() + self.other


def float_values(graph: onnx.ModelProto) -> list[tuple[tuple[int, ...], bytes]]:
    """Shape and bytes of every float initializer of more than one value."""
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.graph.initializer]
    return [(a.shape, a.tobytes()) for a in arrays if a.dtype != np.int64 and a.size > 1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_onnx_shares_equal_tensors_and_gives_the_same(precision, monkeypatch):
    spec = ExportSpec((3, 64, 64), ("y",), precision=precision)
    model, images = Repeating().eval(), seeded_images(CONFIGS["blocks"], batch=5)
    images = nn.functional.pad(images, (0, 8, 0, 8))  # 56 pixels to 64
    shared = export_onnx(model, spec, metadata={})
    monkeypatch.setattr(to_onnx, "_share_equal_tensors", lambda graph: None)
    repeated = export_onnx(model, spec, metadata={})
    assert len(float_values(repeated)) == 5
    assert set(float_values(shared)) == set(float_values(repeated))
    assert len(float_values(shared)) == 3
    (ours,), (theirs,) = (run_onnx(graph, images.numpy()) for graph in (shared, repeated))
    assert np.array_equal(ours, theirs)
    allowed = {"fp32": FLOAT32_TOLERANCE, "fp16": 2e-2}[precision]
    assert rms_error(torch.from_numpy(ours), model(images)) < allowed


def test_export_onnx_shares_a_tensor_that_is_an_output_but_keeps_it():
    names, weights = ("w", "v"), np.arange(8, dtype=np.float32)
    graph = make_graph(
        helper.make_node("Add", ["images", "w"], ["x"]),
        helper.make_node("Add", ["x", "v"], ["y"]),
        weights={name: weights.copy() for name in names},
    )
    graph.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [8]))
    to_onnx._share_equal_tensors(graph)
    onnx.checker.check_model(graph, full_check=True)
    assert [list(node.input) for node in graph.graph.node] == [["images", "w"], ["x", "w"]]
    images = np.zeros((2, 3, 8, 8), np.float32)
    summed, kept = run_onnx(graph, images)
    assert np.array_equal(summed, images + 2 * weights)
    assert np.array_equal(kept, weights)


STAGES = SwinConfig(
    family="swin",
    img_size=64,
    window_size=4,
    embed_dim=16,
    depths=(2, 2, 2),
    num_heads=(2, 4, 8),
    output="stages",
)


def test_export_onnx_stages_are_several_outputs_of_any_batch():
    model = fold(trained_like(build_reference(STAGES)))
    graph = export_onnx(model, ExportSpec((3, *STAGES.image), STAGES.output_names), metadata={})
    assert graph.opset_import[0].version == 17
    assert_static(graph)
    assert [(value.name, shape_of(value)) for value in graph.graph.output] == [
        ("stage1", ["batch", 16, 16, 16]),
        ("stage2", ["batch", 32, 8, 8]),
        ("stage3", ["batch", 64, 4, 4]),
    ]
    images = seeded_images(STAGES, batch=5)
    for batch in (1, 2, 5):
        with torch.no_grad():
            expected = model(images[:batch])
        maps = run_onnx(graph, images[:batch].numpy())
        assert len(maps) == 3
        for found, wanted in zip(maps, expected, strict=True):
            assert rms_error(torch.from_numpy(found), wanted) < 2 * FLOAT32_TOLERANCE


@pytest.mark.parametrize("names", [("stage1", "stage2"), ("a", "b", "c", "d")])
def test_export_onnx_with_too_few_or_too_many_names_is_refused(names):
    model = fold(build_reference(STAGES).eval())
    with pytest.raises(ExportError):
        export_onnx(model, ExportSpec((3, 64, 64), names), metadata={})


LARGE_WINDOWS = SwinConfig(
    family="swinv2",
    img_size=128,
    window_size=16,
    embed_dim=32,
    depths=(4, 4),
    num_heads=(2, 4),
    num_classes=10,
)


def test_export_onnx_of_large_windows_holds_one_mask_a_stage_and_no_bias():
    """Whatever the depth: 2 x 2 windows of stage 1 are shifted, stage 2 has one window."""
    spec = ExportSpec((3, 128, 128), LARGE_WINDOWS.output_names, precision="fp16")
    graph = export_onnx(fold(build_reference(LARGE_WINDOWS).eval()), spec, metadata={})
    tensors = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    pairs = 256 * 256
    large = sorted(shape for shape in tensors.values() if np.prod(shape) >= pairs)
    assert large == [(1, 2, 1, 1, 256, 256), (2, 1, 1, 1, 256, 256), (pairs,)]
    tables = [shape for shape in tensors.values() if 31**2 in shape]
    assert sorted(tables) == [(2, 31**2)] * 4 + [(4, 31**2)] * 4
