"""The form of ``report.json``, made from the dataclasses that it holds, with their docstrings.

Each dataclass becomes a ``msgspec.Struct`` whose members are its fields and the derived values
below. msgspec checks documents against them, and writes their JSON Schema.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchResult
from swin_deploy.evaluate.accuracy import BackendAccuracy, Evaluation, Score
from swin_deploy.parity import Check, DriftPoint, Hop, ParityReport, ParityResult, Tolerance
from swin_deploy.report.plan_figures import PlanFigures
from swin_deploy.report.results import Report

DRAFT = "https://json-schema.org/draft/2020-12/schema"
# Properties that a document has besides the fields; reading computes them again.
DERIVED: dict[type, tuple[str, ...]] = {
    Report: ("schema", "verdict"),
    ParityReport: ("inputs", "passed", "verdict"),
    Hop: ("located", "passed"),
    ParityResult: ("inputs", "batch"),
    Tolerance: ("atol_rule", "l2_rule"),
    Check: ("rule",),
    DriftPoint: ("place",),
    Evaluation: ("schema", "passed", "verdict"),
    BackendAccuracy: ("passed",),
    Score: ("accuracy", "interval", "difference", "difference_interval"),
}
# Figures of a runner that was not timed are null.
TIMINGS = ("median_ms", "p95_ms", "images_per_s", "ratio", "ratio_low", "ratio_high")
NULLABLE: dict[type, tuple[str, ...]] = {BenchResult: TIMINGS}
STANDS_FOR: dict[type, type] = {KernelPlan: PlanFigures}
# A float without bounds may be one that JSON does not have.
Number = float | Literal["Infinity", "-Infinity", "NaN"]
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)


def load_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``report.json``."""
    template = "#/$defs/{name}"
    _, forms = msgspec.json.schema_components([form_of(Report)], ref_template=template)
    title = {"$schema": DRAFT, "title": "swin-deploy report"}
    return {**forms.pop("Report"), **title, "$defs": forms}


@functools.cache
def form_of(cls: type) -> type[msgspec.Struct]:
    """Return the type that a dataclass has in a document, with exactly the same members.

    Args:
        cls: The dataclass; its docstring describes every field.
    """
    hints, texts = get_type_hints(cls, include_extras=True), _descriptions(cls)
    forms = {field.name: _form(hints[field.name]) for field in dataclasses.fields(cls)}
    forms |= {name: forms[name] | None for name in NULLABLE.get(cls, ())}
    for name in DERIVED.get(cls, ()):
        getter = getattr(cls, name).fget
        forms[name] = _form(get_type_hints(getter, include_extras=True)["return"])
        texts[name] = inspect.cleandoc(getter.__doc__).partition("\n\n")[0]
    members = [
        (name, Annotated[form, msgspec.Meta(description=" ".join(texts[name].split()))])
        for name, form in forms.items()
    ]
    own = {"__doc__": inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]}
    return msgspec.defstruct(cls.__name__, members, namespace=own, forbid_unknown_fields=True)


def _form(hint: Any) -> Any:  # noqa: ANN401 - a type as ``typing`` writes it
    """Return the type that the type of a field has in a document."""
    hint = STANDS_FOR.get(hint, hint)
    if hint is float:
        return Number
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return form_of(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated and parts[0] is not float:
        return Annotated[(_form(parts[0]), *parts[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_form, parts))]  # noqa: UP007 - made of a tuple
    if origin in (tuple, dict):
        return origin[tuple(part if part is ... else _form(part) for part in parts)]
    return hint


def _descriptions(cls: type) -> dict[str, str]:
    """Return the text of each attribute in a class's docstring."""
    return dict(_ATTRIBUTE.findall(inspect.cleandoc(cls.__doc__ or "")))
