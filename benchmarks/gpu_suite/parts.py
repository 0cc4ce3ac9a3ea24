"""What there is to do, in order of worth, with a budget each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_suite import environment, equality, files, speed
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

FLAVORS: tuple[Flavor, ...] = ("tensorrt-rtx", "tensorrt")  # the one that can be carried first
# Seconds for compiling two models in PyTorch, at all batches.
COMPILE_S = {TINY: 100.0, NOTEBOOK: 80.0, TINY_V2: 60.0, BASE: 60.0}
AUTOTUNE_S = 440.0  # of two models at one batch: a command of its own

Found = dict[str, Any]
Work = Callable[[Found, speed.Keep], Found]


@dataclass(frozen=True)
class Part:
    """One thing to do, in a process of its own.

    Attributes:
        name: Name for ``--part`` and the results.
        budget_s: Seconds that it may take; it is then ended, and goes on in the next command.
        work: Function that does it, given what was found before under the same conditions (of this
            part too, where it was cut short) and where to keep what it finds.
        module: Module that it cannot do without, where there is one.
    """

    name: str
    budget_s: float
    work: Work
    module: str = ""


def parts_of(setup: Setup) -> list[Part]:
    """Every part: the question that matters most first, what is known elsewhere last."""
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
    return Part(f"parity-{name}", 240, lambda _, keep: equality.pytorch_steps(name, setup, keep))


def _onnx_parity(name: str, setup: Setup) -> Part:
    return Part(f"parity-onnx-{name}", 180, lambda _, keep: equality.onnx_steps(name, setup, keep))


def _engines(name: str, setup: Setup) -> list[Part]:
    return [_engine(name, flavor, setup) for flavor in FLAVORS]


def _engine(name: str, flavor: Flavor, setup: Setup) -> Part:
    def work(_: Found, keep: speed.Keep) -> Found:
        return equality.engine_step(name, flavor, setup, keep)

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
    """Seconds to import, load and open; the machine of a dry run may be slow and busy."""
    return 600.0 if setup.dry else 60.0


def _memory(earlier: Found, part: str, keep: speed.Keep) -> speed.Memory:
    """What a part found when it was cut short, and where it keeps more."""
    return speed.Memory((earlier.get(part) or {}).get("data") or {}, keep)


def engines_of(earlier: Found, name: str) -> Engines:
    """The engines of a model to time: only those that ran before, for others may crash."""
    return {flavor: _engine_of(earlier, f"engine-{flavor}-{name}") for flavor in FLAVORS}


def _engine_of(earlier: Found, part: str) -> Engine:
    found = earlier.get(part)
    if found is None:
        return Engine("", f"part {part} has not run it")
    if found["status"] != "done":
        return Engine("", str(found["reason"]))
    return Engine(found["data"]["build"]["file"], "")
