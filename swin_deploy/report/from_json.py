"""A report read back from its JSON form, to add to it or to render it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from exporters.errors import BuildError, FileError
from exporters.plan import KernelPlan
from exporters.text_files import read_json
from swin_deploy.bench import BenchReport, BenchResult, Comparison
from swin_deploy.config import Size
from swin_deploy.config.assumptions import Assumption
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import (
    Answer,
    Check,
    DriftPoint,
    Guess,
    Hop,
    NoiseFloor,
    ParityReport,
    ParityResult,
    Sample,
    Tolerance,
)
from swin_deploy.report.results import Artifact, Report
from swin_deploy.report.schema import first_problem
from swin_deploy.report.to_json import BENCH_FIGURES, PLAN_FIELDS, SCHEMA, report_to_dict


def read_report(path: Path) -> Report:
    """The report in a ``report.json``.

    Raises:
        FileError: If the file cannot be read, or is not a report of this schema.
    """
    values = read_json(path)
    found = values.get("schema") if isinstance(values, dict) else None
    if isinstance(found, int) and found != SCHEMA:
        raise FileError(
            f"{path} is of another version of swin-deploy (schema {found}, this one reads "
            f"{SCHEMA}); make it again with swin-deploy run or parity --report"
        )
    problem = first_problem(values)
    if problem:
        raise FileError(f"{path} is not a report of swin-deploy ({problem}); make it again")
    try:
        report = _report(values)
        problem = _contradiction(report, values)
    except (ValueError, ArithmeticError, FileError, BuildError) as err:
        problem = str(err)
    if problem:
        raise FileError(f"{path} contradicts itself ({problem}); make it again")
    return report


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in an ``evaluation.json``.

    Raises:
        FileError: If the file cannot be read, or is not an evaluation of this schema.
    """
    values = read_json(path)
    problem = first_problem(values, part="evaluation")
    if problem:
        raise FileError(f"{path} is not an evaluation of swin-deploy ({problem}); evaluate again")
    return Evaluation.from_dict(values)


def _contradiction(report: Report, values: dict[str, Any]) -> str:
    """Where a document says something else than its own figures; empty if nowhere."""
    again = report_to_dict(report)
    if again["verdict"] != values["verdict"]:
        return f"its verdict is {values['verdict']}, its figures say {again['verdict']}"
    hops = report.parity.hops if report.parity else ()
    samples = len(report.parity.samples) if report.parity else 0
    wrong = [hop.name for hop in hops if len(hop.answers) not in (0, samples)]
    return f"{wrong[0]} has not one answer for each sample" if wrong else ""


def _report(values: dict[str, Any]) -> Report:
    parity, bench, plan, evaluation = (values[n] for n in ("parity", "bench", "plan", "evaluation"))
    return Report(
        model=values["model"],
        created=values["created"],
        parity=None if parity is None else read_parity(parity),
        bench=None if bench is None else read_bench(bench),
        plan=None if plan is None else _plan(plan),
        artifacts=tuple(Artifact(**artifact) for artifact in values["artifacts"]),
        conditions=values["conditions"],
        made_from=values["made_from"],
        next_command=values["next_command"],
        assumptions=tuple(Assumption(**one) for one in values["assumptions"]),
        evaluation=None if evaluation is None else Evaluation.from_dict(evaluation),
    )


def read_parity(values: dict[str, Any]) -> ParityReport:
    """The proof that ``parity_to_dict`` gave."""
    fields = {key: value for key, value in values.items() if key not in ("passed", "verdict")}
    hops, samples = tuple(map(_hop, values["hops"])), tuple(map(_sample, values["samples"]))
    return ParityReport(**{**fields, "hops": hops, "samples": samples})


def _sample(values: dict[str, Any]) -> Sample:
    return Sample(**{**values, "reference": _answer(values["reference"])})


def _answer(values: dict[str, Any]) -> Answer:
    return Answer(tuple(Guess(**guess) for guess in values["guesses"]), values["change"])


def _hop(values: dict[str, Any]) -> Hop:
    fields = {key: value for key, value in values.items() if key != "passed"}
    results, drift = tuple(map(_result, values["results"])), tuple(map(_drift, values["drift"]))
    answers = tuple(map(_answer, values["answers"]))
    return Hop(**{**fields, "results": results, "drift": drift, "answers": answers})


def _drift(values: dict[str, Any]) -> DriftPoint:
    return DriftPoint(**_infinite(values, "relative_l2", "floor"))


def _result(values: dict[str, Any]) -> ParityResult:
    """JSON has neither infinity nor NaN: equal outputs had the one, broken ones the other."""
    lost = math.nan
    errors = ("max_abs", "mean_abs", "relative_l2", "cosine", "needed_atol")
    read = {key: lost if values[key] is None else values[key] for key in errors}
    if values["sqnr_db"] is None:
        read["sqnr_db"] = math.inf if values["max_abs"] == 0 else lost
    read["tolerance"] = _tolerance(values["tolerance"])
    read["checks"] = tuple(Check(**_infinite(check, "needed")) for check in values["checks"])
    return ParityResult(**{**values, **read})


def _tolerance(values: dict[str, Any]) -> Tolerance:
    floor = values["floor"]
    read = None if floor is None else NoiseFloor(**_infinite(floor, "atol", "relative_l2"))
    return Tolerance(**{**values, "floor": read})


def _infinite(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """``values`` with infinity for what was beyond any number."""
    return {**values, **{name: math.inf for name in names if values[name] is None}}


def read_bench(values: dict[str, Any]) -> BenchReport:
    """The throughput that ``bench_to_dict`` gave."""
    results = tuple(map(_timing, values["results"]))
    comparisons = tuple(Comparison(**entry) for entry in values.get("comparisons", ()))
    size = values["img_size"] if isinstance(values["img_size"], int) else Size(*values["img_size"])
    read = {"img_size": size, "results": results, "comparisons": comparisons}
    return BenchReport(**{**values, **read})


def _timing(values: dict[str, Any]) -> BenchResult:
    lost = {key: 0.0 for key in BENCH_FIGURES if values.get(key) is None}
    return BenchResult(**{**values, **lost})


def _plan(values: dict[str, Any]) -> KernelPlan:
    fields = {key: values[key] for key in PLAN_FIELDS if key in values}
    own = ("name", "attention", "floor_bytes")
    fields["blocks"] = [{key: block[key] for key in own} for block in values.get("blocks", ())]
    return KernelPlan.from_dict(fields | {"kernels": values["launches"]})
