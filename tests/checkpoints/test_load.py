import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_reference
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporters.artifact import sha256_of
from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints import load
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import BUNDLED_WEIGHTS, VARIANTS, notebook_config, variant
from swin_deploy.reference.notebook import NotebookSwin

DIGITS = BUNDLED_WEIGHTS["notebook-digits"]
TINY_VARIANT = notebook_config(img_size=56, embed_dim=16, depths=(2, 2))


@pytest.fixture
def tiny_variant(monkeypatch: pytest.MonkeyPatch) -> str:
    """A variant without weights that is made in milliseconds."""
    monkeypatch.setitem(VARIANTS, "tiny", TINY_VARIANT)
    return "tiny"


def test_load_model_bundled_weights() -> None:
    loaded = load_model("notebook-digits")
    assert loaded.name == "notebook-digits"
    assert loaded.config == variant("notebook-digits")
    assert loaded.checkpoint == DIGITS
    assert loaded.sha256 == sha256_of(DIGITS)
    assert loaded.weights == f"checkpoint.safetensors (SHA-256 {loaded.sha256[:16]}...)"
    assert not loaded.reference.training
    stored = load_file(DIGITS)
    state = loaded.reference.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)


def test_load_model_recognises_a_variant_without_metadata(tmp_path: Path) -> None:
    torch.save(load_file(DIGITS), tmp_path / "mine.pt")
    loaded = load_model(checkpoint=tmp_path / "mine.pt")
    assert loaded.name == "notebook-digits"
    assert loaded.config == variant("notebook-digits")
    assert load_model("notebook-digits", tmp_path / "mine.pt").config == loaded.config


def test_load_model_names_unknown_sizes_after_the_file(tmp_path: Path) -> None:
    reference = build_reference(TINY_VARIANT)
    torch.save(reference.state_dict(), tmp_path / "my swin.pt")
    loaded = load_model(checkpoint=tmp_path / "my swin.pt", img_size=56)
    assert loaded.name == "my swin"
    assert loaded.config == TINY_VARIANT
    images = torch.zeros(1, 3, 56, 56)
    torch.testing.assert_close(loaded.reference(images), reference(images), rtol=0, atol=0)


def test_load_model_at_another_image_size() -> None:
    loaded = load_model("notebook-digits", img_size=112)
    assert loaded.config == dataclasses.replace(variant("notebook-digits"), img_size=112)
    assert loaded.reference(torch.zeros(1, 3, 112, 112)).shape == (1, 10)


def embedding_weight(model: LoadedModel) -> Tensor:
    assert isinstance(model.reference, NotebookSwin)
    return model.reference.Embedding.linear_embedding.weight


def generator_states() -> tuple[Tensor, Any, object]:
    numpys: Any = np.random.get_state()  # noqa: NPY002 - the global one
    return torch.get_rng_state(), numpys[1].tolist(), random.getstate()


def test_load_model_random_weights_repeat_and_leave_the_generators_alone(
    tiny_variant: str,
) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global generator is what must stay as it is
    random.seed(5)
    before = generator_states()
    first = load_model(tiny_variant)
    after = generator_states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(6)
    second = load_model(tiny_variant)
    values = zip(first.reference.parameters(), second.reference.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in values)
    assert first.weights == "random weights (seed 0): no trained model"
    assert (first.checkpoint, first.sha256) == (None, "")
    assert not first.reference.training


def test_load_model_other_seed_gives_other_weights(
    tiny_variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embedding_weight(load_model(tiny_variant))
    monkeypatch.setattr(load, "RANDOM_SEED", 1)
    assert not torch.equal(first, embedding_weight(load_model(tiny_variant)))


def test_load_model_default_is_swin_t() -> None:
    loaded = load_model()
    assert loaded.name == "notebook-swin-t"
    assert loaded.config == variant("notebook-swin-t")


@pytest.mark.parametrize("name", ["notebook-swin", "", "swin_v2", "../x"])
def test_load_model_unknown_name_proposes_others(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown model {name}; .*'swin-deploy models' lists"):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "notebook-swin-t",
            r"is no notebook-swin-t: it has embed_dim 32 instead of 96, depths 2/2 instead of",
            id="swin-t",
        ),
        pytest.param("tiny", "is no tiny: .*num_classes 10 instead of 0; leave --model", id="tiny"),
        pytest.param(
            "patches", "is no patches: it has patch_size 4 instead of 2; leave", id="patch"
        ),
    ],
)
def test_load_model_refuses_a_checkpoint_of_another_model(
    name: str, message: str, tiny_variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = variant("notebook-digits")
    monkeypatch.setitem(VARIANTS, "patches", dataclasses.replace(digits, patch_size=2))
    with pytest.raises(ConfigError, match=message):
        load_model(name, DIGITS)


@pytest.mark.parametrize(
    ("img_size", "near"),
    [(55, "56, 112, 168, 224"), (64, "56, 112, 168, 224"), (225, "224, 280, 168, 336")],
)
def test_load_model_names_the_nearest_image_sizes(img_size: int, near: str) -> None:
    with pytest.raises(ConfigError, match=f"image size {img_size} .*one of {near}, "):
        load_model("notebook-digits", img_size=img_size)


def test_load_model_names_every_unfit_key(tmp_path: Path) -> None:
    state = load_file(DIGITS)
    bias = state.pop("head.bias")
    save_file({**state, "head.offset": bias}, tmp_path / "w.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing keys: head\.bias; unknown keys: head\.offset"
    ):
        load_model(checkpoint=tmp_path / "w.safetensors")


def test_load_model_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(DIGITS.read_bytes())
    loaded = load_model(checkpoint=path)
    with torch.no_grad():
        embedding_weight(loaded).zero_()
    assert sha256_of(path) == loaded.sha256
