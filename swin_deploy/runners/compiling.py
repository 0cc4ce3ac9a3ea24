"""``torch.compile`` without logs, with each failure in one line."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exporters.errors import BuildError, MissingBackendError
from exporters.text_files import shortened

CompileMode = Literal[
    "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
]  # modes of torch.compile
# These replay CUDA graphs of their own.
GRAPH_MODES: tuple[CompileMode, ...] = ("reduce-overhead", "max-autotune")
RECOMPILE_LIMIT = 64
# Remedies by name of torch.compile's exception, for compilers and GPUs that a machine lacks.
LACKING = {
    "InvalidCxxCompiler": "install g++, or name a C++ compiler in the variable CXX",
    "TritonMissing": "pip install triton",
    "GPUTooOldForTriton": "run without --runner on this GPU",
}


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Run torch.compile inside the block without logs, and report each failure in one line.

    A code object compiled more than 8 times would run eager from then on, with a warning only;
    here the limit is ``RECOMPILE_LIMIT``, and reaching it is an error.

    Args:
        name: Name of the model that is compiled, for the message.

    Raises:
        MissingBackendError: If the machine has no compiler.
        BuildError: If compiling fails otherwise.
    """
    dynamo: Any = importlib.import_module("torch._dynamo")  # late: as slow to load as PyTorch
    limits: Any = dynamo.config.patch(
        recompile_limit=RECOMPILE_LIMIT, fail_on_recompile_limit_hit=True
    )
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with limits, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except dynamo.exc.TorchDynamoException as err:
        lacking = _lacking(err)
        if lacking:
            raise MissingBackendError(f"{name}: {lacking}") from err
        raise BuildError(
            f"{name}: torch.compile of PyTorch {torch.__version__} failed ({_reason(err)}); run "
            "without it, or with another version of PyTorch"
        ) from err
    finally:
        logging.disable(before)


@functools.cache
def require_compiler(device: str) -> None:
    """Compile one addition, so that a missing compiler is found before a model is compiled.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        MissingBackendError: If torch.compile does not work on this machine.
    """
    try:
        with compiling("torch.compile"):
            torch.compile(_Increment())(torch.zeros(8, device=device))
    except BuildError as err:
        reason = _reason(err.__cause__ or err)
        raise MissingBackendError(
            f"torch.compile does not work on this machine ({reason}); mend its compiler, or run "
            "without --runner"
        ) from err


class _Increment(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value + 1


def _lacking(err: BaseException) -> str:
    """Return what the machine lacks, if an exception in the chain names it, else an empty text."""
    seen: BaseException | None = err
    while seen is not None:
        for inner in (seen, getattr(seen, "inner_exception", None)):
            remedy = LACKING.get(type(inner).__name__)
            if remedy:
                return f"{_reason(inner)}; {remedy}"
        seen = seen.__cause__ or seen.__context__
    return ""


def _reason(err: object) -> str:
    """Return the first two lines of an exception as one, without the debugging advice."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    text = " ".join(lines[:2]).partition(" Set TORCHDYNAMO_VERBOSE")[0]
    return shortened(text or type(err).__name__).rstrip(".")
