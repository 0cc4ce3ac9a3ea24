"""Kernel timings kept between builds: read, refused, merged, and shared by processes."""

import importlib.util
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from timing_stand_in import TRT, Cache, Config, build, build_one_of_many

from exporters.caches import locked
from exporters.engine.timing_cache import attach_timing_cache, keep_timing_cache
from exporters.errors import BuildError, DeployError, FileError
from exporters.spec import CacheFile


def timings(path: Path) -> dict[str, float]:
    return Config().create_timing_cache(path.read_bytes()).timings


def test_timings_are_kept_from_one_build_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "new" / "timings.cache"
    assert build(path, {"gemm": 1.0}) == []
    assert build(path, {"conv": 2.0}) == []
    assert timings(path) == {"gemm": 1.0, "conv": 2.0}
    config = Config()
    cache = attach_timing_cache(TRT, config, CacheFile(path, named=True), warn=pytest.fail)
    assert cache.timings == {"gemm": 1.0, "conv": 2.0}


def test_timings_that_another_build_wrote_meanwhile_stay(tmp_path: Path) -> None:
    path, config = tmp_path / "timings.cache", Config()
    ours = attach_timing_cache(TRT, config, CacheFile(path), warn=pytest.fail)
    build(path, {"theirs": 1.0, "both": 1.0})
    ours.timings |= {"ours": 2.0, "both": 2.0}
    keep_timing_cache(config, ours, path, progress=pytest.fail, warn=pytest.fail)
    assert timings(path) == {"theirs": 1.0, "ours": 2.0, "both": 2.0}


def test_builds_in_several_processes_lose_no_timing(tmp_path: Path) -> None:
    path = tmp_path / "timings.cache"
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=build_one_of_many, args=(str(path), n)) for n in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    assert timings(path).keys() == {f"{n}/{turn}" for n in range(3) for turn in range(5)}


FOREIGN = {
    "junk": b"no cache at all",
    "cut": Cache("here", {"gemm": 1.0}).serialize()[:-4],
    "another GPU": Cache("elsewhere", {"gemm": 1.0}).serialize(),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=list(FOREIGN))
def test_a_cache_that_does_not_fit_is_replaced_with_a_warning(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "timings.cache"
    path.write_bytes(data)
    (warning,) = build(path, {"conv": 2.0})
    assert warning == (
        f"{path} is no timing cache of this TensorRT and this GPU; timing every kernel anew"
    )
    assert timings(path) == {"conv": 2.0}
    assert build(path, {}) == []


@pytest.mark.parametrize("data", FOREIGN.values(), ids=list(FOREIGN))
def test_a_named_cache_that_does_not_fit_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "timings.cache"
    path.write_bytes(data)
    with pytest.raises(BuildError, match=f"^{path} is no timing cache of this .*; delete it, or"):
        attach_timing_cache(TRT, Config(), CacheFile(path, named=True), warn=pytest.fail)
    assert path.read_bytes() == data


def test_an_empty_cache_fits(tmp_path: Path) -> None:
    path = tmp_path / "timings.cache"
    assert build(path, {}) == []
    assert build(path, {}) == []


def unusable(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("no folder")
    return tmp_path / "file" / "timings.cache"


def test_a_place_that_cannot_be_written_costs_the_timings_only(tmp_path: Path) -> None:
    warnings = build(unusable(tmp_path), {"gemm": 1.0})
    assert len(warnings) == 2
    assert warnings[0].startswith("building without kept kernel timings: cannot write in ")
    assert warnings[1].startswith("the kernel timings of this build are not kept: cannot lock ")


def test_a_named_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    file = CacheFile(unusable(tmp_path), named=True)
    with pytest.raises(FileError, match="cannot write in"):
        attach_timing_cache(TRT, Config(), file, warn=pytest.fail)


def test_a_full_disk_keeps_the_timings_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "timings.cache"
    build(path, {"gemm": 1.0})

    def no_space(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    (warning,) = build(path, {"conv": 2.0})
    assert "not kept: cannot write" in warning
    assert timings(path) == {"gemm": 1.0}


def test_waiting_for_another_process_can_be_stopped(tmp_path: Path) -> None:
    path, config = tmp_path / "timings.cache", Config()
    cache = attach_timing_cache(TRT, config, CacheFile(path), warn=pytest.fail)

    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with locked(path), pytest.raises(KeyboardInterrupt, match="waiting for another process"):
        keep_timing_cache(config, cache, path, progress=stop, warn=pytest.fail)
    assert not path.exists()


def test_a_version_without_timing_caches_is_refused(tmp_path: Path) -> None:
    old = SimpleNamespace(**vars(TRT) | {"ITimingCache": object})
    with pytest.raises(DeployError, match=r"has no ITimingCache\.combine, .* later version"):
        attach_timing_cache(old, Config(), CacheFile(tmp_path / "x"), warn=pytest.fail)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorRT-RTX's: they do nothing there
@pytest.mark.parametrize("named", [False, True])
def test_a_real_builder_takes_an_empty_cache_and_not_junk(named: bool, tmp_path: Path) -> None:
    """The calls themselves, on a real configuration: TensorRT-RTX's keeps no timings."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    warnings: list[str] = []
    config, path = builder.create_builder_config(), tmp_path / "timings.cache"
    file = CacheFile(path, named=named)
    for _ in range(2):
        cache = attach_timing_cache(trt, config, file, warn=warnings.append)
        keep_timing_cache(config, cache, path, progress=pytest.fail, warn=warnings.append)
        assert warnings == []
        assert path.stat().st_size > 0
    path.write_bytes(b"junk" * 40)
    if named:
        with pytest.raises(BuildError, match="is no timing cache"):
            attach_timing_cache(trt, config, file, warn=warnings.append)
    else:
        attach_timing_cache(trt, config, file, warn=warnings.append)
        assert len(warnings) == 1
