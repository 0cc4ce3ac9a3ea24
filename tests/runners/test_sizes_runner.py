"""A runner for each of several image sizes, chosen by the images."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest
import several_sizes
from torch import nn

import swin_deploy
from exporters.errors import ComparisonError, FileError
from swin_deploy.config import Size, SwinConfig
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.runners import OrtRunner, SizesRunner, TorchRunner
from swin_deploy.runners.base import run_images


@pytest.fixture(scope="module")
def runner() -> SizesRunner:
    """A model in PyTorch at 64 and 32 pixels, and at 32 by 64."""
    sizes = (Size(64, 64), Size(32, 32), Size(32, 64))
    return SizesRunner({size: TorchRunner(f"at {size}", model_of(size)) for size in sizes})


def model_of(size: Size) -> nn.Module:
    config = SwinConfig(
        img_size=size.plain,
        window_size=4,
        embed_dim=16,
        depths=(2, 1),
        num_heads=(1, 2),
        num_classes=5,
        family="swin",
    )
    return families.trained_like(config)


def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (32, 64)])
def test_run_takes_the_runner_of_the_images_size(
    runner: SizesRunner, size: tuple[int, int]
) -> None:
    images = noise(3, 3, *size)
    with runner:
        found = run_images(runner, images)
    with TorchRunner("alone", model_of(Size(*size))) as alone:
        wanted = alone.run(images)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    assert "PyTorch" in runner.backend


@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (1, 3, 64, 32), (3, 32, 32), (1, 32, 32, 3)])
def test_run_of_another_size_names_the_sizes(runner: SizesRunner, shape: tuple[int, ...]) -> None:
    with runner, pytest.raises(ComparisonError, match="takes images of 64, 32, 32x64 px"):
        runner.run(noise(*shape))


def test_runners_batches_are_those_that_every_size_takes(tmp_path: Path) -> None:
    files = {}
    for side, batch in ((112, 2), (56, None)):
        model = swin_deploy.load("notebook-digits", img_size=side)
        path = model.export(tmp_path / f"{side}.onnx", batch=batch).path
        files[Size(side, side)] = OrtRunner(path, "fp32")
    with SizesRunner(files) as runner:
        assert (runner.min_batch, runner.max_batch) == (2, 2)
        assert len(run_images(runner, noise(3, 3, 56, 56))[0]) == 3
    files[Size(1, 1)] = OrtRunner(tmp_path / "absent.onnx", "fp32")
    with pytest.raises(FileError, match="absent"), SizesRunner(files):
        raise AssertionError("opened")


def test_pixels_of_several_sizes_go_to_their_runner(tmp_path: Path) -> None:
    sizes = several_sizes.export_digits(tmp_path, "--bake-preprocessing")
    steps = Preprocessing(56, 56, mean=(0.5,) * 3, std=(0.5,) * 3)
    files = {
        Size(side, side): OrtRunner(
            sizes.parent / f"{several_sizes.STEM}-{side}.onnx", "fp32", steps=steps
        )
        for side in several_sizes.SIDES
    }
    pixels = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), np.uint8)
    with SizesRunner(files) as runner:
        images = np.moveaxis(pixels / np.float32(127.5) - 1, -1, 1).astype(np.float32)
        np.testing.assert_allclose(runner.run(pixels)[0], runner.run(images)[0], atol=1e-4)
        with pytest.raises(ComparisonError, match="112, 56 px"):
            runner.run(pixels[:, :60])
