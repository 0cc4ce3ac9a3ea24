"""What products read over images: against hooks on the deploy model, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import IMAGES
from families import loaded
from onnx import numpy_helper
from PIL import Image
from torch import nn

from exporters.errors import ConfigError, DeployError, ExportError
from exporters.quantisation import linear_products
from swin_deploy.api.models import Model, load
from swin_deploy.artifacts.onnx_file import export_graph, export_spec
from swin_deploy.calibration.collect import collect_magnitudes
from swin_deploy.calibration.pictures import FEWEST_IMAGES, calibration_images
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.deploy.fold import fold


def pictures(folder: Path, count: int = FEWEST_IMAGES, side: int = 80) -> Path:
    """A folder of small pictures of noise, each of its own contrast."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        levels = 128 + (random.random((side, side + 9, 3)) - 0.5) * 255 * (index + 1) / count
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{index:03}.png")
    return folder


def read_by_hooks(model: LoadedModel, folder: Path) -> dict[str, np.ndarray]:
    """The largest absolute value of each channel that each linear layer reads."""
    found: dict[str, np.ndarray] = {}
    deploy = fold(model.reference)
    images = np.concatenate(list(calibration_images(folder).batches(model.preprocessing, batch=8)))

    def watch(path: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            largest = inputs[0].abs().flatten(end_dim=-2).amax(dim=0).numpy()
            found[path] = np.maximum(found.get(path, 0), largest)

        layer.register_forward_pre_hook(hook)

    for path, layer in deploy.named_modules():
        if isinstance(layer, nn.Linear):
            watch(path, layer)
    with torch.no_grad():
        deploy(torch.from_numpy(images))
    return found


@pytest.mark.parametrize("family", ["notebook", "swin", "swinv2"])
@pytest.mark.parametrize("choices", [{}, {"batch": 5}, {"pixels": True}], ids=str)
def test_collect_magnitudes_reads_what_the_layers_of_the_deploy_model_read(
    family: str, choices: dict[str, Any], tmp_path: Path
) -> None:
    model, folder = loaded(family), pictures(tmp_path / "pictures")
    expected = read_by_hooks(model, folder)
    graph = export_graph(model, export_spec(model, **choices), tmp_path / "x.onnx").graph
    before = graph.SerializeToString()
    images = calibration_images(folder)
    found = collect_magnitudes(graph, expected, images, steps=model.preprocessing)
    assert graph.SerializeToString() == before
    assert found.keys() == expected.keys()
    assert {one.path for one in linear_products(graph)} == expected.keys()
    for path, sizes in found.items():
        np.testing.assert_allclose(sizes.channels, expected[path], rtol=1e-3, atol=1e-4)


def test_collect_magnitudes_of_no_layer_or_of_broken_weights_is_refused(tmp_path: Path) -> None:
    model, folder = load("notebook-digits"), pictures(tmp_path / "pictures")
    file = export_graph(model, export_spec(model), tmp_path / "x.onnx")
    images = calibration_images(folder)

    def collect(path: str, graph: onnx.ModelProto) -> None:
        collect_magnitudes(graph, [path], images, steps=model.preprocessing)

    with pytest.raises(ExportError, match=r"no product of a weight at layers\.99\.mlp\.2"):
        collect("layers.99.mlp.2", file.graph)
    broken = onnx.ModelProto.FromString(file.graph.SerializeToString())
    bias = next(one for one in broken.graph.initializer if one.name == "layers.0.mlp.0.bias")
    nothing = np.full(tuple(bias.dims), np.nan, np.float32)
    bias.CopyFrom(numpy_helper.from_array(nothing, bias.name))
    with pytest.raises(ExportError, match=r"layers\.0\.mlp\.2 reads values that are not finite"):
        collect("layers.0.mlp.2", broken)


def test_calibration_images_are_spread_counted_and_digested(tmp_path: Path) -> None:
    many = calibration_images(IMAGES)
    assert (many.count, many.found) == (64, 360)
    few = calibration_images(pictures(tmp_path / "few"))
    assert few.count == few.found == FEWEST_IMAGES
    again = calibration_images(tmp_path / "few")
    assert again.sha256 == few.sha256 != many.sha256
    (tmp_path / "few" / "032.png").write_bytes((tmp_path / "few" / "000.png").read_bytes())
    assert calibration_images(tmp_path / "few").sha256 != few.sha256
    (tmp_path / "few" / "031.png").write_bytes((tmp_path / "few" / "000.png").read_bytes())
    with pytest.raises(ConfigError, match=r"only 31 of 33 images of .* differ, the others are"):
        calibration_images(tmp_path / "few")


@pytest.mark.parametrize("different", [31, 30])
def test_calibration_images_that_are_the_same_once_prepared_are_refused(
    different: int, tmp_path: Path
) -> None:
    """Black pictures of ten sizes are ten files, and one input."""
    folder = pictures(tmp_path / "pictures", count=different)
    for width in range(10):
        Image.new("RGB", (20 + width, 20)).save(folder / f"black {width}.png")
    drawn = calibration_images(folder).batches(load("notebook-digits").preprocessing, batch=8)
    if different + 1 < FEWEST_IMAGES:
        with pytest.raises(ConfigError, match=r"are 31 that differ, once they are prepared"):
            list(drawn)
    else:
        assert sum(map(len, drawn)) >= different + 10


def test_calibration_images_of_a_csv_file_are_those_it_names(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", count=40)
    named = [f"pictures/{index:03}.png,0" for index in range(35)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *named]))
    found = calibration_images(tmp_path / "images.csv")
    assert (found.root, found.count) == (tmp_path, 35)
    assert found.paths[-1] == f"{folder.name}/034.png"


@pytest.mark.parametrize("count", [1, FEWEST_IMAGES - 1])
def test_calibration_images_that_are_too_few_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"has {count} images, and a calibration needs 32"):
        calibration_images(pictures(tmp_path / "few", count=count))


def test_calibration_images_that_are_damaged_or_missing_are_refused(tmp_path: Path) -> None:
    model: Model = load("notebook-digits")
    folder = pictures(tmp_path / "pictures")
    (folder / "007.png").write_bytes(b"not a picture")
    with pytest.raises(DeployError, match=r"007\.png"):
        list(calibration_images(folder).batches(model.preprocessing, batch=1))
    with pytest.raises(DeployError, match="gone"):
        calibration_images(tmp_path / "gone")
