"""Reports read back from their JSON form, to add to them or to render them again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from exporters.errors import FileError
from exporters.text_files import listed, read_json, shortened, typed
from swin_deploy.bench import BenchReport
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import ParityReport
from swin_deploy.report.results import SCHEMA, Report
from swin_deploy.report.schema import form_of
from swin_deploy.report.to_json import to_json

T = TypeVar("T")
# Texts made from fields: another version may word them differently.
TEXTS = {"inputs", "rule", "place", "located", "atol_rule", "l2_rule"}


def read_report(path: Path) -> Report:
    """Read a ``report.json``.

    Raises:
        FileError: If the file cannot be read, is not a report of this schema, or contradicts
            itself.
    """
    values = read_json(path)
    found = values.get("schema") if isinstance(values, dict) else None
    if isinstance(values, dict) and isinstance(values.get("kind"), str):
        raise FileError(
            f"{path} is a manifest ({shortened(values['kind'])}), and no report; give the "
            "report.json of swin-deploy run or parity --report"
        )
    if isinstance(found, int) and found != SCHEMA:
        raise FileError(
            f"{path} is of another version of swin-deploy (schema {found}, this one reads "
            f"{SCHEMA}); make it again with swin-deploy run or parity --report"
        )
    try:
        typed(values, form_of(Report))
    except FileError as err:
        raise FileError(f"{path} is not a report of swin-deploy ({err}); make it again") from err
    try:
        report = _read(values, Report)
        problem = _contradiction(report, values)
    except (ValueError, ArithmeticError, FileError) as err:
        problem = str(err)
    if problem:
        raise FileError(f"{path} contradicts itself ({problem}); make it again")
    return report


def read_evaluation(path: Path) -> Evaluation:
    """Read an ``evaluation.json``.

    Raises:
        FileError: If the file cannot be read, or is not an evaluation of this schema.
    """
    values = read_json(path)
    try:
        typed(values, form_of(Evaluation))
    except FileError as err:
        raise FileError(
            f"{path} is not an evaluation of swin-deploy ({err}); evaluate again"
        ) from err
    try:
        evaluation = _read(values, Evaluation)
        problem = next(_differences(values, to_json(evaluation), "its "), "")
    except (ValueError, ArithmeticError) as err:
        problem = str(err)
    if problem:
        raise FileError(f"{path} contradicts itself ({problem}); evaluate again")
    return evaluation


def read_parity(values: dict[str, Any]) -> ParityReport:
    """Read the JSON values of a parity report.

    Raises:
        ValueError: If the values do not have the form of one.
    """
    return _read(values, ParityReport)


def read_bench(values: dict[str, Any]) -> BenchReport:
    """Read the JSON values of a benchmark.

    Raises:
        ValueError: If the values do not have the form of one.
    """
    return _read(values, BenchReport)


def _read(values: Any, wanted: type[T]) -> T:  # noqa: ANN401 - checked JSON values
    """Convert values that have the right form; lax, because ``"NaN"`` stands for a float."""
    return msgspec.convert(_fields(values), wanted, strict=False)


def _fields(values: Any) -> Any:  # noqa: ANN401 - JSON values
    """Name values as the dataclasses do: a plan's kernels, and no null figures of a result."""
    if isinstance(values, list):
        return [_fields(item) for item in values]
    if not isinstance(values, dict):
        return values
    if "launches" in values:
        values = {**values, "kernels": values["launches"]}
    if "median_ms" in values:
        return {name: value for name, value in values.items() if value is not None}
    return {name: _fields(value) for name, value in values.items()}


def _contradiction(report: Report, values: dict[str, Any]) -> str:
    """Return the first value that does not follow from the others, in words; empty if all do."""
    hops = report.parity.hops if report.parity else ()
    samples = len(report.parity.samples) if report.parity else 0
    wrong = [hop.name for hop in hops if len(hop.answers) not in (0, samples)]
    if wrong:
        return f"{wrong[0]} has not one answer for each sample"
    for hop in hops:
        for result in hop.results:
            held = bool(result.checks) and all(check.passed for check in result.checks)
            if result.passed and not held:
                return f"{hop.name} passes on {result.inputs} although its checks do not"
    return next(_differences(values, to_json(report), "its "), "")


def _differences(found: Any, right: Any, place: str) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Describe each stored value that differs from the one computed again."""
    if isinstance(right, dict) and found.keys() != right.keys():
        yield f"{place} has {listed([*found])}, its figures say {listed([*right])}"
    elif isinstance(right, dict):
        for name in (name for name in right if name not in TEXTS):
            dot = "" if place == "its " else "."
            yield from _differences(found[name], right[name], f"{place}{dot}{name}")
    elif isinstance(right, list) and len(found) != len(right):
        yield f"{place} has {len(found)} entries, its figures say {len(right)}"
    elif isinstance(right, list):
        for index, one in enumerate(right):
            yield from _differences(found[index], one, f"{place}[{index}]")
    elif not (found == right or _close(found, right)):
        yield f"{place} is {shortened(found)}, its figures say {shortened(right)}"


def _close(found: Any, right: Any) -> bool:  # noqa: ANN401 - JSON
    """Return True if two floats differ by rounding alone, as those of two machines may."""
    numbers = isinstance(found, int | float) and isinstance(right, float)
    return numbers and math.isclose(found, right, rel_tol=1e-9)
