"""Names in files of detectors and what is built on them: parts, averages, decoders, embeddings."""

from __future__ import annotations

import copy
from pathlib import Path

import detector_libraries as libraries
import onnx
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from exported import run_onnx
from torch import Tensor, nn
from torch.nn import functional

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.semantic import with_semantic_weight

DECODER = ("layers_up.0.expand.weight", "layers_up.1.blocks.0.attn.qkv.weight", "up.norm.bias",
           "concat_back_dim.1.weight", "norm_up.weight", "output.weight")  # fmt: skip


def authors_tiny() -> tuple[nn.Module, dict[str, Tensor]]:
    model = peers.build_timm("swin", depths=(2, 2), num_heads=(1, 2), num_classes=0)
    return model, peers.microsoft_state(model)


@pytest.mark.parametrize(
    ("prefix", "others"),
    [
        ("swin_unet.", tuple(f"swin_unet.{name}" for name in DECODER)),
        ("visual_encoder.", ("label_embed", "tagging_head.encoder.layer.0.weight")),
        ("module.visual_encoder.", ("module.fc.weight",)),
    ],
    ids=["swin-unet", "ram", "ram-in-parallel"],
)
def test_encoder_with_the_authors_names_is_found_and_the_rest_named(
    prefix: str, others: tuple[str, ...], tmp_path: Path
) -> None:
    model, state = authors_tiny()
    named = {f"{prefix}{name}": value for name, value in state.items()}
    named |= {name: torch.zeros(1) for name in others}
    loaded = load_model(None, peers.saved(named, tmp_path / "e.pth"))
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert rms_error(loaded.reference(images), model(images)) < FLOAT32_TOLERANCE
    (note,) = [one for one in loaded.notes if one.startswith("ignored")]
    assert f"ignored {len(others)} tensors outside the encoder" in note
    if prefix == "swin_unet.":
        assert "swin_unet.layers_up.*" in note
        assert "swin_unet.norm_up.*" in note


def test_unknown_parts_of_an_encoder_are_refused(swin: Command, tmp_path: Path) -> None:
    _, state = authors_tiny()
    named = {f"swin_unet.{name}": one for name, one in state.items()}
    for extra in ("gate.weight", "norm_up.weight"):  # the decoder's name alone is not a decoder
        path = peers.saved(named | {f"swin_unet.{extra}": torch.zeros(1)}, tmp_path / "e.pth")
        swin("export", "--checkpoint", path).assert_error(f"unknown keys: swin_unet.{extra}")


def test_flat_averages_of_mmdetection_are_named_once(tmp_path: Path) -> None:
    state = libraries.build_mmdet().state_dict()
    named = {f"backbone.{name}": one for name, one in state.items()}
    named |= {f"ema_backbone_{name.replace('.', '_')}": one for name, one in state.items()}
    loaded = load_model(None, peers.saved(named, tmp_path / "d.pth"))
    note = f"ignored {len(state)} tensors outside the encoder backbone: ema_*"
    assert note in loaded.notes


def test_averages_of_mmengine_are_taken_where_they_are_saved(tmp_path: Path) -> None:
    average, raw = libraries.build_mmdet(), libraries.build_mmdet(qkv_bias=False)
    values = {
        "meta": {"mmengine_version": "0.10.7"},
        "state_dict": {f"backbone.{name}": one for name, one in average.state_dict().items()},
        "ema_state_dict": {
            "steps": torch.tensor(9),
            **{f"module.backbone.{name}": one for name, one in raw.state_dict().items()},
        },
    }
    torch.save(values, tmp_path / "d.pth")
    loaded = load_model(None, tmp_path / "d.pth")
    assert loaded.weights_key == "state_dict"
    images = seeded_images(loaded.config)
    with torch.no_grad():
        got = loaded.reference(images)
    for one, wanted in zip(got, libraries.maps(average, images), strict=True):
        assert rms_error(one, wanted) < FLOAT32_TOLERANCE


class Solider(nn.Module):
    """SOLIDER's backbone: MMDetection's, and after each merge a scale and a shift by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = libraries.build_mmdet()
        dims = (32, 64, 64)  # the last stage has an embedding of the former's size, and no use
        self.semantic_embed_w, self.semantic_embed_b = (
            nn.ModuleList(peers.trained_like(nn.Linear(2, dim), seed=dim + kind) for dim in dims)
            for kind in (0, 1)
        )

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        state = {name.removeprefix("backbone."): one for name, one in self.state_dict().items()}
        return {f"{prefix}{name}": one for name, one in state.items()}

    def maps(self, images: Tensor, weight: float) -> list[Tensor]:
        model = copy.deepcopy(self.backbone)
        given = torch.tensor([[weight, 1 - weight]])
        for stage in (0, 1):
            scale = functional.softplus(self.semantic_embed_w[stage](given)).unsqueeze(1)
            shift = self.semantic_embed_b[stage](given).unsqueeze(1)

            def embed(
                _module: nn.Module,
                _inputs: object,
                output: tuple[Tensor, object],
                scale: Tensor = scale,
                shift: Tensor = shift,
            ) -> tuple[Tensor, object]:
                return output[0] * scale + shift, output[1]

            merge = model.get_submodule(f"stages.{stage}.downsample")
            merge.register_forward_hook(embed)
        return libraries.maps(model, images)


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_semantic_weight_folded_into_the_merges_equals_the_definition(
    weight: float, tmp_path: Path
) -> None:
    model = Solider()
    others = {"classifier.weight": torch.zeros(3, 64), "bottleneck.weight": torch.ones(64)}
    folded = with_semantic_weight(model.tensors("base.") | others, weight)
    loaded = load_model(None, peers.saved(folded, tmp_path / "s.pth"))
    images = seeded_images(loaded.config)
    wanted = model.maps(images, weight)
    with torch.no_grad():
        got = loaded.reference(images)
        other = model.maps(images, weight - 0.1)
    pairs = zip(got, wanted, strict=True)
    assert max(rms_error(one, two) for one, two in pairs) < FLOAT32_TOLERANCE
    assert rms_error(got[1], other[1]) > REJECTED


def test_semantic_weight_is_an_option_of_every_command(swin: Command, tmp_path: Path) -> None:
    model = Solider()
    path = peers.saved(model.tensors("base."), tmp_path / "s.pth")
    options = ("--checkpoint", path, "--semantic-weight", 0.3)
    done = swin("export", *options, "--output", "s.onnx").assert_done()
    assert "for the semantic weight 0.3" in done.err
    loaded = load_model(None, path, semantic_weight=0.3)
    images = seeded_images(loaded.config)
    got = run_onnx(onnx.load("s.onnx"), images.numpy())
    for one, two in zip(got, model.maps(images, 0.3), strict=True):
        assert rms_error(torch.from_numpy(one), two) < FLOAT32_TOLERANCE
    assert swin("export", *options[:3], 1.5).status == 2
    plain = peers.saved(libraries.build_mmdet().state_dict(), tmp_path / "mm.pth")
    swin("export", "--checkpoint", plain, *options[2:]).assert_error("no semantic embedding")
    swin("export", "--semantic-weight", 0.3).assert_error("give --checkpoint")


def test_semantic_embedding_without_a_weight_is_refused(swin: Command, tmp_path: Path) -> None:
    path = peers.saved(Solider().tensors("backbone."), tmp_path / "s.pth")
    message = "weight that the file does not say; give it with --semantic-weight"
    swin("export", "--checkpoint", path).assert_error(message)
    assert not list(tmp_path.glob("engines/*"))


def test_with_semantic_weight_refuses_weights_without_an_embedding() -> None:
    tensors = Solider().tensors("")
    with pytest.raises(CheckpointError, match="no semantic embedding"):
        with_semantic_weight(libraries.build_mmdet().state_dict(), 0.2)
    del tensors["stages.1.downsample.norm.bias"]
    with pytest.raises(CheckpointError, match=r"lack stages\.1\.downsample\.norm\.bias"):
        with_semantic_weight(tensors, 0.2)


def state_of(model: nn.Module, prefix: str = "backbone.") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


def huge_v2() -> dict[str, Tensor]:
    arch = {**libraries.V1, "extra_norm_every_n_blocks": 2}
    return state_of(libraries.build_mmpretrain_v2(arch=arch))


def dilated() -> dict[str, Tensor]:
    return state_of(libraries.build_grounding_dino(dilation=True), "backbone.0.")


REFUSED = {
    "extra-norms": (huge_v2, "unknown keys: backbone.stages.0.blocks.1.norm3.bias"),
    "no-patch-norm": (
        lambda: state_of(libraries.build_mmdet(patch_norm=False)),
        "missing keys: backbone.patch_embed.norm.bias",
    ),
    "dilation": (dilated, "missing keys: backbone.0.layers.1.downsample.norm.bias"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_other_architectures_of_these_libraries_are_refused_by_name(
    case: str, swin: Command, tmp_path: Path
) -> None:
    make, message = REFUSED[case]
    path = peers.saved(make(), tmp_path / "d.pth")
    swin("export", "--checkpoint", path).assert_error(message)


ODD: dict[str, tuple[str, Tensor, str]] = {
    "empty-merge": ("stages.0.downsample.norm.bias", torch.zeros(0), "is [0], not [64]"),
    "number-merge": ("stages.0.downsample.norm.bias", torch.tensor(1.0), "is [], not [64]"),
    "narrow-merge": ("stages.1.downsample.reduction.weight", torch.zeros(64, 6), "is [64, 6], not"),
    "many-digits": (f"norm{'9' * 5000}.weight", torch.zeros(1), "unknown keys"),
    "far-stage": (f"stages.{'9' * 5000}.x", torch.zeros(1), "unknown keys"),
}


@pytest.mark.parametrize("case", ODD, ids=str)
def test_odd_tensors_are_refused_in_one_line(case: str, swin: Command, tmp_path: Path) -> None:
    name, value, message = ODD[case]
    state = state_of(libraries.build_mmdet()) | {f"backbone.{name}": value}
    swin("export", "--checkpoint", peers.saved(state, tmp_path / "d.pth")).assert_error(message)


@pytest.mark.parametrize("prefix", ["model.", "module.", "student.architecture."])
def test_classifier_inside_another_program_keeps_its_head(prefix: str, tmp_path: Path) -> None:
    model = libraries.Classifier(libraries.build_mmpretrain(), 64)
    state = {f"{prefix}{name}": one for name, one in model.state_dict().items()}
    state["loss.weight"] = torch.zeros(1)
    loaded = load_model(None, peers.saved(state, tmp_path / "c.pth"))
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert rms_error(loaded.reference(images), model(images)) < FLOAT32_TOLERANCE
