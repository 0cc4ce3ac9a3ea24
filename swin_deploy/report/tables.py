"""Results as tables of text, shared by the terminal, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        columns: Header and kind of each column.
        rows: Cells of each row, each on one line.
    """

    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[str, ...], ...]


def _table(columns: tuple[tuple[str, Kind], ...], rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(columns, tuple(tuple(one_line(cell) for cell in row) for row in rows))


def hop_table(parity: ParityReport) -> Table:
    """Return one row a hop, with the deciding rule of its worst case: error, noise and limit."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Step", "text"),
        ("Verdict", "verdict"),
        ("Rule", "text"),
        ("Error", "number"),
        ("Noise", "number"),
        ("Limit", "number"),
        ("Flips", "number"),
        ("Worst case", "text"),
        ("Cases passed", "number"),
    )
    return _table(columns, (_hop_row(hop) for hop in parity.hops))


def _hop_row(hop: Hop) -> tuple[str, ...]:
    verdict = verdict_word(hop.passed)
    worst = hop.worst
    if hop.passed is None or worst is None:
        return (hop.name, verdict, *("-",) * 7)
    passed = sum(result.passed for result in hop.results)
    cases = f"{passed}/{len(hop.results)}"
    counts = count_flips(hop)
    flips = "-" if counts is None else str(counts[0])
    return (hop.name, verdict, *_deciding_cells(worst), flips, case_text(worst), cases)


def _deciding_cells(result: ParityResult) -> tuple[str, ...]:
    """Return the texts of rule, error, noise and limit."""
    check = result.deciding
    floor = "-" if check.floor is None else error_text(check.floor)
    return check.rule, error_text(check.needed), floor, error_text(check.allowed)


def case_table(hop: Hop) -> Table:
    """Return one row for each result of a hop, with the reason if the hop failed."""
    columns: tuple[tuple[str, Kind], ...] = (
        ("Images", "text"),
        ("Batch", "number"),
        ("Rows", "number"),
        ("Verdict", "verdict"),
        ("Rule", "text"),
        ("Error", "number"),
        ("Noise", "number"),
        ("Limit", "number"),
        ("Max error", "number"),
        ("Mean error", "number"),
        ("Relative L2", "number"),
        ("Cosine", "number"),
        ("SQNR dB", "number"),
        ("Top-1 agreement", "number"),
        ("Top-5 agreement", "number"),
        ("Flips", "number"),
        ("Near ties", "number"),
    )
    if hop.passed:
        return _table(columns, (_case_row(result) for result in hop.results))
    rows = ((*_case_row(result), result.reason) for result in hop.results)
    return _table((*columns, ("Reason", "text")), rows)


def _case_row(result: ParityResult) -> tuple[str, ...]:
    return (
        result.inputs,
        str(result.batch),
        str(result.rows),
        verdict_word(result.passed),
        *_deciding_cells(result),
        error_text(result.max_abs),
        error_text(result.mean_abs),
        error_text(result.relative_l2),
        cosine_text(result.cosine),
        decibel_text(result.sqnr_db),
        percent_text(result.top1_agreement),
        percent_text(result.top5_agreement),
        "-" if result.flips is None else str(result.flips),
        "-" if result.near_ties is None else str(result.near_ties),
    )


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


def bench_table(bench: BenchReport) -> Table:
    """Return one row for each runner and batch size; empty columns are skipped."""
    columns: list[tuple[str, Kind]] = [
        ("Runner", "text"),
        ("Precision", "text"),
        ("Batch", "number"),
        ("Median ms", "number"),
        ("p95 ms", "number"),
        ("Images/s", "number"),
        ("vs PyTorch", "number"),
        ("Interval", "number"),
    ]
    extra = [name for name in BENCH_EXTRA if any(getattr(r, name) for r in bench.results)]
    columns += [(BENCH_EXTRA[name], "number") for name in extra]
    columns.append(("Calls timed", "number"))
    return _table(tuple(columns), (_bench_row(result, extra) for result in bench.results))


# Figures that not every machine or run has.
BENCH_EXTRA = {
    "device_ms": "Device ms",
    "copies_ms": "Images/s with copies",
    "peak_mb": "Peak MB",
}


def _bench_row(result: BenchResult, extra: list[str]) -> tuple[str, ...]:
    first = (result.name, result.precision, str(result.batch))
    if not result.timed:
        return (*first, "failed" if result.failed else "not run", *("-",) * (5 + len(extra)))
    low, high = result.ratio_low, result.ratio_high
    texts = {
        "device_ms": latency_text(result.device_ms or 0.0),
        "copies_ms": f"{result.batch / (result.copies_ms or math.inf) * 1e3:,.1f}",
        "peak_mb": f"{result.peak_mb or 0.0:,.0f}",
    }
    return (
        *first,
        latency_text(result.median_ms),
        latency_text(result.p95_ms),
        f"{result.images_per_s:,.1f}",
        ratio_text(result.ratio) if high or result.ratio == 1 else "-",
        f"{low:.2f}-{high:.2f}" if high else "-",
        *(texts[name] if getattr(result, name) else "-" for name in extra),
        str(result.iterations),
    )


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
    columns: tuple[tuple[str, Kind], ...] = (
        ("Kind", "text"),
        ("File", "text"),
        ("MB", "number"),
        ("SHA-256", "code"),
    )
    rows = ((a.kind, a.file, megabytes_text(a.bytes), a.sha256) for a in artifacts)
    return _table(columns, rows)
