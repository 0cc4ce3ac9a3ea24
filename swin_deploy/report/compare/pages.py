"""A comparison of two reports for the terminal, and as Markdown."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from swin_deploy.report.compare import RunComparison
from swin_deploy.report.compare.words import (
    change_table,
    comparison_headline,
    comparison_sentences,
    condition_table,
    told_changes,
)
from swin_deploy.report.markdown import facts_text, fitting, shown, table_text
from swin_deploy.report.numbers import one_line
from swin_deploy.report.terminal import table_grid


def runs_to_terminal(found: RunComparison) -> RenderableType:
    """Return the changes from one report to the next, those for the worse first."""
    style = "bold red" if found.regressions else "bold green"
    return Group(
        Text(f"{comparison_headline(found)}: {one_line(found.model)}", style=style),
        *(Text(sentence) for sentence in comparison_sentences(found)),
        table_grid(change_table(told_changes(found))),
        *([table_grid(condition_table(found))] if found.conditions else []),
    )


def runs_to_markdown(found: RunComparison) -> str:
    """Return the changes from one report to the next as GitHub-flavoured Markdown."""
    parts = [
        f"## {comparison_headline(found)}: {shown(found.model)}",
        "\n".join(f"- {shown(sentence)}" for sentence in comparison_sentences(found)),
        table_text(change_table(told_changes(found))),
    ]
    same = [change for change in found.changes if change.verdict == "same"]
    folded = [("What stayed the same", table_text(change_table(same)))] if same else []
    if found.conditions:
        folded.append(("Other conditions", table_text(condition_table(found))))
    folded.append(("The reports", facts_text((("Before", found.before), ("Now", found.now)))))
    return fitting(parts, folded)
