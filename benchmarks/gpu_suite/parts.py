"""Parts of the suite, the most important first, with a budget each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_suite import environment, files, parity, speed
from benchmarks.gpu_suite.lanes import Engine, Engines
from benchmarks.gpu_suite.models import (
    BASE,
    DRY_MODELS,
    MODELS,
    NOTEBOOK,
    TINY,
    TINY_V2,
    TRAINED,
    Setup,
)
from exporters.flavors import FLAVORS as TRAITS
from exporters.spec import Flavor

FLAVORS: tuple[Flavor, ...] = ("tensorrt-rtx", "tensorrt")  # first the one with portable engines
# Seconds to compile two models in PyTorch, at all batches.
COMPILE_S = {TINY: 100.0, NOTEBOOK: 80.0, TINY_V2: 60.0, BASE: 60.0}
AUTOTUNE_S = 440.0  # seconds for two models at one batch: a command of its own

Found = dict[str, Any]
Work = Callable[[Found, speed.Keep], Found]


@dataclass(frozen=True)
class Part:
    """One part of the suite, which runs in a process of its own.

    Attributes:
        name: Name for ``--part`` and the results.
        budget_s: Time that it may take, in seconds; it is then ended, and resumed by the next
            command.
        work: Function that does it and returns its results. It is given the results of the parts
            so far under the same conditions (its own, too, if it was cut short), and a function
            to keep intermediate results with.
        module: Name of a module that it needs; empty if it needs none.
    """

    name: str
    budget_s: float
    work: Work
    module: str = ""


def parts_of(setup: Setup) -> list[Part]:
    """List every part, the most important question first.

    Args:
        setup: Settings of the suite.
    """
    models = DRY_MODELS if setup.dry else MODELS
    found = [Part("environment", 60, lambda _, __: environment.environment())]
    for name in models:
        found += _of_model(name, setup)
    found.append(_float32(TINY, setup))
    trained = [] if setup.dry else [TRAINED]
    for name in trained:
        found += [_export(name, setup), _pytorch_parity(name, setup), *_engines(name, setup)]
    found += [_onnx_parity(name, setup) for name in (*models, *trained)]
    return [*found, Part("peer-export", 120, lambda _, __: speed.peer_export(setup)), _tune(setup)]


def _of_model(name: str, setup: Setup) -> list[Part]:
    compile_s = COMPILE_S[name] * setup.scale
    timing_s = len(setup.batches) * (setup.timing_seconds * 1.5 + 5)

    def pytorch(earlier: Found, keep: speed.Keep) -> Found:
        memory = _memory(earlier, f"pytorch-{name}", keep)
        return speed.pytorch(name, setup, memory, compile_s)

    def throughput(earlier: Found, keep: speed.Keep) -> Found:
        memory = _memory(earlier, f"throughput-{name}", keep)
        return speed.files(name, setup, memory, engines_of(earlier, name), compile_s)

    return [
        _export(name, setup),
        _pytorch_parity(name, setup),
        Part(f"pytorch-{name}", _start(setup) + 1.3 * compile_s + timing_s, pytorch),
        *_engines(name, setup),
        Part(f"throughput-{name}", _start(setup) + compile_s + timing_s, throughput),
    ]


def _export(name: str, setup: Setup) -> Part:
    return Part(f"export-{name}", 120, lambda _, __: files.export(name, setup))


def _pytorch_parity(name: str, setup: Setup) -> Part:
    return Part(f"parity-{name}", 240, lambda _, keep: parity.pytorch_steps(name, setup, keep))


def _onnx_parity(name: str, setup: Setup) -> Part:
    return Part(f"parity-onnx-{name}", 180, lambda _, keep: parity.onnx_steps(name, setup, keep))


def _engines(name: str, setup: Setup) -> list[Part]:
    return [_engine(name, flavor, setup) for flavor in FLAVORS]


def _engine(name: str, flavor: Flavor, setup: Setup) -> Part:
    def work(_: Found, keep: speed.Keep) -> Found:
        return parity.engine_step(name, flavor, setup, keep)

    return Part(f"engine-{flavor}-{name}", 240, work, TRAITS[flavor].module)


def _float32(name: str, setup: Setup) -> Part:
    part = f"float32-{name}"
    compile_s = COMPILE_S[name] * setup.scale

    def work(earlier: Found, keep: speed.Keep) -> Found:
        memory = _memory(earlier, part, keep)
        return speed.float32(name, setup, memory, engines_of(earlier, name), compile_s)

    return Part(part, 180, work)


def _tune(setup: Setup) -> Part:
    part = f"autotune-{TINY}"
    compile_s = AUTOTUNE_S * setup.scale

    def work(earlier: Found, keep: speed.Keep) -> Found:
        memory = _memory(earlier, part, keep)
        return speed.autotune(setup, memory, engines_of(earlier, TINY), compile_s)

    return Part(part, _start(setup) + 1.3 * compile_s, work)


def _start(setup: Setup) -> float:
    """Return the seconds to import, load and open; the machine of a dry run may be slow."""
    return 600.0 if setup.dry else 60.0


def _memory(earlier: Found, part: str, keep: speed.Keep) -> speed.Memory:
    """Return a part's earlier results if it was cut short, with the function that keeps more."""
    return speed.Memory((earlier.get(part) or {}).get("data") or {}, keep)


def engines_of(earlier: Found, name: str) -> Engines:
    """Return the engines of a model to time: those that ran before, since others may crash.

    Args:
        earlier: Results of the parts so far.
        name: Name of the model.

    Returns:
        An engine for each flavour, with the reason if it must not be timed.
    """
    return {flavor: _engine_of(earlier, f"engine-{flavor}-{name}") for flavor in FLAVORS}


def _engine_of(earlier: Found, part: str) -> Engine:
    found = earlier.get(part)
    if found is None:
        return Engine("", f"part {part} has not run it")
    if found["status"] != "done":
        return Engine("", str(found["reason"]))
    return Engine(found["data"]["build"]["file"], "")
