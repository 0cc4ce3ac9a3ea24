"""Timing caches of full TensorRT, as its documentation describes them.

TensorRT-RTX has the same functions, but they keep no timings, and full TensorRT builds on a GPU
only. So what is said of merging is shown with these; names are checked elsewhere.
"""

import json
from pathlib import Path
from types import SimpleNamespace

from exporters.engine.timing_cache import attach_timing_cache, keep_timing_cache
from exporters.spec import CacheFile


class Cache:
    """Timings by kernel, of one GPU."""

    def __init__(self, gpu: str, timings: dict[str, float]) -> None:
        self.gpu, self.timings = gpu, timings

    def serialize(self) -> bytes:
        return json.dumps([self.gpu, self.timings]).encode()

    def combine(self, other: "Cache", *, ignore_mismatch: bool) -> bool:
        """Append the other's entries; entries in conflict are skipped."""
        assert not ignore_mismatch
        if other.gpu == self.gpu:
            self.timings = other.timings | self.timings
        return other.gpu == self.gpu


class Config:
    """The builder's configuration on a machine with a GPU of some name."""

    def __init__(self, gpu: str = "here") -> None:
        self.gpu = gpu
        self.attached: Cache | None = None

    def create_timing_cache(self, data: bytes) -> Cache:
        """An empty one where ``data`` is empty or cannot be read."""
        try:
            return Cache(*json.loads(data))
        except ValueError:
            return Cache(self.gpu, {})

    def set_timing_cache(self, cache: Cache, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.gpu != self.gpu:
            return False
        self.attached = cache
        return True


TRT = SimpleNamespace(
    __name__="tensorrt",
    __version__="11.4.0.106",
    IBuilderConfig=Config,
    ITimingCache=Cache,
)


def build(path: Path, kernels: dict[str, float], *, gpu: str = "here") -> list[str]:
    """What a build does with its timing cache; returns its warnings."""
    warnings: list[str] = []
    config = Config(gpu)
    cache = attach_timing_cache(TRT, config, CacheFile(path), warn=warnings.append)
    assert config.attached is cache
    assert cache is not None
    cache.timings |= kernels
    keep_timing_cache(config, cache, path, progress=warnings.append, warn=warnings.append)
    return warnings


def build_one_of_many(path: str, index: int) -> None:
    """For a process of its own: several builds, each of which times one kernel more."""
    for turn in range(5):
        assert build(Path(path), {f"{index}/{turn}": 1.0}) == []
