"""Where files may go: what is checked before anything is computed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import listing

from exporters.artifact import artifact_outputs, write_artifact
from exporters.errors import FileError
from exporters.outputs import Output, claim, ensure_writable, is_signed, sign


def theirs(path: Path) -> Output:
    return Output(path, lambda _: False)


def ours(path: Path) -> Output:
    return Output(path, lambda _: True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.pt"
    path.write_bytes(b"weights")
    return path


def same(source: Path) -> Path:
    return source


def roundabout(source: Path) -> Path:
    return source.parent / "folder" / ".." / source.name


def soft_link(source: Path) -> Path:
    (source.parent / "link").symlink_to(source.name)
    return source.parent / "link"


def link_to_a_link(source: Path) -> Path:
    soft_link(source)
    (source.parent / "folder" / "second").symlink_to("../link")
    return source.parent / "folder" / "second"


def hard_link(source: Path) -> Path:
    os.link(source, source.parent / "hard")
    return source.parent / "hard"


def linked_folder(source: Path) -> Path:
    (source.parent / "other").symlink_to(".")
    return source.parent / "other" / source.name


WAYS = (same, roundabout, soft_link, link_to_a_link, hard_link, linked_folder)


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize("output", [ours, theirs])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_claim_refuses_the_file_to_read_whatever_leads_there(
    way: Callable[[Path], Path], output: Callable[[Path], Output], force: bool, source: Path
) -> None:
    (source.parent / "folder").mkdir()
    path = way(source)
    with pytest.raises(FileError, match=f"{path.name} is the file to read; name another output"):
        claim([output(path)], inputs=[source], force=force)
    assert source.read_bytes() == b"weights"


@pytest.mark.parametrize("way", [soft_link, hard_link], ids=lambda way: way.__name__)
def test_claim_refuses_what_belongs_to_an_input(
    way: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Its manifest, the files of a folder, the parts that an index lists."""
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    inputs = {
        tmp_path / "m.onnx": tmp_path / "m.onnx.json",
        tmp_path / "folder": tmp_path / "folder" / "deep" / "x.png",
        tmp_path / "model.safetensors.index.json": tmp_path / "model-00001.safetensors",
    }
    for given, part in inputs.items():
        part.write_bytes(b"part")
        given.is_dir() or given.write_bytes(b"given")
        path = way(part)
        with pytest.raises(FileError, match="is the file to read"):
            claim([theirs(path)], inputs=[given], force=True)
        path.unlink()


def test_claim_takes_new_files_in_and_beside_an_input(source: Path, tmp_path: Path) -> None:
    claim([theirs(tmp_path / "new")], inputs=[source, tmp_path])
    claim([theirs(source)], inputs=[tmp_path / "no-such-input"], force=True)


def test_claim_refuses_what_somebody_else_made(source: Path) -> None:
    message = r"source.pt is there and was not made by swin-deploy.*with --force"
    with pytest.raises(FileError, match=message):
        claim([theirs(source)])
    claim([theirs(source)], force=True)
    claim([ours(source)])
    source.write_bytes(b"")  # nothing is lost
    claim([theirs(source)])


@pytest.mark.parametrize("name", ["n" * 300, "no/such/model.safetensors.index.json", "", "\udcff"])
def test_claim_takes_inputs_of_any_name(name: str, source: Path) -> None:
    claim([theirs(source)], inputs=[Path(name)], force=True)


def test_claim_of_a_file_that_cannot_be_read_is_refused(source: Path) -> None:
    def unreadable(_: Path) -> bool:
        raise PermissionError

    with pytest.raises(FileError, match="not made by swin-deploy"):
        claim([Output(source, unreadable)])


def test_claim_refuses_two_outputs_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(FileError, match=r"x and .*link are the same file; name another output"):
        claim([ours(tmp_path / "x"), ours(tmp_path / "link")])


def test_claim_checks_the_manifests_place(tmp_path: Path) -> None:
    (tmp_path / "x.engine.json").mkdir()
    with pytest.raises(FileError, match=r"x\.engine\.json is a folder"):
        claim(artifact_outputs(tmp_path / "x.engine"))
    name = "n" * 248 + ".onnx"  # with .json it is too long
    with pytest.raises(FileError, match="File name too long"):
        claim(artifact_outputs(tmp_path / name))


def test_artifact_with_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 122 + ".onnx")  # 249 bytes; 254 with .json
    write_artifact(path, b"x", {"kind": "onnx"})
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file that not even root may change."""
    folder = tmp_path / "kept"
    folder.mkdir()
    path = folder / "x.engine"
    path.write_bytes(b"old")
    try:
        subprocess.run(["chattr", "+i", path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs chattr +i: root, and a file system that has it")
    yield path
    subprocess.run(["chattr", "-i", path, folder], check=True)


def test_ensure_writable_refuses_an_immutable_file(immutable: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write .*x.engine: Operation not permitted"):
        ensure_writable(immutable)
    ensure_writable(immutable.parent / "y")


def test_immutable_manifest_is_found_before_the_artefact_is_replaced(immutable: Path) -> None:
    folder = immutable.parent
    write_artifact(folder / "y.engine", b"old", {"kind": "engine"})
    subprocess.run(["chattr", "+i", folder / "y.engine.json"], check=True)
    before = listing(folder)
    try:
        with pytest.raises(FileError, match=r"cannot write .*y.engine.json: Operation not"):
            write_artifact(folder / "y.engine", b"new", {"kind": "engine"})
    finally:
        subprocess.run(["chattr", "-i", folder / "y.engine.json"], check=True)
    assert listing(folder) == before


def test_ensure_writable_refuses_an_immutable_folder(immutable: Path) -> None:
    subprocess.run(["chattr", "+i", immutable.parent], check=True)
    with pytest.raises(FileError, match=r"cannot write in .*kept: Operation not permitted"):
        ensure_writable(immutable.parent / "y")
    with pytest.raises(FileError, match=r"cannot write in .*kept/new: Operation not permitted"):
        ensure_writable(immutable.parent / "new" / "y")


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from exporters.errors import FileError
from exporters.outputs import ensure_writable
os.setgid(65534); os.setuid(65534)
for name in sys.argv[1:]:
    try:
        ensure_writable(Path(name))
        print("may")
    except FileError as err:
        print(err)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to give up")
def test_ensure_writable_refuses_what_permissions_forbid() -> None:
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        for name, mode in (("closed", 0o755), ("sticky", 0o1777), ("open", 0o777)):
            (folder / name).mkdir()
            (folder / name / "x").write_bytes(b"")
            (folder / name / "x").chmod(0o666 if name == "sticky" else 0o644)
            (folder / name).chmod(mode)
        folder.chmod(0o755)
        names = [f"{folder}/{name}" for name in ("closed/y", "open/x", "sticky/x", "open/y")]
        command = [sys.executable, "-c", UNPRIVILEGED, *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        subprocess.run(["rm", "-r", folder], check=True)
    closed, other, sticky, new = done.stdout.splitlines()
    assert closed.startswith(f"cannot write in {folder}/closed: Permission denied")
    assert other.startswith(f"cannot write {folder}/open/x: Permission denied")
    assert sticky.startswith(f"cannot write {folder}/sticky/x: the file is another user's")
    assert new == "may"


@pytest.mark.parametrize(
    "path", ["n" * 300, "new/" + "n" * 300, "n" * 300 + "/x", "a/" + "n" * 300 + "/b/x"]
)
def test_ensure_writable_refuses_names_that_are_too_long(path: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write .*File name too long"):
        ensure_writable(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_ensure_writable_makes_no_folder(tmp_path: Path) -> None:
    ensure_writable(tmp_path / "a" / "b" / "x")
    assert list(tmp_path.iterdir()) == []


def test_signature_is_of_its_kind_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_bytes(sign("# é\n", "report"))
    assert path.read_text(encoding="utf-8") == "# é\n<!-- made by swin-deploy: report -->\n"
    assert is_signed(path, "report")
    assert not is_signed(path, "plan")
    with path.open("a") as stream:
        stream.write("and a note\n")
    assert not is_signed(path, "report")
    path.write_bytes(b"")
    assert not is_signed(path, "report")
