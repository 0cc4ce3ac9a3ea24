"""A stand-in for PyTorch's CUDA: a stream, memory, graphs, and errors that do not go away.

Work on the stream is done when somebody waits for it, not before, so that a missing wait shows.
Memory holds NaN until something is written to it, and longer where nobody waits for PyTorch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

ILLEGAL = "CUDA error: an illegal memory access was encountered"
real_empty = torch.empty


class World:
    """What the machine is like, and what happened on it.

    Attributes:
        calls: Names of the calls of TensorRT and CUDA, in order.
        fail_at: Number of the call to fail, and how: ``refuses`` or ``raises``.
        refuses: Lines logged by calls of a name, which then refuse.
        validity: What is said of every engine: a name, and bits of reasons.
        log_error: Log of the last runtime made.
        crashes: What would have ended the process.
        sticky: The CUDA error that every later call reports.
        waits: How often somebody waited for the GPU.
        contexts: Settings of each execution context made.
        replays: Number of CUDA graphs launched.
        queue: Work on the stream.
        late: Work of PyTorch's own stream, which comes last where nobody waits for all.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at: tuple[int, str] | None = None
        self.refuses: dict[str, tuple[str, ...]] = {}
        self.validity = "VALID", 0
        self.crashes: list[str] = []
        self.sticky = ""
        self.waits = 0
        self.contexts: list[tuple[Any, Any]] = []
        self.replays = 0
        self.queue: list[Callable[[], object]] = []
        self.late: list[Callable[[], object]] = []
        self.recording: list[Callable[[], object]] | None = None
        self.memory: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self.needs: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.numbers = itertools.count()
        self.log_error: Callable[[str], object] = str

    def is_called(self, name: str, refusal: Any, cuda: bool = False) -> Any:
        """Note a call; the value or exception by which it fails, if it is to."""
        number = len(self.calls)
        self.calls.append(name)
        if self.sticky and cuda:
            raise RuntimeError(f"{self.sticky}\nCUDA kernel errors might be reported later")
        if self.fail_at is not None and self.fail_at[0] == number:
            self.log_error(f"{name} was made to fail")
            if self.fail_at[1] == "raises" or refusal is None:
                raise RuntimeError(f"{name} was made to raise\nin two lines")
            return refusal
        if name in self.refuses:
            for line in self.refuses[name]:
                self.log_error(line)
            return refusal
        return None

    def enqueue(self, work: Callable[[], object]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def wait(self, *, for_all: bool = False) -> None:
        """Do the work on the stream; with ``for_all`` that of PyTorch's own before it."""
        self.waits += 1
        if self.recording is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        waiting = [*self.late, *self.queue] if for_all else [*self.queue, *self.late]
        self.queue, self.late = [], []
        for work in waiting:
            if not self.sticky:
                work()
        if self.sticky:
            raise RuntimeError(f"{self.sticky}\nCUDA kernel errors might be reported later")

    def array_at(self, address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray | None:
        """The memory of an address as an array; None where it is not there any more."""
        tensor, held = self.memory.get(address, (lambda: None, 0))
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        if tensor() is None or size > held:
            return None
        block = (ctypes.c_char * size).from_address(address)
        return np.frombuffer(block, kind).reshape(shape)

    def is_empty(self) -> bool:
        """Whether every object of TensorRT is gone."""
        return not self.needs


class CudaTensor(torch.Tensor):
    """Device or pinned memory; a copy that need not be waited for is done when somebody waits."""

    copies: list[str]  # that were not waited for

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        plain = self.as_subclass(torch.Tensor)
        work = functools.partial(plain.copy_, source.as_subclass(torch.Tensor))
        if not non_blocking:
            work()
            return self
        WORLDS[0].is_called("Tensor.copy_", None, cuda=True)
        WORLDS[0].enqueue(work)
        for one in (self, source):
            one.copies.append("")  # type: ignore[attr-defined]
        return self


WORLDS: list[World] = []  # the one that PyTorch's stand-ins belong to


def _empty(*shape: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> Any:
    if device is None and not pin_memory:
        return real_empty(*shape, **options)
    world = WORLDS[0]
    world.is_called("torch.empty, pinned" if pin_memory else "torch.empty", None, cuda=True)
    made = real_empty(*shape, **options)
    unknown = float("nan") if made.is_floating_point() else 255
    made.fill_(unknown)
    tensor = made.as_subclass(CudaTensor)
    tensor.copies = []
    if pin_memory:
        weakref.finalize(tensor, _pinned_memory_goes, world, tensor.copies).atexit = False
    else:
        world.late.append(lambda: made.fill_(unknown))  # for whoever had the memory before
        world.memory[tensor.data_ptr()] = weakref.ref(tensor), tensor.nbytes
    return tensor


def _pinned_memory_goes(world: World, copies: list[str]) -> None:
    """PyTorch records an event for memory that was copied; where CUDA refuses, the process ends."""
    if world.sticky and copies:
        world.crashes.append("pinned memory was freed after a CUDA error")


class Stream:
    cuda_stream = 77

    def __init__(self) -> None:
        WORLDS[0].is_called("torch.cuda.Stream", None, cuda=True)

    def synchronize(self) -> None:
        WORLDS[0].is_called("Stream.synchronize", None, cuda=True)
        WORLDS[0].wait()


class CUDAGraph:
    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def replay(self) -> None:
        WORLDS[0].is_called("CUDAGraph.replay", None, cuda=True)
        WORLDS[0].replays += 1
        WORLDS[0].queue += self.work


@contextlib.contextmanager
def _graph(graph: CUDAGraph, *, stream: Stream) -> Iterator[None]:
    world = WORLDS[0]
    world.is_called("torch.cuda.graph", None, cuda=True)
    world.wait(for_all=True)
    world.recording = graph.work
    try:
        yield
    finally:
        world.recording = None


@contextlib.contextmanager
def _stream(stream: Stream | None) -> Iterator[None]:
    assert stream is not None
    yield


def _synchronize() -> None:
    WORLDS[0].is_called("torch.cuda.synchronize", None, cuda=True)
    WORLDS[0].wait(for_all=True)


def replace_cuda(patch: pytest.MonkeyPatch) -> World:
    """Put the stand-ins in the place of PyTorch's CUDA, on a new machine."""
    world = World()
    WORLDS[:] = [world]
    patch.setattr(torch, "empty", _empty)
    replaced = {"Stream": Stream, "stream": _stream, "synchronize": _synchronize}
    replaced |= {"CUDAGraph": CUDAGraph, "graph": _graph, "is_available": lambda: True}
    for name, value in replaced.items():
        patch.setattr(torch.cuda, name, value)
    return world
