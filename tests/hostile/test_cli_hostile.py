"""Names and numbers that no file and no model has, in every option that takes one."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command_line import Command, run_process

from swin_deploy.cli import cli
from swin_deploy.cli.values import FilePath

PATHS = [
    (name, param)
    for name, command in cli.commands.items()
    for param in command.params
    if isinstance(param.type, click.Path) or param.name == "source_of_steps"
]


def test_every_path_is_checked() -> None:
    assert len(PATHS) > 40
    others = [param.name for _, param in PATHS if not isinstance(param.type, FilePath)]
    assert set(others) == {"source_of_steps"}  # a library's name or a path


@pytest.mark.parametrize(
    "value",
    ["x" * 300, "é" * 128, "a/" * 2_100 + "b", "ok/" + "x" * 256 + "/y"],
    ids=["letters", "bytes", "path", "folder"],
)
@pytest.mark.parametrize(
    ("command", "param"), PATHS, ids=[f"{name} {param.opts[0]}" for name, param in PATHS]
)
def test_path_that_no_file_has_is_one_line(
    command: str, param: click.Parameter, value: str, swin: Command
) -> None:
    arguments = [param.opts[0], value] if isinstance(param, click.Option) else [value]
    swin(command, *arguments).assert_error("is no name that a file can have; check the path")
    assert os.listdir() == []


def test_path_of_255_bytes_is_looked_for(swin: Command) -> None:
    swin("export", "--checkpoint", "x" * 255).assert_error("does not exist; give a checkpoint file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export --model notebook-digits --image-size 65520", "GB of memory at least, here are"),
        ("parity --model swin_tiny_patch4_window7_224 --image-size 57344", "GB of memory at least"),
        ("bench --model notebook-swin-t --batch 65536 --seconds 1", "and batch 65536 need"),
    ],
)
def test_size_that_no_machine_has_is_one_line(
    arguments: str, message: str, swin: Command, tmp_path: Path
) -> None:
    swin("-q", *arguments.split()).assert_error(message)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_process_without_memory_is_one_line(tmp_path: Path) -> None:
    """The allocator refuses, as under ``ulimit -v``: no traceback."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30)); "
    code = limit + "import torch; from swin_deploy import cli; "
    code += "from swin_deploy.config import memory; memory.available_bytes = lambda: None; "
    code += "import sys; sys.argv = ['x', '-q', 'evaluate', '--model', 'notebook-digits', "
    code += f"'--image-size', '14000', '--output', {str(tmp_path / 'out')!r}]; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: not enough memory; use a smaller")
    assert "Traceback" not in done.stderr


def test_process_name_with_line_breaks_is_one_line(tmp_path: Path) -> None:
    name = "a\nb\r\x1b[31m\u202e.pt"
    run_process("-q", "export", "--checkpoint", name, cwd=tmp_path).assert_error(
        r"a\nb\r\x1b[31m\u202e.pt does not exist"
    )


@pytest.mark.parametrize("place", ["", ".", "/", ".."])
@pytest.mark.parametrize(
    "command",
    [
        "export --model notebook-digits --output",
        "predict notebook-digits x.png --csv",
        "predict notebook-digits x.png --features",
        "build-trt x.onnx --output",
        "plan x.onnx --svg",
    ],
)
def test_output_without_a_name_is_refused(
    command: str, place: str, swin: Command, tmp_path: Path
) -> None:
    (tmp_path / "x.onnx").touch()
    swin(*command.split(), place).assert_error("is a folder; name a file in it")
