"""The proof of a replacement: its outputs beside those of the unmodified modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from exporters.errors import ComparisonError, ConfigError
from exporters.text_files import error_words
from swin_deploy.config.sizes import Size
from swin_deploy.parity.checks import Tolerance
from swin_deploy.parity.compare import compare
from swin_deploy.parity.results import Case
from swin_deploy.swap.structures import is_masked, named_tensors

SEED = 0


@dataclass(frozen=True)
class OutputError:
    """The distance of one output from the unmodified model's.

    Attributes:
        of: Name of what was run, with the size of its images: ``Swin, 512x512``.
        output: Name of the output.
        error: The least ``atol`` that would pass, in units of the output's RMS; infinite for other
            shapes and for values that are not finite. Of whole numbers and of truth values it is
            the share that differs.
        limit: The largest error allowed.
    """

    of: str
    output: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit."""
        return self.error <= self.limit

    @property
    def text(self) -> str:
        """The comparison in one line."""
        return f"{self.of}: {self.output} is off by {self.error:.2g} RMS, {self.limit:.2g} allowed"


def noise(size: Size, channels: int, batch: int = 1) -> Tensor:
    """Return seeded images [batch, channels, rows, columns] with mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(batch, channels, *size, generator=generator)


@dataclass(frozen=True)
class Trial:
    """What a run of a model has shown.

    Attributes:
        outputs: The outputs.
        sizes: Image sizes that its Swin was given, each once, in order.
        masked: Class of the images with masks that its Swin was given; None for plain tensors.
    """

    outputs: Any = None
    sizes: tuple[Size, ...] = ()
    masked: type | None = None


@torch.no_grad()
def run_watched(
    model: nn.Module,
    swin: nn.Module,
    entry: nn.Module,
    inputs: Any,  # noqa: ANN401 - whatever the model takes
) -> Trial:
    """Run a model, and note what its Swin is given.

    Args:
        model: The model.
        swin: Its Swin.
        entry: The part of the Swin that every image enters first.
        inputs: The inputs: a tensor, a tuple, or a dict by name.

    Raises:
        ConfigError: If the model does not run on them.
    """
    given: list[Any] = []
    entered: list[Any] = []
    handles = [_collect(swin, given), _collect(entry, entered)]
    try:
        outputs = call(model, inputs)
    except Exception as err:  # their code may raise anything
        reason = error_words(err)
        raise ConfigError(f"{type(model).__name__} does not run on these inputs: {reason}") from err
    finally:
        for handle in handles:
            handle.remove()
    images = [one for one in entered if isinstance(one, Tensor) and one.ndim == 4]
    sizes = [Size(int(one.shape[-2]), int(one.shape[-1])) for one in images]
    masked = next((type(one) for one in given if is_masked(one)), None)
    return Trial(outputs, tuple(dict.fromkeys(sizes)), masked)


def _collect(module: nn.Module, into: list[Any]) -> RemovableHandle:
    """Collect whatever a module is called with."""

    def note(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        into.extend((*args, *named.values()))

    return module.register_forward_pre_hook(note, with_kwargs=True)


def call(model: nn.Module, inputs: Any) -> Any:  # noqa: ANN401 - any model's
    """Call a model with a tensor, a tuple of arguments, or a dict of them by name."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def compare_outputs(
    actual: object, reference: object, tolerance: Tolerance, *, of: str
) -> tuple[OutputError, ...]:
    """Compare every tensor of two outputs of the same form.

    Args:
        actual: Outputs of the model with the replacement.
        reference: Outputs of the unmodified model.
        tolerance: Limits on the errors of real numbers; others must be equal.
        of: Name of what was run, for the results.

    Raises:
        ComparisonError: If there are no tensors, or not the same ones on both sides.
    """
    theirs, ours = named_tensors(reference), named_tensors(actual)
    if not theirs:
        raise ComparisonError(
            f"{of} gives no tensors, so nothing can be compared; return a tensor, or a list, "
            "tuple, dict or dataclass of them"
        )
    if list(ours) != list(theirs):
        raise ComparisonError(
            f"{of}: the outputs are {list(ours)}, and the unmodified model's {list(theirs)}"
        )
    return tuple(
        OutputError(of, name, _error(ours[name], theirs[name], tolerance), _limit(one, tolerance))
        for name, one in theirs.items()
    )


def _limit(reference: Tensor, tolerance: Tolerance) -> float:
    real = reference.is_floating_point() or reference.is_complex()
    return tolerance.atol if real else 0.0


def _error(actual: Tensor, reference: Tensor, tolerance: Tolerance) -> float:
    if actual.shape != reference.shape:
        return float("inf")
    if reference.is_complex() and actual.is_complex():
        actual, reference = torch.view_as_real(actual), torch.view_as_real(reference)
    if not reference.is_floating_point():
        return float((actual != reference).double().mean()) if reference.numel() else 0.0
    same = reference.isinf()  # of what a model masks out
    if not torch.equal(actual[same], reference[same]):
        return float("inf")
    actual, reference = actual[~same], reference[~same]
    if not reference.numel():
        return 0.0
    sides = [one.detach().cpu().float().numpy() for one in (actual, reference)]
    return compare(sides[0], sides[1], tolerance, Case("seeded", 1)).needed_atol


@contextmanager
def counted(modules: list[nn.Module]) -> Iterator[Callable[[], int]]:
    """Count the calls of some modules; yields a function that tells their number."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handles = [one.register_forward_pre_hook(count) for one in modules]
    try:
        yield lambda: calls
    finally:
        for handle in handles:
            handle.remove()
