"""``predict --parquet``: runs that go on, whatever ended them, and what they refuse."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import bulk_libraries
import pytest
from bulk_runs import MODEL, OUT, TO, ended, rows_of, started, wait_for_parts
from command_line import Command, listing
from parquet_images import answers, by_image, write_parquet

pytest_plugins = ["bulk_fixtures"]
pytestmark = pytest.mark.usefixtures("pyarrow")


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


# A start of a command whose pictures take 50 ms each.
SLOW = """
import time
from swin_deploy.bulk import work
pictures_of = work.pictures_of
def slowly(part):
    for one in pictures_of(part):
        time.sleep(0.05)
        yield one
work.pictures_of = slowly
"""


@pytest.mark.parametrize(
    ("number", "status", "last"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGINT, 130, "interrupted; nothing half-written is left"),
        (signal.SIGTERM, 143, "terminated; nothing half-written is left"),
    ],
)
def test_run_that_a_signal_ends_leaves_whole_files_and_is_gone_on_with(
    number: signal.Signals, status: int, last: str, swin: Command, full: Path, digits: Path
) -> None:
    command = ("predict", full, digits, *TO, "--part-size", 8)
    swin(*command).assert_done()
    expected, files = by_image(OUT), set(listing(OUT))
    shutil.rmtree(OUT)
    process = started(SLOW, *command, env=bulk_libraries.pyarrow_environment())
    wait_for_parts(process)
    process.send_signal(number)
    found, _, err = ended(process)
    assert found == status
    assert err.rstrip().endswith(last)
    half = by_image(OUT)
    assert 0 < len(half) < 60
    assert half.items() <= expected.items()
    assert bool(list(OUT.glob(".*"))) == (number == signal.SIGKILL)  # what it was writing
    outcome = swin(*command).assert_done()
    assert f"{OUT} has {len(half)} of them already" in outcome.err
    assert by_image(OUT) == expected
    assert {path.name for path in OUT.iterdir()} == files


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
