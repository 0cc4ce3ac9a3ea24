"""Places of outputs: links, devices, names; all of it is found before the work."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command, listing

from exporters.artifact import read_manifest


@pytest.mark.parametrize("there", [True, False], ids=["link", "dangling-link"])
def test_outputs_that_are_links_are_followed(
    there: bool, swin: Command, half: Path, place: Path
) -> None:
    Path("store").mkdir()
    build = ("build-trt", half, "--output")
    if there:
        swin("report", "a", "--output", "store").assert_done()
        swin(*build, "store/x.engine", "--batch", "1").assert_done()
    Path("link.md").symlink_to("store/report.md")
    Path("link.engine").symlink_to("store/x.engine")
    swin("report", "b", "--markdown", "link.md").assert_done()
    swin(*build, "link.engine", "--batch", "2").assert_done()
    assert Path("link.md").is_symlink()
    assert Path("link.engine").is_symlink()
    assert Path("store/report.md").read_text().startswith("## Not equal")
    for name in ("link.engine", "store/x.engine"):
        assert read_manifest(Path(name))["profile"]["max"] == 2
    assert not Path("link.engine.json").exists()


@pytest.fixture
def odd_places(place: Path) -> Iterator[None]:
    os.mkfifo("pipe")
    Path("to-pipe").symlink_to("pipe")
    Path("to-full").symlink_to("/dev/full")
    Path("folder").mkdir()
    Path("circle").symlink_to("circle")
    (place / "taken.onnx.json").mkdir()
    (place / "taken.engine.json").mkdir()
    yield
    assert Path("/dev/full").is_char_device()
    assert Path("pipe").is_fifo()


ODD = [
    ("/dev/full", "is a device or a pipe"),
    ("pipe", "is a device or a pipe"),
    ("to-pipe", "is a device or a pipe"),
    ("to-full", "is a device or a pipe"),
    ("folder", "is a folder"),
    (".", "is a folder"),
    ("circle", "Too many levels of symbolic links"),
    ("w.safetensors/x", "cannot write in w.safetensors: Not a directory"),
    ("n" * 256, "is no name that a file can have"),
    ("folder/" + "n" * 256 + "/x", "is no name that a file can have"),
    ("/proc/x", "cannot write in /proc"),
]


@pytest.mark.usefixtures("odd_places")
@pytest.mark.parametrize(("name", "message"), ODD)
@pytest.mark.parametrize(
    "command",
    [
        "report a --markdown",
        "plan m.onnx --svg",
        "export --model notebook-digits --output",
        "build-trt m.onnx --fp16 --output",
        "build-trt m.onnx --output x.engine --timing-cache",
        "predict m.onnx pictures --csv",
        "predict m.onnx pictures --features",
    ],
    ids=["markdown", "svg", "export", "build-trt", "timing-cache", "csv", "features"],
)
def test_outputs_that_are_no_files_are_found_before_the_work(
    command: str, name: str, message: str, swin: Command, place: Path
) -> None:
    before = listing(place)
    outcome = swin(*command.split(), name, "--force")
    outcome.assert_error(message)
    assert " ..." not in outcome.err  # no step has begun
    assert listing(place) == before


@pytest.mark.usefixtures("odd_places")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export --model notebook-digits --output taken.onnx", "taken.onnx.json is a folder"),
        ("build-trt m.onnx --output taken.engine", "taken.engine.json is a folder"),
        ("export --model notebook-digits --output " + "n" * 248 + ".onnx", "File name too long"),
        ("run --model notebook-digits --report w.safetensors", "Not a directory"),
        ("run --model notebook-digits --report " + "n" * 256, "is no name that a file can have"),
        ("parity --model notebook-digits --report " + "n" * 256, "is no name that a file can have"),
        ("bench --model notebook-digits --report w.safetensors", "Not a directory"),
        ("evaluate --model notebook-digits --output w.safetensors", "Not a directory"),
        ("report a --output w.safetensors", "Not a directory"),
    ],
)
def test_places_that_take_no_file_are_found_before_the_work(
    arguments: str, message: str, swin: Command, place: Path
) -> None:
    before = listing(place)
    outcome = swin(*arguments.split())
    outcome.assert_error(message)
    assert " ..." not in outcome.err
    assert listing(place) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export --output a.json", "a.json is to be an ONNX file: end its name in .onnx, such as"),
        ("export --output model", "such as model.onnx"),
        ("build-trt m.onnx --output x.onnx", "end its name in .engine or .plan or .trt"),
        ("build-trt m.onnx --output x", "such as x.engine"),
        ("plan m.onnx --svg x.png", "x.png is to be a picture: end its name in .svg"),
        ("export --output -", "'-' would be a file of that name"),
        ("build-trt m.onnx --output -", "'-' would be a file of that name"),
        ("report a --markdown -", "'-' would be a file of that name"),
        ("report a --output -", "'-' would be a file of that name"),
        ("run --report -", "'-' would be a file of that name"),
        ("evaluate --output -", "'-' would be a file of that name"),
        ("plan m.onnx --svg -", "'-' would be a file of that name"),
    ],
)  # fmt: skip
def test_names_that_mislead_are_wrong_usage(
    arguments: str, message: str, swin: Command, place: Path
) -> None:
    before = listing(place)
    outcome = swin(*arguments.split(), "--force")
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert listing(place) == before


@pytest.mark.parametrize("name", ["x.engine", "x.plan", "x.trt"])
def test_engines_may_have_each_of_their_endings(name: str, swin: Command, half: Path) -> None:
    swin("build-trt", half, "--batch", "1", "--output", name).assert_done()
    assert read_manifest(Path(name))["kind"] == "engine"


@pytest.mark.parametrize(
    "arguments",
    [
        "run --model no-such-model --report new --output made",
        "run --checkpoint no.pt --report new/er --output made",
        "export --model notebook-digits --image-size 57 --output new/x.onnx",
        "build-trt no.onnx --output new/x.engine",
        "parity --model notebook-digits --images nowhere --report new",
        "evaluate --model notebook-digits --data nowhere --output new",
        "report nowhere --output new --markdown new/x.md",
        "plan no.onnx --svg new/x.svg",
    ],
)
def test_commands_that_fail_leave_no_folders(arguments: str, swin: Command, place: Path) -> None:
    before = sorted(place.rglob("*"))
    assert swin(*arguments.split()).status == 3
    assert sorted(place.rglob("*")) == before
