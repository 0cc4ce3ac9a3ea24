"""Temporary files: locked while their process lives, removed when it does not."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporters import staging
from exporters.artifact import write_atomic, write_together
from exporters.errors import FileError
from exporters.locks import take_lock
from exporters.staging import (
    made_folder,
    name_locks,
    real_path,
    remove_left_over,
    staged_file,
    temporary_folder,
    undisturbed,
)

pytest.importorskip("fcntl", reason="locks tell the living from the dead")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


LEFT_OVER = (
    ".x.engine.1a2b3c4d.tmp",  # of earlier versions too, which had no locks
    ".x.engine.json.00000000.tmp",
    f".{'n' * 60}.ffffffff.tmp",
)
OTHERS = (
    "x.engine.1a2b3c4d.tmp",  # not hidden
    ".x.engine.1a2b3c4d.tmp2",
    ".x.engine.1A2B3C4D.tmp",
    ".x.engine.1a2b3c4.tmp",
    ".tmp",
    ".1a2b3c4d.tmp",
    "notes.tmp",
)


def test_next_write_removes_what_dead_processes_left(tmp_path: Path) -> None:
    for name in (*LEFT_OVER, *OTHERS):
        (tmp_path / name).write_bytes(b"half")
    write_atomic(tmp_path / "y", b"new")
    assert names(tmp_path) == sorted([*OTHERS, "y"])


def test_next_write_leaves_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"precious")
    link, folder, pipe = (tmp_path / f".x.{digit * 8}.tmp" for digit in "abc")
    link.symlink_to("theirs")
    folder.mkdir()
    os.mkfifo(pipe)
    before = names(tmp_path)
    write_atomic(tmp_path / "y", b"new")
    assert names(tmp_path) == sorted([*before, "y"])
    assert (tmp_path / "theirs").read_bytes() == b"precious"


HOLDER = """
import sys
from pathlib import Path
from exporters.staging import staged_file, temporary_folder
folder = Path(sys.argv[1])
with staged_file(folder / "x", b"half"), temporary_folder(folder) as trial:
    (trial / "model.onnx").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_temporary_files_of_a_living_process_stay(end: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        held = names(tmp_path)
        assert [bool(re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", name)) for name in held] == [True] * 2
        write_atomic(tmp_path / "y", b"new")
        assert names(tmp_path) == sorted([*held, "y"])
        if end == "killed":
            process.kill()
        process.stdin.close()
        process.wait()
        assert names(tmp_path) == (sorted([*held, "y"]) if end == "killed" else ["y"])
    write_atomic(tmp_path / "y", b"newer")
    assert names(tmp_path) == ["y"]


def test_trial_folders_of_earlier_versions_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".attempt-ab_1x9zq").mkdir()
    (tmp_path / ".attempt-ab_1x9zq" / "m.onnx").write_bytes(b"half")
    (tmp_path / ".attempt-of-the-user").mkdir()
    write_atomic(tmp_path / "y", b"new")
    assert names(tmp_path) == [".attempt-of-the-user", "y"]


def test_temporary_folder_is_removed_with_what_is_in_it(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_bytes(b"")
        assert folder.stat().st_mode & 0o077 == 0
    assert names(tmp_path) == []
    with pytest.raises(RuntimeError), temporary_folder(tmp_path):
        raise RuntimeError
    assert names(tmp_path) == []


def test_temporary_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match=r"cannot make a temporary folder in .*: Not a directory"):
        temporary_folder(tmp_path / "file").__enter__()


def test_remover_between_making_and_locking_costs_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cleans up sees a file that is not locked yet, and removes it."""
    calls = []

    def late(file: int) -> bool | None:
        calls.append(file)
        if len(calls) == 1:
            monkeypatch.setattr(staging, "take_lock", take_lock)
            remove_left_over(tmp_path)
            monkeypatch.setattr(staging, "take_lock", late)
        return take_lock(file)

    monkeypatch.setattr(staging, "take_lock", late)
    with staged_file(tmp_path / "x", b"new") as temporary:
        assert temporary.read_bytes() == b"new"
        assert names(tmp_path) == [temporary.name]
    assert len(calls) == 2
    assert names(tmp_path) == []


@pytest.mark.parametrize("answer", [None, True], ids=["no-locks", "locks"])
def test_without_locks_files_are_written_and_nothing_is_removed(
    answer: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "take_lock", lambda _: answer)
    (tmp_path / LEFT_OVER[0]).write_bytes(b"half")
    write_atomic(tmp_path / "x", b"new")
    assert names(tmp_path) == (["x"] if answer else [LEFT_OVER[0], "x"])


def test_name_lock_waits_for_another_writer(tmp_path: Path) -> None:
    done = []

    def write() -> None:
        write_atomic(tmp_path / "x", b"new")
        done.append(time.monotonic())

    with name_locks([tmp_path / "x"]):
        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.2)
        assert not done
        freed = time.monotonic()
    thread.join()
    assert done[0] >= freed
    assert names(tmp_path) == ["x"]


def test_name_lock_that_is_kept_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "WAIT_S", 0.05)
    with name_locks([tmp_path / "x"]):
        with pytest.raises(FileError, match=r"another process is writing .*x; end it, or name"):
            write_atomic(tmp_path / "x", b"new")
        assert [name for name in names(tmp_path) if not name.endswith(".00000000.tmp")] == []


def test_folders_made_for_a_file_go_if_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    for path in ("there/x", "a/b/x", "there/c/x"):
        with pytest.raises(FileError, match="No space left"):
            write_atomic(tmp_path / path, b"new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["there"]


def test_folders_made_stay_if_something_is_in_them(tmp_path: Path) -> None:
    def fail() -> None:
        (tmp_path / "a" / "notes").write_bytes(b"")
        raise RuntimeError

    with pytest.raises(RuntimeError), made_folder(tmp_path / "a" / "b"):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "notes"]


def test_interrupt_waits_until_the_names_are_changed(tmp_path: Path) -> None:
    seen = []

    def interrupted() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            seen.append("inner")
        seen.append("outer")

    with pytest.raises(KeyboardInterrupt), undisturbed():
        interrupted()
    assert seen == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_among_several_renames_leaves_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {tmp_path / name: b"new" for name in "abc"}
    real = os.replace

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_together(files)
    assert names(tmp_path) == ["a", "b", "c"]


def own_output(folder: Path) -> Path:
    return Path("/proc/self/fd/1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda folder: folder, "is a folder", id="folder"),
        pytest.param(lambda _: Path("/dev/full"), "is a device or a pipe", id="device"),
        pytest.param(own_output, "(own output|is a device or a pipe)", id="standard-output"),
    ],
)
def test_real_path_refuses(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(make(tmp_path))
    for path in (make(tmp_path), link):
        with pytest.raises(FileError, match=message):
            real_path(path)


def test_real_path_of_a_circle_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileError, match=r"cannot write .*a: Too many levels of symbolic links"):
        real_path(tmp_path / "a")


def test_real_path_of_a_file_without_a_name_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream:
        (tmp_path / "x").unlink()
        with pytest.raises(FileError, match="leads to a file without a name"):
            real_path(Path(f"/proc/self/fd/{stream.fileno()}"))
