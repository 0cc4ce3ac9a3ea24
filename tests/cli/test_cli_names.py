"""Names of files and classes that would take over a terminal, in every command that shows them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import IMAGES

from exporters.text_files import visible

ODD = "\x1b[31m\x1b]0;t\x07\u202e[red]<script>|`\r\nerror: "
RAW = ("\x1b]0;", "\x1b[31m", "\u202e", "\nerror: ")


def run_on_terminal(*arguments: object, cwd: Path) -> tuple[int, str]:
    """The status of a command whose output is a terminal, and what it showed."""
    command = [sys.executable, "-m", "swin_deploy", *map(str, arguments)]
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, cwd=cwd, stdout=theirs, stderr=theirs)
    os.close(theirs)
    data = b""
    with contextlib.suppress(OSError):  # the terminal goes with the process
        while piece := os.read(ours, 1 << 16):
            data += piece
    os.close(ours)
    return child.wait(), data.decode(errors="replace").replace("\r\n", "\n")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Two class folders, a picture in each, and names of the ten classes, all of them odd."""
    for kind in "35":
        folder = tmp_path / "tree" / f"{ODD}{kind}"
        folder.mkdir(parents=True)
        picture = sorted((IMAGES / kind).iterdir())[0]
        shutil.copy(picture, folder / f"{ODD}.png")
    names = [f"{ODD}{index}" for index in range(10)]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    return tmp_path


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "predict": lambda graph: ("predict", graph, "tree"),
    "predict --csv": lambda graph: ("predict", graph, "tree", "--csv", f"{ODD}.csv"),
    "evaluate": lambda graph: (
        *("evaluate", "--model", "notebook-digits", "--onnx", graph, "--data", "tree"),
        *("--output", f"{ODD}e"),
    ),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal of POSIX")
@pytest.mark.parametrize("command", COMMANDS)
def test_terminal_does_not_obey_names(command: str, odd: Path, full: Path) -> None:
    arguments = COMMANDS[command](full)
    status, shown = run_on_terminal(*arguments, "--classes", "classes.json", cwd=odd)
    assert status == 0, shown
    assert "\\x1b]0;t\\x07\\u202e[red]<script>" in shown
    assert [raw for raw in RAW if raw in shown] == []


@pytest.mark.parametrize("text", ["plain", "ä 日本 😀", "1\u202f000\u00a0s", "a\nb\tc"])
def test_visible_keeps_what_is_harmless(text: str) -> None:
    assert visible(text, kept="\n\t") == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[0m", "\\x1b[0m"), ("\u2066", "\\u2066"), ("\udcff", "\\udcff"), ("a\rb", "a\\rb")],
)
def test_visible_escapes_what_a_terminal_obeys(text: str, shown: str) -> None:
    assert visible(text) == shown
