"""Files of ``predict``: gone on with, changed between runs, damaged, shared, not replaced."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import IMAGES, Command, listing

from exporters import staging
from exporters.errors import FileError
from exporters.staging import name_locks
from swin_deploy.predict.predictor import Prediction, Scored
from swin_deploy.predict.table import PredictionTable

TABLE = Path("table.csv")
CSV = ("--csv", TABLE)


@pytest.fixture
def some(swin: Command) -> Path:
    """A folder with three pictures of a 3, made a while ago."""
    folder = Path("some")
    folder.mkdir()
    for name in sorted(os.listdir(IMAGES / "3"))[:3]:
        shutil.copy(IMAGES / "3" / name, folder)
    time.sleep(0.02)  # the clock of the file system is coarse
    return folder


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return {row["image"]: row for row in csv.DictReader(stream)}


def answer(image: str, name: str = "kind") -> Prediction:
    return Prediction(image, (Scored(0, name, 1.0),))


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "\udcff", " a ", "'"])
def test_table_goes_on_whatever_a_picture_or_a_class_is_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for place in range(2):
        with PredictionTable(path, {}, top=1) as table:
            assert table.done == ({f"{name}0"} if place else set())
            table.add(answer(f"{name}{place}", name))
    assert list(rows_of(path)) == [f"{name}0", f"{name}1"]
    assert {row["class_1"] for row in rows_of(path).values()} == {name}


def test_stray_quote_in_a_long_table_takes_no_long_time(tmp_path: Path) -> None:
    with PredictionTable(tmp_path / "table.csv", {}, top=1):
        pass
    with (tmp_path / "table.csv").open("ab") as stream:
        stream.write(b'"' + b"x,k,0,1,\n" * 300_000)
    started = time.process_time()
    with PredictionTable(tmp_path / "table.csv", {}, top=1) as table:
        assert table.done == set()
    assert time.process_time() - started < 5


def test_picture_that_was_changed_is_asked_about_again(
    swin: Command, full: Path, some: Path
) -> None:
    command = ("predict", full, some, *CSV)
    swin(*command).assert_done()
    first, second, _ = sorted(some.iterdir())
    shutil.copy(IMAGES / "5" / sorted(os.listdir(IMAGES / "5"))[0], first)
    shutil.copy(second, some / "new.png")
    outcome = swin(*command).assert_done()
    assert "1 rows are made again" in outcome.err
    assert "table.csv: 4 pictures, 0 without an answer" in outcome.out
    rows = rows_of(TABLE)
    assert len(rows) == len(TABLE.read_text().splitlines()) - 1 == 4
    assert (rows[str(first)]["class_1"], rows[str(second)]["class_1"]) == ("5", "3")


def test_row_of_a_picture_that_is_gone_stays(swin: Command, full: Path, some: Path) -> None:
    swin("predict", full, some, *CSV).assert_done()
    before = TABLE.read_bytes()
    next(some.iterdir()).unlink()
    swin("predict", full, some, *CSV).assert_done()
    assert TABLE.read_bytes() == before


def test_picture_without_an_answer_is_tried_again_and_the_status_stays(
    swin: Command, full: Path, some: Path
) -> None:
    bad = some / "bad.png"
    bad.write_bytes(b"no picture")
    command = ("predict", full, some, *CSV)
    assert swin(*command).status == 1
    outcome = swin(*command, "--json")
    assert outcome.status == 1
    assert outcome.json == {"file": "table.csv", "pictures": 4, "failed": 1}
    assert rows_of(TABLE)[str(bad)]["error"]
    shutil.copy(IMAGES / "3" / sorted(os.listdir(IMAGES / "3"))[0], bad)
    swin(*command).assert_done()
    assert rows_of(TABLE)[str(bad)]["class_1"] == "3"


def test_standard_input_is_another_picture_each_time(
    swin: Command, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in "35":
        data = next(iter(sorted((IMAGES / kind).iterdir()))).read_bytes()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        swin("predict", full, "-", *CSV).assert_done()
        assert rows_of(TABLE)["-"]["class_1"] == kind


DAMAGES = {
    "other columns": lambda data: data.replace(b"image,", b"picture,", 1),
    "a sign before it": lambda data: b"\xef\xbb\xbf" + data,
    "no table": lambda data: bytes(len(data)) + b"\n",
    "a cell without end": lambda data: b"x" * 200_000 + b"\n" + data,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_table_that_is_none_of_ours_any_more_stays(
    damage: str, swin: Command, full: Path, some: Path
) -> None:
    swin("predict", full, some, *CSV).assert_done()
    whole = rows_of(TABLE)
    TABLE.write_bytes(DAMAGES[damage](TABLE.read_bytes()))
    before = listing(Path())
    swin("predict", full, some, *CSV).assert_error("start anew with --force")
    assert listing(Path()) == before
    swin("predict", full, some, *CSV, "--force").assert_done()
    assert rows_of(TABLE) == whole


def test_another_number_of_classes_keeps_the_rows(swin: Command, full: Path, some: Path) -> None:
    swin("predict", full, some, *CSV).assert_done()
    before = TABLE.read_bytes()
    swin("predict", full, some, *CSV, "--top", 3).assert_error("its first row is not image,")
    assert TABLE.read_bytes() == before


def test_damaged_row_is_made_again(swin: Command, full: Path, some: Path) -> None:
    swin("predict", full, some, *CSV).assert_done()
    whole, lines = rows_of(TABLE), TABLE.read_bytes().splitlines(keepends=True)
    TABLE.write_bytes(lines[0] + bytes(30) + b"\n" + b"".join(lines[2:]))
    swin("predict", full, some, *CSV).assert_done()
    assert rows_of(TABLE) == whole


def test_manifest_is_beside_the_table_that_a_link_leads_to(
    swin: Command, full: Path, some: Path
) -> None:
    """Else the table has rows of one model and beside it the manifest of another."""
    swin("predict", full, some, *CSV).assert_done()
    Path("link.csv").symlink_to(TABLE)
    swin("predict", "notebook-digits", some, "--csv", "link.csv").assert_error("another run")
    swin("predict", "notebook-digits", some, "--csv", "link.csv", "--force").assert_done()
    assert Path("link.csv").is_symlink()
    assert not Path("link.csv.json").exists()
    assert json.loads(Path("table.csv.json").read_text())["artifact"] == "notebook-digits"
    swin("predict", full, some, *CSV).assert_error("another run")


def test_table_is_written_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "WAIT_S", 0.1)
    path = tmp_path / "table.csv"
    with PredictionTable(path, {}, top=1) as table:
        table.add(answer("a"))
        with pytest.raises(FileError, match="another process is writing"):
            PredictionTable(path, {}, top=1).__enter__()
        table.add(answer("b"))
    assert list(rows_of(path)) == ["a", "b"]
    with name_locks([path]):
        pass
    assert sorted(os.listdir(tmp_path)) == ["table.csv", "table.csv.json"]


def test_features_without_any_answer_replace_nothing(swin: Command) -> None:
    Path("bad.png").write_bytes(b"no picture")
    command = ("predict", "notebook-digits", "bad.png", "--features")
    swin(*command, "new/f.npz").assert_error("image bad.png cannot be read")
    assert os.listdir() == ["bad.png"]
    np.savez("f.npz", images=["x"], errors=[""])
    before = listing(Path())
    swin(*command, "f.npz").assert_error("image bad.png cannot be read")
    assert listing(Path()) == before


def test_features_do_not_replace_what_came_meanwhile(
    swin: Command, some: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swin_deploy.predict.features import FeatureFile

    real = FeatureFile.add

    def add(self: FeatureFile, one: Prediction) -> None:
        Path("f.npz").write_text("mine")
        real(self, one)

    monkeypatch.setattr(FeatureFile, "add", add)
    outcome = swin("predict", "notebook-digits", some, "--features", "f.npz")
    outcome.assert_error("was not made by swin-deploy")
    assert Path("f.npz").read_text() == "mine"
    assert sorted(os.listdir()) == ["f.npz", "some"]
