"""Plans of other libraries' exports: names, static batches, weights beside the file."""

import functools
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import peers
import pytest
import torch
from exported import needs_rtx
from torch import nn

from exporters.errors import ExportError
from exporters.plan import KernelPlan
from exporters.plan.totals import block_pairs
from exporters.spec import EngineOptions
from swin_deploy.artifacts.engine_file import read_or_build_plan
from swin_deploy.config import SwinConfig

SMALL: dict[str, Any] = {"depths": (2, 2), "num_heads": (2, 4)}
CONFIG = SwinConfig(
    img_size=64, patch_size=4, window_size=4, embed_dim=32, num_classes=10, family="swin", **SMALL
)
PREFIX = {
    "timm": "layers.",
    "torchvision": "features.",
    "huggingface": "model.swin.encoder.layers.",
}


class Logits(nn.Module):
    """transformers gives an object; a file has tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).logits


def build(library: str) -> nn.Module:
    if library == "timm":
        return peers.build_timm("swin", **SMALL)
    if library == "torchvision":
        return peers.build_torchvision("swin", **SMALL)
    return Logits(peers.build_huggingface("swin", **SMALL))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for exports, each made once and each in another way."""
    return tmp_path_factory.mktemp("peers")


def export(library: str, files: Path) -> Path:
    """timm: new exporter, weights beside the file; torchvision: static batch of 3, float16;
    Hugging Face: old exporter, dynamic batch; inputs named as each likes."""
    path = files / f"{library}.onnx"
    if path.exists():
        return path
    model, images = build(library), torch.zeros(2, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        if library == "timm":
            batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
            torch.onnx.export(
                model, (images,), path, dynamo=True, dynamic_shapes=batch, external_data=True,
                input_names=["x"], verbose=False,
            )  # fmt: skip
        elif library == "torchvision":
            halves = torch.zeros(3, 3, 64, 64).half()
            torch.onnx.export(model.half(), (halves,), path, dynamo=False, opset_version=17)
        else:
            torch.onnx.export(
                model, (images,), path, dynamo=False, opset_version=17,
                input_names=["pixel_values"], dynamic_axes={"pixel_values": {0: "batch"}},
            )  # fmt: skip
    return path


@functools.cache
def plan_of(path: Path, *, half: bool = False) -> KernelPlan:
    return read_or_build_plan(path, batch=None, options=EngineOptions("tensorrt-rtx"), half=half)


@needs_rtx
@pytest.mark.parametrize(
    ("library", "batch", "fused"), [("timm", 8, 0), ("torchvision", 3, 4), ("huggingface", 8, 0)]
)
def test_plan_of_a_library_has_its_blocks_and_operations(library, batch, fused, files):
    plan = plan_of(export(library, files))
    assert (plan.batch, plan.unsized_products) == (batch, 0)
    assert plan.flops == pytest.approx(2e9 * batch * CONFIG.gmacs, rel=1e-9)
    assert (plan.fused_attention, plan.attention_blocks) == (fused, 4)
    names = [block.name for block in plan.blocks]
    assert len([name for name in names if name.startswith(PREFIX[library])]) >= 5
    assert [block.attention for block in plan.blocks if block.attention] == [1] * 4
    assert {kernel.block for kernel in plan.kernels} <= set(names)
    assert plan.floor_ratio is not None
    assert 1 < plan.floor_ratio < 3


@needs_rtx
def test_a_float32_file_is_planned_in_its_float16_form(files):
    path = export("timm", files)
    assert (path.parent / "timm.onnx.data").is_file()
    half, single = plan_of(path, half=True), plan_of(path)
    assert (half.fused_attention, single.fused_attention) == (4, 0)
    assert half.half_byte_share > 0.8
    assert half.floor_bytes < 0.6 * single.floor_bytes
    assert all(
        pair.more_bytes > 0
        for pair in block_pairs(half, single)
        if pair.first and pair.first.attention
    )


@needs_rtx
def test_floors_of_libraries_are_those_of_the_model_not_of_its_spelling(files):
    one, other = (plan_of(export(library, files)) for library in ("timm", "huggingface"))
    assert one.floor_bytes == pytest.approx(other.floor_bytes, rel=0.01)
    assert one.bytes_moved != other.bytes_moved


def test_a_file_whose_weights_are_gone_is_one_clear_line(files, tmp_path):
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(export("timm", files).read_bytes())
    assert onnx.load(alone, load_external_data=False).graph.node
    with pytest.raises(
        ExportError, match=r"alone\.onnx is not a whole ONNX file: .*timm\.onnx\.data"
    ):
        plan_of(alone)
