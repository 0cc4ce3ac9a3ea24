"""The document of the suite as a page of Markdown, answers first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.gpu_suite.document import (
    DRY_RUN,
    Document,
    of_this_device,
    other_conditions,
)
from benchmarks.gpu_suite.summary import (
    cut_short,
    engine_answers,
    goals,
    peer_answers,
    same_way_table,
    speed_table,
)
from swin_deploy.report.bench_words import bench_sentences
from swin_deploy.report.from_json import read_bench, read_parity
from swin_deploy.report.numbers import one_line
from swin_deploy.report.tables import bench_not_run, bench_table, hop_table, parity_facts


def render_document(document: Document) -> str:
    """Return the page: goals and answers, the parts, then every table with its conditions.

    Args:
        document: The document.
    """
    dry = document["title"] == DRY_RUN
    whole, document = document, of_this_device(document)
    parts: dict[str, Any] = document["parts"]
    places = (part["conditions"].get("device", "unknown") for part in parts.values())
    device = next(places, "no part done")
    sections = [
        f"# {'Dry run: no figures' if dry else f'GPU suite: {device}'}",
        "No figure below means anything: small models and batches, to see that everything runs."
        if dry
        else f"Updated {document.get('updated', 'never')}.",
        "## Goals",
        _table(
            ("Goal", "Measured", "Verdict"),
            ((g.text, g.measured, g.verdict) for g in goals(document)),
        ),
        "## TensorRT on this GPU",
        _list(engine_answers(document) or ["not asked for"]),
        _table(("Engine", "Made", "MB", "Kernels", "Fused attention", "Build s"), _builds(parts)),
        "## Images/s against torch.compile",
        _table(("Model", "Batch", "Shipped", "torch.compile", "Ratio"), speed_table(document)),
        *_unraced(document),
        "## Images/s, run the same way",
        _table(("Model", "Part", "Way", "Images/s at the largest batch"), same_way_table(document)),
        "## ONNX Runtime, our export beside timm's",
        _list(peer_answers(document)),
        "## Parts",
        _table(("Part", "Status", "Seconds", "Reason"), _part_rows(whole)),
        *(text for name, part in parts.items() for text in _part_sections(name, part)),
    ]
    return "\n\n".join(sections) + "\n"


def _unraced(document: Document) -> list[str]:
    """Return the section on batches that were cut short before their rounds; empty if none was."""
    rows = cut_short(document)
    if not rows:
        return []
    columns = ("Part", "Batch", "Runner", "Images/s on its own", "Calls")
    return ["Cut short before the rounds: no ratios.", _table(columns, rows)]


def _part_rows(document: Document) -> Iterable[tuple[str, ...]]:
    for name, part in document["parts"].items():
        differing = other_conditions(document, name)
        notes = [part["reason"], *([f"other {', '.join(differing)}"] if differing else [])]
        yield name, part["status"], f"{part['seconds']:g}", "; ".join(filter(None, notes)) or "-"


def _part_sections(name: str, part: Any) -> list[str]:  # noqa: ANN401 - a part of the document
    data = part["data"] or {}
    if name == "environment":
        facts = [(key, _words(value)) for key, value in data.items()]
        return ["## Environment", _table(("What", "Here"), facts)]
    if "parity" in data or "runs" in data:
        return [f"## {name}", *_calls(data), *_parity(data)]
    if "batches" in data:
        return [f"## {name}", *(_bench(values) for values in data["batches"].values())]
    return []


def _builds(parts: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for part in parts.values():
        built = (part["data"] or {}).get("build")
        if built:
            size, seconds = f"{built['bytes'] / 1e6:.1f}", f"{built['build_s']:.1f}"
            kernels, fused = str(built["kernels"]), str(built["fused attention"])
            yield built["file"], built["made"], size, kernels, fused, seconds


def _parity(data: dict[str, Any]) -> list[str]:
    """Return a table of a part's steps with their verdicts and limits, and a list of reasons."""
    report = data.get("parity")
    read = read_parity(report) if report else None
    table = hop_table(read) if read else None
    facts = [f"{name}: {text}" for name, text in (parity_facts(read) if read else ())]
    facts += [f"{name} failed: {text}" for name, text in (data.get("failed") or {}).items()]
    facts += [f"{name} was not run: {text}" for name, text in (data.get("not run") or {}).items()]
    if data.get("no second opinion"):
        facts.append(f"no second opinion: {data['no second opinion']}")
    return [
        *([_table([header for header, _ in table.columns], table.rows)] if table else []),
        _list(facts),
    ]


def _calls(data: dict[str, Any]) -> list[str]:
    """Return a table of an engine's first call at each batch, plain and as a CUDA graph."""
    rows = [
        (how, batch, *(f"{run[key]:.2g}" for key in ("first call s", "relative l2")))
        for how, found in (("plain", data), ("CUDA graph", data.get("as a CUDA graph") or {}))
        for batch, run in (found.get("runs") or {}).items()
    ]
    return [_table(("How", "Batch", "First call s", "Relative L2"), rows)] if rows else []


def _bench(values: dict[str, Any]) -> str:
    bench = read_bench(values)
    table = bench_table(bench)
    facts = [*bench_not_run(bench), *bench.conditions.items()]
    parts = (
        _list(bench_sentences(bench)),
        _table([header for header, _ in table.columns], table.rows),
        _list(f"{name}: {text}" for name, text in facts),
    )
    return "\n\n".join(part for part in parts if part)


def _words(value: Any) -> str:  # noqa: ANN401 - a JSON value
    if isinstance(value, dict):
        return "; ".join(f"{key}: {text}" for key, text in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {one_line(line)}" for line in lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([one_line(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
