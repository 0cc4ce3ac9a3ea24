"""Originals that cannot be built or loaded: not run, always with one line, never a verdict."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from original_files import FILES, TINY, Asked, hf_folder, hop_of, timm_file, timm_folder
from torch import Tensor

from exporters.errors import ComparisonError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.original.build import original_library


@pytest.mark.parametrize("name", ["timm-folder", "torchvision", "hf"])
def test_library_that_is_not_installed_is_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, asked = FILES[name]
    loaded = load_model(None, write(tmp_path), **asked)
    library = original_library(loaded, "auto")
    for module in [one for one in sys.modules if one.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    hop = hop_of(loaded)
    assert hop.passed is None
    assert f"pip install {library}" in hop.not_run


class SurpriseError(Exception):
    """What no library is known to raise."""


@pytest.mark.parametrize(
    "raised", [SurpriseError("boo\nhoo"), KeyError("x"), AssertionError()], ids=repr
)
def test_library_whose_import_raises_anything_is_not_run(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, asked = FILES["torchvision"]
    loaded = load_model(None, write(tmp_path), **asked)
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("import test_original_not_run as t\nraise t.RAISED")
    monkeypatch.setattr(sys.modules[__name__], "RAISED", raised, raising=False)
    for module in [one for one in sys.modules if one.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    hop = hop_of(loaded)
    assert hop.passed is None
    assert hop.not_run.startswith("torchvision does not load (")
    assert "\n" not in hop.not_run


def break_config(**change: Any) -> Callable[[Path], object]:  # noqa: ANN401
    def apply(path: Path) -> None:
        config = path / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))

    return apply


def shard(path: Path) -> None:
    """timm does not know indices of parts."""
    state = torch.load(path, weights_only=True)
    index = {"weight_map": dict.fromkeys(state, "part.safetensors")}
    peers.saved(state, path.parent / "part.safetensors")
    (path.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()


NOT_RUN: dict[str, tuple[str, Callable[[Path], object], Asked, str]] = {
    "hf-no-class": ("hf", break_config(architectures=["SwinForAll"]), {}, "no model SwinForAll"),
    "hf-no-architectures": ("hf", break_config(architectures=None), {}, "no model for it"),
    "hf-window": ("hf", lambda path: None, {"window_size": 8}, "no way to other windows"),
    "torchvision-window": (
        "torchvision", lambda path: None, {"window_size": 8}, "no way to other windows",
    ),
    "authors-window": (
        "authors-file", lambda path: None, {"window_size": 8}, "resizes the tables of biases",
    ),
    "hf-backbone-tokens": (
        "hf-backbone", lambda path: None, {"output": "tokens"}, "gives stage maps, not tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "asked", "says"), NOT_RUN.values(), ids=NOT_RUN.keys())
def test_form_that_the_library_has_not_is_not_run(
    name: str, spoil: Callable[[Path], object], asked: Asked, says: str, tmp_path: Path
) -> None:
    write, usual = FILES[name]
    path = write(tmp_path)
    spoil(path)
    hop = hop_of(load_model(None, path, **{**usual, **asked}))
    assert hop.passed is None
    assert says in hop.not_run


def test_sharded_weights_of_timm_are_not_run(tmp_path: Path) -> None:
    shard(timm_file("swin")(tmp_path))
    hop = hop_of(load_model(None, tmp_path, img_size=64))
    assert "timm reads no weights that are split" in hop.not_run


def test_huggingface_file_alone_is_not_run(tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", **TINY)
    path = peers.saved(model.state_dict(), tmp_path / "own.pth")
    hop = hop_of(load_model(None, path, img_size=64))
    assert "from a folder with a config.json, and own.pth is a file alone" in hop.not_run


def test_encoder_that_transformers_would_start_anew_is_not_run(tmp_path: Path) -> None:
    """A classifier's folder whose config says backbone: its norms would be random."""
    hf_folder("swin", "ForImageClassification")(tmp_path)
    break_config(architectures=["SwinBackbone"], out_features=["stage1"], out_indices=[1])(tmp_path)
    hop = hop_of(load_model(None, tmp_path, output="stages"))
    assert "transformers misses hidden_states_norms.stage1" in hop.not_run


def test_timm_folder_that_timm_cannot_load_is_not_run_with_its_first_reason(tmp_path: Path) -> None:
    timm_folder("swin")(tmp_path)
    state: dict[str, Tensor] = peers.build_timm("swin", **TINY).state_dict()
    (tmp_path / "model.safetensors").unlink()
    peers.saved({"mask_token": torch.ones(1), **state}, tmp_path / "model.safetensors")
    hop = hop_of(load_model(None, tmp_path))
    assert hop.not_run.startswith("timm cannot build or run the model (RuntimeError: Error(s) in")
    assert "mask_token" in hop.not_run


def test_random_weights_and_the_notebook_have_no_original(swin: Command) -> None:
    for name in ("swin_tiny_patch4_window7_224", "notebook-digits"):
        loaded = load_model(name)
        assert original_library(loaded, "auto") == ""
        with pytest.raises(ComparisonError, match="--original timm cannot read"):
            original_library(loaded, "timm")
    swin("parity", "--model", "notebook-digits", "--original", "timm").assert_error(
        "notebook-digits has a checkpoint of notebook, which --original timm cannot read"
    )


def test_another_library_is_refused_before_the_work(swin: Command, tmp_path: Path) -> None:
    path = timm_file("swin")(tmp_path)
    for command in ("parity", "run"):
        outcome = swin(command, "--checkpoint", path, "--original", "huggingface")
        outcome.assert_error("a checkpoint of timm, which --original huggingface cannot read")
    assert not Path("engines").exists()
    assert swin("parity", "--checkpoint", path, "--original", "keras").status == 2
