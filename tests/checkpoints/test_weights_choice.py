"""Files with several sets of weights: the one that is meant is taken, and said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.read import LoadedCheckpoint, load_checkpoint

State = dict[str, Any]
SMALL = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
COMMANDS = ("export", "parity", "run", "bench", "evaluate", "precision")


@pytest.fixture(scope="module")
def raw() -> nn.Module:
    return peers.build_timm("swin", **SMALL)


@pytest.fixture(scope="module")
def ema() -> nn.Module:
    return peers.trained_like(peers.build_timm("swin", **SMALL), seed=1)


def averaged(model: nn.Module) -> State:
    """A state dict of the class that torchvision's references derive theirs from."""
    wrapper_pattern = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    wrapper_pattern.update_parameters(model)
    state = wrapper_pattern.state_dict()
    assert "n_averaged" in state
    assert all(name.startswith("module.") for name in state if name != "n_averaged")
    return state


def save(values: object, folder: Path) -> Path:
    path = folder / "model_best.pth.tar"
    torch.save(values, path)
    return path


def assert_weights_of(loaded: LoadedCheckpoint, model: nn.Module) -> None:
    wanted = model.state_dict()
    assert torch.equal(loaded.state_dict["head.weight"], wanted["head.fc.weight"])
    first = "layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(loaded.state_dict[first], wanted[first])


TIMM_FILES: dict[str, tuple[str, ...]] = {
    "train": ("state_dict", "state_dict_ema"),
    "references": ("model", "model_ema"),
    "mixed": ("state_dict", "model_ema"),
    "mixed-the-other-way": ("model", "state_dict_ema"),
    "raw-alone": ("state_dict",),
    "model-alone": ("model",),
    "ema-alone": ("model_ema",),
}


@pytest.mark.parametrize("keys", TIMM_FILES.values(), ids=TIMM_FILES.keys())
def test_default_weights_are_those_that_timm_loads(
    keys: tuple[str, ...], raw: nn.Module, ema: nn.Module, tmp_path: Path
) -> None:
    library = peers.import_peer("timm.models")
    states = {key: (ema if "ema" in key else raw).state_dict() for key in keys}
    path = save(
        {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, **states}, tmp_path
    )
    original = peers.trained_like(peers.build_timm("swin", **SMALL), seed=2)
    library.load_checkpoint(original, str(path))
    loaded = load_checkpoint(path)
    assert_weights_of(loaded, original)
    assert loaded.reading.key in keys
    subjects = [assumed.subject for assumed in loaded.assumptions]
    assert ("weights" in subjects) == (len(keys) > 1)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        reference = load_model(None, path).reference
        assert rms_error(reference(images), original(images)) < FLOAT32_TOLERANCE
    for wanted, use_ema in (("ema", True), ("raw", False)):
        if len(keys) > 1:
            library.load_checkpoint(original, str(path), use_ema=use_ema)
            assert_weights_of(load_checkpoint(path, weights=wanted), original)


def test_choice_is_an_assumption_with_value_reason_and_option(
    raw: nn.Module, ema: nn.Module, tmp_path: Path
) -> None:
    values = {"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict()}
    loaded = load_checkpoint(save(values, tmp_path))
    (assumed, *_) = loaded.assumptions
    assert assumed.subject == "weights"
    assert assumed.option == "--weights"
    assert assumed.text.startswith(
        "weights: assuming state_dict_ema, the averaged ones (the file has state_dict, too), "
        "as timm's load_checkpoint does"
    )


FORMS: dict[str, tuple[Callable[[nn.Module, nn.Module], State], str, str, str]] = {
    # What is in the file, the key of the default, its role, and the key of the other role.
    "torchvision": (
        lambda raw, ema: {"model": raw.state_dict(), "model_ema": averaged(ema), "epoch": 1},
        "model_ema", "ema", "model",
    ),
    "own-script": (
        lambda raw, ema: {"model_state_dict": raw.state_dict(), "ema": ema.state_dict()},
        "ema", "ema", "model_state_dict",
    ),
    "averaged-model": (
        lambda raw, ema: {"net": raw.state_dict(), "averaged_model": averaged(ema)},
        "averaged_model", "ema", "net",
    ),
    "model-state-dict-ema": (
        lambda raw, ema: {
            "model_state_dict": raw.state_dict(), "model_state_dict_ema": ema.state_dict()
        },
        "model_state_dict_ema", "ema", "model_state_dict",
    ),
    "unknown-name-with-the-word": (
        lambda raw, ema: {"weights": raw.state_dict(), "swa": {"params": ema.state_dict()}},
        "swa.params", "ema", "weights",
    ),
    "ema-state-dict": (
        lambda raw, ema: {"state_dict": raw.state_dict(), "ema_state_dict": ema.state_dict()},
        "ema_state_dict", "ema", "state_dict",
    ),
    # MMEngine saves the average under state_dict and the raw weights in the field named after it.
    "mmengine": (
        lambda raw, ema: {
            "meta": {"mmengine_version": "0.10.4", "epoch": 3},
            "state_dict": ema.state_dict(),
            "ema_state_dict": {"steps": torch.tensor(7)}
            | {f"module.{name}": value for name, value in raw.state_dict().items()},
        },
        "state_dict", "ema", "ema_state_dict",
    ),
    # Lightning's WeightAveraging, too.
    "lightning": (
        lambda raw, ema: {
            "pytorch-lightning_version": "2.6.0",
            "state_dict": {f"net.{name}": value for name, value in ema.state_dict().items()},
            "current_model_state": {f"net.{name}": v for name, v in raw.state_dict().items()},
            "averaging_state": {"n_averaged": torch.tensor(3)},
        },
        "state_dict", "ema", "current_model_state",
    ),
    "distillation": (
        lambda raw, ema: {
            f"{side}.backbone.{name}": value
            for side, model in (("student", raw), ("teacher", ema))
            for name, value in model.state_dict().items()
        },
        "teacher.backbone", "ema", "student.backbone",
    ),
    "ema-pytorch": (
        lambda raw, ema: {"initted": torch.tensor(True), "step": torch.tensor([9])} | {
            f"{side}.{name}": value
            for side, model in (("online_model", raw), ("ema_model", ema))
            for name, value in model.state_dict().items()
        },
        "ema_model", "ema", "online_model",
    ),
    "two-usual-keys": (
        lambda raw, ema: {"model": ema.state_dict(), "state_dict": raw.state_dict()},
        "state_dict", "raw", "model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_forms_of_files_give_what_their_users_evaluate(
    form: tuple[Callable[[nn.Module, nn.Module], State], str, str, str],
    raw: nn.Module,
    ema: nn.Module,
    tmp_path: Path,
) -> None:
    write, key, role, other = form
    path = save(write(raw, ema), tmp_path)
    mine, theirs = (ema, raw) if role == "ema" else (raw, ema)
    loaded = load_checkpoint(path)
    assert loaded.reading.key == key
    assert_weights_of(loaded, mine)
    (assumed,) = [one for one in loaded.assumptions if one.subject == "weights"]
    assert other in assumed.value
    for wanted in (key, role):
        said = load_checkpoint(path, weights=wanted)
        assert_weights_of(said, mine)
        if wanted == key:
            assert not [one for one in said.assumptions if one.subject == "weights"]
            assert any(f"weights under {key}" in note and other in note for note in said.notes)
    assert_weights_of(load_checkpoint(path, weights=other), theirs)
    if role == "ema":
        assert_weights_of(load_checkpoint(path, weights="raw"), theirs)


def test_plain_file_has_no_key_and_says_nothing(raw: nn.Module, tmp_path: Path) -> None:
    loaded = load_checkpoint(peers.saved(raw.state_dict(), tmp_path / "w.pth"), weights="raw")
    assert loaded.reading.key == ""
    assert not any("weights under" in note for note in loaded.notes)


@pytest.mark.parametrize("key", ["teacher", "net", "model_state", "module", "my.own.name"])
def test_only_weights_are_taken_under_any_key(key: str, raw: nn.Module, tmp_path: Path) -> None:
    values: Any = raw.state_dict()
    for part in reversed(key.split(".")):
        values = {part: values, "epoch": 3, "best_acc": 0.8}
    loaded = load_checkpoint(save(values, tmp_path))
    assert loaded.reading.key == key
    assert_weights_of(loaded, raw)
    assert any(note.startswith(f"weights under {key}") for note in loaded.notes)


def test_other_dicts_of_tensors_are_no_weights(raw: nn.Module, tmp_path: Path) -> None:
    """Metrics, losses and an optimizer's moments are dicts of tensors by name, too."""
    moments = {"exp_avg": torch.ones(3, 3), "exp_avg_sq": torch.ones(3, 3)}
    values = {
        "metrics": {"confusion": torch.ones(10, 10)},
        "optimizer": {"state": {"layers.0.weight": moments}},
        "criterion": {"weight": torch.ones(3)},
        "network": raw.state_dict(),
    }
    loaded = load_checkpoint(save(values, tmp_path))
    assert loaded.reading.key == "network"
    assert {choice.subject for choice in loaded.assumptions} == {"image size", "preprocessing"}


@pytest.mark.parametrize("counter", ["n_averaged", "num_updates", "decay", "steps"])
def test_counters_beside_tensors_are_left_aside(
    counter: str, raw: nn.Module, tmp_path: Path
) -> None:
    for value in (torch.tensor(3), 0.99):
        values = {"model_ema": {counter: value, **raw.state_dict()}}
        loaded = load_checkpoint(save(values, tmp_path))
        assert_weights_of(loaded, raw)
        assert f"left aside what is no weight: {counter}" in loaded.notes


def test_tensor_with_a_counters_name_but_values_is_a_weight(raw: nn.Module, tmp_path: Path) -> None:
    values = {"steps": torch.ones(3), **raw.state_dict()}
    with pytest.raises(CheckpointError, match="unknown keys: steps"):
        load_checkpoint(save(values, tmp_path))


REFUSED: dict[str, tuple[Callable[[State], State], str, str]] = {
    "ema-of-plain": (lambda state: state, "ema", "no averaged weights: its only ones are under no"),
    "ema-of-wrapped": (lambda s: {"model": s}, "ema", "no averaged weights: it has model;"),
    "raw-of-averaged": (lambda s: {"model_ema": s}, "raw", "no raw weights: it has model_ema;"),
    "key": (lambda s: {"a": s, "b": {"c": s}}, "b", "no weights b: it has a, b.c;"),
    "optimizer": (
        lambda s: {"model": s, "optimizer": {"state": {"w": torch.ones(2)}}},
        "optimizer.state",
        "no weights optimizer.state: it has model;",
    ),
    "long-key": (lambda s: {"model": s}, "k" * 5000, "..."),
    "empty": (lambda s: {"model": s}, "", "no weights : it has model"),
}


@pytest.mark.parametrize(("write", "wanted", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_weights_that_are_not_there_are_refused_with_those_that_are(
    write: Callable[[State], State],
    wanted: str,
    says: str,
    raw: nn.Module,
    swin: Command,
    tmp_path: Path,
) -> None:
    path = save(write(raw.state_dict()), tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path, weights=wanted)
    assert says in str(refusal.value)
    assert "--weights" in str(refusal.value)
    assert len(str(refusal.value)) < 800
    outcome = swin("export", "--checkpoint", path, "--weights", wanted, "--output", "x.onnx")
    outcome.assert_error(says)
    assert not Path("x.onnx").exists()


def test_several_weights_without_a_usual_name_are_refused(raw: nn.Module, tmp_path: Path) -> None:
    values = {"generator": raw.state_dict(), "critic": raw.state_dict()}
    with pytest.raises(CheckpointError, match="2 encoders: generator, critic; say which"):
        load_checkpoint(save(values, tmp_path))
    assert (
        load_checkpoint(tmp_path / "model_best.pth.tar", weights="critic").reading.key == "critic"
    )


def test_weights_without_a_checkpoint_are_refused(swin: Command) -> None:
    with pytest.raises(ConfigError, match="--weights chooses"):
        load_model("swin_tiny_patch4_window7_224", weights="ema")
    swin("export", "--model", "swin_tiny_patch4_window7_224", "--weights", "ema").assert_error(
        "give --checkpoint"
    )


def test_many_and_deep_dicts_end(raw: nn.Module, tmp_path: Path) -> None:
    deep: Any = {"state_dict": raw.state_dict()}
    for _ in range(30):
        deep = {"inner": deep}
    values = {"many": {str(number): {"x": 1} for number in range(30_000)}, "deep": deep}
    with pytest.raises(CheckpointError, match="not tensors by name: many, deep"):
        load_checkpoint(save(values, tmp_path))


def test_average_that_diverged_is_named_with_its_key(raw: nn.Module, tmp_path: Path) -> None:
    broken = {name: value * float("nan") for name, value in raw.state_dict().items()}
    path = save({"state_dict": raw.state_dict(), "state_dict_ema": broken}, tmp_path)
    with pytest.raises(CheckpointError, match=r"tar, state_dict_ema, holds NaN .* and \d+ more; "):
        load_checkpoint(path)
    assert_weights_of(load_checkpoint(path, weights="raw"), raw)


def test_folder_takes_weights_too(raw: nn.Module, ema: nn.Module, tmp_path: Path) -> None:
    values = {"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict()}
    torch.save(values, tmp_path / "pytorch_model.bin")
    assert_weights_of(load_checkpoint(tmp_path), ema)
    assert_weights_of(load_checkpoint(tmp_path, weights="raw"), raw)


def test_notebook_checkpoint_takes_weights_too(tmp_path: Path) -> None:
    state = load_model("notebook-digits").reference.state_dict()
    shifted = {name: value + 0.01 for name, value in state.items()}
    path = save({"model": state, "model_ema": shifted}, tmp_path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.state_dict["head.weight"], shifted["head.weight"])
    raw_ones = load_checkpoint(path, weights="raw")
    assert torch.equal(raw_ones.state_dict["head.weight"], state["head.weight"])


@pytest.fixture
def both(raw: nn.Module, ema: nn.Module, tmp_path: Path) -> Path:
    return save({"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict()}, tmp_path)


def test_export_warns_and_records_the_key(both: Path, swin: Command) -> None:
    outcome = swin("export", "--checkpoint", both, "--output", "x.onnx").assert_done()
    assert "warning: weights: assuming state_dict_ema" in outcome.err
    manifest = json.loads(Path("x.onnx.json").read_text())
    assert manifest["weights_key"] == "state_dict_ema"
    assert manifest["weights"].startswith("model_best.pth.tar, state_dict_ema (SHA-256 ")
    assert manifest["assumptions"][0]["subject"] == "weights"
    metadata = {entry.key: entry.value for entry in onnx.load("x.onnx").metadata_props}
    assert metadata["weights_key"] == "state_dict_ema"
    silent = swin("export", "--checkpoint", both, "--weights", "raw", "--output", "y.onnx")
    assert "warning: weights" not in silent.assert_done().err
    assert "weights under state_dict; left aside: state_dict_ema" in silent.err


def test_parity_of_the_other_weights_is_refused_and_of_the_same_reported(
    both: Path, swin: Command
) -> None:
    swin("export", "--checkpoint", both, "--weights", "raw", "--output", "x.onnx").assert_done()
    parity = ("parity", "--checkpoint", both, "--onnx", "x.onnx", "--batches", "1")
    swin(*parity).assert_error("give the same --weights")
    swin(*parity, "--weights", "raw", "--report", "r").assert_done()
    report = json.loads(Path("r/report.json").read_text())
    assert "model_best.pth.tar, state_dict (SHA-256" in report["parity"]["weights"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_loads_takes_both_options(command: str, swin: Command) -> None:
    text = " ".join(swin(command, "--help").assert_done().out.split())
    assert "--weights ema|raw|KEY" in text
    assert "--encoder PREFIX" in text


def test_tensors_of_a_tensor_subclass_are_read(raw: nn.Module, tmp_path: Path) -> None:
    state: dict[str, Tensor] = {n: nn.Parameter(v) for n, v in raw.state_dict().items()}
    assert_weights_of(load_checkpoint(save({"state_dict": state}, tmp_path)), raw)
