"""The layout for CPU runtimes: the deploy model's outputs, modules and weights, in other orders."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from conftest import REJECTED, rms_error, seeded_images
from families import CONFIGS, trained_like
from pad_faults import SUBJECTS, padded_model
from torch import Tensor, nn

from swin_deploy.config import SwinConfig
from swin_deploy.deploy.cpu_form import stream_slots, window_slots
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel, PatchMerge, Reorder, SwinBlock
from swin_deploy.reference import Reference

CLOSE = {"swin": 1e-6, "notebook": 1e-6, "swinv2": 1e-5}  # in units of the deploy model's RMS
V1, V2 = CONFIGS["swin"], CONFIGS["swinv2"]
POSITIONS: dict[str, Any] = {"absolute_positions": True}
MODELS = {
    **CONFIGS,
    "positions": dataclasses.replace(V1, **POSITIONS),
    "max": dataclasses.replace(V1, pool="max"),
    "avgmax": dataclasses.replace(V2, pool="avgmax"),
    "maps": dataclasses.replace(V1, output="stages", num_classes=0, stage_norms=True),
    "maps-v2": dataclasses.replace(V2, output="stages", num_classes=0),
    "tokens": dataclasses.replace(V2, output="tokens"),
    "one-head": dataclasses.replace(V1, num_heads=(1, 2)),
    "grey": dataclasses.replace(V1, in_channels=1),
    "heads-as-tokens": dataclasses.replace(V1, img_size=32, window_size=2, num_heads=(4, 4)),
}
# Of q, k and v, which one layer gives in the deploy model and three in the layout for CPUs.
APART = (".query", ".key", ".value", ".normalize", ".normalize_query", ".normalize_key")


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    found = model(images)
    return [found] if isinstance(found, Tensor) else list(found)


def spelled_plainly(model: DeployModel) -> DeployModel:
    """Bring attention to its own class's spelling: V2's may be of another one, for engines."""
    for module in model.modules():
        if isinstance(module, SwinBlock):
            module.attention = module.attention.plain()
    return model


def assert_same(reference: Reference, config: SwinConfig) -> None:
    """Both layouts give the same, with modules of the same names, but for those of q, k and v."""
    plain, form = fold(reference), fold(reference, "cpu")
    images = seeded_images(config, batch=3)
    for ours, theirs in zip(outputs(form, images), outputs(plain, images), strict=True):
        assert rms_error(ours, theirs) < CLOSE[config.family]
    names = {path for path, _ in spelled_plainly(plain).named_modules()}
    assert {path for path, _ in form.named_modules() if not path.endswith(APART)} == {
        path for path in names if not path.endswith(APART)
    }


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_cpu_form_equals_the_deploy_model(name: str) -> None:
    assert_same(trained_like(MODELS[name]), MODELS[name])


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="logits"),
        pytest.param(POSITIONS, id="positions"),
        pytest.param({"output": "stages", "num_classes": 0}, id="maps"),
        pytest.param({"output": "tokens"}, id="tokens"),
    ],
)
@torch.no_grad()
def test_cpu_form_of_padded_maps_equals_the_deploy_model(name: str, fields: dict[str, Any]) -> None:
    config = dataclasses.replace(padded_model(name).config, **fields)
    assert_same(trained_like(config), config)


@torch.no_grad()
def test_cpu_form_keeps_the_deploy_model_and_its_weights() -> None:
    """Every parameter is equal; those of q, k and v are the rows of one in the deploy model."""
    reference = trained_like(V2)
    plain, form = fold(reference), fold(reference, "cpu")
    theirs = dict(spelled_plainly(plain).named_parameters())
    ours: dict[str, list[Tensor]] = {}
    for name, value in form.named_parameters():
        ours.setdefault(re.sub(r"\.(query|key|value)\.", ".", name), []).append(value)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(torch.cat(parts), theirs[name]) for name, parts in ours.items())


def test_window_slots_list_the_places_of_a_window_one_after_the_other() -> None:
    """Slot ``p * nW + w`` of the deploy model has place ``p`` of window ``w``."""
    stage = V1.stages[0]
    count, area = stage.num_windows, stage.window_area
    wanted = [place * count + window for window in range(count) for place in range(area)]
    assert window_slots(stage).tolist() == wanted == stream_slots(stage).tolist()


def _swap_tokens(layer: Any) -> None:  # noqa: ANN401 - a block or a merge
    layer.reorder_before.index[:2] = layer.reorder_before.index[:2].flip(0)


def _wrong_layout(layer: Any) -> None:  # noqa: ANN401 - as above
    """The index of the deploy model's own layout."""
    area = 49
    places = layer.reorder_before.index.reshape(-1, area)  # [nW, n]
    layer.reorder_before.index = places.T.reshape(-1).contiguous()


@pytest.mark.parametrize("change", [_swap_tokens, _wrong_layout])
@torch.no_grad()
def test_cpu_form_with_tokens_in_another_order_is_rejected(change: Any) -> None:  # noqa: ANN401
    reference, images = trained_like(V1), seeded_images(V1)
    form = fold(reference, "cpu")
    change(next(one for one in gathering(form) if isinstance(one, SwinBlock)))
    assert rms_error(form(images), fold(reference)(images)) > REJECTED


def gathering(model: DeployModel) -> list[SwinBlock | PatchMerge]:
    """The layers whose tokens come in another order than the layer before gives."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, SwinBlock | PatchMerge) and isinstance(layer.reorder_before, Reorder)
    ]
