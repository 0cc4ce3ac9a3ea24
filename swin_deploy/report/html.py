"""A report as one HTML file that loads nothing: the verdict first, then its evidence."""

from __future__ import annotations

import html
from collections.abc import Iterable

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.report import Report
from swin_deploy.report.accuracy import (
    ACCURACY_LEGEND,
    accuracy_facts,
    accuracy_headline,
    accuracy_sentences,
    accuracy_table,
)
from swin_deploy.report.bench_words import bench_sentences
from swin_deploy.report.charts import block_bars, ratio_bars, render_bars, tolerance_bars
from swin_deploy.report.drift_svg import render_drift
from swin_deploy.report.numbers import one_line
from swin_deploy.report.plan_tables import SHOWN_KINDS, block_table, kernel_table, plan_facts
from swin_deploy.report.sample_grid import render_samples, sample_sentence
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
    parity_facts,
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
DRIFT_LEGEND = (
    ("hop", "this hop"),
    ("noise", "floor: what PyTorch itself loses"),
    ("limit", "limit"),
    ("beyond", "beyond it"),
)


def render_html(report: Report) -> str:
    """Return the report as one HTML document; all foreign text is escaped."""
    title = f"{headline(report.parity)}: {one_line(report.model)}"
    body = "".join(
        (
            f"<h1>{_text(report.model)} <span class='quiet'>deployment report, "
            f"{_text(report.created)}</span></h1>",
            _verdict(report),
            _assumptions(report),
            _conditions(report),
            "" if report.parity is None else _parity(report.parity),
            "" if report.evaluation is None else _evaluation(report.evaluation),
            "" if report.plan is None else _plan(report.plan),
            "" if report.bench is None else _bench(report.bench),
            _section("Files", _table(artifact_table(report.artifacts))) if report.artifacts else "",
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


def _assumptions(report: Report) -> str:
    """Warn of what nothing said and had to be chosen; empty without such."""
    items = "".join(f"<li>{_text(assumption.text)}</li>" for assumption in report.assumptions)
    return f'<ul class="assumed">{items}</ul>\n' if items else ""


def _conditions(report: Report) -> str:
    """What everything below holds for, in a few lines."""
    parts = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(text)}</dd></div>"
        for name, text in (("Made", report.created), *report.conditions.items())
    )
    return f'<dl class="conditions">{parts}</dl>\n'


def _verdict_class(parity: ParityReport | None) -> str:
    if parity is None:
        return "warn"
    return {"pass": "good", "fail": "bad", "inconclusive": "warn"}[parity.verdict]


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{''.join(parts)}</section>\n"


def _parity(parity: ParityReport) -> str:
    return _section(
        "Parity with the reference",
        "<p>The worst case of each hop. Errors are in units of the reference's RMS.</p>",
        _table(hop_table(parity), stacked=True),
        _figure(
            "Needed of allowed: a full bar is at the limit", render_bars(tolerance_bars(parity))
        ),
        _facts(parity_facts(parity)),
        _folded("What is allowed, and why", _facts(allowed_facts(parity))),
        _drift(parity),
        _samples(parity),
        "<h3>Every case</h3>" if any(hop.results for hop in parity.hops) else "",
        *(_cases(hop) for hop in parity.hops if hop.results),
        _folded("What the parity columns mean", _facts(PARITY_LEGEND)),
    )


def _drift(parity: ParityReport) -> str:
    charts = render_drift(parity)
    if not charts:
        return ""
    legend = "".join(f'<span><i class="{name}"></i>{text}</span>' for name, text in DRIFT_LEGEND)
    return (
        "<h3>Along the model</h3><p>Relative L2 of the tokens behind every block, on the images "
        f'that come nearest to their limit.</p><div class="legend">{legend}</div>{charts}\n'
    )


def _samples(parity: ParityReport) -> str:
    grid = render_samples(parity)
    if not grid:
        return ""
    note = (
        "Likeliest classes with their probability in percent; marked where the reference's differ."
    )
    return (
        f"<h3>What each model sees</h3><p>{_text(sample_sentence(parity))}</p>{grid}"
        f'<p class="quiet">{note}</p>\n'
    )


def _evaluation(evaluation: Evaluation) -> str:
    return _section(
        "Accuracy on labelled images",
        f"<p><b>{_text(accuracy_headline(evaluation))}</b></p>",
        *(f"<p>{_text(sentence)}</p>" for sentence in accuracy_sentences(evaluation)),
        _table(accuracy_table(evaluation), stacked=True),
        _facts(accuracy_facts(evaluation)),
        _folded("What the accuracy columns mean", _facts(ACCURACY_LEGEND)),
    )


def _cases(hop: Hop) -> str:
    passed = sum(result.passed for result in hop.results)
    count = f"{passed} of {count_noun(len(hop.results), 'case')} passed"
    backend = f"<p class='quiet'>{_text(' · '.join(filter(None, (hop.file, hop.backend))))}</p>"
    opening = "<details>" if hop.passed else "<details open>"
    return _folded(f"{hop.name}: {count}", backend + _table(case_table(hop)), opening)


def _bench(bench: BenchReport) -> str:
    return _section(
        "Throughput",
        *(f"<p>{_text(sentence)}</p>" for sentence in bench_sentences(bench)),
        _table(bench_table(bench), stacked=True),
        _figure(
            "Images/s against PyTorch in the same run: the line is PyTorch itself, the whisker the "
            "95 % interval",
            render_bars(ratio_bars(bench)),
        ),
        _facts((*bench_not_run(bench), *bench_facts(bench))),
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
            "Where the bytes go: MB that each part of the model moves; the line is its floor",
            _with_legend(render_bars(block_bars(plan))),
        ),
        _facts(facts[FIGURES:]),
        _folded("Every part of the model", _table(block_table(plan))) if plan.blocks else "",
        "<h3>Heaviest kernels</h3>",
        _table(kernel_table(plan)),
        _folded("What the plan's figures mean", _facts(PLAN_LEGEND)),
    )


def _with_legend(chart: str) -> str:
    kinds = "".join(f'<span><i class="{kind}"></i>{kind}</span>' for kind in SHOWN_KINDS)
    return f'<div class="legend">{kinds}</div>{chart}' if chart else ""


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{_text(caption)}</figcaption>{chart}</figure>\n" if chart else ""


def _folded(summary: str, body: str, opening: str = "<details>") -> str:
    return f"{opening}<summary>{_text(summary)}</summary>{body}</details>\n"


def _facts(facts: Facts) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts)
    return f'<dl class="facts">{rows}</dl>\n' if rows else ""


def _table(table: Table, *, stacked: bool = False) -> str:
    """A table that scrolls sideways on a phone, or whose rows become lists there."""
    head = "".join(
        f'<th scope="col"{_number(kind)}>{_text(name)}</th>' for name, kind in table.columns
    )
    body = "".join(f"<tr>{_cells(row, table)}</tr>\n" for row in table.rows)
    return (
        f'<div class="scroll{" stacked" if stacked else ""}" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _number(kind: str) -> str:
    return ' class="number"' if kind == "number" else ""


def _cells(row: Iterable[str], table: Table) -> str:
    cells = zip(row, table.columns, strict=True)
    return "".join(_cell(cell, name, kind) for cell, (name, kind) in cells)


def _cell(text: str, header: str, kind: str) -> str:
    shown, name = _text(text), kind
    if kind == "verdict":
        name = f"verdict-cell {VERDICT_CLASSES.get(text, '')}"
    elif kind == "code":
        shown = f"<code>{shown}</code>"
    elif header == "Reason":
        name = "reason"
    nothing = " nothing" if text == "-" else ""
    return f'<td class="{name}{nothing}" data-name="{html.escape(header)}">{shown}</td>'
