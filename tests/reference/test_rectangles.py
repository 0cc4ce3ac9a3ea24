"""Rectangular images and windows: the reference and its fold against timm's own model."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from exported import run_onnx
from peers import SIZES, build_timm, microsoft_state
from torch import Tensor, nn

from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.config import Family, Size, SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import Reference, build_reference

TWO = {"depths": (2, 2), "num_heads": (2, 4)}
FOUR = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
WINDOWS = ((4, 6), (4, 6), (4, 6))
# Sizes, and the window and shift of the last stage by timm's rule, along each axis on its own.
CASES: dict[str, tuple[dict[str, Any], Size, Size]] = {
    "224x448": ({"img_size": (224, 448), "window_size": 7, **FOUR}, Size(7, 7), Size(0, 3)),
    "448x224": ({"img_size": (448, 224), "window_size": 7, **FOUR}, Size(7, 7), Size(3, 0)),
    "shrunk-rows": ({"img_size": (32, 128), "window_size": 8}, Size(2, 8), Size(0, 0)),
    "shrunk-columns": ({"img_size": (256, 64), "window_size": 8}, Size(8, 4), Size(4, 0)),
    "rectangular-windows": (
        {"img_size": (64, 192), "window_size": WINDOWS},
        Size(4, 6),
        Size(0, 3),
    ),
    "windows-of-a-square": ({"img_size": 96, "window_size": ((3, 6),) * 3}, Size(3, 6), Size(1, 0)),
    "always-shift": ({"img_size": (64, 128), "window_rule": "always"}, Size(4, 4), Size(2, 2)),
}
PRETRAINED: dict[str, tuple[dict[str, Any], Size, Size]] = {
    "pretrained": (
        {"img_size": (64, 128), "pretrained_window_sizes": (6, 6, 3)},
        Size(4, 4),
        Size(0, 2),
    ),
    "pretrained-rectangles": (
        {
            "img_size": (64, 192),
            "window_size": WINDOWS,
            "pretrained_window_sizes": ((3, 8), (3, 8), (2, 5)),
        },
        Size(4, 6),
        Size(0, 3),
    ),
}
FAMILIES: list[Family] = ["swin", "swinv2"]
cases = pytest.mark.parametrize(
    ("family", "case"),
    [
        *(
            pytest.param(one, case, id=f"{one}-{name}")
            for one in FAMILIES
            for name, case in CASES.items()
        ),
        *(pytest.param("swinv2", case, id=f"swinv2-{name}") for name, case in PRETRAINED.items()),
    ],
)


def config_of(family: Family, sizes: dict[str, Any]) -> SwinConfig:
    return SwinConfig(**({"window_size": 4, "num_classes": 10, **SIZES, **sizes, "family": family}))


def timm_of(family: Family, sizes: dict[str, Any]) -> nn.Module:
    """timm's model, its norms and the biases of qkv as far from 0 as after training."""
    always = {"always_partition": True} if sizes.get("window_rule") else {}
    given = {name: value for name, value in sizes.items() if name != "window_rule"}
    return build_timm(family, **given, **always)


def with_weights_of(model: nn.Module, config: SwinConfig) -> Reference:
    reference, state = build_reference(config).eval(), microsoft_state(model)
    reference.load_state_dict({name: state[name] for name in reference.state_dict()})
    return reference


def float64_error(found: nn.Module, expected: nn.Module, images: Tensor) -> float:
    return rms_error(found.double()(images.double()), expected.double()(images.double()))


@cases
@torch.no_grad()
def test_rectangle_equals_timms_model(
    family: Family, case: tuple[dict[str, Any], Size, Size]
) -> None:
    sizes, window, shift = case
    config, model = config_of(family, sizes), timm_of(family, sizes)
    last = config.stages[-1]
    assert (last.window_size, last.shift_size) == (window, shift)
    layers: Any = model.layers
    theirs = layers[-1].blocks[1]
    assert (theirs.window_size, theirs.shift_size) == (window, shift)
    reference, images = with_weights_of(model, config), seeded_images(config)
    deploy, expected = fold(reference), model(images)
    rounding = 4 if family == "swinv2" else 1  # cosines are multiplied by up to 100
    assert rms_error(reference(images), expected) < rounding * FLOAT32_TOLERANCE
    assert rms_error(deploy(images), expected) < rounding * FLOAT32_TOLERANCE
    assert float64_error(reference, model, images) < 1e-9
    assert float64_error(deploy, model, images) < FLOAT32_TOLERANCE / 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "wrong",
    [{"window_rule": "always"}, {"img_size": (128, 64)}, {"window_size": ((4, 4), (4, 4), (4, 2))}],
    ids=["shift-along-both-axes", "rows-for-columns", "other-windows"],
)
@torch.no_grad()
def test_rectangle_of_another_geometry_differs_from_timms_model(
    family: Family, wrong: dict[str, Any]
) -> None:
    sizes: dict[str, Any] = {"img_size": (64, 128)}
    model, config = timm_of(family, sizes), config_of(family, sizes)
    images = seeded_images(config)
    right, state = with_weights_of(model, config), microsoft_state(model)
    assert rms_error(right(images), model(images)) < 4 * FLOAT32_TOLERANCE
    other = build_reference(dataclasses.replace(config, **wrong)).eval()
    fitting = {
        name: state[name]
        for name, value in other.state_dict().items()
        if state[name].shape == value.shape
    }
    other.load_state_dict(fitting, strict=False)
    turned = images.transpose(2, 3) if "img_size" in wrong else images
    assert rms_error(other(turned), model(images)) > REJECTED


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@torch.no_grad()
def test_rectangle_as_onnx_equals_the_reference(family: Family) -> None:
    config = config_of(family, {"img_size": (32, 64), "output": "stages", **TWO})
    reference = build_reference(config).eval()
    images = seeded_images(config)
    spec = ExportSpec((3, *config.image), config.output_names)
    found = run_onnx(export_onnx(fold(reference), spec, metadata={}), images.numpy())
    expected = reference(images)
    assert [one.shape[2:] for one in found] == [(8, 16), (4, 8)]
    for ours, theirs in zip(found, expected, strict=True):
        assert rms_error(torch.from_numpy(np.asarray(ours)), theirs) < 4 * FLOAT32_TOLERANCE
