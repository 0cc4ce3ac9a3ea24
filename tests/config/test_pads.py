"""What is said of a model whose maps windows do not tile, and where its pads stay."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import padded
import peers
import pytest
import torch
from command_line import Command
from conftest import seeded_images
from torch import nn

from swin_deploy.config import Family, Size, StageSpec, SwinConfig, notebook_config
from swin_deploy.config.pads import pad_notes, stage_layouts
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import SwinBlock
from swin_deploy.reference import build_reference
from swin_deploy.reference.swin import SwinBlock as ReferenceBlock

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
    assert stage.carries_pads is carried
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


LAYOUTS = [
    {"stage": 1, "map": [23, 17], "window": [4, 4], "shift": [2, 2], "padded": [24, 20],
     "slots_per_token": 1.2276, "pads": "put in"},
    {"stage": 2, "map": [12, 9], "window": [4, 4], "shift": [2, 2], "padded": [12, 12],
     "slots_per_token": 1.3333, "pads": "put in"},
    {"stage": 3, "map": [6, 5], "window": [4, 4], "shift": [0, 0], "padded": [8, 8],
     "slots_per_token": 2.1333, "pads": "put in"},
]  # fmt: skip


def test_stage_layouts_have_every_number_of_the_note() -> None:
    assert [one.to_dict() for one in stage_layouts(TINY)] == LAYOUTS
    places = [one.pads for one in stage_layouts(dataclasses.replace(TINY, img_size=(156, 64)))]
    assert places == ["carried", "none", "put in"]  # 39 x 16, 20 x 8 and 10 x 4 tokens


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize("size", [(92, 70), (64, 128), (156, 124)], ids=str)
def test_stage_layouts_are_what_the_deploy_model_does(
    family: Family, size: tuple[int, int]
) -> None:
    """Rows of each attention's input, gathers around it, and the shift of the reference."""
    config = dataclasses.replace(TINY, family=family, img_size=size)
    reference = build_reference(config).eval()
    deploy = fold(reference)
    layouts = [one for one in stage_layouts(config) for _ in range(config.depths[one.stage - 1])]
    blocks = [one for one in deploy.layers if isinstance(one, SwinBlock)]
    shifts = [one.shift_size for one in reference.modules() if isinstance(one, ReferenceBlock)]
    shown: list[torch.Tensor] = []
    for block in blocks:
        block.attention.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    with torch.no_grad():
        deploy(seeded_images(config, batch=1))
    for layout, block, tokens, shift in zip(layouts, blocks, shown, shifts, strict=True):
        assert len(tokens) == layout.padded.area
        assert (layout.pads == "put in") == (not isinstance(block.reorder_branch, nn.Identity))
        assert tuple(shift) in (tuple(layout.shift), (0, 0))
        assert layout.slots_per_token == round(layout.padded.area / layout.map.area, 4)
    assert {tuple(one.shift) for one in layouts} <= set(map(tuple, shifts)) | {(0, 0)}


def test_stage_layouts_of_the_notebook_round_its_shift_up() -> None:
    layouts = stage_layouts(notebook_config(img_size=56, embed_dim=32, depths=(2,)))
    assert [(one.window, one.shift) for one in layouts] == [(Size(7, 7), Size(4, 4))]


def test_manifest_and_plan_have_the_layout_of_each_stage(swin: Command, tmp_path: Path) -> None:
    state = peers.build_torchvision("swin", embed_dim=16, num_heads=(1, 2, 4)).state_dict()
    path = peers.saved(state, tmp_path / "m.pth")
    options = ("--checkpoint", path, "--image-size", "92x70")
    shown = swin("export", *options, "--output", "model.onnx", "--json").assert_done().json
    config = SwinConfig.from_dict(shown["config"])
    assert shown["stages"] == [one.to_dict() for one in stage_layouts(config)]
    assert shown["stages"][:2] == LAYOUTS[:2]
    assert json.loads(Path("model.onnx.json").read_text())["stages"] == shown["stages"]
