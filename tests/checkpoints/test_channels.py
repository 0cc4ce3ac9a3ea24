"""Models of other images than RGB: they compute what the original libraries do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from original_files import hop_of
from torch import nn

from exporters.errors import CheckpointError, ConfigError, DeployError
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.images.preprocessing import PreprocessingChoice

Asked = dict[str, Any]
SIZES: Asked = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
TOLD: Asked = {"img_size": 64, "window_size": 4}


def timm_file(family: str, channels: int, folder: Path) -> tuple[nn.Module, Path, Asked]:
    model = peers.build_timm(family, in_chans=channels, **SIZES)
    return model, peers.saved(model.state_dict(), folder / "w.pth"), TOLD


def authors_file(family: str, channels: int, folder: Path) -> tuple[nn.Module, Path, Asked]:
    model = peers.build_timm(family, in_chans=channels, **SIZES)
    torch.save({"model": peers.microsoft_state(model)}, folder / "swin.pth")
    return model, folder / "swin.pth", {}


def timm_folder(family: str, channels: int, folder: Path) -> tuple[nn.Module, Path, Asked]:
    timm = peers.import_peer("timm")
    name = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[family]
    fields = {**TOLD, "num_classes": 10, "in_chans": channels, **SIZES}
    model = peers.trained_like(timm.create_model(name, **fields))
    timm.models.save_for_hf(model, str(folder), model_args=fields, safe_serialization=True)
    return model, folder, {}


def hf_folder(family: str, channels: int, folder: Path) -> tuple[nn.Module, Path, Asked]:
    model = peers.build_huggingface(family, num_channels=channels, **SIZES)
    model.save_pretrained(folder)
    return model, folder, {}


def torchvision_file(family: str, channels: int, folder: Path) -> tuple[nn.Module, Path, Asked]:
    model = peers.build_torchvision(family, **SIZES)
    model.get_submodule("features.0").register_module("0", nn.Conv2d(channels, 16, 4, 4))
    peers.trained_like(model, seed=1)
    return model, peers.saved(model.state_dict(), folder / "tv.pth"), TOLD


SOURCES = [timm_file, authors_file, timm_folder, hf_folder, torchvision_file]


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize("source", SOURCES)
def test_model_of_other_channels_equals_the_original(
    source: Callable[..., tuple[nn.Module, Path, Asked]],
    family: str,
    channels: int,
    tmp_path: Path,
) -> None:
    original, path, asked = source(family, channels, tmp_path)
    loaded = load_model(None, path, **asked)
    assert loaded.config.in_channels == channels
    images = seeded_images(loaded.config)
    assert images.shape[1] == channels
    with torch.no_grad():
        expected = peers.logits_of(original, images)
        assert rms_error(loaded.reference(images), expected) < FLOAT32_TOLERANCE
        deploy = fold(loaded.reference).double()
        exact = peers.logits_of(original.double(), images.double())
        assert rms_error(deploy(images.double()), exact) < FLOAT32_TOLERANCE
        swapped = images.flip(1)
        assert channels == 1 or rms_error(loaded.reference(swapped), expected) > 0.01


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_original_library_loads_models_of_other_channels(
    source: Callable[..., tuple[nn.Module, Path, Asked]], channels: int, tmp_path: Path
) -> None:
    _, path, asked = source("swin", channels, tmp_path)
    hop = hop_of(load_model(None, path, **asked))
    assert not hop.not_run
    assert hop.passed


def grey_folder(folder: Path, channels: int = 1, **settings: Any) -> Path:  # noqa: ANN401
    timm_folder("swin", channels, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def mean_and_std(loaded: LoadedModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return loaded.preprocessing.mean, loaded.preprocessing.std


def test_mean_of_the_file_is_taken_for_as_many_channels(tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]
    loaded = load_model(None, grey_folder(tmp_path, 4, mean=mean, std=std))
    assert mean_and_std(loaded) == (tuple(mean), tuple(std))
    assert loaded.assumptions == ()


@pytest.mark.parametrize("number", [0.25, [0.25]], ids=["number", "list"])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_one_number_of_the_file_counts_for_every_channel(
    number: float | list[float], channels: int, tmp_path: Path
) -> None:
    loaded = load_model(None, grey_folder(tmp_path, channels, mean=number, std=0.5))
    assert mean_and_std(loaded) == ((0.25,) * channels, (0.5,) * channels)
    assert loaded.assumptions == ()


IMAGENET: Asked = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_mean_of_rgb_is_averaged_as_timm_does_and_this_is_said(tmp_path: Path) -> None:
    loaded = load_model(None, grey_folder(tmp_path, **IMAGENET))
    resolve = peers.import_peer("timm.data.model_config").resolve_input_data_config
    theirs = resolve(peers.build_timm("swin", in_chans=1, **SIZES), pretrained_cfg=IMAGENET)
    assert mean_and_std(loaded) == (theirs["mean"], theirs["std"])
    (assumed,) = loaded.assumptions
    assert assumed.subject == "mean and std"
    assert "mean 0.449 and std 0.226 for every channel" in assumed.value
    assert "config.json, which are for RGB, where the model takes 1 channel" in assumed.text
    assert assumed.option == "--mean with --std"


def test_what_the_user_says_of_mean_and_std_is_not_assumed(tmp_path: Path) -> None:
    grey_folder(tmp_path, 4, **IMAGENET)
    choice = PreprocessingChoice(mean=(0.1, 0.2, 0.3, 0.4))
    loaded = load_model(None, tmp_path, preprocessing=choice)
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3, 0.4)
    assert loaded.preprocessing.std == pytest.approx((0.226,) * 4)
    assert [one.subject for one in loaded.assumptions] == ["std"]
    both = PreprocessingChoice(mean=(0.1,), std=(0.2, 0.3, 0.4, 0.5))
    loaded = load_model(None, tmp_path, preprocessing=both)
    assert mean_and_std(loaded) == ((0.1,) * 4, (0.2, 0.3, 0.4, 0.5))
    assert loaded.assumptions == ()


@pytest.mark.parametrize("name", ["mean", "std"])
def test_mean_of_another_number_than_the_channels_is_refused(name: str, tmp_path: Path) -> None:
    grey_folder(tmp_path, 4)
    given: Asked = {name: (0.1, 0.2, 0.3)}
    choice = PreprocessingChoice(**given)
    with pytest.raises(
        ConfigError, match=f"--{name} has 3 numbers, the model takes 4 channels; give one number"
    ):
        load_model(None, tmp_path, preprocessing=choice)


def test_mean_of_the_file_for_neither_rgb_nor_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have 2 numbers, the model takes 4 channels"):
        load_model(None, grey_folder(tmp_path, 4, mean=[0.5, 0.5], std=[0.5, 0.5]))


def test_huggingface_processor_with_numbers_has_them_for_every_channel(tmp_path: Path) -> None:
    hf_folder("swin", 2, tmp_path)
    path = tmp_path / "preprocessor_config.json"
    values = {"image_processor_type": "ViTImageProcessor", "size": 64, "image_mean": 0.3}
    path.write_text(json.dumps(values | {"image_std": 0.2}))
    assert mean_and_std(load_model(None, tmp_path)) == ((0.3, 0.3), (0.2, 0.2))
    path.write_text(json.dumps(values | {"image_mean": [0.1, 0.2], "image_std": [0.3, 0.4]}))
    assert mean_and_std(load_model(None, tmp_path)) == ((0.1, 0.2), (0.3, 0.4))
    path.write_text(json.dumps(values | {"do_normalize": False}))
    assert mean_and_std(load_model(None, tmp_path)) == ((0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize("source", [timm_folder, hf_folder])
def test_config_with_other_channels_than_the_weights_is_refused(
    source: Callable[..., tuple[nn.Module, Path, Asked]], tmp_path: Path
) -> None:
    source("swin", 1, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    place, name = config.get("model_args", config), "num_channels"
    place["in_chans" if "in_chans" in place else name] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="says in_channels 4, the weights have 1"):
        load_model(None, tmp_path)


def test_variant_may_have_other_channels_but_is_not_the_published_model(tmp_path: Path) -> None:
    timm = peers.import_peer("timm")
    name = "swin_tiny_patch4_window7_224"
    state = timm.create_model(name, in_chans=1).state_dict()
    path = peers.saved(state, tmp_path / "grey.pth")
    loaded = load_model(None, path)
    assert loaded.name == "grey"
    assert loaded.class_names is None
    assert load_model(name, path).config == loaded.config


@pytest.mark.parametrize("channels", [0, -1, 1025, 1.0, True, "3"])
def test_config_refuses_impossible_channels(channels: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="in_channels"):
        SwinConfig("swin", in_channels=channels)


def test_notebook_takes_rgb_alone() -> None:
    with pytest.raises(ConfigError, match="in_channels 1: the notebook takes 3"):
        SwinConfig(in_channels=1)


def test_config_with_channels_goes_through_json_and_counts_them() -> None:
    config = SwinConfig("swin", in_channels=6)
    assert SwinConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    more = config.gmacs - SwinConfig("swin").gmacs
    assert more == pytest.approx(56 * 56 * 3 * 16 * 96 / 1e9)
    assert config.image_text == "224 px, 6 channels"


def test_checkpoint_of_too_many_channels_is_one_error(tmp_path: Path) -> None:
    model = peers.build_timm("swin", **SIZES)
    state = model.state_dict()
    state["patch_embed.proj.weight"] = torch.zeros(16, 2000, 4, 4)
    with pytest.raises(DeployError, match="in_channels 2000"):
        load_model(None, peers.saved(state, tmp_path / "w.pth"), img_size=64)
