"""``swin-deploy report``: render a report again, or compare two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swin_deploy.cli.console import CHECK_FAILED, Console, show_json, show_table, show_text
from swin_deploy.cli.options import FILE, json_option

if TYPE_CHECKING:
    from swin_deploy.report.results import Report

EPILOG = """\b
Examples:
  swin-deploy report report/report.json --output rendered/
  swin-deploy report report/ --evaluation evaluation/swin/evaluation.json --output report/
  swin-deploy report main/report.json report/report.json --markdown comment.md
  swin-deploy report main/ report/ --allow-slower 5 --json
  swin-deploy report --schema > report.schema.json

\b
One report: printed again, and written as HTML, Markdown and JSON with --output.
Two reports of one model: what got worse from the first to the second. Verdicts,
what each hop needs, flips, accuracy, kernels, fused attention, bytes, file sizes;
throughput only where device, threads and versions are the same, and then only
where the two confidence intervals do not overlap.

\b
Exit status: 0 nothing got worse, 1 something got worse or is missing now,
3 the two cannot be compared: they are of different models.
"""


def share(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Percent as a share."""
    if value is None:
        return None
    if not 0 <= value < 100:  # false for NaN too
        raise click.BadParameter(f"{value} is not in the range 0<=x<100")
    return value / 100


@click.command(epilog=EPILOG)
@click.argument("reports", type=FILE, nargs=-1, metavar="[REPORT [REPORT]]")
@click.option("--output", type=FILE, metavar="DIR", help="Write report.html, .md and .json here.")
@click.option(
    "--evaluation", type=FILE, help="An evaluation.json of the same model, to put into the report."
)
@click.option("--markdown", type=FILE, metavar="FILE", help="Write Markdown for a comment.")
@click.option(
    "--allow-slower",
    type=float,
    callback=share,
    metavar="PERCENT",
    help="Throughput that may be lost.  [default: 0]",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of report.json.")
@json_option
@click.pass_obj
def report(
    console: Console,
    reports: tuple[Path, ...],
    output: Path | None,
    evaluation: Path | None,
    markdown: Path | None,
    allow_slower: float | None,
    schema: bool,
    as_json: bool,
) -> None:
    """Render a report again, or say what got worse from one to another.

    REPORT is a report.json or the folder that holds one.
    """
    if schema:
        if reports:
            raise click.UsageError("--schema takes no report")
        _show_schema()
    elif len(reports) == 1:
        if allow_slower is not None:
            raise click.UsageError("--allow-slower is for two reports")
        _render(console, _with_evaluation(_read(reports[0]), evaluation), output, markdown, as_json)
    elif len(reports) == 2:
        if output or evaluation:
            raise click.UsageError("--output and --evaluation are for one report")
        _compare(console, reports, markdown, allow_slower or 0.0, as_json)
    else:
        raise click.UsageError("give one report to render, or two to compare")


def _show_schema() -> None:
    from swin_deploy.report.schema import SCHEMA_FILE

    show_text(SCHEMA_FILE.read_text(encoding="utf-8").removesuffix("\n"))


def _read(path: Path) -> Report:
    from swin_deploy.report.from_json import read_report

    return read_report(path / "report.json" if path.is_dir() else path)


def _with_evaluation(read: Report, path: Path | None) -> Report:
    """The report with an evaluation, where one is given.

    Raises:
        FileError: If it cannot be read, or is of another model or other weights.
    """
    from swin_deploy.report.from_json import read_evaluation

    if path is None:
        return read
    found = read_evaluation(path)
    if found.model != read.model:
        from exporters.errors import FileError

        raise FileError(f"{path} is of {found.model}, not {read.model}; evaluate that model")
    return replace(read, evaluation=found)


def _render(
    console: Console, read: Report, output: Path | None, markdown: Path | None, as_json: bool
) -> None:
    from swin_deploy.report.markdown import render_markdown
    from swin_deploy.report.terminal import render_summary
    from swin_deploy.report.to_json import report_to_dict
    from swin_deploy.report.write import write_report

    if output:
        written = write_report(read, output)
        console.note(f"  wrote {', '.join(map(str, written))}")
    _write_markdown(console, markdown, render_markdown(read))
    if as_json:
        show_json(report_to_dict(read))
    else:
        show_table(render_summary(read))
    if not output:
        console.again("--output", "rendered", why="HTML; a second report is compared")


def _compare(
    console: Console,
    paths: tuple[Path, ...],
    markdown: Path | None,
    slower: float,
    as_json: bool,
) -> None:
    from swin_deploy.report.compare import Limits, compare_reports
    from swin_deploy.report.compare.words import comparison_to_dict
    from swin_deploy.report.markdown import render_runs as runs_to_markdown
    from swin_deploy.report.terminal import render_runs

    found = compare_reports(_read(paths[0]), _read(paths[1]), Limits(slower=slower))
    _write_markdown(console, markdown, runs_to_markdown(found))
    if as_json:
        show_json(comparison_to_dict(found))
    else:
        show_table(render_runs(found))
    if found.regressions:
        click.get_current_context().exit(CHECK_FAILED)
    if not markdown:
        console.again("--markdown", "comment.md", why="for a pull request")


def _write_markdown(console: Console, path: Path | None, text: str) -> None:
    from exporters.artifact import write_atomic

    if path:
        write_atomic(path, text.encode())
        console.note(f"  wrote {path}")
