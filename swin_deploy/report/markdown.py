"""A report as Markdown, for a pull request comment: the verdict first."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.report import accuracy, bench_words, plan_tables, tables, words
from swin_deploy.report.numbers import one_line
from swin_deploy.report.results import Report
from swin_deploy.report.summary import tiles
from swin_deploy.report.tables import Facts, Kind, Table

LONGEST_COMMENT = 65_536  # characters that GitHub takes
LEFT_OUT_ROOM = 2_000  # characters for the names of the parts that do not fit
LONGEST_SENTENCE, LONGEST_CELL = 1_000, 300
ALIGNMENT = {"text": ":---", "code": ":---", "number": "---:", "verdict": ":---"}


def render_markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown; foreign text is escaped.

    It has the verdict, the hops, and one line each for accuracy, plan and throughput; explanations
    are folded. Folded parts that do not fit into a comment are skipped, and named.
    """
    meaning, *rest = words.verdict_sentences(report.parity)
    parts = [
        f"## {shown(words.headline(report.parity))}: {shown(report.model)}",
        f"**{shown(meaning)}**",
        "\n".join(f"- {shown(sentence)}" for sentence in rest),
        f"Next: {_code(report.next_command)}" if report.next_command else "",
        _tiles(report),
        "" if report.parity is None else table_text(tables.hop_table(report.parity)),
        "\n".join(f"- **Assumed**: {shown(one.text)}" for one in report.assumptions),
        "\n".join(f"- **{name}**: {shown(text)}" for name, text in _short_facts(report)),
    ]
    folded = [(title, body) for title, body in _folded_parts(report) if body]
    return fitting([part for part in parts if part], folded)


def _tiles(report: Report) -> str:
    """Return the tiles of the HTML report as one table."""
    columns: tuple[tuple[str, Kind], ...] = (("", "text"), ("Answer", "text"), ("Figures", "text"))
    rows = ((tile.question, tile.value, tile.detail) for tile in tiles(report))
    return table_text(Table(columns, tuple(rows)))


def fitting(parts: list[str], folded: list[tuple[str, str]]) -> str:
    room = LONGEST_COMMENT - LEFT_OUT_ROOM - sum(len(part) + 2 for part in parts)
    left_out = []
    for title, body in folded:
        text = _folded(title, body)
        if len(text) + 2 <= room:
            parts = [*parts, text]
            room -= len(text) + 2
        else:
            left_out.append(one_line(title))
    if left_out:
        names = shown(", ".join(left_out), most=LEFT_OUT_ROOM // 4)
        parts = [*parts, f"Too long for a comment, and in report.html: {names}."]
    return "\n\n".join(parts) + "\n"


def _short_facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield a name and one line for accuracy, plan and throughput, those that there are."""
    if report.evaluation is not None:
        yield "Accuracy", accuracy.accuracy_line(report.evaluation)
    if report.plan is not None:
        yield "Plan", plan_tables.plan_line(report.plan)
    if report.bench is not None:
        yield "Throughput", bench_words.bench_line(report.bench)


def _folded_parts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield title and body of each folded part, most important first; legends last."""
    parity, bench, plan = report.parity, report.bench, report.plan
    if parity is not None:
        yield (
            "What was compared, and the limits",
            facts_text((*tables.allowed_facts(parity), *tables.parity_facts(parity))),
        )
    yield "The model, and how images are prepared", facts_text(tuple(report.made_from.items()))
    yield "Conditions", facts_text((("Made", report.created), *report.conditions.items()))
    if report.evaluation is not None:
        scores = table_text(accuracy.accuracy_table(report.evaluation))
        yield "Accuracy", f"{scores}\n\n{facts_text(accuracy.accuracy_facts(report.evaluation))}"
    if bench is not None:
        conditions = facts_text((*tables.bench_not_run(bench), *tables.bench_facts(bench)))
        yield "Throughput", f"{table_text(tables.bench_table(bench))}\n\n{conditions}"
    if plan is not None:
        yield "Kernel plan", facts_text(plan_tables.plan_facts(plan))
    if report.artifacts:
        yield "Files", table_text(tables.artifact_table(report.artifacts))
    for hop in () if parity is None else parity.hops:
        yield (
            f"{one_line(hop.name)}: every case",
            table_text(tables.case_table(hop)) if hop.results else "",
        )
    if plan is not None:
        yield (
            "Every part of the model",
            table_text(plan_tables.block_table(plan)) if plan.blocks else "",
        )
        yield "The heaviest kernels", table_text(plan_tables.kernel_table(plan))
    yield from _legends(report)


def _legends(report: Report) -> Iterator[tuple[str, str]]:
    legends = (
        ("parity columns", report.parity, words.PARITY_LEGEND),
        ("accuracy columns", report.evaluation, accuracy.ACCURACY_LEGEND),
        ("throughput columns", report.bench, words.BENCH_LEGEND),
        ("plan's figures", report.plan, words.PLAN_LEGEND),
    )
    for name, part, legend in legends:
        yield f"What the {name} mean", "" if part is None else facts_text(legend)


def render_evaluation(evaluation: Evaluation) -> str:
    """Return an evaluation as GitHub-flavoured Markdown; foreign text is escaped."""
    parts = [
        f"## {accuracy.accuracy_headline(evaluation)}: {_escape(one_line(evaluation.model))}",
        "\n".join(f"- {_escape(sentence)}" for sentence in accuracy.accuracy_sentences(evaluation)),
        "### Accuracy on labelled images",
        table_text(accuracy.accuracy_table(evaluation)),
        facts_text(accuracy.accuracy_facts(evaluation)),
        _folded("What the accuracy columns mean", facts_text(accuracy.ACCURACY_LEGEND)),
        "### Conditions",
        facts_text((("Made", evaluation.created), *evaluation.conditions.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(text: str, most: int = LONGEST_SENTENCE) -> str:
    """Return ``text`` on one line, cut to ``most`` characters and escaped for Markdown."""
    text = one_line(text)
    return _escape(text if len(text) <= most else f"{text[: most - 1]}…")


def _code(text: str) -> str:
    """Return ``text`` as inline code, between more backticks than it has in a row."""
    text = one_line(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * (longest + 1)
    room = " " if longest else ""
    return f"{marks}{room}{text}{room}{marks}"


def _escape(text: str) -> str:
    """Return ``text`` with everything that Markdown or HTML would interpret taken literally."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def facts_text(facts: Facts) -> str:
    """Return facts as a list."""
    return "\n".join(f"- **{_escape(one_line(n))}**: {_escape(one_line(t))}" for n, t in facts)


def _folded(summary: str, body: str) -> str:
    # Inside an HTML element Markdown's backslashes would be shown, so only HTML is escaped.
    return f"<details><summary>{html.escape(one_line(summary))}</summary>\n\n{body}\n\n</details>"


def table_text(table: Table) -> str:
    """Return a table of GitHub-flavoured Markdown."""
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
    if kind == "verdict" and text in ("FAIL", "worse", "missing"):
        return f"**{text}**"
    if kind == "code" and text and "`" not in text:
        return "`" + text.replace("|", "\\|") + "`"
    return shown(text, most=LONGEST_CELL)
