"""What is said of a model whose maps windows do not tile, and where its pads stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import padded
import peers
import pytest
from command_line import Command

from swin_deploy.config import Size, StageSpec, SwinConfig
from swin_deploy.config.pads import carries_pads, pad_notes

TINY = SwinConfig(
    family="swin",
    img_size=(92, 70),
    window_size=4,
    embed_dim=16,
    depths=(2, 2, 1),
    num_heads=(1, 2, 4),
    window_rule="torchvision",
    pads="pad-then-roll",
    remainder="crop",
)
STAGES = (
    "stage 1 23x17 to 24x20 tokens, windows of 4 shifted by 2, 19% pads, put in; "
    "stage 2 12x9 to 12 tokens, windows of 4 shifted by 2, 25% pads, put in; "
    "stage 3 6x5 to 8 tokens, windows of 4, 53% pads, put in"
)


def test_pad_notes_say_what_each_stage_does() -> None:
    cropped, maps = pad_notes(TINY)
    assert cropped == "image 92x70 cropped to 92x68: patches of 4, as its library does"
    assert maps == (
        f"windows do not tile maps, which are padded, then rolled (torchvision): {STAGES}"
    )


def test_pad_notes_follow_the_librarys_order_and_remainder() -> None:
    other = dataclasses.replace(TINY, pads="roll-then-pad", remainder="pad")
    completed, maps = pad_notes(other)
    assert completed.startswith("image 92x70 completed with zeros to 92x72")
    assert "rolled, then padded" in maps
    assert "stage 1 23x18" in maps


def test_pad_notes_of_a_tiled_model_are_empty() -> None:
    assert pad_notes(dataclasses.replace(TINY, img_size=(64, 128))) == []


@pytest.mark.parametrize(
    ("rows", "carried"), [(40, True), (39, True), (37, True), (36, False), (33, False)]
)
def test_pads_are_carried_up_to_a_tenth_more_slots_than_tokens(rows: int, carried: bool) -> None:
    """40 of 40 rows are all tokens; 40 slots for 37 are 1.08, and windows of 8 need 40 for 36."""
    stage = StageSpec(Size(rows, 8), 16, 2, 1, Size(8, 8))
    assert carries_pads(stage) is carried
    assert (stage.padded.area / stage.resolution.area <= 1.1) is carried


def test_commands_say_how_a_model_is_padded(swin: Command, tmp_path: Path) -> None:
    """A line at the export, and the rule in the manifest; none for a model that windows tile."""
    state = peers.build_torchvision("swin", embed_dim=16, num_heads=(1, 2, 4)).state_dict()
    path = peers.saved(state, tmp_path / "m.pth")
    options = ("--checkpoint", path, "--output", "model.onnx")
    done = swin("export", *options, "--image-size", "92x70").assert_done()
    said = STAGES.replace("windows of 4, 53%", "windows of 4 shifted by 2, 53%")
    assert f"windows do not tile maps, which are padded, then rolled (torchvision): {said}" in (
        done.err
    )
    assert '"pads": "pad-then-roll"' in Path("model.onnx.json").read_text()
    plain = swin("export", *options[:2], "--image-size", "64x128", "--output", "tiled.onnx")
    assert "do not tile" not in plain.assert_done().err


def test_parity_of_a_padded_model_runs_the_library(swin: Command, tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", image_size=list(padded.RAGGED), embed_dim=16,
                                    depths=(2, 2), num_heads=(1, 2))  # fmt: skip
    model.save_pretrained(tmp_path / "hf")
    done = swin("parity", "--checkpoint", tmp_path / "hf", "--report", "report").assert_done()
    assert "image 101x70 completed with zeros to 104x72" in done.err
    assert "Original library verified" in Path("report/report.md").read_text()
