"""Results as Rich renderables for standard output, for the width of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from exporters.plan import KernelPlan
from exporters.plan.roofline import LAUNCH_US, Bound
from swin_deploy.bench import BenchReport
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import ParityReport
from swin_deploy.precision.diagnose import Diagnosis
from swin_deploy.report import accuracy, bench_words, plan_tables, precision, tables, words
from swin_deploy.report.grids import Column, Grid
from swin_deploy.report.numbers import end_of, one_line
from swin_deploy.report.results import Report
from swin_deploy.report.summary import tiles
from swin_deploy.report.tables import Facts, Table

WORST_CASES = (
    "The worst case of each step from the checkpoint to what is shipped. Errors are in units of "
    "the reference's RMS, in float64. Noise: what PyTorch itself loses in the same precision; the "
    "limit is a multiple of it."
)
MOST_PARTS = 24  # parts of a model up to which all are shown
BLOCKS_LEGEND = (
    "1 MB is a million bytes; norm has elementwise kernels too. Min., the minimum: what "
    "must be in memory, read and written once, and the weights."
)
SHORT_NAME = 18  # characters of a block's name
FACT_WIDTH = 32  # characters of a fact's name, in one line
VERDICT_STYLES = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
TILE_STYLES = {"good": "bold green", "warn": "bold yellow", "bad": "bold red", "none": "bold"}
STYLES = {
    "pass": "green",
    "FAIL": "bold red",
    "not run": "yellow",
    "worse": "bold red",
    "missing": "bold red",
    "better": "green",
    "not comparable": "yellow",
}


def render_parity(report: ParityReport) -> RenderableType:
    """Return the verdict and its meaning, one row a hop, and the tolerances with their origin."""
    style = VERDICT_STYLES[report.verdict]
    return Group(
        Text(f"Parity: {words.headline(report)}", style=style),
        *(Text(sentence) for sentence in words.verdict_sentences(report)),
        table_grid(_without(tables.hop_table(report), "Flips")),
        Text(WORST_CASES),
        _facts((*tables.allowed_facts(report), *tables.parity_facts(report))),
    )


def render_bench(report: BenchReport) -> RenderableType:
    """Return the comparisons, one row for each runner and batch, and the conditions."""
    return Group(
        Text(f"Throughput: {one_line(report.model)}", style="bold"),
        *(Text(sentence) for sentence in bench_words.bench_sentences(report)),
        table_grid(tables.bench_table(report)),
        _facts((*tables.bench_not_run(report), *tables.bench_facts(report))),
    )


def render_precision(found: Diagnosis, *, every: bool) -> RenderableType:
    """Return the advice and one row for each part.

    Args:
        found: The diagnosis.
        every: True to add one row for each activation.
    """
    return Group(
        Text(f"Advice: {one_line(found.advice)}", style="bold"),
        table_grid(precision.part_table(found)),
        *([table_grid(precision.activation_table(found))] if every else []),
        _facts(precision.precision_facts(found)),
    )


def render_plan(report: KernelPlan) -> RenderableType:
    """Return the figures of a kernel plan, and its parts; if those are many, its heaviest kernels.

    The heaviest kernels are also shown for a plan without parts.
    """
    parts = 0 < len(report.blocks) <= MOST_PARTS
    return Group(
        render_plan_figures(report),
        render_blocks(report) if parts else _heaviest(report),
    )


def render_plan_figures(report: KernelPlan) -> RenderableType:
    """Return the figures of an engine's kernel plan."""
    return Group(Text("Kernel plan", style="bold"), _facts(plan_tables.plan_facts(report)))


def _heaviest(report: KernelPlan) -> RenderableType:
    return Group(
        table_grid(_without(plan_tables.kernel_table(report), "ONNX nodes")),
        Text("Heaviest kernels. 1 MB is a million bytes; half is float16 or bfloat16."),
    )


def render_blocks(report: KernelPlan, bounds: Sequence[Bound] = ()) -> RenderableType:
    """Return one row for each part of the model."""
    return Group(
        table_grid(_with_short_names(plan_tables.block_table(report, bounds))),
        Text(BLOCKS_LEGEND),
    )


def render_launches(report: KernelPlan, bounds: Sequence[Bound] = ()) -> RenderableType:
    """Return one row for each kernel, in launch order."""
    return table_grid(_with_short_names(plan_tables.launch_table(report, bounds)))


def render_bounds(bounds: Sequence[Bound]) -> RenderableType:
    """Return one row for each GPU, with the least time that the plan takes there."""
    return Group(
        table_grid(plan_tables.roofline_table(bounds)),
        Text(
            "A bound from published peaks, not a measurement: each kernel takes the longer of its "
            "operations and its bytes. Bytes that stay in the L2 cache can beat it; FLOPs alone "
            f"are what no cache shortens. Launches, {LAUNCH_US:g} us a kernel assumed, come on top."
        ),
    )


def render_comparison(
    plans: tuple[KernelPlan, KernelPlan], names: tuple[str, str], tables: tuple[Table, Table]
) -> RenderableType:
    """Return two plans side by side.

    Args:
        plans: The plans A and B.
        names: Names of the engines or models of A and B.
        tables: Table of their figures, and table of the parts of the model to show.
    """
    planned = [f"{plan.flavor} {plan.version}" for plan in plans]
    about = (f"{one_line(name)}, {by}" for name, by in zip(names, planned, strict=True))
    return Group(
        Text("Two kernel plans", style="bold"),
        _facts(tuple(zip("AB", about, strict=True))),
        table_grid(tables[0]),
        table_grid(_with_short_names(tables[1], columns=2)),
    )


def _with_short_names(table: Table, columns: int = 1) -> Table:
    """Cut long names of blocks to their ends, in which they differ."""
    at = [index for index, (_, kind) in enumerate(table.columns) if kind == "code"][:columns]

    def short(index: int, cell: str) -> str:
        return end_of(cell, SHORT_NAME) if index in at else cell

    rows = (tuple(short(index, cell) for index, cell in enumerate(row)) for row in table.rows)
    return Table(table.columns, tuple(rows))


def render_evaluation(evaluation: Evaluation) -> RenderableType:
    """Return the verdict and its meaning, one row a model, and the conditions."""
    style = VERDICT_STYLES[evaluation.verdict]
    return Group(
        Text(f"Accuracy: {accuracy.accuracy_headline(evaluation)}", style=style),
        *(Text(sentence) for sentence in accuracy.accuracy_sentences(evaluation)),
        table_grid(accuracy.accuracy_table(evaluation)),
        _facts(accuracy.accuracy_facts(evaluation)),
    )


def render_summary(report: Report) -> RenderableType:
    """Return a run's closing summary: the verdict, each hop, throughput, plan and files."""
    parts: list[RenderableType] = []
    if report.parity is not None:
        style = VERDICT_STYLES[report.parity.verdict]
        parts += [Text(f"{words.headline(report.parity)}: {one_line(report.model)}", style=style)]
        parts += [Text(sentence) for sentence in words.verdict_sentences(report.parity)]
        parts += [Text(f"Assumed: {one.text}", style="yellow") for one in report.assumptions]
        parts.append(_tiles(report))
        parts.append(table_grid(_without(tables.hop_table(report.parity), "Flips")))
        parts.append(_facts(tables.parity_facts(report.parity)))
    if report.bench is not None:
        parts += [Text(sentence) for sentence in bench_words.bench_sentences(report.bench)]
        parts.append(table_grid(tables.bench_table(report.bench)))
    if report.plan is not None:
        parts.append(_facts(plan_tables.plan_facts(report.plan)))
    parts.append(table_grid(_without(tables.artifact_table(report.artifacts), "SHA-256")))
    return Group(*parts)


def _tiles(report: Report) -> Grid:
    """Return the tiles of the HTML report as a table."""
    rows = [
        (Text(one.question), Text(one.value, style=TILE_STYLES[one.state]), Text(one.detail))
        for one in tiles(report)
    ]
    return Grid((Column(style="bold"), Column(), Column(style="dim")), rows)


def _without(table: Table, header: str) -> Table:
    at = [name for name, _ in table.columns].index(header)
    rows = (row[:at] + row[at + 1 :] for row in table.rows)
    return Table(table.columns[:at] + table.columns[at + 1 :], tuple(rows))


def table_grid(table: Table) -> Grid:
    """Return a table that fits the terminal."""
    columns = (
        Column(
            header,
            wraps=kind not in ("number", "verdict"),
            shortens=kind == "code",
            right=kind == "number",
        )
        for header, kind in table.columns
    )
    kinds = [kind for _, kind in table.columns]
    rows = [tuple(map(_cell, row, kinds)) for row in table.rows]
    return Grid(tuple(columns), rows)


def _cell(text: str, kind: str) -> Text:
    return Text(text, style=STYLES.get(text, "") if kind == "verdict" else "")


def _facts(facts: Facts) -> Grid:
    rows = [(Text(name), Text(text)) for name, text in facts]
    return Grid((Column(style="dim", widest=FACT_WIDTH), Column()), rows)
