"""The cache folder, the names in it, and files that several processes share."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporters import caches
from exporters.backends import Gpu
from exporters.caches import cache_folder, locked, read_cache, runtime_cache_path, timing_cache
from exporters.errors import FileError

HOLD_LOCK = """
import pathlib, sys, time
from exporters.caches import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("SWIN_DEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "/home/someone/.cache/swin-deploy"),
        ({"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/swin-deploy"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/someone/.cache/swin-deploy"),
        ({"XDG_CACHE_HOME": ""}, "/home/someone/.cache/swin-deploy"),
        ({"SWIN_DEPLOY_CACHE": "/own", "XDG_CACHE_HOME": "/var/cache"}, "/own"),
        ({"SWIN_DEPLOY_CACHE": "~/own"}, "/home/someone/own"),
        ({"SWIN_DEPLOY_CACHE": ""}, "/home/someone/.cache/swin-deploy"),
    ],
    ids=str,
)
def test_cache_folder(variables: dict[str, str], folder: str, clean: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        clean.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_runtime_cache_is_of_one_engine_version_and_gpu(clean: pytest.MonkeyPatch) -> None:
    first = runtime_cache_path("tensorrt-rtx", "1.7.1.116", gpu="NVIDIA RTX 4090", sha256="ab" * 32)
    assert first.name == "runtime-tensorrt-rtx-1.7.1.116-NVIDIA_RTX_4090-abababababababab.cache"
    others = [
        runtime_cache_path("tensorrt", "1.7.1.116", gpu="NVIDIA RTX 4090", sha256="ab" * 32),
        runtime_cache_path("tensorrt-rtx", "1.8", gpu="NVIDIA RTX 4090", sha256="ab" * 32),
        runtime_cache_path("tensorrt-rtx", "1.7.1.116", gpu="NVIDIA L4", sha256="ab" * 32),
        runtime_cache_path("tensorrt-rtx", "1.7.1.116", gpu="NVIDIA RTX 4090", sha256="cd" * 32),
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize("gpu", ["../../etc/passwd", "GPU/0", "a b\nc", "Ünï"])
def test_no_gpu_name_leaves_the_folder(gpu: str, clean: pytest.MonkeyPatch) -> None:
    path = runtime_cache_path("tensorrt-rtx", "1.7", gpu=gpu, sha256="ab" * 32)
    assert path.parent == cache_folder()
    assert not set(path.name) & set("/\n ")


def test_timing_cache_is_the_flavors_versions_and_gpus(clean: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "11.4.0.106"

    clean.setattr(caches, "load_tensorrt", lambda flavor: Module)
    clean.setattr(caches, "current_gpu", lambda: Gpu("NVIDIA H200", "9.0"))
    found = timing_cache("tensorrt")
    assert found is not None
    assert found.path.name == "timing-tensorrt-11.4.0.106-NVIDIA_H200.cache"
    assert not found.named
    assert timing_cache("tensorrt-rtx") is None  # it times nothing
    clean.setattr(caches, "current_gpu", lambda: None)
    assert timing_cache("tensorrt") is None  # it builds nothing


def test_read_cache_of_nothing_is_empty_and_of_a_folder_an_error(tmp_path: Path) -> None:
    assert read_cache(tmp_path / "new") == b""
    with pytest.raises(FileError, match=r"cannot read the cache .*: Is a directory; delete it"):
        read_cache(tmp_path)


def test_lock_keeps_another_process_out_until_it_ends(tmp_path: Path) -> None:
    lines: list[str] = []
    path = tmp_path / "folder" / "x.cache"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(FileError, match=r"kept .*x\.cache\.lock locked for 1\.2 s; end it"),
            locked(path, wait_s=1.2, progress=lines.append),
        ):
            pytest.fail("two processes have the lock")
        assert lines == ["waiting for another process to let go of x.cache.lock"]
        other.kill()  # however it ends, the lock goes with it
        with locked(path, wait_s=20):
            pass
    finally:
        other.kill()
        other.communicate()


def test_lock_can_be_taken_again_also_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), locked(tmp_path / "x", wait_s=0):
            raise ValueError("inside")
    with locked(tmp_path / "x", wait_s=0), locked(tmp_path / "y", wait_s=0):
        started = time.monotonic()
        with pytest.raises(FileError, match="locked for 0 s"), locked(tmp_path / "x", wait_s=0):
            pass
        assert time.monotonic() - started < 10


def test_lock_where_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FileError, match=r"cannot lock .*; name another cache"),
        locked(tmp_path / "file" / "x"),
    ):
        pass
