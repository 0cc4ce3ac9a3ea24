"""FP8 at several sizes: each file at scales of its own size, weights once, engines, and parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import several_sizes
import torch
from command_line import IMAGES, Command, listing
from onnx import TensorProto
from several_sizes import SIDES
from torch import nn

import swin_deploy
from exporters.artifact import read_manifest
from exporters.quantisation import fp8_scale
from swin_deploy.artifacts.sizes_file import read_sizes
from swin_deploy.calibration.pictures import FEWEST_IMAGES, calibration_images

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
EXPORT = (*several_sizes.WORDS, "--precision", "fp8")
PARITY = ("parity", "--model", "notebook-digits", "--limit", "2", "--batches", "1")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few images as a calibration takes."""
    rows = [f"{path},0" for path in sorted(IMAGES.rglob("*.png"))[:FEWEST_IMAGES]]
    path = tmp_path_factory.mktemp("few") / "few.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def stored(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of both sizes in FP8, weights too, without engines."""
    words = ("--opset", "19", "--precision", "fp8-weights", "--images", str(few))
    return several_sizes.export_digits(tmp_path_factory.mktemp("stored"), *words)


def read_at(side: int, images: Path) -> dict[str, float]:
    """The largest absolute value that each linear layer of the deploy model reads, in PyTorch."""
    model = swin_deploy.load("notebook-digits", img_size=side)
    found: dict[str, float] = {}

    def watch(path: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[path] = max(found.get(path, 0.0), float(inputs[0].abs().max()))

        layer.register_forward_pre_hook(hook)

    for path, layer in model.deploy.named_modules():
        if isinstance(layer, nn.Linear):
            watch(path, layer)
    with torch.no_grad():
        for part in calibration_images(images).batches(model.preprocessing, batch=8):
            model.deploy(torch.from_numpy(part))
    return found


def test_export_of_sizes_in_fp8_calibrates_each_by_itself(stored: Path, few: Path) -> None:
    sizes = read_sizes(stored)
    assert sizes.precision == "fp8-weights"
    scales = []
    for one in sizes.sizes:
        record = read_manifest(sizes.onnx(one))["calibration"]
        read = read_at(one.size.rows, few)
        for path, largest in record["largest"].items():
            np.testing.assert_allclose(largest, read[path], rtol=1e-3)
            assert record["scales"][path] == fp8_scale(largest)
        scales.append(record["scales"])
    assert scales[0] != scales[1]  # one set of scales would pass for the other size


def test_export_of_sizes_in_fp8_stores_equal_weights_once(stored: Path) -> None:
    sizes = read_sizes(stored)
    places: list[dict[str, str]] = []
    for one in sizes.sizes:
        graph = onnx.load(sizes.onnx(one), load_external_data=False).graph
        rounded = [
            tensor for tensor in graph.initializer
            if tensor.data_type == TensorProto.FLOAT8E4M3FN and len(tensor.dims) == 2
        ]  # fmt: skip
        assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in rounded)
        places.append({
            tensor.name: entry.value
            for tensor in rounded for entry in tensor.external_data if entry.key == "offset"
        })  # fmt: skip
    assert places[0] == places[1]
    assert len(places[0]) == 13


def test_parity_of_sizes_in_fp8_compares_each(stored: Path, swin: Command) -> None:
    found = swin(*PARITY, "--onnx", stored, "--json").json["sizes"]
    for side in SIDES:
        hops = {hop["name"]: hop["passed"] for hop in found[str(side)]["hops"]}
        assert hops["ONNX fp8-weights"]
        assert hops["deploy model fp8-weights, emulated"]


def test_predict_and_plan_take_sizes_in_fp8(stored: Path, swin: Command) -> None:
    done = swin("predict", stored, IMAGES / "3" / "0045.png", "--top", "1", "--json").assert_done()
    assert done.json["top"][0]["class"] == "3"
    lines = swin("plan", stored).assert_done().out.splitlines()
    counted = [line.split()[-1] for line in lines if line.startswith("GEMM that read FP8")]
    assert counted == ["13", "13"]


def test_build_of_float32_sizes_in_fp8_builds_each_from_its_own_graph(
    few: Path, swin: Command, tmp_path: Path
) -> None:
    path = several_sizes.export_digits(tmp_path, "--opset", "19")
    before = listing(tmp_path)
    refused = swin("build-trt", path, "--fp8")
    assert (refused.status, listing(tmp_path)) == (2, before)
    assert "fp8 needs --images DIR" in refused.err
    done = swin("build-trt", path, "--fp8", "--images", few, "--json").assert_done()
    assert "9 linear layers read it; scales by maximum over 32 of 32 images" in done.err
    sizes = read_sizes(Path(done.json["path"]))
    for one in sizes.sizes:
        engine, graph = read_manifest(sizes.engine(one)), read_manifest(sizes.onnx(one))
        assert engine["targets"]["minimum"] == "8.9"
        assert engine["calibration"] == graph["calibration"]
    again = swin("build-trt", sizes.path, "--fp8", "--images", few)
    assert again.status == 2
    assert "--images calibrates a float32 file for --fp8, and nothing here" in again.err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--opset", "17", "--images", IMAGES), 2, "--opset 17 has no QuantizeLinear"),
        ((), 2, "fp8 needs --images DIR"),
        (("--images", "few.csv"), 3, "has 31 images, and a calibration needs 32"),
    ],
    ids=["opset", "none", "too few"],
)
def test_export_of_sizes_in_fp8_refuses_what_one_size_refuses(
    options: tuple[object, ...], status: int, message: str, few: Path, swin: Command, tmp_path: Path
) -> None:
    lines = few.read_text().splitlines()[:31]
    Path("few.csv").write_text("\n".join(lines))
    done = swin(*EXPORT, *options, "--output", tmp_path / "made" / "x-sizes.json")
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "made").exists()
