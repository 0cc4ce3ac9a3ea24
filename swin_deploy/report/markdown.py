"""A report as Markdown, for a pull request comment: the verdict first."""

from __future__ import annotations

import html
import re

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport
from swin_deploy.parity import ParityReport
from swin_deploy.report import Report
from swin_deploy.report.numbers import one_line
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
    headline,
    verdict_sentences,
)

ALIGNMENT = {"text": ":---", "code": ":---", "number": "---:", "verdict": ":---"}


def render_markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown; foreign text is escaped."""
    meaning, *rest = verdict_sentences(report.parity)
    parts = [
        f"## {headline(report.parity)}: {_escape(one_line(report.model))}",
        f"**{_escape(meaning)}**",
        "\n".join(f"- {_escape(sentence)}" for sentence in rest),
        *([] if report.parity is None else _parity_parts(report.parity)),
        *([] if report.bench is None else _bench_parts(report.bench)),
        *([] if report.plan is None else _plan_parts(report.plan)),
        *(["### Files", _table(artifact_table(report.artifacts))] if report.artifacts else []),
        "### Conditions",
        _facts((("Made", report.created), *report.conditions.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _parity_parts(parity: ParityReport) -> list[str]:
    return [
        "### Parity with the reference",
        _table(hop_table(parity)),
        _facts((*allowed_facts(parity), *parity_facts(parity))),
        *(
            _folded(f"{one_line(hop.name)}: every case", _table(case_table(hop)))
            for hop in parity.hops
            if hop.results
        ),
        _folded("What the parity columns mean", _facts(PARITY_LEGEND)),
    ]


def _bench_parts(bench: BenchReport) -> list[str]:
    return [
        "### Throughput",
        _table(bench_table(bench)),
        _facts(tuple((f"Not run: {name}", reason) for name, reason in bench_not_run(bench))),
        _facts(bench_facts(bench)),
        _folded("What the throughput columns mean", _facts(BENCH_LEGEND)),
    ]


def _plan_parts(plan: KernelPlan) -> list[str]:
    return [
        "### Kernel plan",
        _facts(plan_facts(plan)),
        _folded("The heaviest kernels", _table(kernel_table(plan))),
        _folded("What the plan's figures mean", _facts(PLAN_LEGEND)),
    ]


def _escape(text: str) -> str:
    """Return ``text`` with everything that Markdown or HTML would interpret taken literally."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def _facts(facts: Facts) -> str:
    return "\n".join(f"- **{_escape(one_line(n))}**: {_escape(one_line(t))}" for n, t in facts)


def _folded(summary: str, body: str) -> str:
    # Inside an HTML element Markdown's backslashes would be shown, so only HTML is escaped.
    return f"<details><summary>{html.escape(summary)}</summary>\n\n{body}\n\n</details>"


def _table(table: Table) -> str:
    lines = [
        [header for header, _ in table.columns],
        [ALIGNMENT[kind] for _, kind in table.columns],
        *(
            [_cell(cell, kind) for cell, (_, kind) in zip(row, table.columns, strict=True)]
            for row in table.rows
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str, kind: str) -> str:
    if kind == "verdict" and text == "FAIL":
        return "**FAIL**"
    if kind == "code" and text and "`" not in text:
        return "`" + text.replace("|", "\\|") + "`"
    return _escape(text)
