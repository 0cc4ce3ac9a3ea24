"""A report as one HTML file that loads nothing: the verdict first, then its evidence."""

from __future__ import annotations

import html
from collections.abc import Iterable

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.report import Report
from swin_deploy.report.charts import kind_bars, ratio_bars, render_bars, tolerance_bars
from swin_deploy.report.numbers import one_line
from swin_deploy.report.style import STYLE
from swin_deploy.report.tables import (
    Facts,
    Table,
    allowed_facts,
    artifact_table,
    bench_facts,
    bench_not_run,
    bench_table,
    case_table,
    hop_table,
    kernel_table,
    parity_facts,
    plan_facts,
)
from swin_deploy.report.words import (
    BENCH_LEGEND,
    PARITY_LEGEND,
    PLAN_LEGEND,
    count_noun,
    headline,
    verdict_sentences,
)

VERDICT_CLASSES = {"pass": "pass", "FAIL": "fail", "not run": "not-run"}
FIGURES = 6


def render_html(report: Report) -> str:
    """Return the report as one HTML document; all foreign text is escaped."""
    title = f"{headline(report.parity)}: {one_line(report.model)}"
    body = "".join(
        (
            f"<h1>{_text(report.model)} <span class='quiet'>deployment report, "
            f"{_text(report.created)}</span></h1>",
            _verdict(report),
            "" if report.parity is None else _parity(report.parity),
            "" if report.bench is None else _bench(report.bench),
            "" if report.plan is None else _plan(report.plan),
            _section("Files", _table(artifact_table(report.artifacts))) if report.artifacts else "",
            _section("Conditions", _facts((("Made", report.created), *report.conditions.items()))),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(one_line(text))


def _verdict(report: Report) -> str:
    parity = report.parity
    meaning, *rest = verdict_sentences(parity)
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in rest)
    return (
        f'<div class="verdict {_verdict_class(parity)}"><strong>{_text(headline(parity))}</strong>'
        f"<p>{_text(meaning)}</p>{f'<ul>{items}</ul>' if items else ''}</div>\n"
    )


def _verdict_class(parity: ParityReport | None) -> str:
    if parity is None:
        return "warn"
    return "good" if parity.passed else "bad"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{''.join(parts)}</section>\n"


def _parity(parity: ParityReport) -> str:
    return _section(
        "Parity with the reference",
        "<p>The worst case of each hop. Errors are in units of the reference's RMS.</p>",
        _table(hop_table(parity)),
        _figure(
            "Needed of allowed: a full bar is at the limit", render_bars(tolerance_bars(parity))
        ),
        _facts((*allowed_facts(parity), *parity_facts(parity))),
        *(_cases(hop) for hop in parity.hops if hop.results),
        _folded("What the parity columns mean", _facts(PARITY_LEGEND)),
    )


def _cases(hop: Hop) -> str:
    passed = sum(result.passed for result in hop.results)
    count = f"{passed} of {count_noun(len(hop.results), 'case')} passed"
    backend = f"<p class='quiet'>{_text(' · '.join(filter(None, (hop.file, hop.backend))))}</p>"
    opening = "<details>" if hop.passed else "<details open>"
    return _folded(f"{hop.name}: {count}", backend + _table(case_table(hop)), opening)


def _bench(bench: BenchReport) -> str:
    not_run = tuple((f"Not run: {name}", reason) for name, reason in bench_not_run(bench))
    return _section(
        "Throughput",
        _table(bench_table(bench)),
        _figure(
            "Images/s against PyTorch in the same run; the line is PyTorch itself",
            render_bars(ratio_bars(bench)),
        ),
        _facts((*not_run, *bench_facts(bench))),
        _folded("What the throughput columns mean", _facts(BENCH_LEGEND)),
    )


def _plan(plan: KernelPlan) -> str:
    facts = plan_facts(plan)
    figures = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(text)}</dd></div>" for name, text in facts[:FIGURES]
    )
    return _section(
        "Kernel plan",
        f'<dl class="figures">{figures}</dl>',
        _figure(
            "MB moved by each kind of kernel (how many): in half, then the rest in grey",
            render_bars(kind_bars(plan)),
        ),
        _facts(facts[FIGURES:]),
        "<h3>Heaviest kernels</h3>",
        _table(kernel_table(plan)),
        _folded("What the plan's figures mean", _facts(PLAN_LEGEND)),
    )


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{_text(caption)}</figcaption>{chart}</figure>\n" if chart else ""


def _folded(summary: str, body: str, opening: str = "<details>") -> str:
    return f"{opening}<summary>{_text(summary)}</summary>{body}</details>\n"


def _facts(facts: Facts) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts)
    return f'<dl class="facts">{rows}</dl>\n' if rows else ""


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_number(kind)}>{_text(name)}</th>' for name, kind in table.columns
    )
    body = "".join(f"<tr>{_cells(row, table)}</tr>\n" for row in table.rows)
    return (
        '<div class="scroll" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _number(kind: str) -> str:
    return ' class="number"' if kind == "number" else ""


def _cells(row: Iterable[str], table: Table) -> str:
    cells = zip(row, table.columns, strict=True)
    return "".join(_cell(cell, name, kind) for cell, (name, kind) in cells)


def _cell(text: str, header: str, kind: str) -> str:
    if kind == "verdict":
        return f'<td class="verdict-cell {VERDICT_CLASSES.get(text, "")}">{_text(text)}</td>'
    if kind == "code":
        return f'<td class="code"><code>{_text(text)}</code></td>'
    return f'<td class="{"reason" if header == "Reason" else kind}">{_text(text)}</td>'
