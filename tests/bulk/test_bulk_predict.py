"""``predict --parquet``: every image once, with the answer of ``predict --json`` or the reason."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bulk_libraries
import numpy as np
import pytest
from command_line import IMAGES, Command, listing
from parquet_images import answers, by_image, structs, write_parquet
from photographs import write_photographs

import swin_deploy
from swin_deploy.images.labelled import find_images
from swin_deploy.predict.conditions import described

OUT = Path("out")
TO = ("--parquet", OUT)
MODEL = "notebook-digits"


@pytest.fixture(autouse=True)
def _pyarrow() -> None:
    bulk_libraries.import_pyarrow()


@pytest.fixture
def photos(swin: Command) -> Path:
    """Sixteen photographs in a folder and its subfolder."""
    paths = write_photographs(Path("photos"))
    Path("photos/more").mkdir()
    for path in paths[:5]:
        path.rename(path.parent / "more" / path.name)
    return Path("photos")


@pytest.fixture
def digits(swin: Command) -> Path:
    """Sixty digits in class folders."""
    for one in find_images(IMAGES)[::6]:
        Path("digits", one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(IMAGES / one, Path("digits", one))
    return Path("digits")


def rows_of(folder: Path) -> list[int]:
    return sorted(-1 if row is None else row for _, row, _ in by_image(folder))


def plain(row: dict[str, Any]) -> list[tuple[str, int, float]]:
    return list(zip(row["classes"], row["indices"], row["probabilities"], strict=True))


def json_answers(text: str) -> dict[str, list[tuple[str, int, float]]]:
    found = [json.loads(line) for line in text.splitlines()]
    return {
        one["image"]: [(top["class"], top["index"], top["probability"]) for top in one["top"]]
        for one in found
    }


# The answers ---------------------------------------------------------------------------------


def test_answers_are_those_of_json_to_the_last_digit(
    swin: Command, full: Path, photos: Path
) -> None:
    outcome = swin("predict", full, photos, *TO).assert_done()
    assert outcome.out == "out: 16 images in 1 files, 0 without an answer\n"
    expected = json_answers(swin("predict", full, photos, "--json").out)
    found = by_image(OUT)
    assert len(expected) == 16
    assert {name: plain(row) for (_, _, name), row in found.items()} == expected
    assert {(source, row) for source, row, _ in found} == {("photos", None)}
    assert all(row["error"] is None for row in found.values())


@pytest.mark.parametrize("form", ["bytes", "struct", "paths", "struct of paths", "dictionary"])
def test_images_in_parquet_have_the_answers_of_their_files(
    form: str, swin: Command, full: Path, photos: Path
) -> None:
    arrow = bulk_libraries.import_pyarrow()
    paths = [photos / one for one in find_images(photos)]
    relative = [str(one.relative_to(photos)) for one in paths]
    forms: dict[str, dict[str, Any]] = {
        "bytes": {"label": list(range(16)), "content": [one.read_bytes() for one in paths]},
        "struct": {"image": structs(paths), "label": list(range(16))},
        "paths": {"caption": ["x"] * 16, "file_name": relative},
        "struct of paths": {"image": [{"bytes": None, "path": one} for one in relative]},
        "dictionary": {"path": arrow.array(relative).dictionary_encode()},
    }
    file = write_parquet(photos / "set.parquet", **forms[form])
    swin("predict", full, file, *TO, "--part-size", 16).assert_done()
    expected = json_answers(swin("predict", full, photos, "--json").out)
    rows = sorted(answers(OUT), key=lambda row: row["row"])
    assert [row["row"] for row in rows] == list(range(16))
    assert [plain(row) for row in rows] == [expected[str(path)] for path in paths]


def test_features_are_columns_of_lists(swin: Command, digits: Path) -> None:
    swin("predict", MODEL, digits, "--outputs", "features", *TO).assert_done()
    with swin_deploy.Predictor(MODEL, output="features") as predict:
        expected = {one.image: one.outputs["features"] for one in predict(
            [digits / one for one in find_images(digits)])}  # fmt: skip
    rows = answers(OUT)
    assert len(rows) == len(expected) == 60
    for row in rows:
        np.testing.assert_array_equal(np.float32(row["features"]), expected[row["image"]])


def test_maps_have_their_shapes(swin: Command, digits: Path) -> None:
    (digits / "bad.png").write_bytes(b"no picture")
    assert swin("predict", MODEL, digits, "--outputs", "stages", *TO).status == 1
    with swin_deploy.Predictor(MODEL, output="stages") as predict:
        (expected,) = predict(digits / find_images(digits)[0])
    rows = {row["image"]: row for row in answers(OUT)}
    for name, output in expected.outputs.items():
        row = rows[expected.image]
        assert row[f"{name}_shape"] == list(output.shape)
        np.testing.assert_allclose(
            np.float32(row[name]).reshape(output.shape), output, rtol=0, atol=1e-5
        )
        assert rows[str(digits / "bad.png")][name] is None


def test_other_readers_take_the_folder_as_a_table(swin: Command, full: Path, digits: Path) -> None:
    swin("predict", full, digits, *TO, "--part-size", 20).assert_done()
    arrow = bulk_libraries.import_pyarrow()
    assert arrow.parquet.read_table(OUT).num_rows == 60  # the manifest is passed over


# Failures are rows ---------------------------------------------------------------------------


def test_images_without_an_answer_are_rows_with_the_reason(
    swin: Command, full: Path, digits: Path
) -> None:
    good = sorted(digits.rglob("*.png"))[:2]
    bad: list[Any] = [None, {"bytes": None, "path": None}, {"bytes": None, "path": ""}]
    bad += [{"bytes": b"", "path": "x"}, {"bytes": None, "path": "gone.png"}]
    bad += [{"bytes": None, "path": "nul\0.png"}, {"bytes": b"GIF89a", "path": None}]
    file = write_parquet(Path("set.parquet"), image=[*bad, *structs(good)])
    outcome = swin("predict", full, file, *TO, "--json")
    assert outcome.status == 1
    assert outcome.json == {"folder": "out", "pictures": 9, "failed": 7, "files": 1}
    rows = sorted(answers(OUT), key=lambda row: row["row"])
    reasons = ["null"] * 3 + ["cannot be read"] * 4
    for row, reason in zip(rows, reasons, strict=False):
        assert reason in row["error"]
        assert row["classes"] is row["probabilities"] is None
    assert [row["error"] for row in rows[7:]] == [None, None]
    assert [row["image"] for row in rows[:3]] == [f"set.parquet#{place}" for place in range(3)]


def test_rows_after_damage_in_a_file_are_failures_and_the_rest_is_answered(
    swin: Command, full: Path, digits: Path
) -> None:
    arrow = bulk_libraries.import_pyarrow()
    images = [one.read_bytes() for one in sorted(digits.rglob("*.png"))]
    file = write_parquet(Path("set.parquet"), image=images, group=20)
    group = arrow.parquet.ParquetFile(file).metadata.row_group(1).column(0)
    data = bytearray(file.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    file.write_bytes(data)
    outcome = swin("predict", full, file, *TO, "--part-size", 20)
    assert outcome.status == 1
    failed = {row["row"] for row in answers(OUT) if row["error"]}
    assert failed == set(range(20, 40))
    assert len(by_image(OUT)) == 60


def test_reasons_are_the_same_in_each_run(swin: Command, full: Path, digits: Path) -> None:
    good = next(digits.rglob("*.png")).read_bytes()
    file = write_parquet(Path("set.parquet"), image=[good, b"no picture"])
    assert swin("predict", full, file, *TO).status == 1
    (reason,) = [row["error"] for row in answers(OUT) if row["error"]]
    because = "it has no format of pictures that Pillow knows"
    assert reason.startswith(f"image set.parquet#1 cannot be read ({because});")


def test_column_with_a_dot_is_not_the_field_of_another(
    swin: Command, full: Path, digits: Path
) -> None:
    first, *_, last = sorted(digits.rglob("*.png"))
    for names in (("image", "image.bytes"), ("image.bytes", "image")):
        columns: dict[str, Any] = {
            "image": structs([first]),
            "image.bytes": [last.read_bytes()],
        }
        file = write_parquet(Path("set.parquet"), **{name: columns[name] for name in names})
        for name, path in (("image", first), ("image.bytes", last)):
            swin("predict", full, file, *TO, "--image-column", name, "--force").assert_done()
            ((expected,),) = [json_answers(swin("predict", full, path, "--json").out).values()]
            assert [plain(row) for row in answers(OUT)] == [expected]


def test_files_and_folders_may_have_any_name(swin: Command, full: Path, digits: Path) -> None:
    images = [one.read_bytes() for one in sorted(digits.rglob("*.png"))[:3]]
    write_parquet(Path("set.parquet"), image=images)
    for name in (b"\xff.parquet", b"a:b#?%20\n.parquet"):
        odd = Path(os.fsdecode(name))
        shutil.copy("set.parquet", odd)
        out = Path(os.fsdecode(b"out of " + name))
        swin("predict", full, odd, "--parquet", out).assert_done()
        again = swin("predict", full, odd, "--parquet", out).assert_done()
        assert "has 3 of them already" in again.err


def test_conditions_hold_a_name_that_is_not_utf_8() -> None:
    with swin_deploy.Predictor(MODEL) as predict:
        model = dataclasses.replace(described(predict), name="\udcff.onnx")
    assert model.conditions["artifact"] == r"\xff.onnx"


def test_files_of_another_kind_are_passed_over_with_a_warning(
    swin: Command, full: Path, digits: Path
) -> None:
    image = next(digits.rglob("*.png")).read_bytes()
    for name in ("a.parquet", "more/b.PQ", "more/_metadata.parquet"):
        write_parquet(digits / name, image=[image])
    np.save(digits / "c.npy", np.zeros((56, 56, 3), np.uint8))
    (digits / "notes.txt").write_text("no image")
    outcome = swin("predict", full, digits, *TO).assert_done()
    assert len(answers(OUT)) == 60
    told = [line for line in outcome.err.splitlines() if "passed over" in line]
    assert sorted(line.split(" are ")[0] for line in told) == [
        "warning: 1 .npy files",
        "warning: 1 .parquet files",
        "warning: 1 .pq files",
    ]
    outcome = swin("predict", full, digits / "3", "--parquet", "other").assert_done()
    assert "passed over" not in outcome.err


def test_names_that_are_the_same_are_rows_of_their_own(
    swin: Command, full: Path, digits: Path
) -> None:
    one, other = sorted(digits.rglob("*.png"))[0], sorted(digits.rglob("*.png"))[-1]
    images = [{"bytes": path.read_bytes(), "path": "same.png"} for path in (one, other, one)]
    file = write_parquet(Path("set.parquet"), image=images)
    swin("predict", full, file, *TO).assert_done()
    assert rows_of(OUT) == [0, 1, 2]
    first, second, third = sorted(answers(OUT), key=lambda row: row["row"])
    assert plain(first) == plain(third) != plain(second)


def test_name_that_is_not_utf_8_is_shown_with_its_bytes(swin: Command, full: Path) -> None:
    picture = IMAGES / find_images(IMAGES)[0]
    Path("few").mkdir()
    shutil.copy(picture, os.fsdecode(b"few/\xff\n.png"))
    swin("predict", full, "few", *TO).assert_done()
    assert [row["image"] for row in answers(OUT)] == ["few/\\xff\n.png"]


# Going on ------------------------------------------------------------------------------------


def test_run_makes_what_is_missing_changed_or_damaged_and_nothing_else(
    swin: Command, full: Path, digits: Path
) -> None:
    command = ("predict", full, digits, *TO, "--part-size", 10)
    swin(*command).assert_done()
    before, rows = listing(OUT), by_image(OUT)
    first, second, *_ = sorted(OUT.glob("*.parquet"))
    times = {path: path.stat().st_mtime_ns for path in OUT.glob("*.parquet")}
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    (OUT / ".part-0123456789abcdef.parquet.01234567.tmp").write_bytes(b"PAR1 half")
    outcome = swin(*command).assert_done()
    assert "1 part files are removed" in outcome.err
    assert by_image(OUT) == rows
    assert set(listing(OUT)) == set(before)
    kept = [path for path in times if path not in (first, second)]
    assert all(path.stat().st_mtime_ns == times[path] for path in kept)


@pytest.mark.parametrize("damage", ["another column", "no statistics", "nothing"])
def test_part_files_that_others_wrote_are_made_again(
    damage: str, swin: Command, full: Path, digits: Path
) -> None:
    command = ("predict", full, digits, *TO, "--part-size", 10)
    swin(*command).assert_done()
    rows = by_image(OUT)
    arrow = bulk_libraries.import_pyarrow()
    part = min(OUT.glob("*.parquet"))
    table = arrow.parquet.read_table(part)
    if damage == "another column":
        arrow.parquet.write_table(table.drop_columns(["error"]), part)
    elif damage == "no statistics":
        arrow.parquet.write_table(table, part, write_statistics=False)
    else:
        arrow.parquet.write_table(table.select([]), part)
    outcome = swin(*command).assert_done()
    assert "1 part files are removed" in outcome.err
    assert by_image(OUT) == rows


def test_images_that_change_come_and_go_have_one_row_each(
    swin: Command, full: Path, digits: Path
) -> None:
    command = ("predict", full, digits, *TO, "--part-size", 10)
    swin(*command).assert_done()
    paths = sorted(digits.rglob("*.png"))
    gone, changed = paths[3], paths[30]
    gone.unlink()
    changed.write_bytes(b"no picture any more")
    shutil.copy(paths[40], digits / "new.png")
    outcome = swin(*command)
    assert outcome.status == 1
    images = {image for _, _, image in by_image(OUT)}
    assert images == {str(path) for path in digits.rglob("*.png")}
    failed = [row["image"] for row in answers(OUT) if row["error"]]
    assert failed == [str(changed)]
    outcome = swin(*command)  # the status stays
    assert outcome.status == 1
    assert "has 60 of them already" in outcome.err


def test_rows_of_a_longer_file_are_not_taken_for_those_before(
    swin: Command, full: Path, digits: Path
) -> None:
    images = [one.read_bytes() for one in sorted(digits.rglob("*.png"))]
    file = write_parquet(Path("set.parquet"), image=images[:20])
    swin("predict", full, file, *TO, "--part-size", 8).assert_done()
    write_parquet(file, image=images[10:40])
    swin("predict", full, file, *TO, "--part-size", 8).assert_done()
    assert rows_of(OUT) == list(range(30))


def test_killed_run_leaves_whole_files_and_is_gone_on_with(
    swin: Command, full: Path, digits: Path, tmp_path: Path
) -> None:
    command = ("predict", full, digits, *TO, "--part-size", 8)
    swin(*command).assert_done()
    expected = by_image(OUT)
    shutil.rmtree(OUT)
    arguments = [sys.executable, "-c", SLOW, *map(str, command)]
    process = subprocess.Popen(
        arguments,
        env=bulk_libraries.pyarrow_environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 300
    while not (list(OUT.glob("part-*")) and list(OUT.glob(".part-*"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = by_image(OUT)
    assert 0 < len(half) < 60
    assert half.items() <= expected.items()
    assert list(OUT.glob(".part-*.tmp"))  # what it was writing
    swin(*command).assert_done()
    assert by_image(OUT) == expected
    assert sorted(path.name[:5] for path in OUT.iterdir()) == ["_pred"] + ["part-"] * len(
        list(OUT.glob("*.parquet"))
    )


# A command whose pictures take 50 ms each.
SLOW = """
import sys, time
from swin_deploy.bulk import work
from swin_deploy.cli import main
pictures_of = work.pictures_of
def slowly(part):
    for one in pictures_of(part):
        time.sleep(0.05)
        yield one
work.pictures_of = slowly
sys.argv[0] = "swin-deploy"
main()
"""


def test_interrupt_leaves_whole_files(swin: Command, full: Path, digits: Path) -> None:
    command = ("predict", full, digits, *TO, "--part-size", 8, "--batch", 4)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, command)], env=bulk_libraries.pyarrow_environment(),
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (list(OUT.glob("part-*")) and list(OUT.glob(".part-*"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.rstrip().endswith("interrupted; nothing half-written is left")
    assert not list(OUT.glob(".*"))
    assert 0 < len(by_image(OUT)) < 60


# Refused -------------------------------------------------------------------------------------


def test_folder_of_another_run_is_refused_and_begun_anew_with_force(
    swin: Command, full: Path, digits: Path
) -> None:
    swin("predict", full, digits, *TO, "--part-size", 10).assert_done()
    before = listing(OUT)
    swin("predict", MODEL, digits, *TO, "--part-size", 10).assert_error("another run (not the same")
    swin("predict", full, digits / "3", *TO).assert_error("another run (not the same: images, part")
    swin("predict", full, digits, *TO, "--part-size", 10, "--top", 1).assert_error("same: top)")
    here = Path.cwd() / digits  # the same images, but other names in the rows
    swin("predict", full, here, *TO, "--part-size", 10).assert_error("(not the same: images)")
    assert listing(OUT) == before
    swin("predict", full, digits / "3", *TO, "--force").assert_done()
    assert {source for source, _, _ in by_image(OUT)} == {str(digits / "3")}


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_folder_that_is_not_ours_stays(
    force: tuple[str, ...], swin: Command, full: Path, digits: Path
) -> None:
    OUT.mkdir()
    (OUT / "part-0123456789abcdef.parquet").write_bytes(b"somebody's")
    swin("predict", full, digits, *TO, *force).assert_error("holds other files (part-")
    (OUT / "_predictions.json").write_text("[]")
    swin("predict", full, digits, *TO, *force).assert_error("was not written by predict")
    assert (OUT / "part-0123456789abcdef.parquet").read_bytes() == b"somebody's"


def test_other_files_in_our_folder_stay(swin: Command, full: Path, digits: Path) -> None:
    swin("predict", full, digits, *TO).assert_done()
    (OUT / "notes.txt").write_text("mine")
    (OUT / "part-mine.parquet").write_text("mine")
    swin("predict", full, digits, *TO, "--top", 1, "--force").assert_done()
    assert (OUT / "notes.txt").read_text() == (OUT / "part-mine.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist; give folders of images, or Parquet files"),
        (["gone.parquet"], "gone.parquet is not a file"),
        (["pipe.parquet"], "pipe.parquet is not a file"),
        (["void"], "void holds neither images nor Parquet files"),
        (["text.parquet"], "text.parquet is not a Parquet file that can be read"),
        (["digits", "digits/"], "are the same; name each once"),
        (["digits", "digits/3"], "digits/3 is in digits, which is named too"),
        (["digits/one.png"], "is one image"),
        (["empty.parquet"], "empty.parquet: there is no row in it"),
        (["labels.parquet"], "none is of bytes, paths or a struct of bytes and path: give a file"),
        (["texts.parquet"], "none is called image or as paths are: name one with --image-column"),
        (["two.parquet"], "a, b may hold the images: name one with --image-column"),
        (["two.parquet", "--image-column", "c"], "no column c; --image-column takes"),
        (["labels.parquet", "--image-column", "label"], "no images in column label"),
        (["good.parquet", "labels.parquet"], "labels.parquet has columns label (int64)"),
        (["fails.parquet"], "none of the 2 images has an answer; one of them: image"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    arguments: list[str], message: str, swin: Command, full: Path, digits: Path
) -> None:
    arrow = bulk_libraries.import_pyarrow()
    Path("void").mkdir()
    Path("gone.parquet").symlink_to("nowhere")
    os.mkfifo("pipe.parquet")
    Path("text.parquet").write_text("PAR1 or not")
    shutil.copy(next(digits.rglob("*.png")), digits / "one.png")
    write_parquet(Path("empty.parquet"), image=arrow.array([], arrow.binary()))
    write_parquet(Path("labels.parquet"), label=[1, 2])
    write_parquet(Path("texts.parquet"), text=["x"])
    write_parquet(Path("two.parquet"), a=[b"x"], b=[b"y"])
    write_parquet(Path("good.parquet"), image=[(digits / "one.png").read_bytes()])
    write_parquet(Path("fails.parquet"), image=[b"x", b"y"])
    swin("predict", full, *arguments, *TO).assert_error(message)
    if "fails" not in arguments[0]:
        assert not OUT.exists()


@pytest.mark.parametrize("out", ["digits", "digits/out", "."])
def test_folder_among_the_images_is_refused(
    out: str, swin: Command, full: Path, digits: Path
) -> None:
    swin("predict", full, digits, "--parquet", out).assert_error("are in each other")


def test_folder_that_is_a_file_is_refused(swin: Command, full: Path, digits: Path) -> None:
    OUT.write_text("mine")
    swin("predict", full, digits, *TO).assert_error("out is not a folder")
    assert OUT.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--part-size", 3), "--part-size needs --parquet"),
        (("--ray", "local"), "--ray needs --parquet"),
        ((*TO, "--workers", 2), "--workers needs --ray"),
        ((*TO, "--csv", "x.csv"), "give one of --csv, --features and --parquet"),
        ((*TO, "--part-size", 0), "--part-size"),
        (("--parquet", "-"), "'-' would be a folder of that name"),
        ((*TO, ""), "an IMAGE is an empty text"),
        (("",), "an IMAGE is an empty text"),
    ],
)
def test_options_that_mean_nothing_together_are_wrong_usage(
    options: tuple[object, ...], message: str, swin: Command, full: Path
) -> None:
    outcome = swin("predict", full, "photos", *options)
    assert outcome.status == 2
    assert message in outcome.err


def test_missing_pyarrow_is_named_with_how_to_install_it(
    swin: Command, full: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    swin("predict", full, digits, *TO).assert_error(
        'pyarrow is not installed; install it: pip install "swin-deploy[bulk]"'
    )
