from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import swin_deploy
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.notebook import infer_config
from swin_deploy.config import variant
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel
from swin_deploy.images.sets import ImageSet, load_images
from swin_deploy.reference.notebook import NotebookSwin

DIGITS = Path(swin_deploy.__file__).parent / "assets" / "digits"
CHECKPOINT = DIGITS / "checkpoint.safetensors"
TOLERANCE = 1e-5  # of the reference's RMS


def load_reference() -> tuple[NotebookSwin, dict[str, str]]:
    with safe_open(CHECKPOINT, "pt") as file:
        facts = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    model = NotebookSwin(infer_config(weights, facts, img_size=None))
    model.load_state_dict(weights)
    return model.eval(), facts


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    steps = load_model("notebook-digits").preprocessing
    return load_images(DIGITS / "images", steps, num_classes=10)


@pytest.fixture(scope="module")
def expected(held_out: ImageSet) -> Tensor:
    return compute(load_reference()[0], held_out)


def compute(model: NotebookSwin | DeployModel, held_out: ImageSet) -> Tensor:
    with torch.inference_mode():
        return torch.cat(
            [model(part) for part in torch.split(torch.from_numpy(held_out.images), 60)]
        )


def accuracy(logits: Tensor, held_out: ImageSet) -> float:
    return float((logits.argmax(dim=1).numpy() == held_out.labels).mean())


def error(actual: Tensor, expected: Tensor) -> float:
    rms = expected.double().square().mean().sqrt()
    return float(((actual.double() - expected.double()) / rms).abs().max())


def test_held_out_images_are_whole(held_out: ImageSet) -> None:
    facts = load_reference()[1]
    assert len(held_out.names) == int(facts["held_out"]) == 360
    assert held_out.labels is not None
    counts = np.bincount(held_out.labels, minlength=10)
    assert counts.min() >= 35  # stratified
    assert counts.max() <= 37
    assert held_out.images.min() >= -1.0
    assert held_out.images.max() <= 1.0


def test_checkpoint_is_described() -> None:
    facts = load_reference()[1]
    assert facts["model"] == "notebook-digits"
    assert "load_digits" in facts["trained_on"]
    assert float(facts["top1"]) >= 0.96
    assert f"**{facts['top1']}**" in (DIGITS / "README.md").read_text(encoding="utf-8")


def test_checkpoint_fits_its_variant() -> None:
    assert load_reference()[0].config == variant("notebook-digits")


def test_reference_reaches_the_recorded_accuracy(held_out: ImageSet, expected: Tensor) -> None:
    recorded = float(load_reference()[1]["top1"])
    assert accuracy(expected, held_out) >= recorded - 0.001


def test_deploy_model_agrees_with_the_reference(held_out: ImageSet, expected: Tensor) -> None:
    actual = compute(fold(load_reference()[0]), held_out)
    assert torch.equal(actual.argmax(dim=1), expected.argmax(dim=1))
    assert error(actual, expected) <= TOLERANCE


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("block", ["WSA", "SWSA"])
def test_deploy_model_without_one_attention_is_rejected(
    held_out: ImageSet, expected: Tensor, stage: int, block: str
) -> None:
    model, _ = load_reference()
    with torch.no_grad():
        model.get_parameter(f"stages.{stage}.{block}.WMSA.proj2.weight").zero_()
    actual = compute(fold(model), held_out)
    assert not torch.equal(actual.argmax(dim=1), expected.argmax(dim=1))
    assert accuracy(actual, held_out) < accuracy(expected, held_out)
    assert error(actual, expected) > 1e4 * TOLERANCE


def test_deploy_model_with_one_nudged_bias_is_rejected(
    held_out: ImageSet, expected: Tensor
) -> None:
    model, _ = load_reference()
    with torch.no_grad():
        model.get_parameter("stages.0.SWSA.WMSA.embeddings.embeddings")[3, 5] += 0.1
    assert error(compute(fold(model), held_out), expected) > TOLERANCE


def test_reference_with_swapped_windows_is_rejected(held_out: ImageSet, expected: Tensor) -> None:
    model, _ = load_reference()
    half = 98  # of the 14 x 14 tokens: the upper and the lower pair of windows change places
    model.stages[0].register_forward_pre_hook(lambda _, inputs: inputs[0].roll(half, dims=1))
    actual = compute(model, held_out)
    assert accuracy(actual, held_out) < accuracy(expected, held_out) - 0.01
    assert error(actual, expected) > 1e4 * TOLERANCE


def test_weights_are_trained() -> None:
    # Fresh weights have scales of exactly 1, shifts of 0 and MLP biases of 1e-6.
    trained, fresh = load_reference()[0], NotebookSwin(variant("notebook-digits"))
    for name, weight in trained.named_parameters():
        assert torch.isfinite(weight).all(), name
        if name.endswith("layer_norm.weight"):
            assert (weight - 1).abs().mean() > 0.01, name
            assert weight.std() > 0.01, name
        if name.endswith(("layer_norm.bias", "MLP.0.bias")):
            assert weight.std() > 0.005, name
        if name.endswith("embeddings.embeddings"):
            assert not weight.requires_grad, name
    norm = fresh.get_parameter("stages.0.WSA.layer_norm.weight")
    assert (norm - 1).abs().mean() == 0  # what the check above rejects


def test_logits_are_confident(held_out: ImageSet, expected: Tensor) -> None:
    torch.manual_seed(0)
    fresh = compute(NotebookSwin(variant("notebook-digits")).eval(), held_out)
    assert expected.softmax(dim=1).amax(dim=1).mean() > 0.8
    assert fresh.softmax(dim=1).amax(dim=1).mean() < 0.5  # what the check above rejects
