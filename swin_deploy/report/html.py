"""A report as one HTML file: no script, no downloads, all foreign text escaped by Jinja."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from exporters.plan import KernelPlan
from swin_deploy.bench import BenchReport
from swin_deploy.evaluate.accuracy import Evaluation
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.report.accuracy import (
    ACCURACY_LEGEND,
    accuracy_facts,
    accuracy_headline,
    accuracy_sentences,
    accuracy_table,
)
from swin_deploy.report.bench_words import bench_sentences
from swin_deploy.report.charts import (
    TEMPLATES,
    block_bars,
    fill_template,
    ratio_bars,
    tolerance_bars,
)
from swin_deploy.report.drift_svg import render_drift
from swin_deploy.report.plan_tables import SHOWN_KINDS, block_table, kernel_table, plan_facts
from swin_deploy.report.results import Report
from swin_deploy.report.sample_cards import sample_cards, sample_sentence
from swin_deploy.report.summary import tiles
from swin_deploy.report.tables import (
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

STATES = {"pass": "good", "fail": "bad", "inconclusive": "warn", "not judged": "warn"}
FIGURES = 6
DRIFT_LEGEND = (
    ("hop", "this step"),
    ("noise", "noise: what PyTorch itself loses"),
    ("limit", "limit"),
    ("beyond", "beyond it"),
)


def render_html(report: Report) -> str:
    """Return the report as one HTML document; all foreign text is escaped."""
    parity = report.parity
    return fill_template(
        "report.html.j2",
        report=report,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        headline=headline(parity),
        sentences=verdict_sentences(parity),
        state=state_of(report),
        tiles=tiles(report),
        made_from=tuple(report.made_from.items()),
        conditions=tuple(report.conditions.items()),
        drift_legend=DRIFT_LEGEND,
        parity=None if parity is None else _parity(parity),
        samples=None if parity is None else _samples(parity),
        accuracy=None if report.evaluation is None else _accuracy(report.evaluation),
        plan=None if report.plan is None else _plan(report.plan),
        bench=None if report.bench is None else _bench(report.bench),
        files=artifact_table(report.artifacts),
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


@dataclass(frozen=True)
class _Case:
    """The cases of one hop.

    Attributes:
        title: Name of the hop, with the number of cases that passed.
        backend: File of the hop, and library and device that ran it.
        table: One row for each case.
        open: True if the hop failed, so that its cases are shown unfolded.
    """

    title: str
    backend: str
    table: Table
    open: bool


def _case(hop: Hop) -> _Case:
    passed = sum(result.passed for result in hop.results)
    count = f"{passed} of {count_noun(len(hop.results), 'case')} passed"
    backend = " · ".join(filter(None, (hop.file, hop.backend)))
    return _Case(f"{hop.name}: {count}", backend, case_table(hop), not hop.passed)


def _parity(parity: ParityReport) -> dict[str, Any]:
    return {
        "hops": hop_table(parity),
        "bars": tolerance_bars(parity),
        "facts": parity_facts(parity),
        "allowed": allowed_facts(parity),
        "drift": Markup(render_drift(parity)),
        "cases": [_case(hop) for hop in parity.hops if hop.results],
        "legend": PARITY_LEGEND,
    }


def _samples(parity: ParityReport) -> dict[str, Any] | None:
    if not parity.samples:
        return None
    return {"cards": sample_cards(parity), "sentence": sample_sentence(parity)}


def _accuracy(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "headline": accuracy_headline(evaluation),
        "sentences": accuracy_sentences(evaluation),
        "table": accuracy_table(evaluation),
        "facts": accuracy_facts(evaluation),
        "legend": ACCURACY_LEGEND,
    }


def _plan(plan: KernelPlan) -> dict[str, Any]:
    figures = plan_facts(plan)
    return {
        "figures": figures[:FIGURES],
        "facts": figures[FIGURES:],
        "bars": block_bars(plan),
        "kinds": tuple(SHOWN_KINDS),
        "parts": block_table(plan) if plan.blocks else None,
        "kernels": kernel_table(plan),
        "legend": PLAN_LEGEND,
    }


def _bench(bench: BenchReport) -> dict[str, Any]:
    return {
        "sentences": bench_sentences(bench),
        "table": bench_table(bench),
        "bars": ratio_bars(bench),
        "facts": (*bench_not_run(bench), *bench_facts(bench)),
        "legend": BENCH_LEGEND,
    }
