import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from conftest import build_reference
from safetensors.torch import load_file
from torch import Tensor

from exporters.errors import CheckpointError, ConfigError, DeployError
from swin_deploy.checkpoints.notebook import CONFIG_KEY, check_state, infer_config, saved_rule
from swin_deploy.config import BUNDLED_WEIGHTS, notebook_config, variant

State = dict[str, Tensor]
SMALL = notebook_config(img_size=56, embed_dim=16, depths=(2, 2), num_classes=3)
TABLE = "stages.0.WSA.WMSA.embeddings.embeddings"
EMBEDDING = "Embedding.linear_embedding.weight"


@pytest.fixture(scope="module")
def state() -> State:
    return {
        name: value.detach().clone() for name, value in build_reference(SMALL).named_parameters()
    }


def test_infer_config_reads_the_sizes(state: State) -> None:
    config = infer_config(state, {}, img_size=56)
    assert config == SMALL
    check_state(state, config)


def test_infer_config_takes_224_pixels_where_nothing_tells(state: State) -> None:
    assert infer_config(state, {}, img_size=None).img_size == 224


def test_infer_config_takes_what_the_variant_of_these_sizes_has() -> None:
    tensors = load_file(BUNDLED_WEIGHTS["notebook-digits"])
    assert infer_config(tensors, {}, img_size=None) == variant("notebook-digits")
    resized = dataclasses.replace(variant("notebook-digits"), img_size=112)
    assert infer_config(tensors, {}, img_size=112) == resized


def test_infer_config_believes_the_metadata(state: State) -> None:
    saved = dataclasses.replace(SMALL, img_size=112, num_heads=(2, 4))
    steps = {"mean": [0.1, 0.2, 0.3], "crop_ratio": 1.0}
    metadata = {CONFIG_KEY: json.dumps(saved.to_dict() | {"preprocessing": steps})}
    rule = saved_rule(metadata)
    assert rule is not None
    assert rule.at(112).mean == (0.1, 0.2, 0.3)
    assert rule.at(112).resize == 112
    assert infer_config(state, metadata, img_size=None) == saved
    assert infer_config(state, metadata, img_size=168) == dataclasses.replace(saved, img_size=168)


def read_metadata(state: State, metadata: dict[str, str]) -> None:
    rule = saved_rule(metadata)
    if rule is not None:
        rule.at(56)
    infer_config(state, metadata, img_size=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is not JSON", id="empty"),
        pytest.param("{", "is not JSON", id="half"),
        pytest.param("[1, 2]", "no model config", id="list"),
        pytest.param("null", "no model config", id="null"),
        pytest.param("[" * 100_000, "nests too deeply", id="too-deep"),
        pytest.param('{"depth": 2}', "no model config", id="unknown-field"),
        pytest.param('{"preprocessing": 3}', "preprocessing: expected object", id="steps"),
        pytest.param('{"patch_size": 0}', "no model config", id="zero-patch"),
        pytest.param('{"img_size": 57}', "no model config", id="illegal-image"),
        pytest.param('{"img_size": 224.5}', "no model config", id="fraction"),
        pytest.param('{"mlp_ratio": Infinity}', "no model config", id="infinity"),
        pytest.param('{"mlp_ratio": NaN}', "no model config", id="nan"),
        pytest.param('{"preprocessing": {"mean": [1, 2]}}', "one number for each", id="two-means"),
        pytest.param('{"preprocessing": {"std": [0, 1, 1]}}', "std zero", id="no-spread"),
        pytest.param('{"preprocessing": {"crop_ratio": "x"}}', "crop_ratio: expected", id="crop"),
        pytest.param('{"preprocessing": {"gamma": 2}}', "unknown field gamma", id="unknown-step"),
        pytest.param(
            '{"embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2]}',
            "disagrees with the tensors: it has embed_dim 32, not 16; num_classes 0, not 3;",
            id="other-sizes",
        ),
    ],
)
def test_infer_config_refuses_metadata(text: str, message: str, state: State) -> None:
    with pytest.raises(DeployError) as info:
        read_metadata(state, {CONFIG_KEY: text})
    assert message in str(info.value)
    assert CONFIG_KEY in str(info.value)


def without(start: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(start)}


def having(key: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, key: value}


def renumbered(state: State) -> State:
    return {key.replace("stages.2.", "stages.5."): value for key, value in state.items()}


def starting_with_a_merge(state: State) -> State:
    merge = {f"stages.1.{key}": torch.ones(1) for key in ("linear_layer.weight", "layer_norm.bias")}
    kept = {
        key: value for key, value in state.items() if not key.startswith(("stages.1", "stages.2"))
    }
    return {**kept, **merge}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        pytest.param(
            without("stages"), (f"not a notebook checkpoint: it lacks {TABLE}, ",), id="no-stages"
        ),
        pytest.param(
            lambda state: {"patch_embed.proj.weight": torch.ones(1)},
            ("not a notebook checkpoint", EMBEDDING, "such as patch_embed.proj.weight"),
            id="other-model",
        ),
        pytest.param(
            without("stages.0.SWSA.MLP.0"),
            ("missing keys: stages.0.SWSA.MLP.0.bias, stages.0.SWSA.MLP.0.weight",),
            id="missing",
        ),
        pytest.param(
            having("norm.weight", torch.ones(3)), ("unknown keys: norm.weight",), id="unknown"
        ),
        pytest.param(
            lambda state: having("head.bias", torch.ones(4))(
                having("norm.bias", torch.ones(2))(without("stages.2.WSA.layer_norm.bias")(state))
            ),
            (
                "missing keys: stages.2.WSA.layer_norm.bias",
                "unknown keys: norm.bias",
                "wrong shapes: head.bias is [4], not [3]",
            ),
            id="everything-at-once",
        ),
        pytest.param(
            having(TABLE, torch.ones(49, 48)), (f"{TABLE} is [49, 48], not [49, 49]",), id="table"
        ),
        pytest.param(
            having(TABLE, torch.ones(50, 50)),
            (f"{TABLE} is [50, 50], not [49, 49]",),
            id="no-square",
        ),
        pytest.param(having(TABLE, torch.ones(49)), (f"{TABLE} is [49], not of 2",), id="table-1d"),
        pytest.param(having(TABLE, torch.tensor(1.0)), (f"{TABLE} is [], not",), id="scalar"),
        pytest.param(having(TABLE, torch.ones(0, 0)), (f"{TABLE} is [0, 0]",), id="empty-table"),
        pytest.param(
            having(EMBEDDING, torch.ones(16, 48)),
            (f"{EMBEDDING} is [16, 48], not of 4",),
            id="flat",
        ),
        pytest.param(
            having(EMBEDDING, torch.ones(0, 3, 4, 4)),
            (f"{EMBEDDING} is [0, 3, 4, 4]",),
            id="no-width",
        ),
        pytest.param(
            having(EMBEDDING, torch.ones(16, 1, 4, 4)),
            (f"{EMBEDDING} is [16, 1, 4, 4], not [16, 3, 4, 4]",),
            id="grey",
        ),
        pytest.param(
            having(EMBEDDING, torch.ones(16, 3, 4, 5)), ("[16, 3, 4, 5], not",), id="oblong-patch"
        ),
        pytest.param(
            having("head.weight", torch.ones(3)), ("head.weight is [3], not of 2",), id="head-1d"
        ),
        pytest.param(without("stages.1"), ("missing keys: stages.1.*",), id="gap"),
        pytest.param(renumbered, ("missing keys: stages.2.*", "there is stages.5"), id="far-gap"),
        pytest.param(
            having("stages.99999999999.WSA.x", torch.ones(1)),
            ("unknown keys: stages.9999",),
            id="far",
        ),
        pytest.param(
            starting_with_a_merge, ("before and after each merge, and have 2, 0",), id="merge"
        ),
        pytest.param(
            having("head.bias", torch.ones(3, dtype=torch.int64)),
            ("not floating point: head.bias is int64",),
            id="integers",
        ),
        pytest.param(
            having("head.bias", torch.ones(3, dtype=torch.bool)),
            ("not floating point: head.bias is bool",),
            id="booleans",
        ),
    ],
)
def test_unfit_tensors_are_all_named(
    change: Callable[[State], State], messages: tuple[str, ...], state: State
) -> None:
    changed = change(state)
    with pytest.raises(CheckpointError) as info:
        check_state(changed, infer_config(changed, {}, img_size=56))
    for message in messages:
        assert message in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("img_size", [55, 57, 84, 224 + 28])
def test_infer_config_names_the_legal_image_sizes(img_size: int, state: State) -> None:
    with pytest.raises(
        ConfigError, match=f"image size {img_size} .*; use one of \\d+, \\d+, \\d+, \\d+, ..."
    ):
        infer_config(state, {}, img_size=img_size)
