"""``swin-deploy report``: render a report again, or compare two."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporters.errors import FileError
from swin_deploy.artifacts.outputs import REPORT, comment_output, report_outputs
from swin_deploy.cli.command import command
from swin_deploy.cli.console import CHECK_FAILED, Console, show_json, show_result, show_table
from swin_deploy.cli.options import json_option
from swin_deploy.cli.outputs import claim_outputs, force_option
from swin_deploy.cli.values import FILE

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
errors against limits, flips, accuracy, kernels, fused attention, bytes, file sizes;
throughput only where device, threads and versions are the same, and then only
where the two confidence intervals do not overlap.

\b
Exit status: 0 nothing got worse, 1 something got worse or is missing now,
3 the two cannot be compared: they are of different models or image sizes.
"""


def share(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Convert percent, from 0 to below 100, to a share; a click callback."""
    if value is None:
        return None
    if not 0 <= value < 100:  # false for NaN too
        raise click.BadParameter(f"{value} is not in the range 0<=x<100")
    return value / 100


@command(epilog=EPILOG)
@click.argument("reports", type=FILE, nargs=-1, metavar="[REPORT [REPORT]]")
@click.option("--output", type=FILE, metavar="DIR", help="Write report.html, .md and .json here.")
@click.option(
    "--evaluation",
    type=FILE,
    help="An evaluation.json of the same model, to put into the report.",
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
@force_option
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
    force: bool,
    as_json: bool,
) -> None:
    """Render a report again, or say what got worse from one to another.

    REPORT is a report.json or the folder that holds one.
    """
    asked = _Asked(output, markdown, force, as_json)
    if schema:
        if reports:
            raise click.UsageError("--schema takes no report")
        from swin_deploy.report.schema import load_schema

        show_json(load_schema())
    elif len(reports) == 1:
        if allow_slower is not None:
            raise click.UsageError("--allow-slower is for two reports")
        _claim(asked, reports, evaluation)
        _render(console, _with_evaluation(_read(reports[0]), evaluation), asked)
    elif len(reports) == 2:
        if output or evaluation:
            raise click.UsageError("--output and --evaluation are for one report")
        _claim(asked, reports, None)
        _compare(console, reports, allow_slower or 0.0, asked)
    else:
        raise click.UsageError("give one report to render, or two to compare")


@dataclass(frozen=True)
class _Asked:
    """The options that say where results go."""

    output: Path | None
    markdown: Path | None
    force: bool
    as_json: bool


def _claim(asked: _Asked, reports: tuple[Path, ...], evaluation: Path | None) -> None:
    """Fail early if a file cannot be written, or a report or evaluation does not exist.

    A report may be written over itself: it keeps its content, and gains that of --evaluation.
    """
    outputs = report_outputs(asked.output) if asked.output else ()
    own = outputs[0].path if outputs else None
    read = [_document(path) for path in reports]
    inputs = [path for path in read if own is None or not _is_same(path, own)]
    if asked.markdown:
        outputs = (*outputs, comment_output(asked.markdown))
    claim_outputs(outputs, inputs=[*inputs, evaluation], force=asked.force)
    for path in [*read, *([evaluation] if evaluation else [])]:
        if not os.path.isfile(path):  # found before anything is imported
            raise FileError(f"cannot read {path}: it does not exist, or is not a file")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _read(path: Path) -> Report:
    from swin_deploy.report.from_json import read_report

    return read_report(_document(path))


def _document(path: Path) -> Path:
    """Return the report.json of a folder; a path that is not a folder as it is."""
    return path / "report.json" if os.path.isdir(path) else path


def _with_evaluation(read: Report, path: Path | None) -> Report:
    """Return a report with the evaluation of a file, if one is given.

    Raises:
        FileError: If it cannot be read, or is of another model or other weights.
    """
    from swin_deploy.report.from_json import read_evaluation

    if path is None:
        return read
    found = read_evaluation(path)
    if found.model != read.model:
        raise FileError(f"{path} is of {found.model}, not {read.model}; evaluate that model")
    weights = read.made_from.get("weights", found.weights)
    if found.weights != weights:
        raise FileError(
            f"{path} is of other weights ({found.weights}) than the report ({weights}); "
            "evaluate the same checkpoint"
        )
    return replace(read, evaluation=found)


def _render(console: Console, read: Report, asked: _Asked) -> None:
    from swin_deploy.report.markdown import render_markdown
    from swin_deploy.report.terminal import render_summary
    from swin_deploy.report.write import write_report

    if asked.output:
        written = write_report(read, asked.output, force=asked.force)
        console.note(f"  wrote {', '.join(map(str, written))}")
    _write_markdown(console, asked, render_markdown(read))
    show_result(read, render_summary, as_json=asked.as_json)
    if not asked.output:
        console.again("--output", "rendered", why="HTML; a second report is compared")


def _compare(console: Console, paths: tuple[Path, ...], slower: float, asked: _Asked) -> None:
    from swin_deploy.report.compare import Limits, compare_reports
    from swin_deploy.report.compare.pages import runs_to_markdown, runs_to_terminal
    from swin_deploy.report.compare.words import comparison_to_dict

    found = compare_reports(_read(paths[0]), _read(paths[1]), Limits(slower=slower))
    _write_markdown(console, asked, runs_to_markdown(found))
    if asked.as_json:
        show_json(comparison_to_dict(found))
    else:
        show_table(runs_to_terminal(found))
    if found.regressions:
        click.get_current_context().exit(CHECK_FAILED)
    if not asked.markdown:
        console.again("--markdown", "comment.md", why="for a pull request")


def _write_markdown(console: Console, asked: _Asked, text: str) -> None:
    from exporters.artifact import write_atomic
    from exporters.outputs import claim, sign

    if asked.markdown:
        claim([comment_output(asked.markdown)], force=asked.force)
        write_atomic(asked.markdown, sign(text, REPORT))
        console.note(f"  wrote {asked.markdown}")
