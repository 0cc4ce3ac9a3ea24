"""Image sizes that are proposed where one is refused: each works, nearest first."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import peers
import pytest
from command_line import Command

from exporters.errors import ConfigError
from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import VARIANTS


def proposed(message: str) -> list[int]:
    found = re.search(r"use one of ([\d, ]+), \.\.\.", message)
    assert found, message
    return [int(size) for size in found[1].split(", ")]


@pytest.mark.parametrize("wrong", [1, 57, 230, 250, 500, 1001])
@pytest.mark.parametrize("name", VARIANTS)
def test_proposed_sizes_are_accepted_nearest_first(name: str, wrong: int) -> None:
    config = VARIANTS[name]
    with pytest.raises(ConfigError) as info:
        dataclasses.replace(config, img_size=wrong)
    sizes = proposed(str(info.value))
    assert len(sizes) == 4
    assert sizes == sorted(sizes, key=lambda size: (abs(size - wrong), size))
    for size in sizes:
        assert dataclasses.replace(config, img_size=size).img_size == size
    legal = config.legal_img_sizes(60)
    assert sizes == sorted(legal, key=lambda size: (abs(size - wrong), size))[:4]


@pytest.mark.parametrize("wrong", [3, 24, 45])
def test_sizes_proposed_for_an_original_that_pads_are_accepted(
    wrong: int, swin: Command, tmp_path: Path
) -> None:
    """transformers pads maps, and fails where one is smaller than a window."""
    peers.saved(peers.build_huggingface("swin").state_dict(), tmp_path / "hf.pth")
    arguments = ("export", "--checkpoint", "hf.pth", "--output", "x.onnx", "--image-size")
    outcome = swin(*arguments, wrong)
    outcome.assert_error(f"image size {wrong} leaves a map of ")
    sizes = proposed(outcome.err)
    assert sizes == sorted(sizes, key=lambda size: (abs(size - wrong), size))
    for size in sizes:
        load_model(checkpoint=Path("hf.pth"), img_size=size)
    if wrong == 45:
        swin(*arguments, sizes[0]).assert_done()


def test_size_proposed_by_a_command_is_accepted_by_it(swin: Command) -> None:
    arguments = ("export", "--model", "notebook-digits", "--image-size")
    outcome = swin(*arguments, 130)
    outcome.assert_error("image size 130 cannot be tiled")
    assert proposed(outcome.err)[:2] == [112, 168]
    swin(*arguments, proposed(outcome.err)[0]).assert_done()
