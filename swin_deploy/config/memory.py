"""Memory that a model needs at least, and that this machine has, checked before any allocation.

Without the check, an allocation that is too large fails deep in a library, or the system ends this
process or another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exporters.errors import ConfigError
from swin_deploy.config import SwinConfig

FLOAT_BYTES, INDEX_BYTES = 4, 8
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def needed_bytes(config: SwinConfig, batch: int = 1) -> int:
    """Return the fewest bytes that a model's buffers and one float32 call take, without weights.

    The call is counted as the larger one of the images, also cut to patches, and of the largest
    attention: input, queries, keys, values and scores, of pads too.

    Args:
        config: The model's config.
        batch: Number of images of the call.
    """
    buffers, largest = 0, 2 * config.in_channels * config.image.area
    for stage in config.stages:
        tokens = stage.padded.area
        scores = stage.num_heads * stage.window_area
        largest = max(largest, tokens * (4 * stage.dim + scores))
        masked = stage.depth // 2 if any(stage.shift_size) else 0
        buffers += stage.depth * stage.window_area**2 * INDEX_BYTES
        buffers += masked * tokens * stage.window_area * FLOAT_BYTES
    return buffers + batch * largest * FLOAT_BYTES


def available_bytes() -> int | None:
    """Return the bytes of memory and swap that this process may still take; None if not known."""
    return min(_limits(), default=None)


def require_memory(config: SwinConfig, *, batch: int = 1) -> None:
    """Refuse a model that this machine does not have the memory for.

    Args:
        config: The model's config.
        batch: Number of images of one call; counted as 1 on a machine with a GPU.

    Raises:
        ConfigError: If the model needs more than is available.
    """
    import torch  # here, not above: sizes are known without it

    if torch.cuda.is_available():  # the GPU runs the batch, and reports itself if it is too large
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
    """Yield the bytes that ``ulimit -v`` leaves, if it is set."""
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
