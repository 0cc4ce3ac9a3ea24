"""Results as tables of text, shared by the terminal, Markdown and HTML."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from swin_deploy.bench import BenchReport, BenchResult
from swin_deploy.config import Size
from swin_deploy.parity import Hop, ParityReport, ParityResult
from swin_deploy.report.numbers import (
    cosine_text,
    decibel_text,
    error_text,
    latency_text,
    megabytes_text,
    one_line,
    percent_text,
    ratio_text,
)
from swin_deploy.report.results import Artifact
from swin_deploy.report.words import (
    case_text,
    count_flips,
    flip_text,
    tolerance_texts,
    verdict_word,
)

Kind = Literal["text", "number", "verdict", "code"]
Facts = tuple[tuple[str, str], ...]
T = TypeVar("T")
# Kind of each column, and its cell for one item, by header.
Columns = Mapping[str, tuple[Kind, Callable[[T], str]]]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        columns: Header and kind of each column.
        rows: Cells of each row, each on one line.
    """

    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[str, ...], ...]


def make_table(items: Iterable[T], columns: Columns[T]) -> Table:
    """Return one row for each item."""
    rows = (tuple(one_line(cell(item)) for _, cell in columns.values()) for item in items)
    return Table(tuple((name, kind) for name, (kind, _) in columns.items()), tuple(rows))


# The rule that decides about a result.
DECIDING: Columns[ParityResult] = {
    "Rule": ("text", lambda result: result.deciding.rule),
    "Error": ("number", lambda result: error_text(result.deciding.needed)),
    "Noise": ("number", lambda result: _known(result.deciding.floor, error_text)),
    "Limit": ("number", lambda result: error_text(result.deciding.allowed)),
}
CASE: Columns[ParityResult] = {
    "Images": ("text", lambda result: result.inputs),
    "Batch": ("number", lambda result: str(result.batch)),
    "Rows": ("number", lambda result: str(result.rows)),
    "Verdict": ("verdict", lambda result: verdict_word(result.passed)),
    **DECIDING,
    "Max error": ("number", lambda result: error_text(result.max_abs)),
    "Mean error": ("number", lambda result: error_text(result.mean_abs)),
    "Relative L2": ("number", lambda result: error_text(result.relative_l2)),
    "Cosine": ("number", lambda result: cosine_text(result.cosine)),
    "SQNR dB": ("number", lambda result: decibel_text(result.sqnr_db)),
    "Top-1 agreement": ("number", lambda result: percent_text(result.top1_agreement)),
    "Top-5 agreement": ("number", lambda result: percent_text(result.top5_agreement)),
    "Flips": ("number", lambda result: _known(result.flips, str)),
    "Near ties": ("number", lambda result: _known(result.near_ties, str)),
}


def _known(value: T | None, text: Callable[[T], str]) -> str:
    return "-" if value is None else text(value)


def hop_table(parity: ParityReport) -> Table:
    """Return one row a hop, with the deciding rule of its worst case: error, noise and limit."""
    columns: Columns[Hop] = {
        "Step": ("text", lambda hop: hop.name),
        "Verdict": ("verdict", lambda hop: verdict_word(hop.passed)),
        **{name: (kind, _of_worst(cell)) for name, (kind, cell) in DECIDING.items()},
        "Flips": ("number", _flips),
        "Worst case": ("text", _of_worst(case_text)),
        "Cases passed": ("number", _passed),
    }
    return make_table(parity.hops, columns)


def _of_worst(cell: Callable[[ParityResult], str]) -> Callable[[Hop], str]:
    return lambda hop: _known(None if hop.passed is None else hop.worst, cell)


def _flips(hop: Hop) -> str:
    return _known(None if hop.passed is None else count_flips(hop), lambda counts: str(counts[0]))


def _passed(hop: Hop) -> str:
    if hop.passed is None or hop.worst is None:
        return "-"
    return f"{sum(result.passed for result in hop.results)}/{len(hop.results)}"


def case_table(hop: Hop) -> Table:
    """Return one row for each result of a hop, with the reason if the hop failed."""
    reason: Columns[ParityResult] = {"Reason": ("text", lambda result: result.reason)}
    return make_table(hop.results, CASE if hop.passed else {**CASE, **reason})


def allowed_facts(parity: ParityReport) -> Facts:
    """Return each tolerance in words, with the hops that it holds for."""
    hops: dict[str, list[str]] = {}
    for hop in parity.hops:
        for rule in tolerance_texts(hop):
            hops.setdefault(rule, []).append(hop.name)
    return _facts((f"Limit: {', '.join(names)}", rule) for rule, names in hops.items())


IMAGE_SETS = {"images": "Photographs", "seeded": "Random images", "extreme": "Extreme images"}


def parity_facts(parity: ParityReport) -> Facts:
    """Return facts of a comparison: weights, reference, images, then accuracy, flips and drift."""
    images = [
        (IMAGE_SETS.get(name, f"Images: {name}"), text) for name, text in parity.inputs.items()
    ]
    facts = [("Weights", parity.weights), ("Reference", parity.reference_backend), *images]
    accuracy = {"reference": parity.reference_top1_accuracy}
    accuracy |= {hop.name: hop.top1_accuracy for hop in parity.hops}
    shares = [f"{n} {percent_text(share)}" for n, share in accuracy.items() if share is not None]
    if shares:
        facts.append(("Top-1 accuracy", ", ".join(shares)))
    counted = [hop for hop in parity.hops if count_flips(hop) is not None]
    if counted:
        flips = [f"{hop.name} {text}" for hop in counted if (text := flip_text(hop))]
        facts.append(("Same top-1 on all images", f"no: {', '.join(flips)}" if flips else "yes"))
    unseen = [f"{h.name}: {h.drift_not_run}" for h in parity.hops if h.drift_not_run]
    return _facts([*facts, ("Not compared block by block", "; ".join(unseen))] if unseen else facts)


def _facts(facts: Iterable[tuple[str, str]]) -> Facts:
    return tuple((one_line(name), one_line(text)) for name, text in facts)


# Cells of a runner that was timed, by header.
FIGURES: Mapping[str, Callable[[BenchResult], str]] = {
    "Median ms": lambda result: latency_text(result.median_ms),
    "p95 ms": lambda result: latency_text(result.p95_ms),
    "Images/s": lambda result: f"{result.images_per_s:,.1f}",
    "vs PyTorch": lambda r: ratio_text(r.ratio) if r.ratio_high or r.ratio == 1 else "-",
    "Interval": lambda r: f"{r.ratio_low:.2f}-{r.ratio_high:.2f}" if r.ratio_high else "-",
    "Device ms": lambda result: latency_text(result.device_ms) if result.device_ms else "-",
    "Images/s with copies": lambda r: f"{r.batch / r.copies_ms * 1e3:,.1f}" if r.copies_ms else "-",
    "Peak MB": lambda result: f"{result.peak_mb:,.0f}" if result.peak_mb else "-",
    "Calls timed": lambda result: str(result.iterations),
}
# Figures that not every machine or run has.
EXTRA = ("Device ms", "Images/s with copies", "Peak MB")


def bench_table(bench: BenchReport) -> Table:
    """Return one row for each runner and batch size; empty columns are skipped."""
    columns: dict[str, tuple[Kind, Callable[[BenchResult], str]]] = {
        "Runner": ("text", lambda result: result.name),
        "Precision": ("text", lambda result: result.precision),
        "Batch": ("number", lambda result: str(result.batch)),
    }
    for name, cell in FIGURES.items():
        if name not in EXTRA or any(cell(result) != "-" for result in bench.results):
            columns[name] = ("number", functools.partial(_figure, name))
    return make_table(bench.results, columns)


def _figure(name: str, result: BenchResult) -> str:
    if result.timed:
        return FIGURES[name](result)
    return "-" if name != "Median ms" else "failed" if result.failed else "not run"


def bench_facts(bench: BenchReport) -> Facts:
    """Return the conditions of the timings: image size, conditions, backend of each runner."""
    ran: dict[str, list[str]] = {}
    for result in bench.results:
        if result.timed and result.name not in ran.setdefault(result.backend, []):
            ran[result.backend].append(result.name)
    side = "{} x {} pixels".format(*Size.of(bench.img_size))
    backends = [(f"Ran {', '.join(names)}", backend) for backend, names in ran.items()]
    return _facts([("Image size", side), *bench.conditions.items(), *backends])


def bench_not_run(bench: BenchReport) -> Facts:
    """Return each runner that could not run here or failed, with the reason."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for result in bench.results:
        if not result.timed:
            word = "Failed" if result.failed else "Not run"
            key = f"{word}: {_precise_name(result)}", result.failed or result.not_run
            reasons.setdefault(key, []).append(result.batch)
    everywhere = len({result.batch for result in bench.results})
    return _facts(
        (name, reason if len(at) == everywhere else f"batch {', '.join(map(str, at))}: {reason}")
        for (name, reason), at in reasons.items()
    )


def _precise_name(result: BenchResult) -> str:
    return result.name if result.mode == "file" else f"{result.name}, {result.precision}"


def artifact_table(artifacts: tuple[Artifact, ...]) -> Table:
    """Return one row for each file, with its whole SHA-256."""
    columns: Columns[Artifact] = {
        "Kind": ("text", lambda artifact: artifact.kind),
        "File": ("text", lambda artifact: artifact.file),
        "MB": ("number", lambda artifact: megabytes_text(artifact.bytes)),
        "SHA-256": ("code", lambda artifact: artifact.sha256),
    }
    return make_table(artifacts, columns)
