"""Words of this project alone are in no help, table or page; they may stay in code and JSON."""

from __future__ import annotations

import html
import io
import re

import pytest
from click.testing import CliRunner
from command_line import COMMANDS
from report_samples import FAILING, PARTLY, PASSING, make_plan
from rich.console import Console

from swin_deploy.cli import cli
from swin_deploy.report import terminal
from swin_deploy.report.html import render_html
from swin_deploy.report.markdown import render_markdown
from swin_deploy.report.results import Report

OWN = re.compile(r"\b(hops?|floors?|needed|allowed|rungs?|taps|islands?)\b", re.IGNORECASE)
REPORTS = [PASSING, PARTLY, FAILING]


def own_words(text: str) -> list[str]:
    return [found[0] for found in OWN.finditer(text)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_in_plain_words(command: str) -> None:
    assert own_words(CliRunner().invoke(cli, [command, "--help"]).output) == []


@pytest.mark.parametrize("report", REPORTS, ids=["passing", "partly", "failing"])
def test_reports_are_in_plain_words(report: Report) -> None:
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", render_html(report), flags=re.DOTALL)
    assert own_words(html.unescape(page)) == []
    assert own_words(re.sub(r"<[^>]*>", " ", render_markdown(report))) == []
    assert report.parity is not None
    for rendered in (terminal.render_summary(report), terminal.render_parity(report.parity)):
        assert own_words(_text(rendered)) == []


def test_plans_are_in_plain_words() -> None:
    plan = make_plan()
    assert own_words(_text(terminal.render_plan(plan))) == []


def test_own_words_are_noticed() -> None:
    assert own_words("Comparing every hop: needed 3 x floor") == ["hop", "needed", "floor"]


def _text(rendered: object) -> str:
    page = io.StringIO()
    Console(file=page, width=200).print(rendered)
    return page.getvalue()
