"""Every image size that a refusal names is accepted: families, libraries, windows, patches."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from command_line import Command
from torch import nn

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.read import load_checkpoint
from swin_deploy.config import BUNDLED_WEIGHTS, MOST_SIDE, SwinConfig

TWO: dict[str, Any] = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
THREE: dict[str, Any] = {"embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 4)}
NAMED = re.compile(r"use one of ([0-9, ]+), \.\.\.")


def file_of(build: Callable[[], nn.Module]) -> Callable[[Path], Path]:
    return lambda folder: peers.saved(build().state_dict(), folder / "w.pth")


def folder_of(family: str, kind: str, **sizes: Any) -> Callable[[Path], Path]:  # noqa: ANN401 - a config's
    """A folder of transformers; its image size may be one that the library pads."""

    def save(folder: Path) -> Path:
        built = {name: value for name, value in sizes.items() if name != "said_size"}
        peers.build_huggingface(family, kind, **built).save_pretrained(folder)
        said = {"image_size": sizes.get("said_size", built["image_size"])}
        config = json.loads((folder / "config.json").read_text()) | said
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return save


def timm(family: str, **sizes: Any) -> Callable[[Path], Path]:  # noqa: ANN401 - a model's arguments
    return file_of(lambda: peers.build_timm(family, **sizes))


def torchvision(family: str, **sizes: Any) -> Callable[[Path], Path]:  # noqa: ANN401 - as above
    return file_of(lambda: peers.build_torchvision(family, **sizes))


def microsoft(**sizes: Any) -> Callable[[Path], Path]:  # noqa: ANN401 - as above
    def save(folder: Path) -> Path:
        model = peers.build_timm("swin", **sizes)
        return peers.saved(peers.microsoft_state(model), folder / "w.pth")

    return save


MODELS: dict[str, Callable[[Path], Path]] = {
    "timm-4": timm("swin", **TWO),
    "timm-7-three-stages": timm("swin", img_size=112, window_size=7, **THREE),
    "timm-patches-of-2": timm("swin", img_size=32, patch_size=2, window_size=4, **TWO),
    "timm-windows-by-stage": timm("swin", img_size=112, window_size=(7, 14, 7), **THREE),
    "timm-v2": timm("swinv2", **TWO),
    "torchvision-4": torchvision("swin", window_size=[4, 4], **TWO),
    "torchvision-7": torchvision("swin", window_size=[7, 7], **THREE),
    "torchvision-v2": torchvision("swinv2", window_size=[6, 6], **TWO),
    "huggingface": folder_of("swin", "Model", image_size=64, window_size=4, **TWO),
    "huggingface-padded": folder_of(
        "swin", "Model", image_size=56, said_size=60, window_size=7, **TWO
    ),
    "huggingface-v2": folder_of("swinv2", "Model", image_size=64, window_size=4, **TWO),
    "huggingface-backbone": folder_of("swin", "Backbone", image_size=56, window_size=7, **THREE),
    "microsoft": microsoft(img_size=56, window_size=7, **TWO),
    "notebook": lambda _: BUNDLED_WEIGHTS["notebook-digits"],
}  # fmt: skip
REQUESTS: tuple[tuple[int | None, int | None], ...] = (
    (None, None), (24, None), (60, None), (200, None), (256, None), (1001, None),
    (None, 5), (60, 5), (100, 8), (None, 9), (3, 4), (2_000, None), (70_000, None),
)  # fmt: skip


# How many of these requests are refused with sizes: the others are built, with pads if need be.
NAMING = {
    "microsoft": 10, "notebook": 6, "huggingface": 3, "huggingface-padded": 3,
    "timm-patches-of-2": 0, "huggingface-v2": 0, "huggingface-backbone": 0,
}  # fmt: skip


def refusals(path: Path) -> Iterator[tuple[int | None, str]]:
    """The window size that was asked for, and what a refusal of an image size says."""
    for img_size, window_size in REQUESTS:
        try:
            load_checkpoint(path, img_size=img_size, window_size=window_size)
        except (CheckpointError, ConfigError) as err:
            yield window_size, str(err)


@pytest.mark.parametrize("model", MODELS)
def test_every_size_that_a_refusal_names_is_accepted(model: str, tmp_path: Path) -> None:
    path = MODELS[model](tmp_path)
    tried = 0
    for window_size, says in refusals(path):
        found = NAMED.search(says)
        for side in map(int, found[1].split(",")) if found else ():
            config = load_checkpoint(path, img_size=side, window_size=window_size).config
            assert config.img_size == side
            tried += 1
    assert tried == 4 * NAMING.get(model, 1)


def test_size_of_maps_smaller_than_a_window_names_sizes_that_the_command_takes(
    swin: Command, tmp_path: Path
) -> None:
    save = folder_of("swin", "Model", image_size=56, said_size=48, window_size=7, **TWO)
    path = save(tmp_path / "hf")
    says = "image size 48 leaves a map of 6 tokens, smaller than the window of 7"
    refusal = swin("export", "--checkpoint", path)
    refusal.assert_error(says)
    assert "use one of 56, 64, 72, 80, ..." in refusal.err
    swin("export", "--checkpoint", path, "--image-size", 60, "--output", "x.onnx").assert_done()


def test_sizes_near_the_largest_leave_room_for_a_crop() -> None:
    config = SwinConfig(img_size=56, embed_dim=16, depths=(2, 2), num_heads=(2, 4))
    near = config.near_img_sizes(MOST_SIDE - 1)
    assert near
    assert max(near) * 8 / 7 <= MOST_SIDE


def test_window_that_fits_the_files_size_is_taken(tmp_path: Path) -> None:
    """At 48 pixels the last map is smaller than windows of 7, and has windows of 6."""
    save = folder_of("swin", "Model", image_size=56, said_size=48, window_size=7, **TWO)
    path = save(tmp_path)
    with pytest.raises(ConfigError, match="image size 48"):
        load_checkpoint(path)
    config = load_checkpoint(path, window_size=6).config
    assert (config.img_size, config.window_size) == (48, 6)


def test_config_json_of_windows_that_fit_no_image_contradicts_the_weights(tmp_path: Path) -> None:
    path = folder_of("swin", "Model", image_size=56, window_size=7, **TWO)(tmp_path)
    config = json.loads((path / "config.json").read_text()) | {"window_size": 5}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="window_size 5, the weights have 7"):
        load_checkpoint(path)
