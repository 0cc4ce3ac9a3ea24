"""PyTorch as others would run it, and the original libraries' models with our weights."""

import dataclasses
import shutil
from typing import Any

import numpy as np
import peers
import pytest
import torch
from conftest import TINY_WITH_HEAD, build_reference, seeded_images
from torch import nn

from exporters.errors import ComparisonError, MissingBackendError
from swin_deploy.bench import Effort
from swin_deploy.bench.baselines import (
    compiled,
    eager,
    graphed,
)
from swin_deploy.bench.contenders import relative_l2
from swin_deploy.bench.originals import build_original, library_of, original_maker
from swin_deploy.bench.throughput import measure_throughput
from swin_deploy.candidates import Made
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import SwinConfig
from swin_deploy.reference import build_reference as build_any
from swin_deploy.runners.pytorch import TorchRunner, float32_products

V1 = SwinConfig(
    family="swin", img_size=64, window_size=4, embed_dim=32, depths=(2, 2, 2),
    num_heads=(2, 4, 8), num_classes=10,
)  # fmt: skip
V2 = dataclasses.replace(V1, family="swinv2")
IMAGES = np.asarray(seeded_images(TINY_WITH_HEAD))


def loaded(config, source="timm"):
    reference: Any = peers.trained_like(build_any(config)).eval()
    return LoadedModel("model", config, reference, None, "", library_steps(config), source=source)


def outputs_of(make, **options):
    with TorchRunner("x", make, **options) as runner:
        return runner.run(IMAGES)


@pytest.fixture(scope="module")
def model():
    return build_reference(TINY_WITH_HEAD)


def test_pytorch_runner_gives_the_models_output_and_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = (np.asarray(model(torch.from_numpy(IMAGES))),)
    assert relative_l2(outputs_of(lambda: model), expected) < 1e-6
    half = relative_l2(outputs_of(lambda: model, arithmetic="fp16"), expected)
    assert 1e-5 < half < 1e-2  # float16 was used, and is right
    cast = relative_l2(outputs_of(lambda: model, arithmetic="autocast"), expected)
    assert 1e-5 < cast < 1e-2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pytorch_runner_takes_new_images_of_the_same_and_of_another_batch(model):
    with TorchRunner("x", lambda: model) as runner:
        first = runner.run(IMAGES)
        other = runner.run(IMAGES[::-1].copy())
        assert relative_l2((other[0][::-1],), first) < 1e-6
        assert runner.run(IMAGES[:1])[0].shape == (1, 10)
        runner.execute_with_copies()
        assert np.array_equal(runner.fetch()[0], runner._host_outputs[0].numpy())


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on a CPU needs a C++ compiler")
def test_pytorch_runner_compiles():
    layer = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.GELU())
    layer(torch.from_numpy(IMAGES))
    expected = outputs_of(lambda: layer)
    assert relative_l2(outputs_of(lambda: layer, compile_mode="default"), expected) < 1e-5


@pytest.mark.parametrize(("products", "setting"), [("ieee", "highest"), ("tf32", "high")])
def test_float32_products_are_set_in_both_interfaces_and_set_back(products, setting):
    def state():
        parts = torch.backends
        return (
            torch.get_float32_matmul_precision(),
            parts.cuda.matmul.allow_tf32,
            parts.cudnn.allow_tf32,
        )

    before = state()
    with float32_products(products):
        assert state() == (setting, products == "tf32", products == "tf32")
    assert state() == before


def test_contenders_say_how_they_run():
    found = [
        *eager("m", nn.Identity, "deploy", kinds=["fp32", "fp16"]),
        *compiled("m", nn.Identity, "deploy", modes=["default", "max-autotune"]),
    ]
    assert [one.runner.name for one in found] == [
        "m", "m", "m, compiled", "m, compiled max-autotune",
    ]  # fmt: skip
    assert [one.precision for one in found[:2]] == ["fp32", "fp16"]
    assert [one.mode for one in found] == ["eager", "eager", "compile", "compile"]
    if not torch.cuda.is_available():
        assert graphed("m", nn.Identity, "deploy") == []


# originals


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
@pytest.mark.parametrize("config", [V1, V2], ids=["swin", "swinv2"])
def test_original_has_our_weights_and_gives_our_output(library, config):
    peers.import_peer(library)
    ours = loaded(config)
    images = seeded_images(config)
    with TorchRunner("original", original_maker(ours, library)) as runner:
        theirs = runner.run(np.asarray(images))
    with torch.no_grad():
        expected = (np.asarray(ours.reference(images)),)
    assert relative_l2(theirs, expected) < 1e-5
    with torch.no_grad():
        ours.reference.head.bias[0] += 1
        other = (np.asarray(ours.reference(images)),)
    assert relative_l2(theirs, other) > 1e-3


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_original_has_our_head_of_two_layers(library):
    peers.import_peer(library)
    ours = loaded(dataclasses.replace(V1, head_hidden=6, head_activation="tanh"))
    images = seeded_images(V1)
    with TorchRunner("original", original_maker(ours, library)) as runner:
        theirs = runner.run(np.asarray(images))
    with torch.no_grad():
        expected = (np.asarray(ours.reference(images)),)
    assert relative_l2(theirs, expected) < 1e-5


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_original_without_classifier_gives_features(library):
    peers.import_peer(library)
    ours = loaded(dataclasses.replace(V1, num_classes=0))
    model = build_original(ours, library)
    with torch.no_grad():
        assert model(seeded_images(V1)).shape == (2, 128)


def test_original_of_other_outputs_is_refused():
    with pytest.raises(ComparisonError, match="gives logits or features, not stages"):
        build_original(loaded(dataclasses.replace(V1, output="stages")), "timm")


def test_original_that_is_not_installed_is_a_missing_backend(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm.models.swin_transformer", None)
    with pytest.raises(MissingBackendError, match="pip install timm"):
        build_original(loaded(V1), "timm")


@pytest.mark.parametrize(
    ("source", "library"),
    [("", "timm"), ("microsoft", "timm"), ("torchvision", "torchvision"),
     ("huggingface", "transformers")],
)  # fmt: skip
def test_library_of_a_source(source, library):
    assert library_of(loaded(V1, source)) == library


def test_library_of_the_notebook_is_none():
    assert library_of(load_model("notebook-digits")) == ""


# the whole


def test_measure_throughput_runs_what_was_asked_for_and_says_what_was_not():
    peers.import_peer("timm")
    report = measure_throughput(
        loaded(V1),
        Made(),
        batches=(1,),
        effort=Effort(warmup=1, iterations=3, seconds=5),
        against=("eager", "original"),
    )
    names = [result.name for result in report.results]
    assert {"PyTorch reference", "deploy model", "timm's model"} <= set(names)
    assert names[0] == "PyTorch reference"
    for result in report.results:
        assert result.timed
        assert result.relative_l2 is not None
        assert result.relative_l2 < 5e-2
    assert {one.bar for one in report.comparisons} == {"eager", "original"}
    assert "not asked for: compile, max-autotune" in report.conditions["left out"]
