"""The noise of parts in FP8: against layers of the deploy model that round what they read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from command_line import IMAGES, Command
from families import loaded
from torch import nn

from exporters.progress import silent
from exporters.spec import Precision
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.images.sets import ImageSet, load_images
from swin_deploy.precision.diagnose import NOISE_IMAGES, Diagnosis, diagnose

LARGEST = 448.0  # of float8_e4m3fn


def diagnosed(model: LoadedModel, precision: Precision) -> tuple[Diagnosis, ImageSet]:
    images = load_images(IMAGES, model.preprocessing, limit=10)
    return diagnose(model, images, noise_precision=precision, progress=silent), images


@torch.inference_mode()
def error_of_rounding(model: LoadedModel, path: str, images: np.ndarray) -> float:
    """The largest error over a few images if one layer reads FP8, in units of the RMS.

    The scale is the least power of two at which FP8 holds what the layer reads of all images.
    """
    layer = model.deploy.get_submodule(path)
    read: list[float] = []
    hook = layer.register_forward_pre_hook(lambda _, x: read.append(float(x[0].abs().max())))
    model.deploy(torch.from_numpy(images))
    hook.remove()
    scale = 2.0 ** math.ceil(math.log2(max(read) / LARGEST))

    def rounded(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return ((given[0] / scale).to(torch.float8_e4m3fn).float() * scale,)

    few = torch.from_numpy(images[:NOISE_IMAGES])
    wanted = model.deploy(few)
    hook = layer.register_forward_pre_hook(rounded)
    error = (model.deploy(few) - wanted).abs().max() / wanted.square().mean().sqrt()
    hook.remove()
    return float(error)


@pytest.mark.parametrize(
    ("family", "part", "path"),
    [
        ("notebook", "layers.0.attention", "layers.0.attention.qkv"),
        ("notebook", "layers.1.mlp", "layers.1.mlp.2"),
        ("swin", "layers.0.attention", "layers.0.attention.qkv"),
        ("swin", "layers.2", "layers.2.linear"),
        ("swinv2", "layers.0.mlp", "layers.0.mlp.2"),
        ("swinv2", "layers.2", "layers.2.linear"),
    ],
)
def test_noise_of_a_part_in_fp8_is_that_of_what_its_layer_reads(
    family: str, part: str, path: str
) -> None:
    model = loaded(family)
    found, images = diagnosed(model, "fp8")
    noise = {one.name: one.noise or 0.0 for one in found.parts}
    wanted = error_of_rounding(model, path, images.images)
    assert wanted > 10 * min(noise.values())
    assert abs(noise[part] - wanted) < 0.25 * wanted  # float16 around it is not in the oracle


def test_noise_of_parts_without_fp8_is_that_in_float16() -> None:
    model = loaded("swinv2")
    half, stored = (diagnosed(model, one)[0] for one in ("fp16", "fp8"))
    higher = set()
    for one, other in zip(half.parts, stored.parts, strict=True):
        assert one.noise
        assert other.noise
        if other.noise != one.noise:
            higher.add(one.name.rpartition(".")[2])
    assert higher == {"mlp", "2"}  # V2's qkv reads the residual stream, and stays float16


def test_precision_of_parts_in_fp8_shows_the_whole_model_too(swin: Command) -> None:
    words = ("precision", "--model", "notebook-digits", "--limit", "4", "--noise", "fp8-weights")
    found = swin(*words, "--json").assert_done().json
    assert [one["precision"] for one in found["trials"]] == ["fp8-weights", "fp16"]
    assert (found["noise_precision"], found["precision"]) == ("fp8-weights", "fp16")
    shown = " ".join(swin(*words).assert_done().out.split())  # lines are as wide as the terminal
    assert "float16 with inputs and weights of linear layers in float8_e4m3fn: error" in shown
    assert "powers of two, of the largest values over these images" in shown


def test_precision_in_8_bit_integers_is_refused(swin: Command) -> None:
    outcome = swin("precision", "--model", "notebook-digits", "--noise", "int8")
    assert outcome.status == 2
    assert "'int8' is not one of 'fp16', 'bf16'" in outcome.err
