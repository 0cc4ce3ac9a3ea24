"""The multiply-accumulates of a config, against those that the deploy model runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from swin_deploy.config import VARIANTS, SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference

# Stages of 23 x 17, 12 x 9 and 6 x 5 tokens, whose pads are put in.
PUT_IN = SwinConfig(
    "swin",
    img_size=(92, 70),
    window_size=4,
    embed_dim=16,
    depths=(2, 2, 1),
    num_heads=(1, 2, 4),
    num_classes=5,
    window_rule="torchvision",
    pads="pad-then-roll",
    remainder="crop",
)
# 39 x 31 and 20 x 16 tokens, whose pads are carried, then 10 x 8.
CARRIED = dataclasses.replace(PUT_IN, img_size=(156, 124))
CONFIGS = {
    "put-in": PUT_IN,
    "put-in-v2": dataclasses.replace(PUT_IN, family="swinv2"),
    "carried": CARRIED,
    "carried-v2": dataclasses.replace(CARRIED, family="swinv2"),
    "rectangular-windows": dataclasses.replace(PUT_IN, window_size=((8, 6), (4, 7), 3)),
    "tiled": dataclasses.replace(PUT_IN, img_size=(64, 128)),
    "maps": dataclasses.replace(PUT_IN, num_classes=0, output="stages", out_stages=(1, 2)),
    "features": dataclasses.replace(CARRIED, output="features"),
    "two-layer-head": dataclasses.replace(PUT_IN, head_hidden=7, head_activation="relu"),
    "notebook": VARIANTS["notebook-digits"],
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_gmacs_are_those_that_the_deploy_model_runs(name: str) -> None:
    config = CONFIGS[name]
    deploy = fold(build_reference(config).eval())
    with FlopCounterMode(display=False) as counter:
        deploy(torch.zeros(1, config.in_channels, *config.image))
    assert round(2e9 * config.gmacs) == counter.get_total_flops()


def test_gmacs_of_pads_are_more_than_those_of_tokens_alone() -> None:
    """Carried pads cost every layer, those that are put in the attention alone."""
    for config in (PUT_IN, CARRIED):
        for stage in config.stages:
            per_token = 4 * stage.dim**2 + 2 * stage.window_area * stage.dim
            alone = stage.resolution.area * (per_token + 2 * stage.dim * stage.hidden)
            assert (stage.block_macs > alone) == stage.has_pads
