"""``predict --parquet``: every image once, with the answer of ``predict --json`` or the reason."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bulk_libraries
import numpy as np
import pytest
from bulk_runs import MODEL, OUT, TO, json_answers, plain, rows_of
from command_line import IMAGES, Command
from parquet_images import answers, by_image, structs, write_parquet

import swin_deploy
from swin_deploy.bulk.parts import Part
from swin_deploy.bulk.sources import Sources
from swin_deploy.images.labelled import find_images
from swin_deploy.predict.conditions import described

pytest_plugins = ["bulk_fixtures"]
pytestmark = pytest.mark.usefixtures("pyarrow")


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


def test_what_vanishes_during_the_run_is_a_row_with_the_reason(
    swin: Command, full: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, *_ = sorted(digits.rglob("*.png"))
    file = write_parquet(Path("set.parquet"), image=[gone.read_bytes(), None])
    listed = Sources.parts

    def vanish_then(sources: Sources, **options: Any) -> Iterator[Part]:  # noqa: ANN401
        parts = list(listed(sources, **options))
        gone.unlink()
        file.unlink()
        return iter(parts)

    monkeypatch.setattr(Sources, "parts", vanish_then)
    assert swin("predict", full, digits, file, *TO).status == 1
    errors = {row["image"]: row["error"] for row in answers(OUT) if row["error"]}
    reason = "cannot be read (No such file or directory);"
    of_file = f"{file} {reason} check the file and its permissions"
    assert errors == {
        str(gone): f"image {gone} {reason} replace or remove the file",
        "set.parquet#0": f"image set.parquet#0: {of_file}",
        "set.parquet#1": f"image set.parquet#1: {of_file}",
    }
    assert len(by_image(OUT)) == 62


def test_reasons_are_the_same_in_each_run(swin: Command, full: Path, digits: Path) -> None:
    good = next(digits.rglob("*.png")).read_bytes()
    file = write_parquet(Path("set.parquet"), image=[good, b"no picture"])
    assert swin("predict", full, file, *TO).status == 1
    (reason,) = [row["error"] for row in answers(OUT) if row["error"]]
    because = "it has no format of pictures that Pillow knows"
    assert reason.startswith(f"image set.parquet#1 cannot be read ({because});")


def test_each_form_of_images_is_told_with_its_own_files(
    swin: Command, full: Path, digits: Path
) -> None:
    paths = sorted(digits.rglob("*.png"))
    for name in ("a", "b"):
        write_parquet(Path(f"set/{name}.parquet"), image=[paths[0].read_bytes()] * 2)
    write_parquet(Path("set/c.parquet"), image=structs(paths[:3]))
    outcome = swin("predict", full, digits, "set", *TO).assert_done()
    told = [line.strip() for line in outcome.err.splitlines() if "Parquet files" in line]
    assert told == [
        "2 Parquet files with 4 rows: images from column image, bytes",
        "1 Parquet files with 3 rows: images from column image, bytes or paths",
    ]
    assert len(answers(OUT)) == 67


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
