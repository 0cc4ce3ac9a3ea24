"""What there is to do, in order of importance, with a budget each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from exporters.flavors import FLAVORS as TRAITS
from exporters.spec import Flavor
from swin_deploy.suite import environment, equality, files, speed
from swin_deploy.suite.models import (
    BASE,
    DRY_MODELS,
    MODELS,
    NOTEBOOK,
    TINY,
    TINY_V2,
    TRAINED,
    Setup,
)

FLAVORS: tuple[Flavor, ...] = get_args(Flavor)
# Seconds for compiling; timing takes about as long again.
COMPILE_S = {NOTEBOOK: 40.0, TINY: 80.0, BASE: 30.0, TINY_V2: 30.0}
TIMING_S = 60.0

Work = Callable[[dict[str, Any], speed.Keep], dict[str, Any] | None]


@dataclass(frozen=True)
class Part:
    """One thing to do.

    Attributes:
        name: For ``--part`` and the results.
        budget_s: Seconds that it may take; a part in a process of its own is then ended.
        work: Does it, given the parts done before and where to keep what is done so far.
        isolated: Whether it may take the process down, and so gets one of its own.
        module: That it cannot do without, where there is one.
    """

    name: str
    budget_s: float
    work: Work
    isolated: bool = False
    module: str = ""


def parts_of(setup: Setup) -> list[Part]:
    """Every part: for each model its files, parity, engines and throughput, the goals' first."""
    found = [Part("environment", 20, lambda _, __: environment.environment())]
    for name in DRY_MODELS if setup.dry else MODELS:
        found += [*_files_and_engines(name, setup), _throughput(name, setup)]
        if name == TINY:
            found += _of_swin_t(setup)
    return found if setup.dry else found + _files_and_engines(TRAINED, setup)


def _files_and_engines(name: str, setup: Setup) -> list[Part]:
    found = [
        Part(f"export-{name}", 60, lambda _, __: files.export(name, setup)),
        Part(f"parity-{name}", 60, lambda _, __: equality.hops(name, setup)),
    ]
    for flavor in FLAVORS:
        work = functools.partial(_engine, name, flavor, setup)
        found.append(Part(f"engine-{flavor}-{name}", 120, work, True, TRAITS[flavor].module))
    return found


def _engine(
    name: str, flavor: Flavor, setup: Setup, _: dict[str, Any], keep: speed.Keep
) -> dict[str, Any]:
    return equality.engine_hop(name, flavor, setup, keep)


def _throughput(name: str, setup: Setup) -> Part:
    compile_s = 0.0 if setup.dry else COMPILE_S[name] * setup.scale

    def work(earlier: dict[str, Any], keep: speed.Keep) -> None:
        speed.throughput(name, setup, _engines(earlier, name), compile_s, keep)

    # A model that compiles for longer than that must not cost what was measured before.
    return Part(f"throughput-{name}", 1.5 * compile_s + TIMING_S, work, True)


def _of_swin_t(setup: Setup) -> list[Part]:
    compile_s = 0.0 if setup.dry else COMPILE_S[TINY] * setup.scale

    def tune(earlier: dict[str, Any], _: speed.Keep) -> dict[str, Any]:
        return speed.autotune(setup, _engines(earlier, TINY), compile_s)

    return [
        Part("peer-export", 60, lambda _, __: speed.peer_export(setup), True),
        Part(f"autotune-{TINY}", 2 * compile_s + TIMING_S, tune, True),
    ]


def _engines(earlier: dict[str, Any], name: str) -> dict[Flavor, str]:
    return {flavor: _why_not(earlier, f"engine-{flavor}-{name}") for flavor in FLAVORS}


def _why_not(earlier: dict[str, Any], part: str) -> str:
    """Why an engine is not timed: only one that ran before is, for others may crash."""
    found = earlier.get(part)
    if found is None:
        return f"part {part} has not run it"
    return "" if found["status"] == "done" else str(found["reason"])
