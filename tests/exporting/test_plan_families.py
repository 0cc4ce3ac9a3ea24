"""Engines of Swin V1 and V2: every attention block fuses, and kernels, bytes and files stay few."""

import dataclasses
import functools
from typing import Any

import onnx
import pytest
import torch
from exported import needs_rtx

from exporters.engine.to_engine import build_engine
from exporters.plan import KernelPlan
from exporters.spec import BatchProfile, EngineOptions, ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.checkpoints.load import RANDOM_SEED
from swin_deploy.config import VARIANTS, SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import build_reference, count_parameters

AT_8 = BatchProfile(8, 8, 8)
PROFILES = pytest.mark.parametrize("profile", [AT_8, BatchProfile(1, 8, 32)], ids=["8", "1 to 32"])
V1 = VARIANTS["swin_tiny_patch4_window7_224"]
V2 = VARIANTS["swinv2_tiny_window8_256"]


def short(
    config: SwinConfig,
    *,
    heads: tuple[int, int] = (3, 6),
    **fields: Any,  # noqa: ANN401 - some of the config's
) -> SwinConfig:
    """Two stages of two blocks, one of them shifted; the second stage has one window or more."""
    return dataclasses.replace(config, depths=(2, 2), num_heads=heads, **fields)


SHORT = {
    "v1-window-7": short(V1, img_size=112),
    "v1-window-12": short(V1, img_size=96, window_size=12),
    "v1-one-head": short(V1, heads=(1, 2), img_size=112, embed_dim=32),
    "v2-window-8": short(V2, img_size=128),
    "v2-window-16": short(V2, img_size=128, window_size=16),
    "v2-one-head": short(V2, heads=(1, 2), img_size=128, embed_dim=32),
    "v2-one-head-window-16": short(V2, heads=(1, 2), img_size=128, embed_dim=32, window_size=16),
}


@functools.cache
def half_graph(config: SwinConfig) -> onnx.ModelProto:
    """The float16 graph of a model with random weights."""
    torch.manual_seed(RANDOM_SEED)
    spec = ExportSpec((3, *config.image), config.output_names, precision="fp16")
    return export_onnx(fold(build_reference(config).eval()), spec, metadata={})


def half_plan(config: SwinConfig, profile: BatchProfile) -> KernelPlan:
    return build_engine(half_graph(config), profile, options=EngineOptions("tensorrt-rtx")).plan


@needs_rtx
@PROFILES
@pytest.mark.parametrize("config", SHORT.values(), ids=SHORT.keys())
def test_plan_fuses_every_attention_block(config: SwinConfig, profile: BatchProfile) -> None:
    plan = half_plan(config, profile)
    assert (plan.fused_attention, plan.attention_blocks) == (4, 4)
    assert plan.float32_compute == ()
    assert plan.kernel_count <= 50
    # V2's normalisation reads and writes float32.
    assert plan.half_byte_share > {"swin": 0.9, "swinv2": 0.65}[config.family]


@needs_rtx
@pytest.mark.slow
@PROFILES
def test_plan_of_swin_tiny_has_seven_kernels_a_block(profile: BatchProfile) -> None:
    plan = half_plan(V1, profile)
    assert (plan.fused_attention, plan.attention_blocks) == (12, 12)
    assert plan.float32_compute == ()
    assert plan.kernel_count <= 96
    assert plan.bytes_moved <= 720e6


@needs_rtx
@pytest.mark.slow
@PROFILES
def test_plan_of_v2_tiny_has_nine_kernels_a_block(profile: BatchProfile) -> None:
    plan = half_plan(V2, profile)
    assert (plan.fused_attention, plan.attention_blocks) == (12, 12)
    assert plan.kernel_count <= 119
    assert plan.bytes_moved <= 1180e6


@needs_rtx
@pytest.mark.slow
def test_plan_of_v2_with_windows_of_16_is_fused_from_a_small_file() -> None:
    config = dataclasses.replace(V2, window_size=16)
    assert half_graph(config).ByteSize() <= 1.15 * 2 * count_parameters(config)
    plan = half_plan(config, AT_8)
    assert (plan.fused_attention, plan.attention_blocks) == (12, 12)
    assert plan.float32_compute == ()
    assert plan.kernel_count <= 129


def padded(**fields: Any) -> SwinConfig:  # noqa: ANN401 - some of the config's
    """``SHORT``'s first model at a size that windows do not tile, as torchvision pads it."""
    return short(V1, window_rule="torchvision", pads="pad-then-roll", **fields)


@needs_rtx
@pytest.mark.parametrize("side", [136, 128], ids=["carried", "put in"])
def test_plan_of_a_padded_model_has_as_many_kernels_as_one_that_windows_tile(side: int) -> None:
    """34 tokens a side in 35 slots are carried; 32 in 35 are put in, by kernels that are there.

    The gather and the zeroing of pads join the norm's kernel, those after them the residual's; one
    more brings the patches to windows, or the stream to the merge. More bytes than slots over
    tokens would be a copy of the stream.
    """
    tiled = half_plan(short(V1, img_size=112), AT_8)
    config = padded(img_size=side)
    plan = half_plan(config, AT_8)
    assert plan.fused_attention == plan.attention_blocks == 4
    assert plan.kernel_count <= tiled.kernel_count + 2
    tokens, slots = (
        sum(getattr(stage, size).area * stage.dim for stage in config.stages)
        for size in ("resolution", "padded")
    )
    before = sum(stage.resolution.area * stage.dim for stage in short(V1, img_size=112).stages)
    assert plan.bytes_moved < tiled.bytes_moved * max(slots, tokens) / before
