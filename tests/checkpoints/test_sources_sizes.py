"""Sizes that libraries round, values that they overwrite, and images that are not RGB."""

import dataclasses
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images

from swin_deploy.checkpoints.load import load_model
from swin_deploy.deploy.fold import fold

RATIOS = [2.6, 1.3, 4 / 3]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("source", ["timm", "torchvision", "huggingface", "huggingface-alone"])
def test_hidden_channels_are_rounded_down_as_the_libraries_do(
    source: str, ratio: float, tmp_path: Path
) -> None:
    """A ratio that does not divide: stages differ, and no ratio of the first fits them all."""
    path = tmp_path / "w.pth"
    model: Any
    if source == "timm":
        model = peers.build_timm("swin", mlp_ratio=ratio)
        peers.saved(model.state_dict(), path)
    elif source == "torchvision":
        model = peers.build_torchvision("swin", mlp_ratio=ratio)
        peers.saved(model.state_dict(), path)
    else:
        model = peers.build_huggingface("swin", mlp_ratio=ratio)
        model.save_pretrained(tmp_path)
        path = tmp_path if source == "huggingface" else tmp_path / "own.safetensors"
        if source != "huggingface":
            (tmp_path / "model.safetensors").rename(path)
    loaded = load_model(None, path, img_size=64)
    if source == "huggingface":
        assert loaded.config.mlp_ratio == ratio
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = peers.logits_of(model, images)
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(fold(loaded.reference)(images), wanted) < FLOAT32_TOLERANCE


def test_torchvision_v2_bias_of_keys_is_taken_as_zero_as_its_forward_does(tmp_path: Path) -> None:
    model = peers.build_torchvision("swinv2")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("qkv.bias"):
                value.chunk(3)[1].fill_(0.7)
    loaded = load_model(None, peers.saved(model.state_dict(), tmp_path / "tv.pth"), img_size=64)
    (note,) = [one for one in loaded.notes if "takes zero for it" in one]
    assert note.startswith("not zero, but torchvision's model takes zero for it, as is done here: ")
    assert "features.1.0.attn.qkv.bias[k]" in note
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = model(images)  # sets the bias to zero, in place
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(fold(loaded.reference)(images), wanted) < 3 * FLOAT32_TOLERANCE


def test_torchvision_v1_bias_of_keys_counts(tmp_path: Path) -> None:
    model = peers.build_torchvision("swin")
    before = load_model(None, peers.saved(model.state_dict(), tmp_path / "a.pth"), img_size=64)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("qkv.bias"):
                value.chunk(3)[1].copy_(torch.linspace(-1, 1, len(value) // 3))
    after = load_model(None, peers.saved(model.state_dict(), tmp_path / "b.pth"), img_size=64)
    images = seeded_images(after.config)
    with torch.no_grad():
        assert rms_error(after.reference(images), model(images)) < FLOAT32_TOLERANCE
        # A constant added to all scores of a query changes nothing; this is not one.
        assert not torch.equal(after.reference(images), before.reference(images))


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_torchvision_does_not_shrink_windows(family: str, tmp_path: Path) -> None:
    """Its last map of 4 x 4 tokens is padded to a window of 8."""
    model = peers.build_torchvision(family, window_size=[8, 8])
    loaded = load_model(None, peers.saved(model.state_dict(), tmp_path / "tv.pth"), img_size=64)
    last = loaded.config.stages[-1]
    assert (last.resolution.rows, last.window_size.rows, last.has_pads) == (4, 8, True)
    images = seeded_images(loaded.config)
    cut = dataclasses.replace(loaded.config, window_rule="timm")
    assert cut.stages[-1].window_size.rows == 4
    with torch.no_grad():
        assert rms_error(loaded.reference(images), model(images)) < FLOAT32_TOLERANCE
        assert rms_error(fold(loaded.reference)(images), model(images)) < 3 * FLOAT32_TOLERANCE
