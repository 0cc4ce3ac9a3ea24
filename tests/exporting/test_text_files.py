"""Text and JSON that somebody else wrote: what is taken, and one line for what is not."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from exporters.errors import ConfigError, FileError
from exporters.text_files import (
    LISTED,
    MOST_JSON,
    SHOWN,
    listed,
    naming,
    parse_json,
    read_json,
    read_text,
    typed,
)

Count = Annotated[int, msgspec.Meta(ge=1)]


@dataclasses.dataclass(frozen=True)
class Size:
    height: Count
    width: Count = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    size: Size
    mean: tuple[float, ...] = ()


def test_read_text_drops_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\nb\n")
    assert read_text(path) == "a\nb\n"


def test_read_text_refuses_what_is_no_file_of_text(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "large").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "latin": "not UTF-8",
        "pipe": "not a file",
        ".": "not a file",
        "absent": "does not exist",
        "a" * 300: "cannot be read",
        "nul\0": "cannot be read",
    }.items():
        with pytest.raises(FileError, match=message) as info:
            read_text(tmp_path / name)
        assert len(str(info.value)) < 2 * SHOWN
    with pytest.raises(FileError, match="5 bytes, more than the 4"):
        read_text(tmp_path / "large", most_bytes=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nests too deeply"),
        ("1" * 5000, "not JSON"),
        ("", "not JSON"),
    ],
    ids=["cut off", "deep", "digits", "empty"],
)
def test_read_json_refuses_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(FileError, match=message) as info:
        read_json(path)
    assert "config.json" in str(info.value)
    assert "\n" not in str(info.value)


def test_parse_json_takes_what_python_writes() -> None:
    assert parse_json('{"a": Infinity}', where="here") == {"a": float("inf")}


def test_typed_builds_dataclasses_and_passes_over_other_keys() -> None:
    values = {"size": {"height": 2, "other": 0}, "mean": [1, 2.5]}
    assert typed(values, Settings, where="x") == Settings(Size(2), (1.0, 2.5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"height": "2"}}, "config.json: size.height: expected int, got str"),
        ({"size": {"height": 0}}, r"config.json: size.height: expected int >= 1"),
        ({"size": None}, "config.json: size: expected object, got null"),
        ({}, "config.json: object missing required field size"),
        ([], "config.json: expected object, got array"),
        ({"size": {"height": 1}, "mean": [1, "a"]}, r"config.json: mean\[1\]: expected float"),
    ],
    ids=["type", "range", "null", "missing", "list", "inner"],
)
def test_typed_names_the_place_of_a_wrong_value(values: object, message: str) -> None:
    with pytest.raises(FileError, match=message):
        typed(values, Settings, where="config.json")


def test_listed_is_short_whatever_there_is() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b, c"], between="; ") == "a; b, c"
    short = listed(["name"] * 100_000)
    assert short == f"{', '.join(['name'] * LISTED)} and {100_000 - LISTED:,} more"
    assert len(listed(["x" * 10_000] * 100_000)) < 500
    assert listed(["x" * 500] * 8).endswith(" and 5 more")


def test_read_text_ends_lines_alike(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n"


def test_parse_json_refuses_what_takes_gigabytes() -> None:
    lists = "[" + "[]," * (MOST_JSON // 3) + "[]]"
    with pytest.raises(FileError, match="letters, more than the"):
        parse_json(lists, where="here")


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\uDC00": 1}', r'["\ud83d\u0041"]'])
def test_parse_json_refuses_half_a_surrogate_pair(text: str) -> None:
    with pytest.raises(FileError, match="here is not usable JSON: it has half a surrogate pair"):
        parse_json(text, where="here")


def test_parse_json_takes_a_whole_surrogate_pair() -> None:
    assert parse_json(r'"\ud83d\ude00 \\ud800"', where="here") == "\U0001f600 \\ud800"


def test_naming_puts_the_file_before_a_message_without_it(tmp_path: Path) -> None:
    named = naming(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"^.*/a\.pt: windows of 7 do not fit$"), named:
        raise ConfigError("windows of 7 do not fit")
    with pytest.raises(ConfigError, match=r"^a\.pt has no windows$"), naming(tmp_path / "a.pt"):
        raise ConfigError("a.pt has no windows")
    with pytest.raises(KeyError), naming(tmp_path / "a.pt"):
        raise KeyError("a bug")
