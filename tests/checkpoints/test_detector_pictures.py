"""Pictures for the backbones of detectors: the usual guess, and mean and std in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peers
import pytest
import torch
from command_line import Command
from PIL import Image
from torch import Tensor

from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.preprocessors import library_rule
from swin_deploy.config import SwinConfig
from swin_deploy.images.decode import load_image
from swin_deploy.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, PreprocessingChoice

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def authors_state(*, norms: bool) -> dict[str, Tensor]:
    """Names of the authors, as Detectron2 has them with ``norms``: no final norm and no head."""
    state = peers.microsoft_state(peers.build_timm("swin", num_classes=0 if norms else 10))
    if not norms:
        return state
    dims = (32, 64, 128)
    state = {name: one for name, one in state.items() if not name.startswith("norm.")}
    for index, dim in enumerate(dims):
        state |= {f"norm{index}.weight": torch.ones(dim), f"norm{index}.bias": torch.zeros(dim)}
    return {f"backbone.{name}": one for name, one in state.items()}


def detector(tmp_path: Path, **others: Tensor) -> LoadedModel:
    path = peers.saved(authors_state(norms=True) | others, tmp_path / "d.pth")
    return load_model(None, path, img_size=64)


def buffers(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)


def test_detector_has_the_detectors_preprocessing_as_a_guess(tmp_path: Path) -> None:
    loaded = detector(tmp_path)
    steps = loaded.preprocessing
    assert (steps.mean, steps.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (steps.resize_mode, steps.interpolation, steps.turn) == ("squash", "bilinear", True)
    (assumed,) = loaded.assumptions
    assert assumed.subject == "preprocessing"
    assert "as detectors and segmenters normalise RGB pictures" in assumed.reason
    assert "openmmlab|FILE" in assumed.option


def test_classifier_of_the_authors_keeps_their_preprocessing(tmp_path: Path) -> None:
    path = peers.saved(authors_state(norms=False), tmp_path / "c.pth")
    assert load_model(None, path).preprocessing.resize_mode == "shortest"


@pytest.mark.parametrize(
    "names",
    [
        ("data_preprocessor.mean", "data_preprocessor.std"),
        ("pixel_mean", "pixel_std"),
        ("mean", "std"),
        ("0.mean", "0.std"),
        ("normalize._mean", "normalize._std"),
        ("model.img_mean", "model.img_std"),
    ],
    ids=str,
)
def test_mean_and_std_of_the_file_are_taken(names: tuple[str, str], tmp_path: Path) -> None:
    other = (1.0, 2.0, 3.0)
    loaded = detector(tmp_path, **{names[0]: buffers(MEAN), names[1]: buffers(other)})
    assert loaded.preprocessing.mean == IMAGENET_MEAN
    assert loaded.preprocessing.std == pytest.approx([one / 255 for one in other])
    assert f"with {names[0]} and {names[1]} of the weights file" in loaded.preprocessing.origin
    exact = detector(tmp_path, **{names[0]: buffers(MEAN), names[1]: buffers(STD)})
    assert (exact.preprocessing.mean, exact.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    unit = detector(tmp_path, **{names[0]: buffers(IMAGENET_MEAN), names[1]: buffers(IMAGENET_STD)})
    assert (unit.preprocessing.mean, unit.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mean_and_std_of_a_wrapper_are_taken_for_any_channels(
    channels: int, tmp_path: Path
) -> None:
    model = peers.build_timm("swin", in_chans=channels)
    state = {f"net.{name}": one for name, one in model.state_dict().items()}
    for count in {1, channels}:
        state |= {"mean": buffers((0.5,) * count), "std": buffers((0.25,) * count)}
        loaded = load_model(None, peers.saved(state, tmp_path / "w.pth"))
        assert loaded.preprocessing.mean == (0.5,) * channels
        assert loaded.preprocessing.std == (0.25,) * channels
        (assumed,) = (one for one in loaded.assumptions if one.subject == "preprocessing")
        assert "mean and std are the file's own (mean)" in assumed.reason


def test_several_means_that_differ_leave_the_guess(tmp_path: Path) -> None:
    same = {"a.mean": buffers(MEAN), "a.std": buffers(STD)}
    both = same | {"b.mean": buffers(MEAN), "b.std": buffers(STD)}
    assert "of the weights file" in detector(tmp_path, **both).preprocessing.origin
    differ = same | {"b.mean": buffers((1.0, 2.0, 3.0)), "b.std": buffers(STD)}
    assert "of the weights file" not in detector(tmp_path, **differ).preprocessing.origin


def test_options_come_before_the_mean_of_the_file(tmp_path: Path) -> None:
    state = authors_state(norms=True) | {"pixel_mean": buffers(MEAN), "pixel_std": buffers(STD)}
    path = peers.saved(state, tmp_path / "d.pth")
    for choice in (
        PreprocessingChoice(source="timm", mean=(0.5,), std=(0.25,)),
        PreprocessingChoice(mean=(0.5,), std=(0.25,)),
    ):
        loaded = load_model(None, path, img_size=64, preprocessing=choice)
        assert (loaded.preprocessing.mean, loaded.preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((1.0, 2.0), (1.0, 2.0)), (MEAN, (1.0, 0.0, 1.0)), (MEAN, (1.0,)), ((), ())],
    ids=["two-channels", "zero", "one-std", "empty"],
)
def test_unusable_values_leave_the_guess(
    mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    loaded = detector(tmp_path, pixel_mean=buffers(mean), pixel_std=buffers(std))
    assert loaded.preprocessing.mean == IMAGENET_MEAN
    assert "of the weights file" not in loaded.preprocessing.origin


def test_mean_in_the_order_of_bgr_gives_the_model_bgr(swin: Command, tmp_path: Path) -> None:
    state = authors_state(norms=True)
    state |= {"pixel_mean": buffers(MEAN[::-1]), "pixel_std": buffers((1.0, 1.0, 1.0))}
    path = peers.saved(state, tmp_path / "bgr.pth")
    loaded = load_model(None, path, img_size=64)
    assert loaded.preprocessing.channel_order == "bgr"
    (assumed,) = loaded.assumptions
    assert "in the order blue, green, red" in assumed.reason
    assert "BGR" in assumed.value
    (tmp_path / "pictures").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "pictures" / "a.png")
    found = load_image(tmp_path / "pictures" / "a.png", loaded.preprocessing)
    wanted = levels[..., ::-1].transpose(2, 0, 1) - np.array(MEAN[::-1], np.float32)[:, None, None]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)  # Detectron2 leaves 0 to 255
    assert abs(found - wanted[::-1]).max() > 1
    asked = ("--checkpoint", path, "--image-size", 64, "--images", tmp_path / "pictures")
    swin("parity", *asked).assert_done()
    settled = load_model(
        None, path, img_size=64, preprocessing=PreprocessingChoice(channel_order="rgb")
    )
    assert settled.preprocessing.channel_order == "rgb"


@pytest.mark.parametrize(
    ("side", "mode", "resize"),
    [(224, "shortest", 256), (256, "shortest", 292), (384, "squash", 384)],
)
def test_classifiers_of_openmmlab_have_its_pipelines(side: int, mode: str, resize: int) -> None:
    """The sizes of mmpretrain's ``configs/_base_/datasets/imagenet_bs64_swin_*.py``."""
    config = SwinConfig(family="swin", img_size=side, window_size=side // 32, num_classes=1000)
    steps = library_rule("openmmlab", config).steps(config.image)
    assert (steps.resize_mode, steps.resize, steps.crop) == (mode, resize, side)
    assert (steps.interpolation, steps.turn) == ("bicubic", True)
    assert (steps.mean, steps.std) == (IMAGENET_MEAN, IMAGENET_STD)
