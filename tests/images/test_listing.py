"""The files below a folder: each once, in one order, links followed, hidden ones not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from exporters.errors import FileError
from swin_deploy.images.labelled import is_image
from swin_deploy.images.listing import walk_files


def listed(folder: Path) -> list[str]:
    return list(walk_files(folder, is_image))


def test_walk_files_lists_what_os_walk_finds_in_the_order_of_the_names(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ["a", "a.b", "a-b", "B", "z.jpg", "é", "10", "9", ".hidden", "a b"]
    for _ in range(200):
        place = tmp_path.joinpath(*rng.choices(names, k=rng.randrange(4)))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{rng.choice(names[:4])}{rng.random()}{rng.choice(['.png', '.txt', '.JPG'])}"
         ).touch()  # fmt: skip
    expected = [
        Path(place, name).relative_to(tmp_path).as_posix()
        for place, _, files in os.walk(tmp_path)
        for name in files
        if is_image(name) and "/." not in Path(place).relative_to(tmp_path.parent).as_posix()
    ]
    assert listed(tmp_path) == sorted(expected, key=lambda path: path.split("/"))
    assert len(expected) > 50


def test_walk_files_searches_a_folder_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c.png").symlink_to(tmp_path / "a" / "1.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "folder.png").mkdir()
    assert listed(tmp_path) == ["a/1.png", "c.png"]


def test_walk_files_names_a_folder_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "shut").mkdir(parents=True)
    scan = os.scandir

    def refuse(place: str) -> object:
        if place.endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match=r"a/shut cannot be read \(Permission denied\)"):
        listed(tmp_path)
