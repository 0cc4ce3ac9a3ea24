"""One table of precisions, and every list that must have all of them."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from exported import make_graph
from onnx import helper, numpy_helper

from exporters.errors import ExportError
from exporters.half_precision import to_half
from exporters.precisions import HALVES, PRECISIONS, REDUCED, fallbacks
from exporters.spec import Precision
from swin_deploy.artifacts.onnx_file import converted_path
from swin_deploy.cli import cli
from swin_deploy.parity.tolerances import TOLERANCES
from swin_deploy.runners import torch_dtype

TENSORRT = Path(__file__).parent.parent / "tensorrt_names"


@pytest.mark.parametrize("name", PRECISIONS)
def test_figures_are_those_of_the_type(name: Precision) -> None:
    traits = PRECISIONS[name]
    if name == "int8":
        assert (traits.largest, traits.bytes) == (np.iinfo(traits.dtype).max, 1)
        assert traits.roundoff == 1 / 256  # half a step of 128, of the largest
        return
    figures = ml_dtypes.finfo(traits.dtype)
    torch_figures = torch.finfo(torch_dtype(name))
    assert traits.largest == float(figures.max) == torch_figures.max
    assert traits.smallest_normal == float(figures.smallest_normal) == torch_figures.tiny
    assert traits.roundoff == float(figures.eps) / 2 == torch_figures.eps / 2
    assert traits.bytes == np.dtype(traits.dtype).itemsize == torch_dtype(name).itemsize
    assert helper.tensor_dtype_to_np_dtype(traits.onnx_type) == np.dtype(traits.dtype)


@pytest.mark.parametrize("name", PRECISIONS)
def test_tensorrt_has_the_type_in_every_release(name: Precision) -> None:
    releases = sorted(TENSORRT.glob("*.json"))
    assert len(releases) >= 4
    for path in releases:
        known = json.loads(path.read_text(encoding="utf-8"))["classes"]["DataType"]
        assert PRECISIONS[name].engine_type in known


def test_every_list_of_precisions_has_them_all() -> None:
    assert tuple(PRECISIONS) == typing.get_args(Precision)
    for stage in ("deploy", "onnx"):
        assert {one for of, one in TOLERANCES if of == stage} == set(PRECISIONS)
    engines = {name for name, traits in PRECISIONS.items() if traits.engines}
    assert {one for of, one in TOLERANCES if of == "engine"} == engines == {"fp32", *REDUCED}
    for command in ("run", "build-trt"):
        options = {word for one in cli.commands[command].params for word in one.opts}
        assert {f"--{name}" for name in engines} <= options


def test_fallbacks_come_in_the_order_of_the_ladder() -> None:
    assert fallbacks("fp8-weights") == ("fp8-weights", "fp8", "fp16", "bf16", "fp32")
    assert fallbacks("fp8") == ("fp8", "fp16", "bf16", "fp32")
    assert fallbacks("fp16") == ("fp16", "bf16", "fp32")
    assert fallbacks("bf16") == ("bf16", "fp32")
    assert fallbacks("fp32") == ("fp32",)


@pytest.mark.parametrize("name", HALVES)
def test_to_half_rounds_as_pytorch_does_and_refuses_what_is_beyond(name: Precision) -> None:
    """Ties go to even; values at the edges of the range and random bits in it."""
    traits = PRECISIONS[name]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.abs(values) <= traits.largest]
    tie = np.float32(1 + traits.roundoff)
    edges = [traits.largest, -traits.largest, traits.smallest_normal, 0.0, -0.0, tie, 3 * tie]
    values = np.concatenate([values, np.array(edges, np.float32)])

    def graph(weights: np.ndarray) -> typing.Any:  # noqa: ANN401 - onnx is untyped
        node = helper.make_node("Mul", ["images", "w"], ["y"])
        row = ("batch", len(weights))
        return make_graph(node, inputs={"images": row}, outputs={"y": row}, weights={"w": weights})

    (weight,) = to_half(graph(values), io_precision="fp32", precision=name).graph.initializer
    assert weight.data_type == traits.onnx_type
    expected = torch.from_numpy(values).to(torch_dtype(name)).view(torch.int16).numpy()
    np.testing.assert_array_equal(np.frombuffer(weight.raw_data, np.int16), expected)
    back = numpy_helper.to_array(weight).astype(np.float32)
    assert np.isfinite(back).all()
    beyond = np.nextafter(np.float32(traits.largest), np.float32(np.inf), dtype=np.float32)
    with pytest.raises(ExportError, match=f"beyond the .* of {traits.dtype}"):
        to_half(graph(np.array([beyond])), io_precision="fp32", precision=name)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("model-fp32-opset17", "model-fp16-opset17"),
        ("fp32", "fp16"),
        ("model", "model-fp16"),
        ("myfp32net", "myfp32net-fp16"),
        ("model-fp325", "model-fp325-fp16"),
    ],
)
def test_converted_path_changes_the_word_for_the_precision_alone(name: str, named: str) -> None:
    source = Path("exports") / f"{name}.onnx"
    assert converted_path(source, "fp16", folder=Path("x")) == Path("x") / f"{named}.onnx"
