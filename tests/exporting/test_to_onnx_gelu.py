"""GELU below opset 20 is written as ONNX Runtime knows it."""

import math
from collections import Counter

import onnx
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error
from exported import copy_of, run_onnx
from torch import Tensor, nn

from exporters import to_onnx
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx


class Gelus(nn.Module):
    """Two layers with GELU, and a product that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class OtherArgument(nn.Module):
    """What looks like GELU, but for the argument of erf."""

    def forward(self, images: Tensor) -> Tensor:
        return images * (0.5 * (torch.erf((images + 1) / math.sqrt(2)) + 1))


class ReadTwice(nn.Module):
    """A GELU whose inner product something else reads too."""

    def forward(self, images: Tensor) -> Tensor:
        inner = 0.5 * (torch.erf(images / math.sqrt(2)) + 1)
        return images * inner + inner


def export(module: nn.Module, opset: int) -> onnx.ModelProto:
    return export_onnx(module.eval(), ExportSpec((3, 8, 8), ("y",), opset=opset), metadata={})


def seeded() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 4


def fused(graph: onnx.ModelProto, tmp_path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of it."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    data = graph.SerializeToString()
    runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)


@pytest.mark.parametrize("opset", [17, 19, 20, 23])
def test_gelu_is_one_kernel_of_onnx_runtime_and_equals_pytorch(opset, tmp_path):
    model = Gelus()
    graph = export(model, opset)
    kinds = fused(graph, tmp_path)
    assert kinds["BiasGelu"] + kinds["Gelu"] == 2
    assert not kinds["Erf"]
    (output,) = run_onnx(graph, seeded().numpy())
    with torch.no_grad():
        assert rms_error(torch.from_numpy(output), model(seeded())) < FLOAT32_TOLERANCE


def test_gelu_as_pytorch_writes_it_is_not_one_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "_spell_gelu", lambda graph: None)
    assert fused(export(Gelus(), 17), tmp_path)["Erf"] == 2  # remove _spell_gelu when this fails


@pytest.mark.parametrize(
    "model", [OtherArgument(), ReadTwice()], ids=["other-argument", "read-twice"]
)
def test_what_only_looks_like_gelu_is_left_as_it_is(model, monkeypatch):
    graph = export(model, 17)
    monkeypatch.setattr(to_onnx, "_spell_gelu", lambda graph: None)
    assert graph == export(model, 17)
    (output,) = run_onnx(graph, seeded().numpy())
    assert rms_error(torch.from_numpy(output), model(seeded())) < FLOAT32_TOLERANCE


def test_spelling_gelu_twice_changes_nothing():
    graph = export(Gelus(), 17)
    again = copy_of(graph)
    to_onnx._spell_gelu(again)
    assert again == graph
