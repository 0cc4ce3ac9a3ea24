"""A folder with one weights file is read whatever its name; of several one is asked for."""

import json
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from safetensors.torch import save_file
from torch import nn

from exporters.errors import CheckpointError, ComparisonError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.read import load_checkpoint
from swin_deploy.checkpoints.weights_file import weights_in
from swin_deploy.original.build import build_original

SMALL: dict[str, Any] = {
    "img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)
}  # fmt: skip
JUNK = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth", "rng_state_0.pth",
    "training_args.bin", "scaler.pt", "random_states_0.pkl", "trainer_state.json", "config.yaml",
    "train.log", ".hidden.pth", "events.out.tfevents",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return peers.build_timm("swin", **SMALL)


def save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)


@pytest.mark.parametrize(
    "name",
    ["best.pth", "model.ckpt", "swin.safetensors", "weights.bin", "model_best.pth.tar", "x.pkl",
     "epoch=3-step=9.ckpt", "net.pt", "pytorch_model_fsdp.bin", "BEST.PTH"],
)  # fmt: skip
def test_only_weights_in_a_folder_are_taken_and_said(
    name: str, model: nn.Module, swin: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    save(model, folder / name)
    for junk in JUNK:
        (folder / junk).write_text("junk")
    done = swin("export", "--checkpoint", folder, "--output", "x.onnx").assert_done()
    assert f"took {name}, the only weights in the folder" in done.err


def test_several_are_named_and_none_is_taken(
    model: nn.Module, swin: Command, tmp_path: Path
) -> None:
    for name in ("last.pth", "best.pth"):
        save(model, tmp_path / "run" / name)
    run = tmp_path / "run"
    refusal = swin("export", "--checkpoint", run)
    refusal.assert_error(f"2 weights files; give one of: {run / 'best.pth'}, {run / 'last.pth'}")
    swin("export", "--checkpoint", run / "best.pth", "--output", "x.onnx").assert_done()


def test_usual_name_is_taken_among_several_and_said(model: nn.Module, tmp_path: Path) -> None:
    save(model, tmp_path / "model.safetensors")
    assert not any("took" in note for note in load_checkpoint(tmp_path).notes)
    save(model, tmp_path / "best.pth")
    notes = load_checkpoint(tmp_path).notes
    assert "took model.safetensors; left aside in the folder: best.pth" in notes


def test_config_json_belongs_to_the_only_weights_of_a_folder(tmp_path: Path) -> None:
    library = peers.build_huggingface("swin")
    library.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "best.safetensors")
    assert load_checkpoint(tmp_path).config.img_size == 64
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"window_size": 8}))
    with pytest.raises(CheckpointError, match="window_size 8, the weights have 4"):
        load_checkpoint(tmp_path)
    load_checkpoint(tmp_path / "best.safetensors")  # a lone file: the config may be another's


def test_index_of_another_name_stands_for_its_parts(tmp_path: Path) -> None:
    library = peers.build_huggingface("swin")
    library.save_pretrained(tmp_path, max_shard_size="200KB")
    whole = load_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "own.safetensors.index.json")
    again = load_checkpoint(tmp_path)
    assert again.state_dict.keys() == whole.state_dict.keys()
    assert "took own.safetensors.index.json, the only weights in the folder" in again.notes


def test_training_run_says_which_folders_hold_weights(
    model: nn.Module, swin: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for step in (500, 1000):
        save(model, run / f"checkpoint-{step}" / "model.safetensors")
    (run / "runs").mkdir()
    (run / "trainer_state.json").write_text("{}")
    refusal = swin("export", "--checkpoint", run)
    refusal.assert_error(f"give one of its folders: {run}/checkpoint-1000, {run}/checkpoint-500")
    swin("export", "--checkpoint", run / "checkpoint-500", "--output", "x.onnx").assert_done()


def test_folder_of_other_files_is_refused_as_before(swin: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for junk in JUNK:
        (folder / junk).write_text("junk")
    swin("export", "--checkpoint", folder).assert_error("; give a checkpoint file")


DIVIDED = {
    "zero": (("zero_to_fp32.py", "latest"), "run/zero_to_fp32.py"),
    "zero-step": (
        ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "is of DeepSpeed ZeRO",
    ),
    "distributed": (("__0_0.distcp", "__1_0.distcp"), "format_utils dcp_to_torch"),
    "adapter": (("adapter_config.json", "adapter_model.safetensors"), "merge_and_unload"),
}


@pytest.mark.parametrize(("names", "says"), DIVIDED.values(), ids=DIVIDED.keys())
def test_divided_weights_are_told_with_the_command(
    names: tuple[str, ...], says: str, model: nn.Module, swin: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for name in names:
        save(model, run / name)
    swin("export", "--checkpoint", run).assert_error(says)
    save(model, run / "pytorch_model.bin")  # what the command gives, in the same folder
    swin("export", "--checkpoint", run, "--output", "x.onnx").assert_done()


def test_deepspeed_folder_without_divided_states_is_read(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"module": model.state_dict()}, tmp_path / "mp_rank_00_model_states.pt")
    assert load_checkpoint(tmp_path).reading.key == "module"


def test_original_of_another_file_name_is_read_or_told(model: nn.Module, tmp_path: Path) -> None:
    """timm's own code takes the file that was read; transformers has names of its own."""
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "swin_tiny_patch4_window7_224", "model_args": SMALL,
                    "num_classes": 10, "pretrained_cfg": {}})
    )  # fmt: skip
    save(model, tmp_path / "best.pth")
    loaded = load_model(None, tmp_path)
    assert loaded.reading is not None
    original = build_original(loaded.config, loaded.reading, "timm")
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert rms_error(original(images)[0], model(images)) < FLOAT32_TOLERANCE
    peers.build_huggingface("swin").save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").rename(tmp_path / "hf" / "best.safetensors")
    theirs = load_checkpoint(tmp_path / "hf")
    with pytest.raises(ComparisonError, match=r"not best\.safetensors"):
        build_original(theirs.config, theirs.reading, "transformers")


def test_weights_in_ends_in_large_folders(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "x.pth").write_text("x")
    with pytest.raises(CheckpointError, match="give a checkpoint file"):
        weights_in(tmp_path)
