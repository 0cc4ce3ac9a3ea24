"""A report read back from its JSON form, to add to it or to render it again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from exporters.errors import BuildError, FileError
from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.parity import Hop, ParityReport, ParityResult, Tolerance
from swin_deploy.report import Artifact, Report
from swin_deploy.report.to_json import PLAN_FIELDS, SCHEMA


def read_report(path: Path) -> Report:
    """The report in a ``report.json``.

    Raises:
        FileError: If the file cannot be read, or is not a report of this schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise FileError(f"{path} has schema {values['schema']}, not {SCHEMA}; write it again")
        return _report(values)
    except OSError as err:
        raise FileError(f"cannot read {path}: {err.strerror or err}") from err
    except (ValueError, KeyError, TypeError, BuildError) as err:
        raise FileError(f"{path} is not a report of swin-deploy ({err}); write it again") from err


def _report(values: dict[str, Any]) -> Report:
    parity, bench, plan = values["parity"], values["bench"], values["plan"]
    return Report(
        model=values["model"],
        created=values["created"],
        parity=None if parity is None else _parity(parity),
        bench=None if bench is None else _bench(bench),
        plan=None if plan is None else _plan(plan),
        artifacts=tuple(Artifact(**artifact) for artifact in values["artifacts"]),
        conditions=values["conditions"],
    )


def _parity(values: dict[str, Any]) -> ParityReport:
    fields = {key: value for key, value in values.items() if key != "passed"}
    return ParityReport(**{**fields, "hops": tuple(map(_hop, values["hops"]))})


def _hop(values: dict[str, Any]) -> Hop:
    fields = {key: value for key, value in values.items() if key != "passed"}
    return Hop(**{**fields, "results": tuple(map(_result, values["results"]))})


def _result(values: dict[str, Any]) -> ParityResult:
    """JSON has neither infinity nor NaN: equal outputs had the one, broken ones the other."""
    lost = math.nan
    errors = ("max_abs", "mean_abs", "relative_l2", "cosine", "needed_atol")
    read = {key: lost if values[key] is None else values[key] for key in errors}
    if values["sqnr_db"] is None:
        read["sqnr_db"] = math.inf if values["max_abs"] == 0 else lost
    return ParityResult(**{**values, **read, "tolerance": Tolerance(**values["tolerance"])})


def _bench(values: dict[str, Any]) -> BenchReport:
    return BenchReport(**{**values, "results": tuple(map(_timing, values["results"]))})


def _timing(values: dict[str, Any]) -> BenchResult:
    lost = {key: 0.0 for key, value in values.items() if value is None}
    return BenchResult(**{**values, **lost})


def _plan(values: dict[str, Any]) -> KernelPlan:
    fields = {key: values[key] for key in PLAN_FIELDS}
    return KernelPlan.from_dict(fields | {"kernels": values["launches"]})
