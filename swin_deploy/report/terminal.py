"""Results as Rich renderables for standard output, at most 100 columns wide."""

from __future__ import annotations

from rich import box
from rich import table as rich_table
from rich.console import Group, RenderableType
from rich.text import Text

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
    hop_table,
    kernel_table,
    parity_facts,
    plan_facts,
)
from swin_deploy.report.words import headline, verdict_sentences

MIN_WIDTHS = {"text": 8, "code": 12, "number": None, "verdict": 7}
STYLES = {"pass": "green", "FAIL": "bold red", "not run": "yellow"}


def render_parity(report: ParityReport) -> RenderableType:
    """Return the verdict, what it means, one row a hop, and what was allowed and why."""
    style = "bold green" if report.passed else "bold red"
    return Group(
        Text(f"Parity: {headline(report)}", style=style),
        *(Text(sentence) for sentence in verdict_sentences(report)),
        _table(hop_table(report)),
        Text("Worst case of each hop. Errors are in units of the reference's RMS, in float64."),
        _facts((*allowed_facts(report), *parity_facts(report))),
    )


def render_bench(report: BenchReport) -> RenderableType:
    """Return one row for each runner and batch, and what the numbers hold for."""
    not_run = tuple((f"Not run: {name}", reason) for name, reason in bench_not_run(report))
    return Group(
        Text(f"Throughput: {one_line(report.model)}", style="bold"),
        _table(bench_table(report)),
        _facts((*not_run, *bench_facts(report))),
    )


def render_plan(report: KernelPlan) -> RenderableType:
    """Return the figures of an engine's kernel plan and its heaviest kernels."""
    return Group(
        Text("Kernel plan", style="bold"),
        _facts(plan_facts(report)),
        _table(_without_last_column(kernel_table(report))),
        Text("Heaviest kernels. 1 MB is a million bytes; half is float16 or bfloat16."),
    )


def render_summary(report: Report) -> RenderableType:
    """Return a run's closing summary: the verdict, each hop, throughput, plan and files."""
    parts: list[RenderableType] = []
    if report.parity is not None:
        style = "bold green" if report.parity.passed else "bold red"
        parts += [Text(f"{headline(report.parity)}: {one_line(report.model)}", style=style)]
        parts += [Text(sentence) for sentence in verdict_sentences(report.parity)]
        parts.append(_table(hop_table(report.parity)))
        parts.append(_facts(parity_facts(report.parity)))
    if report.bench is not None:
        parts.append(_table(bench_table(report.bench)))
    if report.plan is not None:
        parts.append(_facts(plan_facts(report.plan)))
    parts.append(_table(_without_last_column(artifact_table(report.artifacts))))
    return Group(*parts)


def _without_last_column(table: Table) -> Table:
    return Table(table.columns[:-1], tuple(row[:-1] for row in table.rows))


def _table(table: Table) -> rich_table.Table:
    grid = rich_table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header, kind in table.columns:
        number = kind == "number"
        grid.add_column(
            header.replace(" ", "\n") if number else header,
            justify="right" if number else "left",
            no_wrap=kind != "text",
            overflow="ellipsis" if kind == "code" else "fold",
            min_width=MIN_WIDTHS[kind],
            max_width=40 if kind == "code" else None,
        )
    for row in table.rows:
        grid.add_row(*(_cell(c, kind) for c, (_, kind) in zip(row, table.columns, strict=True)))
    return grid


def _cell(text: str, kind: str) -> Text:
    return Text(text, style=STYLES.get(text, "") if kind == "verdict" else "")


def _facts(facts: Facts) -> rich_table.Table:
    grid = rich_table.Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", overflow="fold", max_width=32)
    grid.add_column(overflow="fold")
    for name, text in facts:
        grid.add_row(Text(name), Text(text))
    return grid
