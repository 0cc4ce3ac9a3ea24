"""Parts: every image once, and names that follow from the images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swin_deploy.bulk.parts import Part, parts_of_file, parts_of_folder

NAMES = [f"{place:04d}.png" for place in range(1000)]


def cut(names: list[str], folder: Path, *, size: int = 100, conditions: str = "x") -> list[Part]:
    return list(parts_of_folder(folder, names, size=size, conditions=conditions))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1000, 5000])
def test_parts_of_folder_hold_every_name_once_in_order(size: int, tmp_path: Path) -> None:
    parts = cut(NAMES, tmp_path, size=size)
    assert [name for part in parts for name in part.names] == NAMES
    assert [part.rows for part in parts] == [len(part.names) for part in parts]
    assert max(part.rows for part in parts) <= size
    assert len({part.digest for part in parts}) == len(parts)


@pytest.mark.parametrize("place", [0, 1, 500, 1000])
def test_one_more_name_changes_the_parts_next_to_it_only(place: int, tmp_path: Path) -> None:
    before = {part.digest for part in cut(NAMES, tmp_path)}
    more = [*NAMES[:place], f"{place:04d}+.png", *NAMES[place:]]
    after = {part.digest for part in cut(more, tmp_path)}
    assert 1 <= len(after - before) <= 3 < len(before & after)


def test_digest_changes_with_the_image_and_the_conditions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")

    def digest(conditions: str = "x") -> str:
        (part,) = cut(["a.png"], tmp_path, conditions=conditions)
        return part.digest

    first = digest()
    assert digest() == first
    assert digest("y") != first
    os.utime(tmp_path / "a.png", ns=(1, 1))
    second = digest()
    (tmp_path / "a.png").write_bytes(b"22")
    os.utime(tmp_path / "a.png", ns=(1, 1))
    third = digest()
    (tmp_path / "a.png").unlink()
    assert len({first, second, third, digest()}) == 4


def test_names_that_are_not_utf_8_come_back(tmp_path: Path) -> None:
    (part,) = cut(["\udcff.png", "é\n.png"], tmp_path)
    assert part.names == ["\udcff.png", "é\n.png"]


def test_parts_of_file_hold_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"x")

    def ranges(rows: int) -> list[tuple[int | None, int]]:
        parts = parts_of_file(path, rows, size=4, column="image", conditions="x")
        return [(part.start, part.rows) for part in parts]

    assert ranges(10) == [(0, 4), (4, 4), (8, 2)]
    assert ranges(4) == [(0, 4)]
    assert ranges(0) == []
