"""Pickles that would run code or read out of bounds: nothing runs, and all is one line."""

import contextlib
import io
import pickle
import resource
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import Command
from hostile_pickles import (
    DOUBLING,
    NESTED,
    STREAMS,
    WAYS,
    WRONG,
    imported,
    rezipped,
    saved,
    text,
    view,
    whole,
)  # fmt: skip

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.files import pytorch_reads, read_values, read_weights

TENSORS = saved({"a": torch.arange(4.0)})
LARGE = 1_000_000


def legacy(stream: bytes) -> bytes:
    """The legacy form with this pickle in it, and a storage 0 of four values."""
    first = saved({"a": torch.arange(4.0)}, "legacy")
    place = io.BytesIO(first)
    for _ in range(3):
        pickle.load(place)
    head = first[: place.tell()]
    values = torch.arange(4.0).numpy().tobytes()
    keys = pickle.dumps(["0"], 2)
    return head + stream + keys + (4).to_bytes(8, "little") + values


def in_form(stream: bytes, form: str) -> bytes:
    if form == "zip":
        return rezipped(TENSORS, stream)
    return legacy(stream) if form == "legacy" else stream


def read(data: bytes, folder: Path) -> object:
    """The values of a file, or the one line that refuses it; nothing else is there afterwards."""
    path = folder / "bad.pt"
    path.write_bytes(data)
    try:
        found: object = read_values(path)
    except CheckpointError as err:
        found = str(err)
        assert "\n" not in found
        assert len(found) < 500
    assert [one.name for one in folder.iterdir()] == ["bad.pt"]
    return found


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", WAYS)
def test_read_values_runs_nothing(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 4, 5):
        stream = b"\x80" + bytes([protocol]) + b"}" + text("a") + WAYS[name] + b"s."
        read(in_form(stream, form), tmp_path)


@pytest.mark.parametrize("name", ["reduce", "obj", "inst", "add items", "append"])
def test_ways_do_run_in_an_ordinary_reader(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cases carry is live."""
    monkeypatch.chdir(tmp_path)
    stream = b"\x80\x04}" + text("a") + WAYS[name] + b"s."
    pickle.loads(stream)
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if len(stream) < LARGE])
def test_read_values_of_any_stream_ends(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 5):
        read(in_form(b"\x80" + bytes([protocol]) + STREAMS[name], form), tmp_path)


# These are right, though they look odd: eight bytes are one value of another type, an empty array.
RIGHT = ("another type", "array vast")


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", WRONG)
def test_read_weights_never_reads_beyond_its_data(name: str, form: str, tmp_path: Path) -> None:
    stream = b"\x80\x02}" + text("a") + WRONG[name] + b"s."
    path = tmp_path / "bad.pt"
    path.write_bytes(in_form(stream, form))
    if name == "another type":
        found = read_weights(path).chosen.tensors["a"]
        assert found.numel() == 2
        return
    with pytest.raises(CheckpointError) as info:
        read_weights(path)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_read_weights_takes_the_right_view(form: str, tmp_path: Path) -> None:
    """The same instructions as the wrong ones, with numbers that fit."""
    values = view(b"K\x01", whole(2), whole(2))
    stream = b"\x80\x02}" + text("a") + values + b"s."
    (tmp_path / "good.pt").write_bytes(in_form(stream, form))
    assert read_weights(tmp_path / "good.pt").chosen.tensors["a"].tolist() == [1, 3]


def write_tar(path: Path, *, link: str = "") -> None:
    """A tar file whose members point elsewhere."""
    with tarfile.open(path, "w") as archive:
        for name in ("../outside/weights.pth", "/tmp/pwned.pth", "storages", "pickle", "tensors")[
            : 2 if not link else None
        ]:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"abcd"))
        if link:
            member = tarfile.TarInfo("link.pth")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)


@pytest.mark.parametrize(
    ("link", "message"),
    [("", "a tar archive that holds ../outside/weights.pth"), ("/etc/passwd", "before 0.1.10")],
)
def test_tar_is_told_by_name_and_nothing_is_unpacked(
    link: str, message: str, swin: Command, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write_tar(inside / "w.pth.tar", link=link)
    swin("export", "--checkpoint", inside / "w.pth.tar").assert_error(message)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["inside", "w.pth.tar"]


def test_zip_whose_storage_is_a_link_is_read_as_bytes(tmp_path: Path) -> None:
    """A symbolic link in a zip is a member with a path in it, and no more."""
    with (
        zipfile.ZipFile(io.BytesIO(TENSORS)) as old,
        zipfile.ZipFile(tmp_path / "w.pt", "w") as new,
    ):
        for name in old.namelist():
            info = zipfile.ZipInfo(name)
            if "/data/" in name:
                info.external_attr = 0o120777 << 16
            new.writestr(info, b"/etc/passwd" if "/data/" in name else old.read(name))
    with pytest.raises(CheckpointError, match="a storage of 16 bytes, of which it has 11"):
        read_weights(tmp_path / "w.pt")


def test_file_that_would_run_code_through_the_cli_is_read_inertly(
    swin: Command, tmp_path: Path
) -> None:
    stream = b"\x80\x02}" + text("a") + WAYS["reduce"] + b"s."
    (tmp_path / "bad.pt").write_bytes(rezipped(TENSORS, stream))
    swin("export", "--checkpoint", "bad.pt").assert_error("bad.pt")
    assert [one.name for one in tmp_path.iterdir()] == ["bad.pt"]


@pytest.mark.parametrize(
    ("stream", "fits"),
    [
        (b"}" + text("a") + view(b"K\x00", whole(2), whole(1)) + b"s.", True),
        (b"}" + text("a") + view(b"K\x00", whole(2), whole(1)) + b"s" + NESTED + b"Ns.", False),
        (b"}" + text("a") + DOUBLING + b"s.", False),
        (b"}" + text("a") + WAYS["reduce"] + b"s.", False),
        (b"}" + text("a") + imported("argparse.Namespace") + b")\x81}bs.", True),
    ],
    ids=["tensor", "key-that-hashes-for-ever", "text-that-doubles", "code", "namespace"],
)
def test_pytorch_reads_only_what_its_reader_can_neither_run_nor_blow_up(
    stream: bytes, fits: bool, tmp_path: Path
) -> None:
    """The originals are loaded by PyTorch and timm, after this check."""
    (tmp_path / "w.pt").write_bytes(rezipped(TENSORS, b"\x80\x02" + stream))
    assert pytorch_reads(tmp_path / "w.pt") == fits
    (tmp_path / "w.pt").write_bytes(rezipped(TENSORS, b"\x80\x04" + stream))
    assert not pytorch_reads(tmp_path / "w.pt")  # PyTorch's reader knows protocol 2 alone


def memo(stream: bytes, times: int, more: bytes) -> bytes:
    """A value that is kept in the memo, and that many calls share."""
    return b"}" + text("a") + b"]" + stream + b"q\x010(" + more * times + b"es."


STORED = saved(torch.UntypedStorage(16), "legacy")
LONG = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
LETTERS = text("a" * (1 << 20))
ENTRIES = b"}(" + b"".join(text(str(index)) + b"N" for index in range(50_000)) + b"u"
MANY = b"](" + b"N" * 100_000 + b"e"
LARGE_ARRAY = (
    imported("numpy.core.multiarray._reconstruct") + imported("numpy.ndarray")
    + b"K\x00\x85C\x01b\x87R(K\x01" + whole(1 << 20) + imported("numpy.dtype") + text("u1")
    + b"\x89\x88\x87R\x89h\x01tb"
)  # fmt: skip
MODULE = (
    b"}(" + text("_parameters") + b"h\x01" + text("_modules") + b"}" + text("_buffers") + b"}ub"
)
SHARED: dict[str, tuple[bytes, int, bytes]] = {
    "data of arrays": (LONG, 2000, LARGE_ARRAY),
    "text of calls": (
        LETTERS, 2000, imported("_codecs.encode") + b"h\x01" + text("latin1") + b"\x86R"
    ),
    "names of imports": (LETTERS, 2000, b"h\x01h\x01\x93"),
    "states": (ENTRIES, 2000, imported("a.B") + b")\x81h\x01b"),
    "keywords": (ENTRIES, 2000, imported("a.B") + b")h\x01\x92"),
    "dicts of counters": (ENTRIES, 2000, imported("collections.Counter") + b"h\x01\x85R"),
    "members of sets": (MANY, 2000, imported("builtins.set") + b"h\x01\x85R"),
    "parameters of modules": (ENTRIES, 2000, imported("a.B") + b")\x81" + MODULE),
    "bytes of storages": (
        b"B" + struct.pack("<I", len(STORED)) + STORED, 2000,
        view(b"K\x00", whole(4), whole(1),
             storage=imported("torch.storage._load_from_bytes") + b"h\x01\x85R"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "pickle"])
@pytest.mark.parametrize("name", SHARED)
def test_read_values_of_what_many_calls_share_takes_little_memory(
    name: str, form: str, tmp_path: Path
) -> None:
    """A value in the memo is one value, however many calls take it as theirs."""
    (tmp_path / "bad.pt").write_bytes(in_form(b"\x80\x04" + memo(*SHARED[name]), form))
    before = resource.getrusage(resource.RUSAGE_SELF)
    with contextlib.suppress(CheckpointError):
        read_values(tmp_path / "bad.pt")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) * 1024 < 1 << 30
    assert after.ru_utime - before.ru_utime < 10
