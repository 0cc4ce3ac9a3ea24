"""A missing name is told with the ones that are nearest to it, in one bounded line."""

from pathlib import Path

import peers
import pytest
import torch
from command_line import Command

from swin_deploy.checkpoints.nearest_names import missing_keys, nearest_first

QKV = "layers.0.blocks.0.attn.qkv.weight"


@pytest.mark.parametrize(
    ("source", "name", "renamed"),
    [
        ("timm", QKV, "layers.0.blocks.0.attn.qkv_proj.weight"),
        ("timm", "patch_embed.proj.weight", "patch_embed.projection.weight"),
        ("timm", "layers.0.blocks.0.mlp.fc1.weight", "layers.0.blocks.0.mlp.fc_1.weight"),
        ("torchvision", "features.1.0.norm1.bias", "features.1.0.norm_1.bias"),
    ],
)
def test_renamed_key_is_missing_and_its_new_name_nearest(
    source: str, name: str, renamed: str, swin: Command, tmp_path: Path
) -> None:
    build = peers.build_timm if source == "timm" else peers.build_torchvision
    state = build("swin").state_dict()
    state[renamed] = state.pop(name)
    torch.save(state, tmp_path / "w.pt")
    outcome = swin("export", "--checkpoint", tmp_path / "w.pt")
    outcome.assert_error(f"missing keys: {name}")
    assert f"; nearest present: {renamed}" in outcome.err


def test_whole_checkpoint_has_no_such_message(swin: Command, tmp_path: Path) -> None:
    torch.save(peers.build_timm("swin").state_dict(), tmp_path / "w.pt")
    done = swin("export", "--checkpoint", tmp_path / "w.pt", "--output", "x.onnx").assert_done()
    assert "nearest" not in done.err


def test_missing_keys_says_nothing_of_names_that_are_not_alike() -> None:
    assert missing_keys([QKV], ["conv_first.bias", "x"]) == f"missing keys: {QKV}"
    assert missing_keys([QKV], []) == f"missing keys: {QKV}"


def test_missing_keys_prefers_the_same_block() -> None:
    other, same = QKV.replace("0", "1", 1), f"{QKV}_orig"
    assert missing_keys([QKV], [other, same]).endswith(f"nearest present: {same}")


def test_missing_keys_is_bounded() -> None:
    present = [f"layers.{n}." + "a" * 5000 for n in range(5000)]
    text = missing_keys([name + "b" for name in present], present)
    assert len(text) < 1200
    assert "nearest present" in text


def test_nearest_first_gives_every_name_once() -> None:
    names = [f"encoder_{n}" for n in range(100)]
    found = nearest_first("encoder_7", names)
    assert sorted(found) == sorted(names)
    assert found[0] == "encoder_7"
