"""Ranges of the values inside a deploy model, and the noise of half precision by part.

A part is a piece that can be kept in float32 without touching fused attention: a block's MLP, its
residual stream (the sums, the reorders and the norms around the branches), a merge, the patch
embedding, an output. A block's attention is a part too, but one that stays whole and in half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.arrays import plain_array
from exporters.errors import ConfigError
from exporters.precisions import PRECISIONS
from exporters.progress import Progress, silent
from exporters.spec import Precision
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.deploy.fold_parts import MASKED_FINITE
from swin_deploy.deploy.model import SwinBlock
from swin_deploy.parity import Case, ParityResult, Tolerance, compare
from swin_deploy.runners.emulated import NOTHING, Emulated, Stored, watch_operations

ATTENTION = "attention"
CHUNK = 8  # images a call
FLOAT16 = PRECISIONS["fp16"]
# Calibration images do not show the largest value there will ever be: half of the range is room.
OVERFLOW_SHARE = 0.5

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """Statistics of one operation's results over all calibration images, without masked scores.

    Attributes:
        name: Module path and operation, such as ``layers.1.mlp.0/linear``.
        step: Index of the operation in the order computed.
        max_abs: Largest absolute value.
        rms: Root mean square.
        tiny_share: Share of the values, 0 to 1, that are not 0 and below float16's smallest
            normal number, where it loses digits.
    """

    name: str
    step: int
    max_abs: float
    rms: float
    tiny_share: float

    @property
    def headroom(self) -> float:
        """Float16's largest value divided by the largest absolute value; infinite for zeros."""
        return _headroom(self.max_abs)


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: Name of the part, such as ``layers.1.mlp``.
        activations: Its activations, in the order computed.
        max_abs: Largest absolute value of its inputs and results.
        noise: Largest error of the outputs, in units of their RMS, when this part alone is in half
            precision; None if it was not measured.
    """

    name: str
    activations: tuple[Activation, ...]
    max_abs: float
    noise: float | None = None

    @property
    def headroom(self) -> float:
        """Float16's largest value divided by the largest absolute value; infinite for zeros."""
        return _headroom(self.max_abs)

    @property
    def overflows(self) -> bool:
        """Whether float16's range is too small, with room for other images."""
        return not self.max_abs <= OVERFLOW_SHARE * FLOAT16.largest

    @property
    def largest(self) -> Activation | None:
        """The activation with the largest absolute value; None for a part without activations."""
        return max(self.activations, key=lambda one: one.max_abs, default=None)

    @property
    def rms(self) -> float:
        """Largest RMS of the part's activations."""
        return max((one.rms for one in self.activations), default=0.0)

    @property
    def tiny_share(self) -> float:
        """Largest share of tiny values of the part's activations, 0 to 1."""
        return max((one.tiny_share for one in self.activations), default=0.0)

    @property
    def keepable(self) -> bool:
        """Whether the part can stay float32; attention cannot: it would no longer be fused."""
        return _is_keepable(self.name)


def _headroom(max_abs: float) -> float:
    return FLOAT16.largest / max_abs if max_abs else math.inf


def parts_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Map each part of a deploy model to the paths of its modules, in the order computed."""
    parts: dict[str, list[str]] = {}
    blocks = [path for path, module in model.named_modules() if isinstance(module, SwinBlock)]
    for path, _ in model.named_modules(remove_duplicate=False):
        top = ".".join(path.split(".")[: 1 if path.startswith("embed") else 2])
        if path in ("", "layers", "heads"):
            continue
        parts.setdefault(_branch(path, top) if top in blocks else top, []).append(path)
    return {name: tuple(paths) for name, paths in parts.items()}


def _branch(path: str, block: str) -> str:
    """Return the part of a block that a module in it belongs to."""
    for branch in (ATTENTION, "mlp"):
        if f"{path}.".startswith(f"{block}.{branch}."):
            return f"{block}.{branch}"
    return f"{block}.residual"


def keepable_paths(
    loaded: LoadedModel, names: Sequence[str], *, precision: Precision
) -> tuple[str, ...]:
    """Return the paths of the modules of parts that may stay float32 in a graph.

    Args:
        loaded: The model.
        names: Names of the parts.
        precision: Precision of the graph; all parts may stay float32 in one of int8.

    Raises:
        ConfigError: If a name is not a part of the model, or is attention in half precision.
    """
    if not names:
        return ()
    model = loaded.deploy
    all_may = precision == "int8"
    parts = [name for name in parts_of(model) if all_may or _is_keepable(name)]
    for name in names:
        if not (all_may or _is_keepable(name)):
            raise ConfigError(
                f"{name} cannot stay float32: attention is fused in half precision only; keep "
                "other parts, or use --precision bf16 or fp32"
            )
        if name not in parts:
            raise ConfigError(f"{name} is no part of this model; it has {', '.join(parts)}")
    return paths_of(model, names)


def _is_keepable(part: str) -> bool:
    return f".{ATTENTION}." not in f"{part}."


def paths_of(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of the modules of some parts of a deploy model, by the parts' names."""
    parts = parts_of(model)
    return tuple(path for name in names for path in parts[name])


@torch.inference_mode()
def measure_ranges(
    model: nn.Module, images: Images, *, progress: Progress = silent
) -> tuple[Part, ...]:
    """Run a float32 deploy model on calibration images and watch every operation.

    Args:
        model: The deploy model, in float32 and evaluation mode.
        images: Calibration images, [n, in_channels, H, W].
        progress: Function that is told each step before it runs.

    Returns:
        The parts with their activations, in the order computed; their noise is not measured.
    """
    watch = _RangeRecorder(model)
    for start in range(0, len(images), CHUNK):
        progress(f"images {start + 1} to {min(start + CHUNK, len(images))} of {len(images)}")
        watch.turn.clear()
        with watch_operations(model, watch.record):
            model(_tensor(images[start : start + CHUNK]))
    return watch.parts()


@torch.inference_mode()
def measure_noise(
    model: nn.Module,
    images: Images,
    *,
    precision: Precision,
    stored: Mapping[str, Stored] = NOTHING,
    progress: Progress = silent,
) -> dict[str, float]:
    """Measure the largest output error with one part alone in emulated half precision.

    Args:
        model: The deploy model, in float32 and evaluation mode.
        images: Images, [n, in_channels, H, W].
        precision: One of ``REDUCED``.
        stored: Rounding to FP8 of linear layers, by path.
        progress: Function that is told each step before it runs.

    Returns:
        The error by part, in units of the outputs' RMS; infinite if an output is not finite.
    """
    expected = _outputs(model(_tensor(images)))
    noise = {}
    parts = parts_of(model)
    for number, (name, paths) in enumerate(parts.items(), start=1):
        progress(f"noise of {name}, {number} of {len(parts)}")
        actual = _outputs(Emulated(model, precision, half=paths, stored=stored)(_tensor(images)))
        noise[name] = max(map(_error, actual, expected))
    return noise


@torch.inference_mode()
def emulate(
    model: nn.Module,
    images: Images,
    *,
    precision: Precision,
    tolerance: Tolerance,
    keep: Iterable[str] = (),
    stored: Mapping[str, Stored] = NOTHING,
) -> ParityResult:
    """Compare the whole model in emulated half precision with itself in float32.

    Args:
        model: The deploy model, in float32 and evaluation mode.
        images: Images, [n, in_channels, H, W].
        precision: One of ``REDUCED``.
        tolerance: Tolerance of every output.
        keep: Names of the parts that stay float32.
        stored: Rounding to FP8 of linear layers, by path.

    Returns:
        The result of the worst output: a failed one first, then the one that needs most.
    """
    half = Emulated(model, precision, keep=paths_of(model, keep), stored=stored)
    sides = (_outputs(one(_tensor(images))) for one in (half, model))
    results = [
        compare(a, b, tolerance, Case("calibration", len(images)))
        for a, b in zip(*sides, strict=True)
    ]
    return max(results, key=lambda one: (not one.passed, one.needed_atol))


def _tensor(images: Images) -> Tensor:
    return torch.from_numpy(plain_array(images, np.float32))


def _outputs(given: Tensor | tuple[Tensor, ...]) -> list[Images]:
    return [one.numpy() for one in (given if isinstance(given, tuple) else (given,))]


def _error(actual: Images, expected: Images) -> float:
    """Compute the largest error in units of the expected RMS; infinite if a value is not finite."""
    if not np.isfinite(actual).all():
        return math.inf
    rms = math.sqrt(float(np.mean(expected.astype(np.float64) ** 2))) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected).max() / rms)


@dataclass
class _Sums:
    """Running sums over one operation's results.

    Attributes:
        part: Name of the part that the operation belongs to.
        max_abs: Largest absolute value.
        squares: Sum of the squares.
        tiny: Number of values that are not 0 and below float16's smallest normal number.
        count: Number of values.
    """

    part: str
    max_abs: float = 0.0
    squares: float = 0.0
    tiny: int = 0
    count: int = 0

    def add(self, values: Tensor) -> None:
        size = values.abs()
        self.max_abs = max(self.max_abs, float(size.max()) if len(size) else 0.0)
        self.squares += float(size.double().square().sum())
        self.tiny += int(((size > 0) & (size < FLOAT16.smallest_normal)).sum())
        self.count += size.numel()


class _RangeRecorder:
    """Recorder of the ranges of every operation's results, over several calls of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.names = parts_of(model)
        self.owner = {path: name for name, paths in self.names.items() for path in paths}
        self.constants = {id(one) for one in (*model.parameters(), *model.buffers())}
        self.sums: dict[str, _Sums] = {}
        self.taken: dict[str, float] = dict.fromkeys(self.names, 0.0)
        self.turn: dict[str, int] = {}

    def record(self, path: str, op: str, args: tuple[Any, ...], call: Callable[..., Any]) -> Any:  # noqa: ANN401
        """Run an operation and record its ranges; a handler of ``watch_operations``."""
        result = call(*args)
        if isinstance(result, Tensor) and result.is_floating_point():
            part = self.owner[path]
            masks = path.startswith(f"{part}.bias")
            if not masks and op != "softmax":
                taken = (float(one.abs().max()) for one in args if self._is_activation(one))
                self.taken[part] = max(self.taken[part], *taken, 0.0)
            sums = self.sums.setdefault(self._name(path, op), _Sums(part))
            sums.add(result[result > MASKED_FINITE / 2] if masks else result.flatten())
        return result

    def _is_activation(self, value: Any) -> bool:  # noqa: ANN401 - any argument
        known = isinstance(value, Tensor) and value.is_floating_point()
        return known and id(value) not in self.constants

    def _name(self, path: str, op: str) -> str:
        """Name an operation like its ONNX node: a repeated one gets a suffix ``_2``, ``_3``."""
        name = f"{path}/{op}"
        self.turn[name] = self.turn.get(name, 0) + 1
        return name if self.turn[name] == 1 else f"{name}_{self.turn[name]}"

    def parts(self) -> tuple[Part, ...]:
        found: dict[str, list[Activation]] = {name: [] for name in self.names}
        for step, (name, sums) in enumerate(self.sums.items()):
            found[sums.part].append(_activation(name, step, sums))
        return tuple(
            Part(
                name=name,
                activations=tuple(activations),
                max_abs=max((self.taken[name], *(one.max_abs for one in activations))),
            )
            for name, activations in found.items()
        )


def _activation(name: str, step: int, sums: _Sums) -> Activation:
    count = max(1, sums.count)
    return Activation(
        name=name,
        step=step,
        max_abs=sums.max_abs,
        rms=math.sqrt(sums.squares / count),
        tiny_share=sums.tiny / count,
    )


def first_overflow(parts: Iterable[Part]) -> Activation | None:
    """Return the first activation beyond float16's range, in the order computed; None without."""
    activations = (one for part in parts for one in part.activations)
    beyond = [one for one in activations if not one.max_abs <= FLOAT16.largest]
    return min(beyond, key=lambda one: one.step, default=None)
