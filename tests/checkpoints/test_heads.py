"""Classifiers of the user's own: taken, named, or left aside, never taken wrongly in silence."""

import json
from pathlib import Path
from typing import Any

import own_heads
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from original_files import hop_of
from own_heads import CHANNELS, SEQUENTIALS, SOURCES, Mlp, wrapped_timm
from torch import Tensor, nn

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.deploy.fold import fold


@torch.no_grad()
def assert_gives(loaded: LoadedModel, original: nn.Module) -> None:
    """Reference and deploy model give the original's logits."""
    assert loaded.config.output_name == "logits"
    images = seeded_images(loaded.config)
    wanted = peers.logits_of(original, images)
    assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
    deploy: Any = fold(loaded.reference)(images)
    assert rms_error(deploy, wanted) < FLOAT32_TOLERANCE


def subjects(loaded: LoadedModel) -> list[str]:
    wanted = ("head", "head activation", "output")
    return [one.subject for one in loaded.assumptions if one.subject in wanted]


def saved(model: nn.Module, folder: Path, **more: Tensor) -> Path:
    return peers.saved({**model.state_dict(), **more}, folder / "own.pth")


@pytest.mark.parametrize("form", SEQUENTIALS)
@pytest.mark.parametrize("source", SOURCES)
def test_load_own_sequential_gives_the_originals_logits(
    source: str, form: str, tmp_path: Path
) -> None:
    path, model = SOURCES[source](SEQUENTIALS[form](), tmp_path)
    loaded = load_model(None, path, img_size=64)
    assert loaded.source == source
    assert_gives(loaded, model)
    two = loaded.config.head_hidden > 0
    assert subjects(loaded) == ["head activation"] * two
    assert two == (form in ("relu", "dropouts", "wide"))


@pytest.mark.parametrize("form", ["dropout", "relu", "no-bias"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("output", ["logits", "features", "stages"])
def test_original_with_own_sequential_equals_the_reference(
    source: str,
    form: str,
    output: Any,  # noqa: ANN401 - one of Output
    tmp_path: Path,
) -> None:
    path, _ = SOURCES[source](SEQUENTIALS[form](), tmp_path)
    hop = hop_of(load_model(None, path, img_size=64, output=output))
    assert hop.not_run == ""
    assert hop.passed, hop


def test_original_of_a_timm_folder_with_own_head_equals_the_reference(tmp_path: Path) -> None:
    """timm's own folder, whose config.json says the classes of the head that was put there."""
    timm = peers.import_peer("timm")
    sizes = {"img_size": 64, "window_size": 4, "num_classes": 3, **own_heads.TINY}
    model = timm.create_model("swin_tiny_patch4_window7_224", **sizes)
    model.head.fc = SEQUENTIALS["relu"]()
    timm.models.save_for_hf(peers.trained_like(model), str(tmp_path), model_args=sizes)
    loaded = load_model(None, tmp_path)
    assert_gives(loaded, model)
    assert hop_of(loaded).passed
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["num_classes"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"config.json says num_classes 7, the weights have 3"
    ):
        load_model(None, tmp_path)


def test_original_with_own_head_rejects_another_activation(tmp_path: Path) -> None:
    path, _ = SOURCES["timm"](SEQUENTIALS["relu"](), tmp_path)
    loaded = load_model(None, path, img_size=64)
    head: Any = loaded.reference.head
    head.act = nn.GELU()
    assert not hop_of(loaded).passed


ACTIVATIONS = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_load_head_activation_is_the_users(name: Any, tmp_path: Path) -> None:  # noqa: ANN401
    model = own_heads.timm_model(Mlp(ACTIVATIONS[name]))
    loaded = load_model(None, saved(model, tmp_path), img_size=64, head_activation=name)
    assert_gives(loaded, model)
    assert subjects(loaded) == []
    assert loaded.config.head_activation == name


def test_load_assumed_activation_differs_from_another(tmp_path: Path) -> None:
    """The assumption matters: with another activation these are other logits."""
    model = own_heads.timm_model(Mlp(nn.Tanh()))
    loaded = load_model(None, saved(model, tmp_path), img_size=64)
    images = seeded_images(loaded.config)
    assert rms_error(loaded.reference(images), model(images)) > REJECTED
    (assumed,) = (one for one in loaded.assumptions if one.subject == "head activation")
    assert "relu between head.fc.fc1 and head.fc.fc2" in assumed.value
    assert "--head-activation" in assumed.option


def test_load_layers_without_a_place_between_them_have_no_activation(tmp_path: Path) -> None:
    model = own_heads.timm_model(nn.Sequential(nn.Linear(CHANNELS, 6), nn.Linear(6, 3)))
    assert_gives(load_model(None, saved(model, tmp_path), img_size=64), model)


def linear(classes: int = 3, channels: int = CHANNELS, **more: Any) -> nn.Linear:  # noqa: ANN401
    return nn.Linear(channels, classes, **more)


WRAPPED: dict[str, tuple[str, dict[str, nn.Module]]] = {
    "backbone-fc": ("backbone", {"fc": linear()}),
    "backbone-classifier": ("backbone", {"classifier": linear()}),
    "backbone-head": ("backbone", {"head": linear()}),
    "backbone-cls_head": ("backbone", {"cls_head": nn.Sequential(nn.Dropout(), linear())}),
    "model-linear": ("model", {"linear": linear(bias=False)}),
    "encoder-unheard_of": ("encoder", {"unheard_of": linear()}),
    "backbone-mlp": ("backbone", {"mlp": nn.Sequential(linear(6), nn.ReLU(), linear(3, 6))}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "after"), WRAPPED.values(), ids=WRAPPED.keys())
def test_load_wrapped_model_takes_the_head_after_it(
    name: str, after: dict[str, nn.Module], tmp_path: Path
) -> None:
    model = wrapped_timm(name, 0, **after)
    loaded = load_model(None, saved(model, tmp_path), img_size=64)
    assert_gives(loaded, model)
    (assumed,) = (one for one in loaded.assumptions if one.subject == "head")
    (root,) = after
    assert assumed.value.startswith(root)
    assert f"--head {root}" in assumed.option
    settled = load_model(None, saved(model, tmp_path), img_size=64, head=root)
    assert "head" not in subjects(settled)
    assert hop_of(settled).passed


def test_load_deeper_wrapper_takes_the_head_next_to_its_own_encoder(tmp_path: Path) -> None:
    inner = wrapped_timm("backbone", fc=linear())
    state = {f"net.{name}": value for name, value in inner.state_dict().items()}
    state |= {"criterion.weight": torch.ones(3), "loss_fn.pos_weight": torch.ones(3)}
    loaded = load_model(None, peers.saved(state, tmp_path / "lightning.pth"), img_size=64)
    assert_gives(loaded, inner)


def test_load_other_encoders_head_is_not_taken(tmp_path: Path) -> None:
    student, teacher = (wrapped_timm("net", fc=linear()) for _ in range(2))
    peers.trained_like(student, seed=1)
    state = {
        f"{name}.{key}": value
        for name, model in (("student", student), ("teacher", teacher))
        for key, value in model.state_dict().items()
    }
    path = peers.saved(state, tmp_path / "two.pth")
    loaded = load_model(None, path, img_size=64, weights="student.net")
    assert_gives(loaded, student)


def test_load_head_after_the_librarys_own_gives_its_classes(tmp_path: Path) -> None:
    """The user's forward is fc(backbone(x)), where the backbone still has its own classes."""
    for classes in (7, CHANNELS):
        model = wrapped_timm("backbone", classes, fc=linear(3, classes))
        loaded = load_model(None, saved(model, tmp_path), img_size=64)
        assert_gives(loaded, model)
        values = [one.value for one in loaded.assumptions]
        assert "none between backbone.head.fc and fc" in values
        assert hop_of(loaded).passed


def test_load_head_option_takes_the_librarys_own(tmp_path: Path) -> None:
    model: Any = wrapped_timm("backbone", 7, fc=linear(3, 7))
    path = saved(model, tmp_path)
    loaded = load_model(None, path, img_size=64, head="backbone.head.fc")
    assert_gives(loaded, model.backbone)
    joined = load_model(None, path, img_size=64, head="fc", head_activation="relu")
    images = seeded_images(loaded.config)
    wanted = model.fc(model.backbone(images).relu())
    assert rms_error(joined.reference(images), wanted) < FLOAT32_TOLERANCE


def normed(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


UNUSABLE: dict[str, nn.Module] = {
    "batch-norm": normed(nn.BatchNorm1d(CHANNELS), linear()),
    "layer-norm": normed(nn.LayerNorm(CHANNELS), linear()),
    "three-layers": normed(linear(6), nn.ReLU(), linear(5, 6), nn.ReLU(), linear(3, 5)),
    "concatenated": normed(nn.Linear(2 * CHANNELS, 3)),
    "convolution": normed(nn.Conv2d(CHANNELS, 3, 1)),
    "weight-norm": normed(torch.nn.utils.parametrizations.weight_norm(linear())),
    "old-weight-norm": normed(torch.nn.utils.weight_norm(linear())),
    "two-heads": nn.ModuleDict({"colour": linear(4), "kind": linear(5)}),
}


def replaced(head: nn.Module, source: str, folder: Path) -> Path:
    """A file of a source whose classifier is `head`, which need not run."""
    names = {"timm": "head.fc.", "torchvision": "head.", "huggingface": "classifier."}
    build = {
        "timm": lambda: peers.build_timm("swin", **own_heads.TINY),
        "torchvision": lambda: peers.build_torchvision("swin", **own_heads.TINY),
        "huggingface": lambda: peers.build_huggingface("swin", **own_heads.TINY),
    }
    start = names[source]
    state = {n: v for n, v in build[source]().state_dict().items() if not n.startswith(start)}
    state |= {f"{start}{name}": value for name, value in head.state_dict().items()}
    return peers.saved(state, folder / "own.pth")


@pytest.mark.parametrize("source", ["timm", "torchvision", "huggingface"])
@pytest.mark.parametrize("form", UNUSABLE)
def test_load_unusable_head_gives_the_features_and_names_it(
    form: str, source: str, tmp_path: Path
) -> None:
    path = replaced(UNUSABLE[form], source, tmp_path)
    loaded = load_model(None, path, img_size=64)
    assert loaded.config.output_name == "features"
    (assumed,) = (one for one in loaded.assumptions if one.subject == "output")
    root = "classifier" if source == "huggingface" else "head"
    assert root in assumed.reason
    assert "--outputs features" in assumed.option
    asked = load_model(None, path, img_size=64, output="stages")
    assert subjects(asked) == []
    with pytest.raises(ConfigError, match=f"output logits needs a classifier.*{root}"):
        load_model(None, path, img_size=64, output="logits")


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_original_with_an_unusable_head_compares_the_features(source: str, tmp_path: Path) -> None:
    path = replaced(UNUSABLE["layer-norm"], source, tmp_path)
    for output in ("features", "stages", "tokens"):
        hop = hop_of(load_model(None, path, img_size=64, output=output))
        assert hop.passed, hop


def test_load_several_heads_are_settled_by_name(tmp_path: Path) -> None:
    model: Any = wrapped_timm("backbone", 0, colour=linear(4), kind=linear(5))
    path = saved(model, tmp_path)
    loaded = load_model(None, path, img_size=64)
    assert loaded.config.output_name == "features"
    (assumed,) = (one for one in loaded.assumptions if one.subject == "output")
    assert assumed.option == "--head colour|kind, or --outputs features"
    one = load_model(None, path, img_size=64, head="kind")
    images = seeded_images(one.config)
    assert rms_error(one.reference(images), model.kind(model.backbone(images))) < FLOAT32_TOLERANCE
    assert hop_of(one).passed
    with pytest.raises(CheckpointError, match=r"--head flavour names no classifier.*colour; kind"):
        load_model(None, path, img_size=64, head="flavour")


def test_load_norm_next_to_a_head_keeps_it_from_being_taken(tmp_path: Path) -> None:
    """A norm that may stand between the features and the head, as in person re-identification."""
    model = wrapped_timm("base", 0, bottleneck=nn.BatchNorm1d(CHANNELS), classifier=linear())
    path = saved(model, tmp_path)
    loaded = load_model(None, path, img_size=64)
    assert loaded.config.output_name == "features"
    assert subjects(loaded) == ["output"]
    assert load_model(None, path, img_size=64, head="classifier").config.num_classes == 3


def test_load_centres_of_a_loss_are_not_taken_for_a_classifier(tmp_path: Path) -> None:
    """A lone weight of an unusual name, such as ArcFace's, may be compared by its angle."""
    model = wrapped_timm("backbone")
    path = saved(model, tmp_path, **{"arcface.weight": torch.randn(9, CHANNELS)})
    assert load_model(None, path, img_size=64).config.output_name == "features"
    assert load_model(None, path, img_size=64, head="arcface").config.num_classes == 9


def test_load_segmenters_and_detectors_heads_are_not_taken(tmp_path: Path) -> None:
    model = wrapped_timm("backbone")
    others = {
        "decoder.conv.weight": torch.ones(3, CHANNELS, 1, 1),
        "bbox_head.fc_cls.weight": torch.ones(4, CHANNELS),
        "bbox_head.conv.weight": torch.ones(3, 8, 1, 1),
    }
    loaded = load_model(None, saved(model, tmp_path, **others), img_size=64)
    assert loaded.config.output_name == "features"
    assert any("decoder.*, bbox_head.*" in note for note in loaded.notes)


def test_load_bias_without_a_weight_is_refused(tmp_path: Path) -> None:
    model = peers.build_timm("swin", **own_heads.TINY)
    state = {name: one for name, one in model.state_dict().items() if name != "head.fc.weight"}
    with pytest.raises(CheckpointError, match=r"unknown keys: head\.fc\.bias"):
        load_model(None, peers.saved(state, tmp_path / "w.pth"), img_size=64)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head_activation": "relu"}, "none of two layers"),
        ({"head": "backbone"}, "names no classifier"),
        ({"head": ""}, "names no classifier"),
    ],
    ids=str,
)
def test_load_wrong_head_options_are_refused(
    asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(wrapped_timm("backbone", 0, fc=linear()), tmp_path)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        load_model(None, path, img_size=64, **asked)
    with pytest.raises(ConfigError, match="give --checkpoint"):
        load_model("swin_tiny_patch4_window7_224", **asked)


def test_export_own_head_keeps_it_through_every_hop(swin: Command, tmp_path: Path) -> None:
    model = own_heads.timm_model(Mlp(nn.GELU()))
    path = saved(model, tmp_path)
    asked = ["--checkpoint", path, "--image-size", 64, "--head-activation", "gelu"]
    onnx = tmp_path / "own.onnx"
    done = swin("export", *asked, "--output", onnx)
    assert done.status == 0, done
    assert "head.fc.fc1 and head.fc.fc2" in done.err
    judged = swin("parity", *asked, "--onnx", onnx, "--original", "timm")
    assert judged.status == 0, judged
    other = swin("parity", *asked[:-1], "relu", "--onnx", onnx)
    other.assert_error("head_activation gelu, not relu")
