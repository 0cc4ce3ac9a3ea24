"""Weights with several Swins under several names: --encoder chooses, and is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from torch import nn

import swin_deploy
from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.read import LoadedCheckpoint, load_checkpoint

State = dict[str, Any]
SMALL = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}


@pytest.fixture(scope="module")
def first() -> nn.Module:
    return peers.build_timm("swin", **SMALL)


@pytest.fixture(scope="module")
def second() -> nn.Module:
    return peers.trained_like(peers.build_timm("swin", **SMALL), seed=1)


def flat(**models: nn.Module) -> State:
    """A state dict of several models, each under its name; ``__`` stands for a dot."""
    return {
        f"{start.replace('__', '.')}.{name}": value
        for start, model in models.items()
        for name, value in model.state_dict().items()
    }


def save(values: object, folder: Path) -> Path:
    path = folder / "two.pth"
    torch.save(values, path)
    return path


def assert_weights_of(loaded: LoadedCheckpoint, model: nn.Module) -> None:
    first = "layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(loaded.state_dict[first], model.state_dict()[first])


PAIRS: dict[str, Callable[[nn.Module, nn.Module], State]] = {
    # What is in the file; the names of the two encoders follow from it.
    "two-streams": lambda a, b: flat(backbone_rgb=a, backbone_d=b) | {"fuse.weight": torch.ones(2)},
    "contrastive": lambda a, b: flat(encoder_q=a, encoder_k=b) | {"queue": torch.ones(2, 2)},
    "siamese-in-a-model": lambda a, b: {"model": flat(net__left=a, net__right=b)},
    "siamese-in-parallel": lambda a, b: {"state_dict": flat(module__left=a, module__right=b)},
    "list-of-layers": lambda a, b: {"net": flat(encoders__0=a, encoders__1=b)},
}
STARTS = {
    "two-streams": ("backbone_rgb", "backbone_d"),
    "contrastive": ("encoder_q", "encoder_k"),
    "siamese-in-a-model": ("net.left", "net.right"),
    "siamese-in-parallel": ("left", "right"),
    "list-of-layers": ("encoders.0", "encoders.1"),
}


@pytest.mark.parametrize("form", PAIRS)
def test_two_encoders_ask_for_one_of_two_that_can_be_copied(
    form: str, first: nn.Module, second: nn.Module, swin: Command, tmp_path: Path
) -> None:
    path = save(PAIRS[form](first, second), tmp_path)
    one, other = STARTS[form]
    asks = f"say which with --encoder {one} or --encoder {other}"
    swin("export", "--checkpoint", path, "--output", "x.onnx").assert_error(asks)
    assert not Path("x.onnx").exists()
    for start, model in ((one, first), (other, second), (f"{other}.", second)):
        loaded = load_checkpoint(path, encoder=start)
        assert_weights_of(loaded, model)
        assert not [assumed for assumed in loaded.assumptions if assumed.subject == "weights"]
    assert_weights_of(load_checkpoint(path, encoder=f"module.{one}"), first)


def test_start_of_one_encoder_is_enough_and_of_two_is_not(
    first: nn.Module, second: nn.Module, tmp_path: Path
) -> None:
    path = save(flat(a__body__x=first, a__body__y=second, b__body=second), tmp_path)
    assert_weights_of(load_checkpoint(path, encoder="b"), second)
    with pytest.raises(CheckpointError, match=r"--encoder a\.body\.x or --encoder a\.body\.y$"):
        load_checkpoint(path, encoder="a")


def test_weights_and_encoder_compose(first: nn.Module, second: nn.Module, tmp_path: Path) -> None:
    values = {"state_dict": flat(rgb=first, d=second), "state_dict_ema": flat(rgb=second, d=first)}
    path = save(values, tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    assert "4 encoders" in str(refusal.value)
    assert "--weights state_dict_ema --encoder d" in str(refusal.value)
    assert_weights_of(load_checkpoint(path, weights="raw", encoder="rgb"), first)
    assert_weights_of(load_checkpoint(path, weights="state_dict", encoder="d"), second)
    assert_weights_of(load_checkpoint(path, weights="state_dict_ema.rgb"), second)
    averaged = load_checkpoint(path, encoder="d")
    assert_weights_of(averaged, first)
    assert averaged.assumptions[0].subject == "weights"


def test_student_and_teacher_in_one_dict_take_both_options(
    first: nn.Module, second: nn.Module, tmp_path: Path
) -> None:
    path = save(flat(student__backbone=first, teacher__backbone=second), tmp_path)
    assert_weights_of(load_checkpoint(path), second)
    for asked in ({"encoder": "student"}, {"weights": "student.backbone"}, {"weights": "raw"}):
        assert_weights_of(load_checkpoint(path, **asked), first)  # type: ignore[arg-type]
    both = load_checkpoint(path, weights="student.backbone", encoder="student")
    assert both.reading.key == "student.backbone"


def test_encoder_inside_another_ones_names_is_left_aside(
    first: nn.Module, second: nn.Module, tmp_path: Path
) -> None:
    path = save(first.state_dict() | flat(momentum=second), tmp_path)
    with pytest.raises(CheckpointError, match="--encoder '' or --encoder momentum"):
        load_checkpoint(path)
    assert_weights_of(load_checkpoint(path, encoder=""), first)
    assert_weights_of(load_checkpoint(path, encoder="momentum"), second)


@pytest.mark.parametrize("start", ["backbone", "backbone.", "backbone.swin"])
def test_only_encoder_may_be_named(start: str, first: nn.Module, tmp_path: Path) -> None:
    path = save({"model": flat(backbone__swin=first)}, tmp_path)
    loaded = load_checkpoint(path, encoder=start)
    assert loaded.reading.key == load_checkpoint(path).reading.key == "model"


WRONG = {
    "typing-error": ("bacbone_d", "it has backbone_d, backbone_rgb; choose with --encoder"),
    "part-of-a-part": ("backbone", "no encoder backbone: it has backbone_d, backbone_rgb"),
    "long": ("k" * 9000, "..."),
    "control": ("back\nbone", "it has backbone"),
}  # fmt: skip


@pytest.mark.parametrize(("start", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_start_lists_the_encoders_nearest_first(
    start: str, says: str, first: nn.Module, second: nn.Module, swin: Command, tmp_path: Path
) -> None:
    path = save(flat(backbone_rgb=first, backbone_d=second), tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path, encoder=start)
    assert len(str(refusal.value)) < 800
    swin("export", "--checkpoint", path, "--encoder", start).assert_error(says)


def test_wrong_start_for_names_without_one_says_so(first: nn.Module, tmp_path: Path) -> None:
    path = save(first.state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match="have no prefix; leave it out"):
        load_checkpoint(path, encoder="backbone")
    assert_weights_of(load_checkpoint(path, encoder=""), first)


def test_encoder_without_a_checkpoint_is_refused(swin: Command) -> None:
    with pytest.raises(ConfigError, match="--encoder chooses"):
        load_model("swin_tiny_patch4_window7_224", encoder="left")
    swin("export", "--model", "swin_tiny", "--encoder", "left").assert_error("give --checkpoint")


def test_export_records_the_encoder_and_parity_wants_the_same(
    first: nn.Module, second: nn.Module, swin: Command, tmp_path: Path
) -> None:
    path = save({"model": flat(rgb=first, d=second)}, tmp_path)
    swin("export", "--checkpoint", path, "--encoder", "d", "--output", "x.onnx").assert_done()
    manifest = json.loads(Path("x.onnx.json").read_text())
    assert manifest["weights_key"] == "model.d"
    assert manifest["weights"].startswith("two.pth, model.d (SHA-256 ")
    parity = ("parity", "--checkpoint", path, "--onnx", "x.onnx", "--batches", "1", "--encoder")
    swin(*parity, "rgb").assert_error("give the same --weights and --encoder")
    swin(*parity, "d", "--report", "r").assert_done()
    report = json.loads(Path("r/report.json").read_text())
    assert "two.pth, model.d (SHA-256" in report["parity"]["weights"]
    (original,) = [hop for hop in report["parity"]["hops"] if "timm" in json.dumps(hop)][:1]
    assert original["passed"]


def test_load_takes_the_encoder(first: nn.Module, second: nn.Module, tmp_path: Path) -> None:
    path = save(flat(rgb=first, d=second), tmp_path)
    model = swin_deploy.load(path, encoder="rgb")
    assert "two.pth, rgb" in model.weights


FORMS: dict[str, tuple[Callable[[nn.Module, nn.Module], object], str, str]] = {
    # What is in the file, the default's key, and whether that is the first or the second model.
    "basicsr": (lambda a, b: {"params": a.state_dict(), "params_ema": b.state_dict()},
                "params_ema", "second"),
    "basicsr-raw": (lambda a, b: {"params": a.state_dict()}, "params", "first"),
    "shadow": (lambda a, b: {"model": a.state_dict(),
                             "ema": {"decay": 0.9, "shadow": b.state_dict()}},
               "ema.shadow", "second"),
    "callback": (lambda a, b: {"state_dict": flat(net=a),
                               "callbacks": {"EMACallback": {"ema_state_dict": flat(net=b)}}},
                 "callbacks.EMACallback.ema_state_dict", "second"),
    "extras-beside-tensors": (lambda a, b: {**a.state_dict(), "optimizer": {"lr": 1},
                                            "classes": ["cat", "dog"]}, "", "first"),
    "list": (lambda a, b: [a.state_dict(), {"state": {}, "param_groups": []}, 3], "0", "first"),
    "tuple-of-dicts": (lambda a, b: {"ckpt": ({"epoch": 1}, {"sd": a.state_dict()})},
                       "ckpt.1.sd", "first"),
    "numbers": (lambda a, b: {"folds": {3: a.state_dict()}}, "folds.3", "first"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_forms_of_files_are_read_whole(
    form: tuple[Callable[[nn.Module, nn.Module], object], str, str],
    first: nn.Module,
    second: nn.Module,
    tmp_path: Path,
) -> None:
    write, key, which = form
    path = save(write(first, second), tmp_path)
    loaded = load_checkpoint(path)
    assert loaded.reading.key == key
    assert_weights_of(loaded, first if which == "first" else second)
    if key:
        assert load_checkpoint(path, weights=key).reading.key == key


@pytest.mark.parametrize("usual", ["state_dict", "model", "weights"])
def test_folds_under_the_same_usual_key_ask_which(
    usual: str, first: nn.Module, second: nn.Module, tmp_path: Path
) -> None:
    folds = {"fold0": {usual: first.state_dict()}, "fold1": {usual: second.state_dict()}}
    path = save(folds, tmp_path)
    with pytest.raises(CheckpointError, match=rf"--weights fold0\.{usual} or --weights fold1"):
        load_checkpoint(path)
    assert_weights_of(load_checkpoint(path, weights=f"fold1.{usual}"), second)


@pytest.mark.parametrize("start", ["ema.", "net.ema."])
def test_average_inside_the_names_of_its_model_keeps_its_classifier(
    start: str, first: nn.Module, second: nn.Module, tmp_path: Path
) -> None:
    above = start.removesuffix("ema.")
    state = {f"{above}{name}": one for name, one in first.state_dict().items()}
    path = save(state | flat(**{start[:-1].replace(".", "__"): second}), tmp_path)
    loaded = load_checkpoint(path)
    assert_weights_of(loaded, second)
    assert torch.equal(loaded.state_dict["head.weight"], second.state_dict()["head.fc.weight"])
    outer = load_checkpoint(path, weights="raw")
    assert torch.equal(outer.state_dict["head.weight"], first.state_dict()["head.fc.weight"])


def test_folds_in_a_list_ask_which(first: nn.Module, second: nn.Module, tmp_path: Path) -> None:
    path = save({"models": [first.state_dict(), second.state_dict()]}, tmp_path)
    with pytest.raises(CheckpointError, match=r"--weights models\.0 or --weights models\.1$"):
        load_checkpoint(path)
    assert_weights_of(load_checkpoint(path, weights="models.1"), second)


def test_two_dicts_under_the_same_key_are_refused(first: nn.Module, tmp_path: Path) -> None:
    path = save({"a.b": first.state_dict(), "a": {"b": first.state_dict()}}, tmp_path)
    with pytest.raises(CheckpointError, match=r"two sets of weights a\.b"):
        load_checkpoint(path)


def test_odd_names_are_quoted_and_long_ones_bounded(
    first: nn.Module, second: nn.Module, tmp_path: Path
) -> None:
    path = save(flat(**{"my net": first, "b" * 9000: second}), tmp_path)
    for asked in ({}, {"encoder": "no"}):
        with pytest.raises(CheckpointError) as refusal:
            load_checkpoint(path, **asked)  # type: ignore[arg-type]
        assert len(str(refusal.value)) < 1500
    with pytest.raises(CheckpointError, match="say which with --encoder 'my net' or "):
        load_checkpoint(path)
    assert_weights_of(load_checkpoint(path, encoder="my net"), first)
