import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporters.artifact import (
    NewArtifact,
    ensure_writable,
    manifest_path,
    read_manifest,
    sha256_of,
    write_artifact,
    write_artifacts,
    write_atomic,
    write_together,
)
from exporters.errors import FileError

FACTS = {"kind": "engine", "precision": "fp16"}


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refuse(code: int) -> Any:  # noqa: ANN401 - stands for any function of os
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_write_atomic_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "x.bin", b"new")
    assert listing(tmp_path) == {"a/b/x.bin": b"new"}
    write_atomic(tmp_path / "a" / "b" / "x.bin", b"newer")
    assert listing(tmp_path) == {"a/b/x.bin": b"newer"}


def test_write_artifact_piece_by_piece_is_its_bytes_at_once(tmp_path: Path) -> None:
    written = write_artifact(tmp_path / "x.onnx", lambda: iter((b"one ", b"", b"two")), FACTS)
    whole = write_artifact(tmp_path / "y.onnx", b"one two", FACTS)
    assert (tmp_path / "x.onnx").read_bytes() == b"one two"
    assert read_manifest(tmp_path / "x.onnx") == written
    for key in ("bytes", "sha256"):
        assert written[key] == whole[key]


def test_write_atomic_of_pieces_that_end_early_leaves_the_file(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"new"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_atomic(tmp_path / "x.bin", b"old")
    with pytest.raises(FileError, match=r"cannot write .*x\.bin"):
        write_together({tmp_path / "x.bin": broken})
    assert listing(tmp_path) == {"x.bin": b"old"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_write_atomic_permissions_follow_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "x", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("old", [b"old", None], ids=["over-an-old-file", "new-file"])
def test_write_atomic_full_disk_leaves_the_folder_as_it_was(
    function: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old is not None:
        (tmp_path / "x").write_bytes(old)
    before = listing(tmp_path)
    monkeypatch.setattr(os, function, refuse(errno.ENOSPC))
    with pytest.raises(FileError, match=r"cannot write .*x: No space left .* free some space"):
        write_atomic(tmp_path / "x", b"new")
    assert listing(tmp_path) == before


LIMITED = """
import resource, sys
from pathlib import Path
from exporters.artifact import write_artifact
from exporters.errors import FileError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_artifact(Path(sys.argv[1]), b"new" * 100_000, {"kind": "engine"})
except FileError as err:
    print(err)
"""


def test_write_artifact_that_the_system_cuts_off_leaves_the_old_files(tmp_path: Path) -> None:
    """A limit on file sizes stops the write midway, as a full disk does."""
    path = tmp_path / "x.engine"
    write_artifact(path, b"old", FACTS)
    before = listing(tmp_path)
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "x.engine: File too large; choose another place, or free some space" in done.stdout
    assert listing(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_write_atomic_exception_midway_keeps_the_old_file(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise error

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(error):
        write_atomic(tmp_path / "x", b"new")
    assert listing(tmp_path) == {"x": b"old"}


def test_write_together_second_failing_keeps_both_old_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(FileError, match=r"b is a folder; name a file in it"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert listing(tmp_path) == {"a": b"old"}


KILLED = """
import os, sys
from pathlib import Path
from exporters.artifact import write_artifact
print("ready", flush=True)
while True:
    for size in (10, 10_000_000):
        write_artifact(Path(sys.argv[1]), os.urandom(size), {"kind": "engine"})
"""


def test_write_artifact_killed_at_any_moment_leaves_a_pair(tmp_path: Path) -> None:
    """At random; ``test_killed.py`` does it at every step."""
    path = tmp_path / "x.engine"
    write_artifact(path, b"old", FACTS)
    for pause_s in (0.0, 0.013, 0.029, 0.051):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            threading.Event().wait(pause_s)
            process.kill()
        assert read_manifest(path)["bytes"] == path.stat().st_size
    write_artifact(path, b"again", FACTS)
    assert sorted(listing(tmp_path)) == ["x.engine", "x.engine.json"]


def test_write_atomic_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([index]) * 200_000 for index in range(8)]
    threads = [
        threading.Thread(target=write_atomic, args=(tmp_path / "sub" / "x", data))
        for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(listing(tmp_path)) == ["sub/x"]
    assert (tmp_path / "sub" / "x").read_bytes() in contents


@pytest.mark.parametrize("old", [b"old", None], ids=["link", "dangling-link"])
def test_write_atomic_follows_a_link(old: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    if old is not None:
        target.write_bytes(old)
    (tmp_path / "middle").symlink_to("folder/target")
    (tmp_path / "link").symlink_to("middle")
    write_atomic(tmp_path / "link", b"new")
    assert target.read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert sorted(listing(tmp_path)) == ["folder/target", "link", "middle"]


def test_write_artifact_through_a_link_leaves_one_pair(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "real.engine", tmp_path / "link.engine"
    write_artifact(real, b"old", FACTS)
    link.symlink_to(real)
    written = write_artifact(link, b"new", FACTS)
    assert read_manifest(link) == read_manifest(real) == written
    assert written["file"] == "real.engine"
    assert sorted(listing(tmp_path)) == [
        "link.engine",
        "store/real.engine",
        "store/real.engine.json",
    ]


def test_read_manifest_of_links_into_a_store(tmp_path: Path) -> None:
    """Content-addressed stores lay files out so: each name is a link, the targets have none."""
    write_artifact(tmp_path / "x.onnx", b"onnx", FACTS)
    for name, blob in (("x.onnx", "1"), ("x.onnx.json", "2")):
        (tmp_path / name).rename(tmp_path / blob)
        (tmp_path / name).symlink_to(blob)
    assert read_manifest(tmp_path / "x.onnx")["bytes"] == 4


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("write", [ensure_writable, lambda path: write_atomic(path, b"x")])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("folder", "is a folder; name a file in it", id="folder"),
        pytest.param("pipe", "is a device or a pipe; name a file", id="pipe"),
        pytest.param("file/x", "cannot write .*(Not a directory|File exists)", id="below-a-file"),
        pytest.param("n" * 300, "cannot write .*too long", id="name-too-long"),
    ],
)
def test_writing_is_refused(write: Any, name: str, message: str, tmp_path: Path) -> None:  # noqa: ANN401
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    make_pipe(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileError, match=message) as info:
        write(tmp_path / name)
    assert "\n" not in str(info.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody may write")
def test_ensure_writable_refuses_a_folder_that_takes_no_files() -> None:
    with pytest.raises(FileError, match=r"cannot write in /proc: .*; choose another place"):
        ensure_writable(Path("/proc/model.onnx"))


def test_ensure_writable_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    ensure_writable(tmp_path / "x")
    ensure_writable(tmp_path / "new" / "y")
    assert listing(tmp_path) == {"x": b"old"}


def test_sha256_of_known_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")
    for name in ("missing", "."):
        with pytest.raises(FileError, match="cannot read"):
            sha256_of(tmp_path / name)


def test_manifest_describes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    written = write_artifact(path, b"engine", FACTS)
    assert manifest_path(path).name == "x.engine.json"
    assert read_manifest(path) == written
    assert written["file"] == "x.engine"
    assert written["bytes"] == 6
    assert written["sha256"] == hashlib.sha256(b"engine").hexdigest()
    assert written["kind"] == "engine"
    assert written["created"].endswith("+00:00")
    again = write_artifact(path, b"other engine", FACTS)
    assert read_manifest(path) == again != written


def test_read_manifest_takes_the_one_that_describes_the_file(tmp_path: Path) -> None:
    """While an artefact is being replaced, its manifest carries the one before it."""
    path = tmp_path / "x.engine"
    old = write_artifact(path, b"old", FACTS)
    new = write_artifact(path, b"new", FACTS)
    manifest_path(path).write_text(json.dumps(new | {"previous": old}))
    assert read_manifest(path) == new
    path.write_bytes(b"old")
    assert read_manifest(path) == old
    path.write_bytes(b"other")
    with pytest.raises(FileError, match="SHA-256 differs"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("file", "manifest"),
    [
        pytest.param(b"theirs", None, id="no-manifest"),
        pytest.param(b"theirs", "other", id="manifest-of-another"),
        pytest.param(b"theirs", "{}", id="no-manifest-of-ours"),
        pytest.param(None, '{"their": "settings"}', id="their-file-in-the-manifests-place"),
    ],
)
def test_write_artifact_leaves_what_it_did_not_make(
    file: bytes | None, manifest: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.engine"
    if manifest == "other":
        write_artifact(path, b"ours", FACTS)
    elif manifest is not None:
        manifest_path(path).write_text(manifest)
    if file is not None:
        path.write_bytes(file)
    before = listing(tmp_path)
    with pytest.raises(FileError, match=r"not made by swin-deploy.*replace it with --force"):
        write_artifact(path, b"new", FACTS)
    assert listing(tmp_path) == before
    written = write_artifact(path, b"new", FACTS, force=True)
    assert read_manifest(path) == written
    assert sorted(listing(tmp_path)) == ["x.engine", "x.engine.json"]


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty-file"),
        pytest.param(lambda path: manifest_path(path).write_bytes(b""), id="empty-manifest"),
        pytest.param(
            lambda path: (write_artifact(path, b"old", FACTS), path.unlink()), id="manifest-alone"
        ),
    ],
)
def test_write_artifact_takes_a_place_where_nothing_is_lost(prepare: Any, tmp_path: Path) -> None:  # noqa: ANN401
    prepare(tmp_path / "x.engine")
    write_artifact(tmp_path / "x.engine", b"new", FACTS)
    assert read_manifest(tmp_path / "x.engine")["bytes"] == 3


def test_write_artifacts_second_refused_writes_neither(tmp_path: Path) -> None:
    (tmp_path / "b.engine").write_bytes(b"theirs")
    before = listing(tmp_path)
    new = [NewArtifact(tmp_path / name, b"new", FACTS) for name in ("a.onnx", "b.engine")]
    with pytest.raises(FileError, match="not made by swin-deploy"):
        write_artifacts(new)
    assert listing(tmp_path) == before


def write_in_turns(path: Path, number: int) -> None:
    for turn in range(8):
        write_artifact(path, bytes([number]) * (1000 + turn), FACTS)


def test_write_artifact_concurrent_writers_and_readers_see_pairs_only(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    write_artifact(path, b"old", FACTS)
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=write_in_turns, args=(path, number)) for number in range(3)]
    for job in jobs:
        job.start()
    reads = 0
    while any(job.is_alive() for job in jobs):
        read_manifest(path)
        reads += 1
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    assert reads > 0
    assert read_manifest(path)["bytes"] == path.stat().st_size
    assert sorted(listing(tmp_path)) == ["x.engine", "x.engine.json"]


def rewrite(path: Path, text: str | bytes) -> None:
    manifest_path(path).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda path: path.unlink(), "does not exist", id="no-file"),
        pytest.param(
            lambda path: manifest_path(path).unlink(), "has no manifest", id="no-manifest"
        ),
        pytest.param(lambda path: path.write_bytes(b"e"), "SHA-256 differs", id="other-file"),
        pytest.param(lambda path: path.write_bytes(b"enginE"), "SHA-256 differs", id="one-byte"),
        pytest.param(lambda path: rewrite(path, ""), "is not a manifest", id="empty"),
        pytest.param(lambda path: rewrite(path, "{"), "is not a manifest", id="half"),
        pytest.param(lambda path: rewrite(path, "[]"), "is not a manifest", id="list"),
        pytest.param(lambda path: rewrite(path, "3"), "is not a manifest", id="number"),
        pytest.param(lambda path: rewrite(path, "{}"), "is not a manifest", id="no-keys"),
        pytest.param(lambda path: rewrite(path, b"\xff\xfe\x00"), "is not a manifest", id="binary"),
        pytest.param(lambda path: rewrite(path, "[" * 100_000), "is not a manifest", id="deep"),
        pytest.param(
            lambda path: rewrite(path, json.dumps({"sha256": sha256_of(path)})),
            "is not a manifest .*schema",
            id="hash-alone",
        ),
    ],
)
def test_read_manifest_refuses(damage: Any, message: str, tmp_path: Path) -> None:  # noqa: ANN401
    path = tmp_path / "x.engine"
    write_artifact(path, b"engine", FACTS)
    damage(path)
    with pytest.raises(FileError, match=message) as info:
        read_manifest(path)
    assert "\n" not in str(info.value)


def test_read_manifest_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist, or is not a file"):
        read_manifest(tmp_path)
