"""What a model needs at least, and what this machine has: asked before anything is allocated.

Left to the allocator, a size that cannot be had ends in an error deep in a library, or the system
ends the process, or another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exporters.errors import ConfigError
from swin_deploy.config import SwinConfig

FLOAT_BYTES, INDEX_BYTES = 4, 8
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def needed_bytes(config: SwinConfig, batch: int = 1) -> int:
    """The fewest bytes that a model's buffers and one call in float32 take, without its weights.

    One attention is counted: its input, queries, keys, values and scores.
    """
    buffers = largest = 0
    for stage in config.stages:
        tokens = stage.resolution.area
        scores = stage.num_heads * stage.window_area
        largest = max(largest, tokens * (4 * stage.dim + scores))
        masked = stage.depth // 2 if any(stage.shift_size) else 0
        buffers += stage.depth * stage.window_area**2 * INDEX_BYTES
        buffers += masked * tokens * stage.window_area * FLOAT_BYTES
    return buffers + batch * largest * FLOAT_BYTES


def available_bytes() -> int | None:
    """What this process may still take, without the disk but for swap; None where nothing tells."""
    return min(_limits(), default=None)


def require_memory(config: SwinConfig, *, batch: int = 1) -> None:
    """Refuse a model that this machine has not the memory for.

    Raises:
        ConfigError: If so.
    """
    import torch  # here, not above: sizes are known without it

    if torch.cuda.is_available():  # the GPU does the work, and says itself what it lacks
        batch = 1
    need, have = needed_bytes(config, batch), available_bytes()
    if have is not None and need > have:
        raise ConfigError(
            f"image size {config.img_size}, windows of {max(config.window_sizes)} and batch "
            f"{batch} need {need / 1e9:,.1f} GB of memory at least, here are {have / 1e9:,.1f} GB; "
            "use smaller ones"
        )


def _limits() -> Iterator[int]:
    yield from _system()
    yield from _address_space()
    for path in map(Path, CGROUP_LIMITS):
        text = _read(path).strip()
        if text.isdecimal():
            yield int(text)


def _system() -> Iterator[int]:
    fields = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" in fields:
        kib = [int(fields.get(name, "0").split()[0]) for name in ("MemAvailable", "SwapFree")]
        yield sum(kib) << 10


def _address_space() -> Iterator[int]:
    """What ``ulimit -v`` leaves."""
    try:
        import resource
    except ImportError:  # no POSIX
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _read(Path("/proc/self/statm")).split()
    if limit != resource.RLIM_INFINITY and used:
        yield max(0, limit - int(used[0]) * resource.getpagesize())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
