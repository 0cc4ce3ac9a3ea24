"""A report as one HTML file: no script, no downloads, all foreign text escaped by Jinja."""

from __future__ import annotations

from markupsafe import Markup

from swin_deploy.report import (
    accuracy,
    bench_words,
    charts,
    plan_tables,
    sample_cards,
    summary,
    tables,
    words,
)
from swin_deploy.report.drift_svg import render_drift
from swin_deploy.report.results import Report

STATES = {"pass": "good", "fail": "bad", "inconclusive": "warn", "not judged": "warn"}
DRIFT_LEGEND = (
    ("hop", "this step"),
    ("noise", "noise: what PyTorch itself loses"),
    ("limit", "limit"),
    ("beyond", "beyond it"),
)


def render_html(report: Report) -> str:
    """Return the report as one HTML document; all foreign text is escaped."""
    modules = (accuracy, bench_words, charts, plan_tables, sample_cards, summary, tables, words)
    return charts.fill_template(
        "report.html.j2",
        report=report,
        style=Markup((charts.TEMPLATES / "report.css").read_text(encoding="utf-8")),
        state=state_of(report),
        drift="" if report.parity is None else Markup(render_drift(report.parity)),
        drift_legend=DRIFT_LEGEND,
        **{module.__name__.rpartition(".")[2]: module for module in modules},
    )


def state_of(report: Report) -> str:
    """Return the state of the verdict: ``good``, ``bad`` or ``warn``.

    The state is ``warn`` if the verdict is inconclusive, nothing was compared, or a hop was not
    run although the others passed.
    """
    parity = report.parity
    unseen = parity is not None and any(hop.passed is None for hop in parity.hops)
    state = STATES[report.verdict]
    return "warn" if state == "good" and unseen else state
