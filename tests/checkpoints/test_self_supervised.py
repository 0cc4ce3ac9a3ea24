"""Encoders of training without labels: SimMIM, MoBY, EsViT under the authors' names."""

from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from original_files import hop_of
from torch import Tensor

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.load import load_model

State = dict[str, Tensor]
HEADS: State = {
    "head.mlp.0.weight": torch.ones(4, 128),
    "head.last_layer.weight_g": torch.ones(4, 1),
    "head.last_layer.weight_v": torch.ones(4, 4),
    "head_dense.mlp.0.weight": torch.ones(4, 128),
}
PROJECTOR: State = {
    "projector.linear_hidden.1.weight": torch.ones(4, 128),
    "projector_k.linear_hidden.1.weight": torch.ones(4, 128),
    "queue1": torch.ones(4, 4),
    "queue_ptr": torch.zeros(1, dtype=torch.long),
}
DECODER: State = {
    "encoder.mask_token": torch.ones(1, 1, 32),
    "decoder.0.weight": torch.ones(48, 128, 1, 1),
}


def encoder(seed: int) -> Any:  # noqa: ANN401 - timm's model
    return peers.trained_like(peers.build_timm("swin", num_classes=0), seed)


def names(seed: int, start: str = "") -> State:
    return {f"{start}{name}": one for name, one in peers.microsoft_state(encoder(seed)).items()}


def parallel(state: State) -> State:
    return {f"module.{name}": value for name, value in state.items()}


def simmim() -> dict[str, Any]:
    return {"model": names(0, "encoder.") | DECODER, "epoch": 3}


def moby() -> dict[str, Any]:
    return {"model": names(0, "encoder.") | names(1, "encoder_k.") | PROJECTOR, "epoch": 3}


def esvit() -> dict[str, Any]:
    return {"student": parallel(names(1) | HEADS), "teacher": names(0) | HEADS, "epoch": 3}


def dino() -> dict[str, Any]:
    wrapped = names(0, "backbone.") | HEADS
    return {"student": parallel(names(1, "backbone.") | HEADS), "teacher": wrapped}


CASES: dict[str, tuple[dict[str, Any], str | None, int, str]] = {
    "simmim": (simmim(), None, 0, "decoder.*"),
    "moby": (moby(), "model.encoder", 0, "encoder_k.*, projector.*"),
    "moby-key": (moby(), "model.encoder_k", 1, "encoder.*, projector.*"),
    "esvit": (esvit(), None, 0, "head_dense.mlp.0.weight"),
    "esvit-student": (esvit(), "student", 1, "head_dense.mlp.0.weight"),
    "dino": (dino(), None, 0, "head.*, head_dense.*"),
}


@pytest.mark.parametrize(("values", "wanted", "seed", "named"), CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_encoder_is_found_and_the_rest_is_named(
    values: dict[str, Any], wanted: str | None, seed: int, named: str, tmp_path: Path
) -> None:
    torch.save(values, tmp_path / "checkpoint.pth")
    loaded = load_model(None, tmp_path / "checkpoint.pth", img_size=64, weights=wanted)
    assert any(named in note for note in loaded.notes), loaded.notes
    images = seeded_images(loaded.config)
    for one, fits in ((seed, True), (1 - seed, False)):
        model = encoder(one)
        theirs = model.forward_head(model.forward_features(images), pre_logits=True)
        error = rms_error(loaded.reference(images), theirs)
        assert error < FLOAT32_TOLERANCE if fits else error > REJECTED
    assert hop_of(loaded).passed


def test_choice_between_student_and_teacher_is_said(tmp_path: Path) -> None:
    torch.save(esvit(), tmp_path / "checkpoint.pth")
    loaded = load_model(None, tmp_path / "checkpoint.pth", img_size=64)
    (said,) = [one for one in loaded.assumptions if one.subject == "weights"]
    assert said.option == "--weights"
    assert said.value == "teacher, the averaged ones (the file has student, too)"


def test_two_encoders_of_which_none_is_called_an_average_are_asked_for(tmp_path: Path) -> None:
    torch.save(moby(), tmp_path / "checkpoint.pth")
    asks = "say which with --encoder encoder or --encoder encoder_k$"
    with pytest.raises(CheckpointError, match=asks):
        load_model(None, tmp_path / "checkpoint.pth", img_size=64)


def test_strange_head_is_still_refused(tmp_path: Path) -> None:
    """Only the heads that are known are passed over."""
    torch.save({"model": names(0) | {"head_other.weight": torch.ones(2)}}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"unknown keys: head_other\.weight"):
        load_model(None, tmp_path / "c.pth", img_size=64)
