"""Every argument that the libraries' models take: the loaded model is theirs, or it is refused."""

import inspect
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from library_folders import TINY, huggingface, timm
from torch import nn

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.config_fields import HUGGINGFACE, TIMM_ARGUMENTS
from swin_deploy.checkpoints.load import load_model

# One value of each argument that is not its default.
TIMM_VARIED: dict[str, Any] = {
    "img_size": 64, "patch_size": 2, "in_chans": 1, "num_classes": 7, "global_pool": "max",
    "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 4), "head_dim": 4, "window_size": 2,
    "always_partition": True, "strict_img_size": False, "dynamic_img_size": True,
    "mlp_ratio": 2.7, "qkv_bias": False, "drop_rate": 0.5, "proj_drop_rate": 0.5,
    "attn_drop_rate": 0.5, "drop_path_rate": 0.5, "weight_init": "jax", "act_layer": "relu",
    "pretrained_window_sizes": (3, 3),
}  # fmt: skip
HUGGINGFACE_VARIED: dict[str, Any] = {
    "image_size": 64, "patch_size": 2, "num_channels": 1, "embed_dim": 24, "depths": (1, 2),
    "num_heads": (2, 4), "window_size": 2, "mlp_ratio": 2.7, "qkv_bias": False,
    "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "drop_path_rate": 0.5,
    "hidden_act": "relu", "use_absolute_embeddings": True, "initializer_range": 1.0,
    "layer_norm_eps": 0.1, "encoder_stride": 4, "pretrained_window_sizes": (3, 3),
}  # fmt: skip
# Classes, which no JSON file holds as such.
UNWRITTEN = {"embed_layer", "norm_layer", "device", "dtype"}
# Set from other fields, or by backbones alone, whose tests are in test_sources_backbones.py.
DERIVED = {"hidden_size", "num_layers", "stage_names", "out_features", "out_indices"}
# What is built in other cases than these, or not at all.
REFUSED = {"swin": {"head_dim"}, "swinv2": {"use_absolute_embeddings"}}


def timm_arguments(family: str) -> set[str]:
    module = peers.import_peer(f"timm.models.swin_transformer{'' if family == 'swin' else '_v2'}")
    kind = module.SwinTransformer if family == "swin" else module.SwinTransformerV2
    return set(inspect.signature(kind).parameters) - UNWRITTEN


def huggingface_fields(kind: str) -> set[str]:
    library = peers.import_peer("transformers")
    own = getattr(library, f"{kind}Config")().to_dict().keys()
    general = library.PreTrainedConfig().to_dict().keys()
    return set(own) - set(general) - DERIVED - {"model_type"}


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_every_argument_of_timm_is_varied(family: str) -> None:
    assert timm_arguments(family) <= set(TIMM_VARIED)
    assert set(TIMM_VARIED) | UNWRITTEN <= set(TIMM_ARGUMENTS)
    assert {TIMM_ARGUMENTS[name].effect for name in ("embed_layer", "norm_layer")} == {"refused"}


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "DonutSwin", "MaskFormerSwin"])
def test_every_field_of_transformers_is_varied(kind: str) -> None:
    assert huggingface_fields(kind) <= set(HUGGINGFACE_VARIED)
    assert set(HUGGINGFACE_VARIED) <= set(HUGGINGFACE)


def assert_equal_or_refused(model: nn.Module, folder: Path, refused: bool) -> None:
    """Fail unless the folder gives the model, or a refusal where one is expected."""
    if refused:
        with pytest.raises(CheckpointError):
            load_model(None, folder)
        return
    loaded = load_model(None, folder)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = peers.logits_of(model, images)
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(loaded.deploy(images), wanted) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", TIMM_VARIED)
@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_model_with_an_argument_of_timm_is_its_own_or_refused(
    family: str, name: str, tmp_path: Path
) -> None:
    if name not in timm_arguments(family):
        pytest.skip(f"timm's {family} has no {name}")
    model = timm(tmp_path, family, **{name: TIMM_VARIED[name]})
    assert_equal_or_refused(model, tmp_path, name in REFUSED[family])


@pytest.mark.parametrize("name", HUGGINGFACE_VARIED)
@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_model_with_a_field_of_transformers_is_its_own_or_refused(
    family: str, name: str, tmp_path: Path
) -> None:
    if name not in huggingface_fields(family.capitalize()):
        pytest.skip(f"transformers' {family} has no {name}")
    model = huggingface(tmp_path, family, **{name: HUGGINGFACE_VARIED[name]})
    assert_equal_or_refused(model, tmp_path, name in REFUSED[family])


def test_varied_values_are_not_the_defaults() -> None:
    """A value that the library takes by itself would prove nothing."""
    library = peers.import_peer("transformers")
    usual = {**library.Swinv2Config().to_dict(), **TINY, "image_size": 32, "window_size": 4}
    assert all(usual[name] != value for name, value in HUGGINGFACE_VARIED.items())
